/* The default engine: our own launcher. start clones a launching process into the session's cgroup,
 * which clones pid 1 as the keeper's child (sandbox.c); what comes back is one pipe's worth of
 * news.
 *
 * Invariants
 *  1. start returns with berth-init executed, or with the failed step and no process left;
 *  2. every wait has a bound (starting.c);
 *  3. a process is signalled by pidfd or by its cgroup; where there is no cgroup, by init, by the
 *     numbers that the kernel's /proc has for it (procs.h). */
#include "base/fd.h"
#include "box.h"
#include "hostname.h"
#include "procs.h"
#include "starting.h"

#include <errno.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- start ---- */

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

/* After a failure: nothing that was cloned lives on (invariant 1). */
static void
start_undo(struct sandbox *s, pid_t launcher, pid_t pid1)
{
	struct err ignored;

	if (s->kill_fd >= 0 && box_kill(s, &ignored) < 0)
		s->kill_fd = -1;
	starting_end_pid(launcher);
	starting_end_pid(pid1);
}

static int
start_processes(const struct sandbox_spec *spec, struct sandbox *s, int socket,
		const struct starting_program *program, struct err *err)
{
	int ends[2];
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
		return err_sys(err, errno, "make a socket for the launch");
	auto_close int news = ends[0], report = ends[1];

	struct sandbox_plan plan = {
	    .hostname = spec->hostname,
	    .network_host = spec->network_host,
	    .rootfs = starting_slot(spec, KEEPER_ROOTFS),
	    .userns = starting_slot(spec, KEEPER_USERNS),
	    .init = starting_slot(spec, KEEPER_INIT),
	    .usr = starting_slot(spec, KEEPER_USR),
	    .run = starting_slot(spec, KEEPER_RUN),
	    .netns = starting_slot(spec, KEEPER_NETNS),
	    .sys = starting_slot(spec, KEEPER_SYS),
	    .resolv = starting_slot(spec, KEEPER_RESOLV),
	    .ids = spec->ids,
	    .lock = s->cgroup < 0 ? starting_slot(spec, KEEPER_LOCK) : -1,
	    .pids = spec->pids,
	    .data_bytes = spec->data_bytes,
	    .files = spec->files,
	    .tmp_bytes = spec->tmp_bytes,
	    .join = {starting_slot(spec, KEEPER_JOIN_MEMORY), starting_slot(spec, KEEPER_JOIN_PIDS),
		     starting_slot(spec, KEEPER_JOIN_CPU)},
	    .socket = socket,
	    .report = report,
	    .filter = program->code,
	    .filter_len = program->n,
	    .walls = spec->walls,
	};
	for (int i = 0; i < KEEPER_MOUNTS_MAX; i++) {
		plan.mount_at[i] = spec->mount_at[i];
		plan.mount[i] = spec->mount_at[i] ? starting_slot(spec, KEEPER_MOUNTS + i) : -1;
	}
	const pid_t launcher = clone_launcher(s->cgroup);
	if (launcher == 0)
		sandbox_launch(&plan);
	if (launcher < 0)
		return err_sys(err, errno, "clone the launching process");
	fd_close(&report);
	pid_t pid1 = 0;
	if (starting_read_reports(news, &pid1, &s->proc, err) < 0) {
		start_undo(s, launcher, pid1);
		fd_close(&s->proc);
		return -1;
	}
	starting_end_pid(launcher); /* the pipe's end says that it has exited, or is about to */
	s->pid = pid1;
	s->pidfd = pidfd_open(pid1, 0);
	if (s->pidfd < 0) {
		err_sys(err, errno, "open a pidfd of pid 1");
		start_undo(s, 0, pid1);
		fd_close(&s->proc);
		return -1;
	}
	if (s->cgroup >= 0)
		fd_close(&s->proc); /* the cgroup tells all that it would */
	return 0;
}

static int
launch_start(const struct sandbox_spec *spec, struct sandbox *out, struct err *err)
{
	struct starting_program program;
	struct sandbox s = {
	    .pidfd = -1,
	    .socket = -1,
	    .proc = -1,
	    .proc_init = 1,
	    .cgroup = starting_slot(spec, KEEPER_CGROUP),
	    .freeze_fd = starting_slot(spec, KEEPER_FREEZE),
	    .kill_fd = starting_slot(spec, KEEPER_KILL),
	    .events_fd = starting_slot(spec, KEEPER_EVENTS),
	};
	int ends[2];

	if (starting_load_program(starting_slot(spec, KEEPER_SECCOMP), &program, err) < 0 ||
	    wire_pair(ends, err) < 0)
		return -1;
	auto_close int ours = ends[0], theirs = ends[1];
	if (start_processes(spec, &s, theirs, &program, err) < 0)
		return -1;
	s.socket = fd_steal(&ours);
	*out = s;
	return 0;
}

/* The name belongs to namespaces of pid 1, which has no right to change it any more: a process that
 * enters them does, as the session's root. Its exit status is an errno. */
static _Noreturn void
set_name_inside(int pidfd, const char *hostname)
{
	if (setns(pidfd, CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWUTS) < 0 || setresgid(0, 0, 0) < 0 ||
	    setresuid(0, 0, 0) < 0)
		_exit(errno);
	umask(022);
	_exit(hostname_set_to(hostname) < 0 ? errno : 0);
}

static int
launch_set_name(struct sandbox *s, const char *hostname, struct err *err)
{
	int status = 0;
	const pid_t pid = fork();

	if (pid == 0)
		set_name_inside(s->pidfd, hostname);
	if (pid < 0)
		return err_sys(err, errno, "start a process that names the session");
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		return err_sys(err, WIFEXITED(status) ? WEXITSTATUS(status) : EIO,
			       "set the session's name");
	return 0;
}

/* ---- the rest: by cgroup where there is one, else by /proc and init ---- */

/* Init is the only one who can signal by the numbers of its own pid namespace. */
static int
send_by_init(struct sandbox *s, const struct procs *to, int signal, struct err *err)
{
	if (to->n == 0)
		return 0;
	if (!s->signal_listed)
		return err_set(err, ERR_UNAVAILABLE, "init cannot be asked to signal");
	auto_close int list = procs_list(to, err);
	return list < 0 ? -1 : s->signal_listed(s->signal_ctx, list, signal, err);
}

static int
launch_freeze(struct sandbox *s, bool frozen, struct err *err)
{
	return s->cgroup >= 0 ? box_freeze(s, frozen, err) : procs_freeze(s, frozen, send_by_init, err);
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
	if (n > 0) {
		*out = (struct sandbox_state){.populated = false};
		return 0;
	}
	return procs_state(s, out, send_by_init, err);
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
	return s->cgroup >= 0 ? box_call_list(s, call, out, err) : procs_call_list(s, call, out, err);
}

static int
launch_call_kill(struct sandbox *s, const char *call, struct err *err)
{
	return s->cgroup >= 0 ? box_call_kill(s, call, err)
			      : procs_call_kill(s, call, send_by_init, err);
}

static int
launch_call_procs(struct sandbox *s, const char *call, int *out, struct err *err)
{
	return s->cgroup >= 0 ? box_call_procs(s, call, out, err)
			      : procs_call_procs(s, call, out, err);
}

static int
launch_call_cpu(struct sandbox *s, const char *call, uint64_t *out_ns, struct err *err)
{
	return s->cgroup >= 0 ? box_call_cpu(s, call, out_ns, err) : 0;
}

static int
launch_call_end(struct sandbox *s, const char *call, struct err *err)
{
	return s->cgroup >= 0 ? box_call_end(s, call, err) : procs_call_end(s, call, err);
}

static int
launch_call_started(struct sandbox *s, const char *call, pid_t first, struct err *err)
{
	return s->cgroup >= 0 ? 0 : procs_call_started(s, call, first, err);
}

static void
launch_done(struct sandbox *s)
{
	procs_free(s);
	fd_close(&s->proc);
}

const struct engine engine_launch = {
    .name = "launch",
    .shows_spill = true,
    .start = launch_start,
    .freeze = launch_freeze,
    .kill = launch_kill,
    .state = launch_state,
    .call_begin = launch_call_begin,
    .call_list = launch_call_list,
    .call_kill = launch_call_kill,
    .call_procs = launch_call_procs,
    .call_end = launch_call_end,
    .call_cpu = launch_call_cpu,
    .call_started = launch_call_started,
    .done = launch_done,
    .set_name = launch_set_name,
};
