/* The default engine: our own launcher. start clones a launching process into the session's cgroup,
 * which clones pid 1 as the keeper's child (sandbox.c); what comes back is one pipe's worth of
 * news.
 *
 * Invariants
 *  1. start returns with berth-init executed, or with the failed step and no process left;
 *  2. every wait here has a bound: START_MAX_NS for the start, END_MAX_NS for an end we asked for;
 *  3. a process is signalled by pidfd or by its cgroup, never by a number that a session named. */
#include "base/fd.h"
#include "base/time.h"
#include "box.h"
#include "engine.h"
#include "sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#define START_MAX_NS (10 * NS_PER_S)
#define END_MAX_NS   (10 * NS_PER_S)

/* A slot of the spec; -1 when it holds the /dev/null that stands for nothing. */
static int
slot_fd(const struct sandbox_spec *spec, enum keeper_fd slot)
{
	struct stat st;
	const int fd = spec->fds[slot];

	if (fd < 0 || fstat(fd, &st) < 0)
		return -1;
	return S_ISCHR(st.st_mode) && st.st_rdev == makedev(1, 3) ? -1 : fd;
}

/* ---- start ---- */

struct program {
	struct sock_filter code[SANDBOX_FILTER_MAX];
	unsigned short n;
};

static int
program_load(int fd, struct program *out, struct err *err)
{
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return err_set(err, ERR_INTERNAL, "no seccomp program was given");
	if (st.st_size <= 0 || (size_t)st.st_size > sizeof out->code ||
	    (size_t)st.st_size % sizeof *out->code != 0)
		return err_set(err, ERR_INTERNAL, "a seccomp program of %lld bytes",
			       (long long)st.st_size);
	if (fd_pread_all(fd, out->code, (size_t)st.st_size, 0, err) < 0)
		return err_add(err, "the seccomp program");
	out->n = (unsigned short)((size_t)st.st_size / sizeof *out->code);
	return 0;
}

static int
wait_for(int fd, short events, uint64_t deadline_ns)
{
	for (;;) {
		const uint64_t now_ns = time_now_ns();
		if (now_ns >= deadline_ns)
			return 0;
		struct pollfd p = {.fd = fd, .events = events};
		const int n =
		    poll(&p, 1, (int)((deadline_ns - now_ns + NS_PER_MS - 1) / NS_PER_MS));
		if (n > 0)
			return 1;
		if (n < 0 && errno != EINTR)
			return -1;
	}
}

/* Reads the launch's news until its end.
 *   *pid    pid 1, when it was cloned; also on failure, for whoever must end it then */
static int
read_reports(int pipe, pid_t *pid, struct err *err)
{
	const uint64_t deadline_ns = time_now_ns() + START_MAX_NS;

	for (;;) {
		struct sandbox_report r;
		const int ready = wait_for(pipe, POLLIN, deadline_ns);
		if (ready < 0)
			return err_sys(err, errno, "wait for the sandbox to start");
		if (ready == 0)
			return err_set(err, ERR_TIMEOUT, "the sandbox did not start within 10 s");
		const ssize_t n = read(pipe, &r, sizeof r);
		if (n < 0 && errno == EINTR)
			continue;
		if (n == 0 && *pid > 0)
			return 0;
		if (n != sizeof r)
			return err_set(err, ERR_INTERNAL, "the launch ended without a word");
		if (r.pid > 0) {
			*pid = r.pid;
			continue;
		}
		r.step[sizeof r.step - 1] = r.at[sizeof r.at - 1] = '\0';
		return err_sys(err, r.error, "start the sandbox: %s%s%s%s", r.step,
			       r.at[0] ? " (" : "", r.at, r.at[0] ? ")" : "");
	}
}

/* The process that enters the user namespace, already in the cgroup. */
static pid_t
clone_launcher(int cgroup)
{
	struct clone_args args = {.exit_signal = SIGCHLD};

	if (cgroup >= 0) {
		args.flags = CLONE_INTO_CGROUP;
		args.cgroup = (unsigned)cgroup;
	}
	return (pid_t)syscall(SYS_clone3, &args, sizeof args);
}

/* Kills a child by pidfd and takes its status; bounded, since a process can hang in the kernel. */
static void
end_child(int pidfd)
{
	siginfo_t ignored;

	pidfd_send_signal(pidfd, SIGKILL, NULL, 0);
	if (wait_for(pidfd, POLLIN, time_now_ns() + END_MAX_NS) > 0)
		waitid(P_PIDFD, (id_t)pidfd, &ignored, WEXITED);
}

static void
end_pid(pid_t pid)
{
	auto_close int pidfd =
	    pid > 0 ? pidfd_open(pid, 0) : -1; /* our child: not used again yet */
	if (pidfd >= 0)
		end_child(pidfd);
}

/* After a failure: nothing that was cloned lives on (invariant 1). */
static void
start_undo(struct sandbox *s, pid_t launcher, pid_t pid1)
{
	struct err ignored;

	if (s->kill_fd >= 0 && box_kill(s, &ignored) < 0)
		s->kill_fd = -1;
	end_pid(launcher);
	end_pid(pid1);
}

static int
start_processes(const struct sandbox_spec *spec, struct sandbox *s, int socket,
		const struct program *program, struct err *err)
{
	int ends[2];
	if (pipe2(ends, O_CLOEXEC) < 0)
		return err_sys(err, errno, "make a pipe for the launch");
	auto_close int news = ends[0], report = ends[1];

	const struct sandbox_plan plan = {
	    .hostname = spec->hostname,
	    .network_host = spec->network_host,
	    .rootfs = slot_fd(spec, KEEPER_ROOTFS),
	    .userns = slot_fd(spec, KEEPER_USERNS),
	    .init = slot_fd(spec, KEEPER_INIT),
	    .usr = slot_fd(spec, KEEPER_USR),
	    .run = slot_fd(spec, KEEPER_RUN),
	    .files = spec->files,
	    .tmp_bytes = spec->tmp_bytes,
	    .join = {slot_fd(spec, KEEPER_JOIN_MEMORY), slot_fd(spec, KEEPER_JOIN_PIDS),
		     slot_fd(spec, KEEPER_JOIN_CPU)},
	    .socket = socket,
	    .report = report,
	    .filter = program->code,
	    .filter_len = program->n,
	};
	const pid_t launcher = clone_launcher(s->cgroup);
	if (launcher == 0)
		sandbox_launch(&plan);
	if (launcher < 0)
		return err_sys(err, errno, "clone the launching process");
	fd_close(&report);
	pid_t pid1 = 0;
	if (read_reports(news, &pid1, err) < 0) {
		start_undo(s, launcher, pid1);
		return -1;
	}
	end_pid(launcher); /* the pipe's end says that it has exited, or is about to */
	s->pid = pid1;
	s->pidfd = pidfd_open(pid1, 0);
	if (s->pidfd < 0) {
		err_sys(err, errno, "open a pidfd of pid 1");
		start_undo(s, 0, pid1);
		return -1;
	}
	return 0;
}

static int
launch_start(const struct sandbox_spec *spec, struct sandbox *out, struct err *err)
{
	struct program program;
	struct sandbox s = {
	    .pidfd = -1,
	    .socket = -1,
	    .cgroup = slot_fd(spec, KEEPER_CGROUP),
	    .freeze_fd = slot_fd(spec, KEEPER_FREEZE),
	    .kill_fd = slot_fd(spec, KEEPER_KILL),
	    .events_fd = slot_fd(spec, KEEPER_EVENTS),
	};
	int ends[2];

	if (program_load(slot_fd(spec, KEEPER_SECCOMP), &program, err) < 0 ||
	    wire_pair(ends, err) < 0)
		return -1;
	auto_close int ours = ends[0], theirs = ends[1];
	if (start_processes(spec, &s, theirs, &program, err) < 0)
		return -1;
	s.socket = fd_steal(&ours);
	*out = s;
	return 0;
}

/* The hostname belongs to a namespace of pid 1, which has no right to change it any more: this
 * process enters that namespace, where it stays, since it asks for no hostname itself. */
static int
launch_set_name(struct sandbox *s, const char *hostname, struct err *err)
{
	if (setns(s->pidfd, CLONE_NEWUTS) < 0)
		return err_sys(err, errno, "enter the namespace of the hostname");
	if (sethostname(hostname, strlen(hostname)) < 0)
		return err_sys(err, errno, "set the hostname");
	return 0;
}

/* ---- the rest: by cgroup where there is one ---- */

static int
launch_freeze(struct sandbox *s, bool frozen, struct err *err)
{
	return box_freeze(s, frozen, err);
}

static int
launch_kill(struct sandbox *s, struct err *err)
{
	if (s->kill_fd >= 0)
		return box_kill(s, err);
	if (pidfd_send_signal(s->pidfd, SIGKILL, NULL, 0) < 0 && errno != ESRCH)
		return err_sys(err, errno, "kill pid 1"); /* its pid namespace goes with it */
	return 0;
}

static int
launch_state(struct sandbox *s, struct sandbox_state *out, struct err *err)
{
	if (s->events_fd >= 0 && s->cgroup >= 0)
		return box_state(s, out, err);
	struct pollfd p = {.fd = s->pidfd, .events = POLLIN};
	const int n = poll(&p, 1, 0);
	if (n < 0)
		return err_sys(err, errno, "look at pid 1");
	*out = (struct sandbox_state){.populated = n == 0}; /* how many: nobody here knows */
	return 0;
}

static int
launch_call_begin(struct sandbox *s, const char *call, int *out, struct err *err)
{
	if (s->cgroup >= 0)
		return box_call_begin(s, call, out, err);
	*out = -1;
	return 0;
}

static int
launch_call_list(struct sandbox *s, const char *call, struct buf *out, struct err *err)
{
	return s->cgroup >= 0 ? box_call_list(s, call, out, err) : 0;
}

static int
launch_call_kill(struct sandbox *s, const char *call, struct err *err)
{
	if (s->cgroup >= 0)
		return box_call_kill(s, call, err);
	return err_set(err, ERR_UNAVAILABLE,
		       "without a v2 cgroup a call has no processes of its own");
}

static int
launch_call_procs(struct sandbox *s, const char *call, int *out, struct err *err)
{
	if (s->cgroup >= 0)
		return box_call_procs(s, call, out, err);
	*out = -1;
	return 0;
}

static int
launch_call_end(struct sandbox *s, const char *call, struct err *err)
{
	return s->cgroup >= 0 ? box_call_end(s, call, err) : 1;
}

const struct engine engine_launch = {
    .name = "launch",
    .start = launch_start,
    .freeze = launch_freeze,
    .kill = launch_kill,
    .state = launch_state,
    .call_begin = launch_call_begin,
    .call_list = launch_call_list,
    .call_kill = launch_call_kill,
    .call_procs = launch_call_procs,
    .call_end = launch_call_end,
    .set_name = launch_set_name,
};
