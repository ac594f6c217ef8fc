/* The engine of rung `process`: no namespace, no mount, no cgroup. Init is a child in a Landlock
 * domain, with a seccomp program, resource limits and, where the server may give it one, a uid of
 * its own; its orphans come to it, and to the keeper when it is gone.
 *
 * Invariants
 *  1. outside of its workspace a session opens for writing nothing but the usual devices, and for
 *     reading only the system's programs and /proc; what its uid may do to processes of the same
 *     uid is stopped by Landlock 6 (Linux 6.12), and not before: `berthd --check` says so;
 *  2. the keeper signals by pidfd whom /proc names as a descendant of its own, checked again after
 *     the pidfd was opened; nobody's word is taken for it;
 *  3. no process of a session passes for a manager: it has more seccomp programs than the keeper
 *     had when it began, and cannot lose one. */
#include "base/fd.h"
#include "base/num.h"
#include "base/time.h"
#include "confine.h"
#include "starting.h"
#include "procs.h"
#include "tree.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { LOOKS_MAX = 200, STATUS_MAX_BYTES = 4096 };

static uid_t session_uid;	   /* of the one session that a keeper has; 0: the server's own */
static int workspace = -1, spilled = -1; /* lent by the spec */
static uint64_t own_filters;

/* ---- in the child ---- */

static int
begin_session(struct inside *in)
{
	(void)in;
	if (setsid() < 0)
		return -1;
	return prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
}

static int
become_session_user(struct inside *in)
{
	in->at = "its uid";
	if (session_uid == 0)
		return 0;
	if (setgroups(0, NULL) < 0 || setresgid(session_uid, session_uid, session_uid) < 0)
		return -1;
	return setresuid(session_uid, session_uid, session_uid);
}

static int
enter_landlock(struct inside *in)
{
	static const struct {
		const char *path;
		enum confine_right right;
	} shown[] = {
	    {"/usr", CONFINE_RUN},	     {"/bin", CONFINE_RUN},	     {"/sbin", CONFINE_RUN},
	    {"/lib", CONFINE_RUN},	     {"/lib32", CONFINE_RUN},	     {"/lib64", CONFINE_RUN},
	    {"/opt", CONFINE_RUN},	     {"/etc", CONFINE_READ},	     {"/proc", CONFINE_READ},
	    {"/dev/null", CONFINE_DEVICE},   {"/dev/zero", CONFINE_DEVICE},  {"/dev/full", CONFINE_DEVICE},
	    {"/dev/random", CONFINE_DEVICE}, {"/dev/urandom", CONFINE_DEVICE}, {"/dev/tty", CONFINE_DEVICE},
	    {"/dev/ptmx", CONFINE_DEVICE},   {"/dev/pts", CONFINE_DEVICE},
	};
	enum { SHOWN = sizeof shown / sizeof *shown };
	struct confine_rule rules[SHOWN + 2];
	struct err why;

	for (int i = 0; i < SHOWN; i++)
		rules[i] = (struct confine_rule){
		    open(shown[i].path, O_PATH | O_CLOEXEC), shown[i].right}; /* -1: not there */
	rules[SHOWN] = (struct confine_rule){workspace, CONFINE_ALL};
	rules[SHOWN + 1] = (struct confine_rule){spilled, CONFINE_READ};
	in->at = "Landlock";
	const int version = confine_landlock(rules, SHOWN + 2, true, &why);
	if (version == 0)
		errno = EOPNOTSUPP;
	return version < 1 ? -1 : 0;
}

static int
enter_workspace(struct inside *in)
{
	in->at = "its workspace";
	return fchdir(workspace);
}

static int
drop_capabilities(struct inside *in)
{
	struct err why;

	(void)in;
	if (confine_capabilities(0, &why) < 0)
		return -1;
	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}

static const struct step steps[] = {
    {"begin a session of its own", begin_session},
    {"set the out-of-memory score", sandbox_lower_priority},
    {"set the limits", sandbox_set_limits},
    {"set the limits of a node without cgroups", sandbox_set_limits_of_cgroups},
    {"join a keyring of its own", sandbox_join_keyring},
    {"become its user", become_session_user},
    {"enter its workspace", enter_workspace},
    {"reset the signals", sandbox_reset_signals},
    {"lay out the fds", sandbox_lay_out_fds},
    {"close the rest of the machine's files", enter_landlock},
    {"drop capabilities", drop_capabilities},
    {"load the seccomp program", sandbox_load_filter},
};

static _Noreturn void
become_session(const struct sandbox_plan *plan)
{
	struct inside in;

	sandbox_begin(&in, plan);
	sandbox_run(&in, steps, sizeof steps / sizeof *steps);
	sandbox_become_init(&in);
}

/* ---- start ---- */

/* How many seccomp programs a process has (Linux 5.9); a number no session can lower. */
static uint64_t
count_filters(pid_t pid)
{
	auto_buf text = BUF_MAX(STATUS_MAX_BYTES * 4);
	char path[48];
	struct str rest, line, name;
	uint64_t n;
	struct err ignored;

	snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
	auto_close int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fd_read_to_end(fd, &text, &ignored) < 0)
		return UINT64_MAX;
	rest = buf_view(&text);
	while (rest.len && str_cut(&rest, '\n', &line))
		if (str_cut(&line, '\t', &name) && str_is(name, "Seccomp_filters:") &&
		    num_parse(line, 0, UINT32_MAX, &n, &ignored) == 0)
			return n;
	return UINT64_MAX;
}

static int
start_child(const struct sandbox_spec *spec, struct sandbox *s, int socket,
	    const struct starting_program *program, struct err *err)
{
	int ends[2];
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
		return err_sys(err, errno, "make a socket for the launch");
	auto_close int news = ends[0], report = ends[1];

	const struct sandbox_plan plan = {
	    .hostname = spec->hostname,
	    .network_host = spec->network_host,
	    .rootfs = -1,
	    .userns = -1,
	    .init = starting_slot(spec, KEEPER_INIT),
	    .usr = -1,
	    .run = -1,
	    .ids = 1,
	    .lock = starting_slot(spec, KEEPER_LOCK),
	    .pids = spec->pids,
	    .data_bytes = spec->data_bytes,
	    .files = spec->files,
	    .join = {-1, -1, -1},
	    .socket = socket,
	    .report = report,
	    .filter = program->code,
	    .filter_len = program->n,
	};
	pid_t pid = fork();
	if (pid == 0)
		become_session(&plan);
	if (pid < 0)
		return err_sys(err, errno, "start the session's init");
	fd_close(&report);
	if (starting_read_reports(news, &pid, &s->proc, err) < 0) {
		starting_end_pid(pid);
		return -1;
	}
	s->pid = s->proc_init = pid;
	s->pidfd = pidfd_open(pid, 0);
	if (s->pidfd < 0) {
		err_sys(err, errno, "open a pidfd of the session's init");
		starting_end_pid(pid);
		return -1;
	}
	return 0;
}

static int
process_start(const struct sandbox_spec *spec, struct sandbox *out, struct err *err)
{
	struct starting_program program;
	struct sandbox s = {.pidfd = -1,
			    .socket = -1,
			    .cgroup = -1,
			    .freeze_fd = -1,
			    .kill_fd = -1,
			    .events_fd = -1};
	int pair[2];

	session_uid = spec->uid_base;
	workspace = starting_slot(spec, KEEPER_ROOTFS);
	spilled = starting_slot(spec, KEEPER_RUN);
	own_filters = count_filters(getpid());
	if (prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) < 0)
		return err_sys(err, errno, "become the reaper of the session's orphans");
	s.proc = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (s.proc < 0)
		return err_sys(err, errno, "open /proc");
	if (starting_load_program(starting_slot(spec, KEEPER_SECCOMP), &program, err) < 0 ||
	    wire_pair(pair, err) < 0) {
		fd_close(&s.proc);
		return -1;
	}
	auto_close int ours = pair[0], theirs = pair[1];
	if (start_child(spec, &s, theirs, &program, err) < 0) {
		fd_close(&s.proc);
		return -1;
	}
	s.socket = fd_steal(&ours);
	*out = s;
	return 0;
}

/* ---- signals, by the keeper's own hand (invariant 2) ---- */

static int
send_by_hand(struct sandbox *s, const struct procs *to, int signal, struct err *err)
{
	for (size_t i = 0; i < to->n; i++) {
		auto_close int pidfd = pidfd_open(to->at[i].pid, 0);
		if (pidfd < 0 || !procs_is(s->proc, &to->at[i]))
			continue; /* it has ended meanwhile */
		if (pidfd_send_signal(pidfd, signal, NULL, 0) < 0 && errno != ESRCH)
			return err_sys(err, errno, "signal process %d", (int)to->at[i].pid);
	}
	return 0;
}

static int
process_freeze(struct sandbox *s, bool frozen, struct err *err)
{
	return procs_freeze(s, frozen, send_by_hand, err);
}

/* All that descends from the keeper: init, and what init lost. Those that fork are stopped first,
 * or they would outrun us. */
static int
process_kill(struct sandbox *s, struct err *err)
{
	for (int i = 0; i < LOOKS_MAX; i++) {
		auto_procs now = {0};
		size_t alive = 0;
		if (procs_look(s->proc, getpid(), &now, err) < 0)
			return -1;
		for (size_t k = 0; k < now.n; k++)
			alive += now.at[k].state != 'Z' && now.at[k].state != 'X';
		if (alive == 0)
			return 0;
		if (send_by_hand(s, &now, i % 2 ? SIGKILL : SIGSTOP, err) < 0)
			return -1;
	}
	return err_set(err, ERR_TIMEOUT, "the session makes processes faster than they are killed");
}

static int
process_signal_all(struct sandbox *s, int signal, struct err *err)
{
	auto_procs now = {0};

	return procs_look(s->proc, s->proc_init, &now, err) < 0 ? -1
								 : send_by_hand(s, &now, signal, err);
}

static int
process_state(struct sandbox *s, struct sandbox_state *out, struct err *err)
{
	struct pollfd p = {.fd = s->pidfd, .events = POLLIN};
	const int n = poll(&p, 1, 0);

	if (n < 0)
		return err_sys(err, errno, "look at the session's init");
	if (n > 0) {
		*out = (struct sandbox_state){.populated = false};
		return 0;
	}
	return procs_state(s, out, send_by_hand, err);
}

static int
process_call_begin(struct sandbox *s, const char *call, int *out, struct err *err)
{
	(void)s;
	(void)call;
	(void)err;
	*out = -1;
	return 0;
}

static int
process_call_kill(struct sandbox *s, const char *call, struct err *err)
{
	return procs_call_kill(s, call, send_by_hand, err);
}

static bool
process_is_inside(pid_t pid)
{
	return count_filters(pid) > own_filters;
}

static void
process_done(struct sandbox *s)
{
	procs_free(s);
	fd_close(&s->proc);
}

const struct engine engine_process = {
    .name = "process",
    .start = process_start,
    .freeze = process_freeze,
    .kill = process_kill,
    .state = process_state,
    .call_begin = process_call_begin,
    .call_list = procs_call_list,
    .call_kill = process_call_kill,
    .call_procs = procs_call_procs,
    .call_end = procs_call_end,
    .call_started = procs_call_started,
    .signal_all = process_signal_all,
    .is_inside = process_is_inside,
    .keeps_kill = true,
    .done = process_done,
};
