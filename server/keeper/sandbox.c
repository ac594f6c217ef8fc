/* The inside of a sandbox, up to the exec of berth-init. Two tables of steps, read from top to
 * bottom, are the recipe; ENGINE.md says why they stand in this order.
 *
 * Invariants
 *  1. rights are given up after the last mount, and the seccomp program is loaded last of all.
 *     Where setuid programs are to work it is loaded just before: it takes CAP_SYS_ADMIN then;
 *  2. a step that fails ends the process, and with it the sandbox: there is no half of one;
 *  3. berth-init inherits 0 to 3 and nothing else, no signal blocked or ignored, one variable;
 *  4. a process here owns nothing that outlives it, so fds are left to exec or exit.
 *
 * Never: allocates (it runs behind a clone), reads a file of the workspace but one (hostname.c). */
#include "sandbox.h"
#include "base/fd.h"
#include "confine.h"
#include "hostname.h"
#include "tree.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/close_range.h>
#include <linux/keyctl.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PATH_ENV "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

enum { SOCKET_FD = 3, LOCK_FD = 4, FD_ROOM = 100 }; /* room: above what is laid out below */
enum { FILES_SOFT = 1024, FILES_HARD = 524288 };

static const char oom_score_adj[] = "200"; /* the manager has -900, a keeper -800 */

/* Root of a session keeps what package managers and build tools need of root, and what cannot reach
 * beyond its own ids, processes and network. */
static const unsigned long long kept_capabilities =
    1ull << CAP_CHOWN | 1ull << CAP_DAC_OVERRIDE | 1ull << CAP_FOWNER | 1ull << CAP_FSETID |
    1ull << CAP_KILL | 1ull << CAP_SETGID | 1ull << CAP_SETUID | 1ull << CAP_SETPCAP |
    1ull << CAP_NET_BIND_SERVICE | 1ull << CAP_SYS_CHROOT | 1ull << CAP_SETFCAP |
    1ull << CAP_AUDIT_WRITE | 1ull << CAP_NET_RAW | 1ull << CAP_MKNOD;

/* ---- in the launching process: still the node's root, in the session's cgroup ---- */

/* Before anything is used that counts; "0" is the writer. v2 limits hold from the clone on. */
static int
join_limits(struct inside *in)
{
	struct err ignored;

	for (int i = 0; i < 3; i++) {
		in->at = "cgroup v1";
		if (in->plan->join[i] >= 0 && fd_write_all(in->plan->join[i], "0", 1, &ignored) < 0)
			return -1;
	}
	return 0;
}

int
sandbox_lower_priority(struct inside *in)
{
	/* Set by a process with rights over the node: so the session cannot lower it again. */
	in->at = "/proc/self/oom_score_adj";
	auto_close int fd = open(in->at, O_WRONLY | O_CLOEXEC);
	struct err ignored;
	return fd < 0 ? -1 : fd_write_all(fd, oom_score_adj, sizeof oom_score_adj - 1, &ignored);
}

int
sandbox_set_limits(struct inside *in)
{
	static const struct rlimit no_core = {0, 0};
	const rlim_t most = in->plan->files ? in->plan->files : FILES_HARD;
	struct rlimit files = {most < FILES_SOFT ? most : FILES_SOFT, most};

	in->at = "core";
	if (setrlimit(RLIMIT_CORE, &no_core) < 0)
		return -1;
	in->at = "open files";
	if (setrlimit(RLIMIT_NOFILE, &files) == 0)
		return 0;
	struct rlimit had; /* fs.nr_open is smaller, or we may not raise it: then what there is */
	if (getrlimit(RLIMIT_NOFILE, &had) < 0)
		return -1;
	files.rlim_max = had.rlim_max < most ? had.rlim_max : most;
	files.rlim_cur = files.rlim_max < FILES_SOFT ? files.rlim_max : FILES_SOFT;
	return setrlimit(RLIMIT_NOFILE, &files);
}

/* Counted for the session's own user namespace, where the kernel keeps such counts (5.14). */
int
sandbox_set_limits_of_cgroups(struct inside *in)
{
	const struct rlimit pids = {in->plan->pids, in->plan->pids},
			    data = {in->plan->data_bytes, in->plan->data_bytes};

	in->at = "processes";
	if (in->plan->pids && setrlimit(RLIMIT_NPROC, &pids) < 0)
		return -1;
	in->at = "memory";
	return in->plan->data_bytes ? setrlimit(RLIMIT_DATA, &data) : 0;
}

/* Before the user namespace: it takes rights over the one that we come from, and over the one
 * that we go to, which is the node's for what an operator made. Pid 1 inherits the place. */
static int
join_network(struct inside *in)
{
	return in->plan->netns < 0 ? 0 : setns(in->plan->netns, CLONE_NEWNET);
}

static int
become_session_root(struct inside *in)
{
	if (setns(in->plan->userns, CLONE_NEWUSER) < 0)
		return -1;
	in->at = "its ids";
	/* with one id alone the kernel lets nobody change his groups: those of the server's user stay */
	if (setgroups(0, NULL) < 0 && !(errno == EPERM && in->plan->ids == 1))
		return -1;
	if (setresgid(0, 0, 0) < 0)
		return -1;
	return setresuid(0, 0, 0);
}

static const struct step steps_of_launcher[] = {
    {"join its limits", join_limits},
    {"set the out-of-memory score", sandbox_lower_priority},
    {"set the limits", sandbox_set_limits},
    {"set the limits of a node without cgroups", sandbox_set_limits_of_cgroups},
    {"join its network", join_network},
    {"join the user namespace", become_session_root},
};

/* ---- in pid 1: names, and what it keeps ---- */

/* Counted in the session's user namespace, so it binds the session alone. Where they are allowed,
 * by a number that browsers do not reach. */
static int
limit_nested_namespaces(struct inside *in)
{
	const char *most = in->plan->walls & KEEPER_WALL_NESTED ? "1024" : "0";

	in->at = "/proc/sys/user/max_user_namespaces";
	auto_close int fd = open(in->at, O_WRONLY | O_CLOEXEC);
	struct err ignored;
	return fd < 0 ? -1 : fd_write_all(fd, most, strlen(most), &ignored);
}

/* To the keeper: by it the processes of a session without a cgroup are seen. */
static int
report_proc(struct inside *in)
{
	struct sandbox_report r = {0};
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr aligned;
	} room = {{0}};
	struct iovec part = {&r, sizeof r};
	struct msghdr message = {.msg_iov = &part,
				 .msg_iovlen = 1,
				 .msg_control = room.bytes,
				 .msg_controllen = sizeof room.bytes};
	struct cmsghdr *head = CMSG_FIRSTHDR(&message);

	in->at = "/proc";
	auto_close int proc = open(in->at, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (proc < 0)
		return -1;
	*head = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof proc),
				 .cmsg_level = SOL_SOCKET,
				 .cmsg_type = SCM_RIGHTS};
	memcpy(CMSG_DATA(head), &proc, sizeof proc);
	return sendmsg(in->report, &message, MSG_NOSIGNAL) < 0 ? -1 : 0;
}

static int
raise_loopback(struct inside *in)
{
	if (in->plan->network_host || in->plan->netns >= 0)
		return 0; /* not ours to raise, or raised */
	auto_close int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct ifreq lo = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
	return fd < 0 ? -1 : ioctl(fd, SIOCSIFFLAGS, &lo);
}

/* As on a machine with one user: ping asks for no right, and a service binds to a low port whoever
 * runs it. Setuid programs and capabilities of files, which do that elsewhere, mean nothing under
 * no_new_privs. Not there, or no such network protocol: then it stays as it is. */
static int
open_network_to_users(struct inside *in)
{
	static const struct {
		const char *path, *value;
	} settings[] = {
	    {"/proc/sys/net/ipv4/ping_group_range", "0 65535"},
	    {"/proc/sys/net/ipv4/ip_unprivileged_port_start", "0"},
	};
	struct err ignored;

	if (in->plan->network_host)
		return 0;
	for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
		const char *value = settings[i].value;
		auto_close int fd = open(settings[i].path, O_WRONLY | O_CLOEXEC);
		if (fd >= 0 && fd_write_all(fd, value, strlen(value), &ignored) < 0)
			continue;
	}
	return 0;
}

int
sandbox_join_keyring(struct inside *in)
{
	(void)in;
	if (syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL) < 0 && errno != ENOSYS)
		return -1;
	return 0;
}

static int
drop_capabilities(struct inside *in)
{
	/* Among others on a bridge nobody may write packets by hand, in the name of a neighbour. */
	const unsigned long long raw = in->plan->netns >= 0 ? 1ull << CAP_NET_RAW : 0;
	struct err why;
	if (confine_capabilities(kept_capabilities & ~raw, &why) < 0)
		return -1;
	if (in->plan->walls & KEEPER_WALL_SETUID)
		return 0;
	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}

int
sandbox_reset_signals(struct inside *in)
{
	sigset_t none;

	(void)in;
	for (int number = 1; number < _NSIG; number++)
		signal(number,
		       SIG_DFL); /* fails for KILL, STOP and libc's own: those are default */
	sigemptyset(&none);
	return sigprocmask(SIG_SETMASK, &none, NULL);
}

/* 0-2: the session's /dev/null. 3: the socket. 4: the lock, where init holds it. All else closes at
 * the exec. */
int
sandbox_lay_out_fds(struct inside *in)
{
	in->at = "/dev/null";
	const int null = open(in->at, O_RDWR | O_CLOEXEC);
	const int far = null < 0 ? -1 : fcntl(null, F_DUPFD_CLOEXEC, FD_ROOM);
	const int socket = fcntl(in->plan->socket, F_DUPFD_CLOEXEC, FD_ROOM);
	const int lock = in->plan->lock < 0 ? -1 : fcntl(in->plan->lock, F_DUPFD_CLOEXEC, FD_ROOM);
	if (far < 0 || socket < 0 || (lock < 0 && in->plan->lock >= 0))
		return -1;
	in->at = "0 to 4";
	for (int fd = 0; fd < SOCKET_FD; fd++)
		if (dup2(far, fd) < 0)
			return -1;
	if (dup2(socket, SOCKET_FD) < 0)
		return -1;
	if (lock >= 0 && dup2(lock, LOCK_FD) < 0)
		return -1;
	return (int)syscall(SYS_close_range, lock >= 0 ? LOCK_FD + 1 : SOCKET_FD + 1, ~0u,
			    CLOSE_RANGE_CLOEXEC);
}

int
sandbox_load_filter(struct inside *in)
{
	struct sock_filter *code = (struct sock_filter *)(uintptr_t)in->plan->filter;
	const struct sock_fprog program = {.len = in->plan->filter_len, .filter = code};
	return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program);
}

/* Without no_new_privs it takes a right that is about to go. What follows are prctl, capset and
 * execveat, which the program allows. */
static int
load_filter_with_rights(struct inside *in)
{
	return in->plan->walls & KEEPER_WALL_SETUID ? sandbox_load_filter(in) : 0;
}

static int
load_filter_without_rights(struct inside *in)
{
	return in->plan->walls & KEEPER_WALL_SETUID ? 0 : sandbox_load_filter(in);
}

static const struct step steps_of_pid1[] = {
    {"leave the propagation of mounts", tree_leave_propagation},
    {"take the devices", tree_take_devices},
    {"attach the workspace", tree_attach_workspace},
    {"attach /usr", tree_attach_usr},
    {"attach resolv.conf", tree_attach_resolv},
    {"mount /proc", tree_mount_proc},
    {"mount /dev", tree_mount_dev},
    {"mount /sys", tree_mount_sys},
    {"mount /run", tree_mount_run},
    {"mount /tmp", tree_mount_tmp},
    {"show a whole /proc", tree_mount_whole_proc},
    {"mount a directory of the node", tree_attach_mounts},
    {"make the workspace the root", tree_pivot},
    {"limit nested user namespaces", limit_nested_namespaces},
    {"show its processes to the keeper", report_proc},
    {"open the network to its users", open_network_to_users},
    {"protect /proc", tree_protect_proc},
    {"mask /proc and /sys", tree_mask},
    {"set the hostname", hostname_set},
    {"raise the loopback interface", raise_loopback},
    {"make the workspace read-only", tree_seal},
    {"join a keyring of its own", sandbox_join_keyring},
    {"reset the signals", sandbox_reset_signals},
    {"lay out the fds", sandbox_lay_out_fds},
    {"load the seccomp program", load_filter_with_rights},
    {"drop capabilities", drop_capabilities},
    {"load the seccomp program", load_filter_without_rights},
};

/* ---- running them ---- */

static void
copy_text(char *out, const char *text)
{
	const size_t n = text ? strnlen(text, SANDBOX_TEXT_BYTES - 1) : 0;
	memcpy(out, text ? text : "", n);
	out[n] = '\0';
}

static _Noreturn void
fail(const struct inside *in, const char *step)
{
	struct sandbox_report r = {.error = errno};
	struct err ignored;

	copy_text(r.step, step);
	copy_text(r.at, in->at);
	_exit(fd_write_all(in->report, &r, sizeof r, &ignored) < 0 ? 98 : 99);
}

void
sandbox_run(struct inside *in, const struct step *steps, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		in->at = NULL;
		if (steps[i].run(in) < 0)
			fail(in, steps[i].name);
	}
}

_Noreturn void
sandbox_become_init(struct inside *in)
{
	static const char name[] = "berth-init", path[] = PATH_ENV;
	char argv0[sizeof name], env0[sizeof path];
	char *const argv[] = {argv0, NULL}, *const env[] = {env0, NULL};

	memcpy(argv0, name, sizeof name);
	memcpy(env0, path, sizeof path);
	in->at = NULL;
	syscall(SYS_execveat, in->init, "", argv, env, AT_EMPTY_PATH);
	fail(in, "execute berth-init");
}

void
sandbox_begin(struct inside *in, const struct sandbox_plan *plan)
{
	*in = (struct inside){.plan = plan, .report = plan->report};
	umask(022);
	in->init = fcntl(plan->init, F_DUPFD_CLOEXEC, FD_ROOM);
	const int report = fcntl(plan->report, F_DUPFD_CLOEXEC, FD_ROOM);
	if (in->init < 0 || report < 0)
		fail(in, "keep the fds");
	in->report = report;
}

_Noreturn void
sandbox_launch(const struct sandbox_plan *plan)
{
	struct inside in;
	struct clone_args args = {.flags = CLONE_PARENT | CLONE_NEWNS | CLONE_NEWPID |
					   CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP};

	sandbox_begin(&in, plan);
	if (!plan->network_host && plan->netns < 0)
		args.flags |= CLONE_NEWNET;
	sandbox_run(&in, steps_of_launcher, sizeof steps_of_launcher / sizeof *steps_of_launcher);
	in.at = NULL;
	/* A child of the keeper, not of this process: the keeper waits for it. In the cgroup that
	 * this process is in, which thereby is the root of its cgroup namespace. */
	const long pid = syscall(SYS_clone3, &args, sizeof args);
	if (pid == 0) {
		sandbox_run(&in, steps_of_pid1, sizeof steps_of_pid1 / sizeof *steps_of_pid1);
		sandbox_become_init(&in);
	}
	if (pid < 0)
		fail(&in, "clone pid 1");
	const struct sandbox_report started = {.pid = (int)pid};
	struct err ignored;
	_exit(fd_write_all(in.report, &started, sizeof started, &ignored) < 0);
}
