/* berth-init: pid 1 of a sandbox. Executes calls for the keeper and reaps what dies.
 *   holds      one socket, to the keeper (fd 3)
 *   may        fork and exec with the session's rights, signal the session's processes, open
 *              sockets of the session's network, fork what resolves a name there, and what puts
 *              files of a snapshot back
 *   never      opens a file of the workspace, parses anything but messages.def, waits for a call
 *   if taken   gains nothing: it runs with the rights of the session, and the keeper trusts no
 *              word, number or descriptor of it
 *
 * Invariants:
 *  1. one thread, no wait but for a message, a child or a connection: nothing inside can make it
 *     hang;
 *  2. each init_exec is answered by exactly one init_exited, whatever fails on the way;
 *  3. a call's process gets its three streams and no other descriptor (but the files of a loaded program),
 *     no blocked or ignored signal, a session (and process group) of its own;
 *  4. names are resolved by children that hold nothing of it (lookup.h): it reads no answer of DNS;
 *     nor does it touch the files of a snapshot that come back (put.h);
 *  5. when the keeper is gone, so is everything in here. */
#include "loaded.h"
#include "lookup.h"
#include "opener.h"
#include "put.h"
#include "reap.h"
#include "wire/wire.h"

#include "base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/sched.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

enum { KEEPER_SOCKET = 3, ARGV_MAX = 1024, ENV_MAX = 4096, PATH_BYTES = 4097, REAP_AT_ONCE = 256 };

#define PATH_ELSE "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

/* One call on its way to its process. Texts are lent by the message. */
struct request {
	uint32_t call;
	int streams[3]; /* lent */
	int cgroup;     /* lent, -1: none */
	bool pty;
	bool loaded; /* its program is loaded.h's */
	uint32_t uid, gid;
	char *argv[ARGV_MAX + 1], *env[ENV_MAX + 1];
	char cwd[PATH_BYTES], cwd_else[PATH_BYTES];
	char tty[32]; /* "SSH_TTY=/dev/pts/N" */
	int *exec_errno;
};

/* NUL-terminated strings one after another, as a vector that ends in NULL. False: not that. */
static bool
split_strings(struct str bytes, char **out, size_t max)
{
	size_t n = 0;

	while (bytes.len) {
		const char *end = memchr(bytes.at, '\0', bytes.len);
		if (!end || n == max)
			return false;
		out[n++] = (char *)(uintptr_t)bytes.at; /* execve(2) does not write there */
		bytes.len -= (size_t)(end + 1 - bytes.at);
		bytes.at = end + 1;
	}
	out[n] = NULL;
	return true;
}

/* ---- in the child: only system calls from here to exec ---- */

static const char *
path_of(char *const *env)
{
	for (; *env; env++)
		if (strncmp(*env, "PATH=", 5) == 0)
			return *env + 5;
	return PATH_ELSE;
}

/* As execvpe(3), with the PATH that the command gets. Returns the errno of the best try. */
static int
exec_by_path(char *const *argv, char *const *env)
{
	static char whole[PATH_BYTES];
	struct str rest = str_of(path_of(env)), dir;
	const size_t name = strlen(argv[0]);
	int best = ENOENT;

	if (memchr(argv[0], '/', name) || name == 0) {
		execve(argv[0], argv, env);
		return errno;
	}
	while (str_cut(&rest, ':', &dir)) {
		if (dir.len + 1 + name >= sizeof whole)
			continue;
		size_t at = 0;
		if (dir.len) {
			memcpy(whole, dir.at, dir.len);
			at = dir.len;
			whole[at++] = '/';
		}
		memcpy(whole + at, argv[0], name + 1);
		execve(whole, argv, env);
		if (errno != ENOENT && errno != ENOTDIR)
			best = errno;
		if (errno != ENOENT && errno != ENOTDIR && errno != EACCES)
			break;
	}
	return best;
}

/* Where clone3 could not place it: it goes there by itself. The call runs without, if need be. */
static void
join_cgroup(int cgroup)
{
	const int procs = openat(cgroup, "cgroup.procs", O_WRONLY | O_CLOEXEC);
	if (procs < 0)
		return;
	const ssize_t ignored = write(procs, "0", 1);
	(void)ignored;
	close(procs);
}

/* As the image's User says; root needs no change. A terminal is its user's. */
static int
become_user(const struct request *q)
{
	if (q->uid == 0 && q->gid == 0)
		return 0;
	if (q->pty && fchown(0, q->uid, (gid_t)-1) < 0)
		return errno;
	if (setgroups(0, NULL) < 0 || setresgid(q->gid, q->gid, q->gid) < 0 ||
	    setresuid(q->uid, q->uid, q->uid) < 0)
		return errno;
	return 0;
}

static _Noreturn void
become_command(const struct request *q, bool in_cgroup)
{
	sigset_t none;

	if (!in_cgroup && q->cgroup >= 0)
		join_cgroup(q->cgroup);
	setsid();
	if (q->pty)
		ioctl(q->streams[0], TIOCSCTTY, 0);
	for (int i = 0; i < 3; i++)
		dup2(q->streams[i], i); /* all above 2: see fill_low_fds */
	if (q->loaded) {
		if (loaded_lay_out() < 0) {
			*q->exec_errno = errno;
			_exit(126);
		}
	} else if (syscall(SYS_close_range, 3u, ~0u, 0u) < 0) {
		for (int fd = 3; fd < 1024; fd++)
			close(fd);
	}
	umask(022);
	const int refused = become_user(q);
	if (refused) {
		*q->exec_errno = refused;
		_exit(126);
	}
	if (chdir(q->cwd) < 0 && (!q->cwd_else[0] || (chdir(q->cwd_else) < 0 && chdir("/") < 0))) {
		*q->exec_errno = errno | INIT_NO_CWD;
		_exit(126);
	}
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	const int why = q->loaded ? loaded_exec(q->argv, q->env) : exec_by_path(q->argv, q->env);
	*q->exec_errno = why;
	_exit(why == ENOENT || why == ENOTDIR ? 127 : 126);
}

/* ---- in init ---- */

/* Forks; the child is born in the call's cgroup where the kernel and our rights allow it. */
static pid_t
fork_command(const struct request *q)
{
	if (q->cgroup >= 0) {
		struct clone_args how = {
		    .flags = CLONE_INTO_CGROUP,
		    .exit_signal = SIGCHLD,
		    .cgroup = (unsigned)q->cgroup,
		};
		const long pid = syscall(SYS_clone3, &how, sizeof how);
		if (pid == 0)
			become_command(q, true);
		if (pid > 0 || errno == EAGAIN || errno == ENOMEM)
			return (pid_t)pid;
	}
	const pid_t pid = fork();
	if (pid == 0)
		become_command(q, false);
	return pid;
}

/* A PTY: *slave for the command, and the master. */
static int
open_pty(const struct msg_init_exec *m, int *slave, int *master)
{
	const struct winsize size = {
	    .ws_row = (unsigned short)m->rows,
	    .ws_col = (unsigned short)m->columns,
	    .ws_xpixel = (unsigned short)m->x_pixels,
	    .ws_ypixel = (unsigned short)m->y_pixels,
	};
	struct termios mode;
	int unlock = 0;

	*master = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (*master < 0 || ioctl(*master, TIOCSPTLCK, &unlock) < 0)
		return -1;
	/* no lookup of a path, which the session could have replaced */
	*slave = ioctl(*master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (*slave < 0 || tcgetattr(*slave, &mode) < 0)
		return -1;
	mode.c_iflag |= IUTF8;
	if (tcsetattr(*slave, TCSANOW, &mode) < 0 || ioctl(*slave, TIOCSWINSZ, &size) < 0)
		return -1;
	return 0;
}

/* As sshd tells it; programs ask for it whether they have a user before them. */
static void
name_tty(struct request *q, int master)
{
	unsigned number;
	size_t n = 0;

	while (q->env[n])
		n++;
	if (n == ENV_MAX || ioctl(master, TIOCGPTN, &number) < 0)
		return;
	snprintf(q->tty, sizeof q->tty, "SSH_TTY=/dev/pts/%u", number);
	q->env[n] = q->tty;
	q->env[n + 1] = NULL;
}

static bool
fill_request(struct request *q, struct wire *w)
{
	const struct msg_init_exec *m = &w->message.init_exec;
	struct err ignored;

	q->call = m->call;
	q->pty = m->pty != 0;
	q->loaded = loaded_is_for(m->call);
	q->uid = m->uid;
	q->gid = m->gid;
	q->cgroup = m->no_cgroup ? -1 : w->message.fds[3];
	for (int i = 0; i < 3; i++)
		q->streams[i] = w->message.fds[i];
	return split_strings(m->argv, q->argv, ARGV_MAX) && q->argv[0] &&
	       split_strings(m->env, q->env, ENV_MAX) &&
	       str_copy(m->cwd, q->cwd, sizeof q->cwd, &ignored) == 0 &&
	       str_copy(m->cwd_else, q->cwd_else, sizeof q->cwd_else, &ignored) == 0;
}

/* Starts the process of a request: 0, or the errno of what failed. */
static int
start_command(struct request *q, struct wire *w, int place, struct err *err)
{
	auto_close int slave = -1;
	auto_close int master = -1;

	if (q->pty) {
		if (open_pty(&w->message.init_exec, &slave, &master) < 0)
			return errno;
		for (int i = 0; i < 3; i++)
			q->streams[i] = slave;
		name_tty(q, master);
		const struct msg_init_pty body = {.call = q->call};
		if (wire_send_fds(w, MSG_init_pty, &body, &master, 1, err) < 0)
			return EPIPE;
	}
	q->exec_errno = reap_exec_errno(place);
	const pid_t pid = fork_command(q);
	if (pid < 0)
		return errno;
	reap_set_pid(place, pid);
	if (q->cgroup < 0) /* where it fails the link is gone, which the next message tells */
		(void)!wire_send(w, init_started, err, .call = q->call, .pid = (uint32_t)pid);
	return 0;
}

static int
report(struct wire *w, const struct reaped *r, struct err *err)
{
	return wire_send(w, init_exited, err, .call = r->call, .wait_status = r->wait_status,
			 .exec_errno = r->exec_errno, .cpu_ns = r->cpu_ns,
			 .peak_bytes = r->peak_bytes);
}

static int
exec_call(struct wire *w, struct err *err)
{
	static struct request q; /* large; one at a time */
	const uint32_t call = w->message.init_exec.call;
	int why = EINVAL;

	if (fill_request(&q, w)) {
		const int place = reap_reserve(call);
		why = place < 0 ? EAGAIN : start_command(&q, w, place, err);
		if (why == 0)
			return 0;
		if (place >= 0)
			reap_release(place);
	}
	const struct reaped failed = {
	    .call = call, .wait_status = 126 << 8, .exec_errno = (uint32_t)why};
	return report(w, &failed, err);
}

static void
signal_all(int signal)
{
	reap_signal_all(signal);
	if (getpid() != 1)
		lookup_signal_all(signal);
}

static int
take_messages(struct wire *w, struct err *err)
{
	for (;;) {
		const int got = wire_recv(w, err);
		if (got <= 0)
			return got;
		if (w->message.id == MSG_init_exec) {
			const int told = exec_call(w, err);
			loaded_drop();
			if (told < 0)
				return -1;
		} else if (w->message.id == MSG_init_loaded) {
			loaded_take(w);
		} else if (w->message.id == MSG_init_signal_listed) {
			reap_signal_listed(w->message.fds[0],
					   (int)w->message.init_signal_listed.signal);
		} else if (w->message.id == MSG_init_open) {
			if (opener_open(w, err) < 0)
				return -1;
		} else if (w->message.id == MSG_init_open_cancel) {
			if (opener_cancel(w, err) < 0)
				return -1;
		} else if (w->message.id == MSG_init_resolve) {
			lookup_begin(w);
		} else if (w->message.id == MSG_init_put) {
			put_begin(w);
		} else if (w->message.id == MSG_init_signal) {
			const struct msg_init_signal m = w->message.init_signal;
			if (m.signal < 1 || m.signal > 64)
				continue;
			if (m.call)
				reap_signal(m.call, (int)m.signal);
			else
				signal_all((int)m.signal);
		}
	}
}

/* 1: there may be more dead. */
static int
take_dead(struct wire *w, struct err *err)
{
	struct reaped r;

	for (int i = 0; i < REAP_AT_ONCE; i++) {
		const int got = reap_one(&r);
		if (got < 0)
			return 0;
		if (got == 0) {
			lookup_reaped(r.pid);
			put_reaped(r.pid);
		}
		if (got && report(w, &r, err) < 0)
			return -1;
	}
	return 1;
}

static int
serve(struct wire *w, int children, struct err *err)
{
	int more = 0;

	for (;;) {
		struct pollfd p[2 + OPENER_CONNECTS_MAX] = {
		    {.fd = w->fd, .events = (short)(POLLIN | (w->queue ? POLLOUT : 0))},
		    {.fd = children, .events = POLLIN},
		};
		const nfds_t connects = opener_wants(p + 2);
		if (poll(p, 2 + connects, more ? 0 : -1) < 0) {
			if (errno != EINTR)
				return err_sys(err, errno, "wait");
			continue;
		}
		if (p[1].revents) {
			struct signalfd_siginfo told[8];
			const ssize_t ignored = read(children, told, sizeof told);
			(void)ignored; /* that it woke us is all there is to know */
		}
		if (p[1].revents || more) {
			more = take_dead(w, err);
			if (more < 0)
				return -1;
		}
		/* before messages, which could cancel one and begin another in its place */
		if (opener_ready(w, p + 2, connects, err) < 0)
			return -1;
		if (p[0].revents && take_messages(w, err) < 0)
			return -1;
	}
}

/* Streams are placed onto 0, 1 and 2: nothing received may ever lie there. */
static void
fill_low_fds(void)
{
	for (int fd = 0; fd < 3; fd++)
		if (fcntl(fd, F_GETFD) < 0)
			open("/", O_PATH | O_DIRECTORY); /* takes the lowest number: fd */
}

static int
start(struct wire *w, int *children, struct err *err)
{
	sigset_t all, child;

	/* What lives in here must not read or trace us. Kept over fork, not over exec. */
	if (prctl(PR_SET_NAME, "berth-init", 0, 0, 0) < 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
		return err_sys(err, errno, "become non-dumpable");
	fill_low_fds();
	for (int n = 1; n <= 64; n++)
		signal(n, SIG_DFL); /* children inherit that; what cannot be set needs it not */
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	*children = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
	if (*children < 0)
		return err_sys(err, errno, "make a signalfd");
	if (fcntl(KEEPER_SOCKET, F_SETFD, FD_CLOEXEC) < 0)
		return err_sys(err, errno, "find the keeper's socket");
	if (reap_init(err) < 0 ||
	    wire_open(w, KEEPER_SOCKET, ROLE_INIT, ROLE_KEEPER, PHASE_OPEN, err) < 0)
		return -1;
	return wire_send(w, init_ready, err, .pid = (uint32_t)getpid());
}

int
main(void)
{
	struct wire w;
	struct err err;
	int children = -1;

	if (start(&w, &children, &err) < 0)
		return 1;
	const int ended = serve(&w, children, &err);
	reap_end_all(); /* as pid 1 the kernel would do it; elsewhere nobody else does */
	return ended < 0 && err.code != ERR_UNAVAILABLE;
}
