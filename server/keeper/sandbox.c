/* The inside of a sandbox, up to the exec of berth-init. Two tables of steps, read from top to
 * bottom, are the recipe; ENGINE.md says why they stand in this order.
 *
 * Invariants
 *  1. what a session could have put in its workspace is never followed: mount points are opened
 *     without links (mount_point), and nothing is mounted by a path below the workspace;
 *  2. /proc and /sys are masked after the pivot and before any right is given up, seccomp is last;
 *  3. a step that fails ends the process, and with it the sandbox: there is no half of one;
 *  4. a process here owns nothing that outlives it, so fds are left to exec or exit.
 *
 * Never: allocates (it runs behind a clone), reads a file of the workspace, writes to one. */
#include "sandbox.h"
#include "base/fd.h"
#include "confine.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/close_range.h>
#include <linux/keyctl.h>
#include <linux/openat2.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef AT_RECURSIVE
#define AT_RECURSIVE 0x8000
#endif

#define PATH_ENV "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

enum { SOCKET_FD = 3, FD_ROOM = 100 }; /* room: above what is laid out below */
enum { OOM_SCORE_ADJ = 200, FILES_SOFT = 1024, FILES_HARD = 524288 };

static const char *const devices[] = {"null", "zero", "full", "random", "urandom", "tty"};
enum { DEVICES = sizeof devices / sizeof *devices };

/* Shown read-only: a change there is a change of the node, or of the kernel. */
static const char *const read_only[] = {
    "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger",
};

/* Shown empty: they tell of the node, of other sessions' keys, or of its hardware. What belongs to
 * the node's root and is readable by it alone needs no mask: that uid is not mapped. */
static const char *const masked[] = {
    "/proc/acpi",	  "/proc/asound",	"/proc/interrupts",
    "/proc/kcore",	  "/proc/keys",		"/proc/key-users",
    "/proc/latency_stats", "/proc/sched_debug", "/proc/scsi",
    "/proc/timer_list",	  "/sys/block",		"/sys/class/block",
    "/sys/class/dmi",	  "/sys/class/powercap", "/sys/dev/block",
    "/sys/devices/virtual/block", "/sys/devices/virtual/dmi", "/sys/devices/virtual/powercap",
    "/sys/firmware",	  "/sys/fs/cgroup",
};

/* Other filesystems, which the node has mounted below its own /sys, and a sysfs of ours has not. */
static const char *const masked_of_node[] = {
    "/sys/fs/bpf",	   "/sys/fs/pstore",	   "/sys/kernel/debug",
    "/sys/kernel/security", "/sys/kernel/tracing", "/sys/kernel/config",
};

/* Root of a session keeps what package managers and build tools need of root, and what cannot reach
 * beyond its own ids, processes and network. */
static const unsigned long long kept_capabilities =
    1ull << CAP_CHOWN | 1ull << CAP_DAC_OVERRIDE | 1ull << CAP_FOWNER | 1ull << CAP_FSETID |
    1ull << CAP_KILL | 1ull << CAP_SETGID | 1ull << CAP_SETUID | 1ull << CAP_SETPCAP |
    1ull << CAP_NET_BIND_SERVICE | 1ull << CAP_SYS_CHROOT | 1ull << CAP_SETFCAP |
    1ull << CAP_AUDIT_WRITE | 1ull << CAP_NET_RAW | 1ull << CAP_MKNOD;

struct inside {
	const struct sandbox_plan *plan;
	const char *at; /* lent: what the running step is at, for its report */
	int init, report; /* the plan's, out of the way of what is laid out for berth-init */
	int device[DEVICES];
};

struct step {
	const char *name;
	int (*run)(struct inside *in); /* -1 and errno */
};

/* ---- small parts ---- */

static int
clone_mount(const char *path, unsigned flags)
{
	return open_tree(AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | flags);
}

static int
put_mount(int take_tree, int where)
{
	const int result = move_mount(take_tree, "", where, "",
				      MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
	fd_close(&take_tree);
	return result;
}

/* Opens a directory of the workspace to mount on. A session may have put anything in its place: what
 * is not a directory goes, and no link is ever followed. `name` is relative to the working
 * directory, which is the workspace's root, or to what we mounted there ourselves. */
static int
mount_point(const char *name)
{
	struct open_how how = {
	    .flags = O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC,
	    .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
	};

	for (int try = 0; try < 2; try++) {
		if (mkdirat(AT_FDCWD, name, 0755) < 0 && errno != EEXIST)
			return -1;
		const long fd = syscall(SYS_openat2, AT_FDCWD, name, &how, sizeof how);
		if (fd >= 0)
			return (int)fd;
		if ((errno != ELOOP && errno != ENOTDIR) || unlinkat(AT_FDCWD, name, 0) < 0)
			return -1;
	}
	return -1;
}

static int
make_mount_point(const char *name)
{
	auto_close int fd = mount_point(name);
	return fd < 0 ? -1 : 0;
}

struct mount_option {
	const char *key, *value;
};

/* Mounts a new filesystem on `where`. */
static int
mount_new(const char *type, const struct mount_option *options, unsigned attributes, int where)
{
	auto_close int fs = fsopen(type, FSOPEN_CLOEXEC);
	if (fs < 0 || fsconfig(fs, FSCONFIG_SET_STRING, "source", type, 0) < 0)
		return -1;
	for (; options && options->key; options++)
		if (fsconfig(fs, FSCONFIG_SET_STRING, options->key, options->value, 0) < 0)
			return -1;
	if (fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
		return -1;
	const int tree = fsmount(fs, FSMOUNT_CLOEXEC, attributes);
	return tree < 0 ? -1 : put_mount(tree, where);
}

static int
mount_new_on(struct inside *in, const char *name, const char *type,
	     const struct mount_option *options, unsigned attributes)
{
	in->at = name;
	auto_close int where = mount_point(name);
	return where < 0 ? -1 : mount_new(type, options, attributes, where);
}

/* Puts a read-only copy of a tree of mounts on itself. */
static int
bind_read_only(const char *from, const char *onto)
{
	struct mount_attr attributes = {.attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID |
						    MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC};

	auto_close int tree = clone_mount(from, AT_RECURSIVE);
	if (tree < 0 ||
	    mount_setattr(tree, "", AT_EMPTY_PATH | AT_RECURSIVE, &attributes, sizeof attributes) < 0)
		return -1;
	auto_close int where = open(onto, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	return where < 0 ? -1 : put_mount(fd_steal(&tree), where);
}

/* ---- in the launching process: still the node's root, in the session's cgroup ---- */

static int
lower_priority(struct inside *in)
{
	/* Set by a process with rights over the node: so the session cannot lower it again. */
	in->at = "/proc/self/oom_score_adj";
	auto_close int fd = open(in->at, O_WRONLY | O_CLOEXEC);
	struct err ignored;
	return fd < 0 ? -1 : fd_write_all(fd, "200", 3, &ignored);
}

static int
set_limits(struct inside *in)
{
	static const struct rlimit no_core = {0, 0};
	struct rlimit files = {FILES_SOFT, FILES_HARD};

	in->at = "core";
	if (setrlimit(RLIMIT_CORE, &no_core) < 0)
		return -1;
	in->at = "open files";
	if (setrlimit(RLIMIT_NOFILE, &files) == 0)
		return 0;
	struct rlimit had; /* fs.nr_open is smaller, or we may not raise it: then what there is */
	if (getrlimit(RLIMIT_NOFILE, &had) < 0)
		return -1;
	files.rlim_max = had.rlim_max;
	files.rlim_cur = had.rlim_max < FILES_SOFT ? had.rlim_max : FILES_SOFT;
	return setrlimit(RLIMIT_NOFILE, &files);
}

static int
become_session_root(struct inside *in)
{
	if (setns(in->plan->userns, CLONE_NEWUSER) < 0)
		return -1;
	in->at = "its ids";
	if (setgroups(0, NULL) < 0 || setresgid(0, 0, 0) < 0)
		return -1;
	return setresuid(0, 0, 0);
}

static const struct step steps_of_launcher[] = {
    {"set the out-of-memory score", lower_priority},
    {"set the limits", set_limits},
    {"join the user namespace", become_session_root},
};

/* ---- in pid 1: mounts, while the node's tree is still there to copy from ---- */

static int
leave_propagation(struct inside *in)
{
	(void)in;
	return mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL);
}

static int
take_devices(struct inside *in)
{
	for (int i = 0; i < DEVICES; i++) {
		in->at = devices[i];
		char path[32] = "/dev/";
		memcpy(path + 5, devices[i], strlen(devices[i]) + 1);
		in->device[i] = clone_mount(path, 0);
		if (in->device[i] < 0)
			return -1;
	}
	return 0;
}

/* A mount can be a root only once it is attached somewhere: on /dev, which every node has, of this
 * mount namespace, which nobody else sees, and from which the devices have been taken. */
static int
attach_workspace(struct inside *in)
{
	const int root = in->plan->rootfs;
	if (move_mount(root, "", AT_FDCWD, "/dev", MOVE_MOUNT_F_EMPTY_PATH) < 0)
		return -1;
	return fchdir(root);
}

static int
attach_usr(struct inside *in)
{
	if (in->plan->usr < 0)
		return 0;
	auto_close int where = mount_point("usr");
	if (where < 0)
		return -1;
	return move_mount(in->plan->usr, "", where, "",
			  MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
}

static int
mount_proc(struct inside *in)
{
	return mount_new_on(in, "proc", "proc", NULL,
			    MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
}

static int
make_link(struct inside *in, const char *target, const char *name)
{
	in->at = name;
	return symlinkat(target, AT_FDCWD, name);
}

static int
make_device(struct inside *in, int i)
{
	char path[32] = "dev/";
	memcpy(path + 4, devices[i], strlen(devices[i]) + 1);
	in->at = devices[i];
	auto_close int file = open(path, O_CREAT | O_EXCL | O_RDONLY | O_NOFOLLOW | O_CLOEXEC, 0666);
	return file < 0 ? -1 : put_mount(in->device[i], file);
}

static int
mount_dev(struct inside *in)
{
	static const struct mount_option nodes[] = {{"mode", "755"}, {"size", "64k"}, {0}};
	static const struct mount_option ptys[] = {
	    {"ptmxmode", "0666"}, {"mode", "620"}, {"gid", "5"}, {0}};
	static const struct mount_option shm[] = {{"mode", "1777"}, {"size", "64m"}, {0}};
	const unsigned quiet = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC;

	if (mount_new_on(in, "dev", "tmpfs", nodes, quiet | MOUNT_ATTR_NODEV) < 0)
		return -1;
	for (int i = 0; i < DEVICES; i++)
		if (make_device(in, i) < 0)
			return -1;
	if (mount_new_on(in, "dev/pts", "devpts", ptys, quiet) < 0 ||
	    mount_new_on(in, "dev/shm", "tmpfs", shm, quiet | MOUNT_ATTR_NODEV) < 0)
		return -1;
	/* POSIX message queues: not in every kernel, and nothing of ours needs them */
	if (mount_new_on(in, "dev/mqueue", "mqueue", NULL, quiet | MOUNT_ATTR_NODEV) < 0 &&
	    errno != ENODEV && errno != EPERM)
		return -1;
	if (make_link(in, "pts/ptmx", "dev/ptmx") < 0 || make_link(in, "/proc/self/fd", "dev/fd") < 0)
		return -1;
	if (make_link(in, "/proc/self/fd/0", "dev/stdin") < 0 ||
	    make_link(in, "/proc/self/fd/1", "dev/stdout") < 0)
		return -1;
	return make_link(in, "/proc/self/fd/2", "dev/stderr");
}

static int
mount_sys(struct inside *in)
{
	if (!in->plan->network_host)
		return mount_new_on(in, "sys", "sysfs", NULL,
				    MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV |
					MOUNT_ATTR_NOEXEC);
	/* sysfs belongs to a network namespace: of the node's, only a copy of its mount can be had */
	in->at = "sys";
	if (make_mount_point("sys") < 0)
		return -1;
	return bind_read_only("/sys", "sys");
}

static int
mount_run(struct inside *in)
{
	static const struct mount_option options[] = {{"mode", "755"}, {"size", "64m"}, {0}};

	if (mount_new_on(in, "run", "tmpfs", options, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV) < 0)
		return -1;
	if (in->plan->run < 0)
		return 0;
	in->at = "run/berth/out";
	if (make_mount_point("run/berth") < 0)
		return -1;
	auto_close int where = mount_point("run/berth/out");
	if (where < 0)
		return -1;
	return move_mount(in->plan->run, "", where, "",
			  MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
}

static int
pivot(struct inside *in)
{
	/* The old root is stacked on the new one by this, and taken off again: no name is needed. */
	(void)in;
	if (syscall(SYS_pivot_root, ".", ".") < 0 || umount2(".", MNT_DETACH) < 0)
		return -1;
	return chdir("/");
}

/* ---- in pid 1: what the new tree shows ---- */

/* Counted in the session's user namespace, so it binds the session alone. */
static int
forbid_nested_namespaces(struct inside *in)
{
	in->at = "/proc/sys/user/max_user_namespaces";
	auto_close int fd = open(in->at, O_WRONLY | O_CLOEXEC);
	struct err ignored;
	return fd < 0 ? -1 : fd_write_all(fd, "0", 1, &ignored);
}

static int
protect_proc(struct inside *in)
{
	for (size_t i = 0; i < sizeof read_only / sizeof *read_only; i++) {
		in->at = read_only[i];
		if (bind_read_only(in->at, in->at) < 0 && errno != ENOENT)
			return -1;
	}
	return 0;
}

/* One empty read-only tmpfs serves all masked directories: `first` is where it was mounted. */
static int
mask_directory(int where, const char *path, const char **first)
{
	static const struct mount_option empty[] = {{"nr_inodes", "2"}, {"mode", "555"}, {0}};

	if (!*first) {
		*first = path;
		return mount_new("tmpfs", empty,
				 MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV |
				     MOUNT_ATTR_NOEXEC,
				 where);
	}
	const int tree = clone_mount(*first, 0);
	return tree < 0 ? -1 : put_mount(tree, where);
}

static int
mask_path(const char *path, const char **first)
{
	struct stat st;

	auto_close int where = open(path, O_PATH | O_CLOEXEC); /* some in /sys/class are links */
	if (where < 0)
		return errno == ENOENT || errno == EACCES ? 0 : -1; /* not there, or not for us */
	if (fstat(where, &st) < 0)
		return -1;
	if (S_ISDIR(st.st_mode))
		return mask_directory(where, path, first);
	const int tree = clone_mount("/dev/null", 0);
	return tree < 0 ? -1 : put_mount(tree, where);
}

static int
mask_paths(struct inside *in)
{
	const char *first = NULL;
	const size_t of_node = in->plan->network_host ? sizeof masked_of_node / sizeof *masked_of_node : 0;

	for (size_t i = 0; i < sizeof masked / sizeof *masked; i++) {
		in->at = masked[i];
		if (mask_path(in->at, &first) < 0)
			return -1;
	}
	for (size_t i = 0; i < of_node; i++) {
		in->at = masked_of_node[i];
		if (mask_path(in->at, &first) < 0)
			return -1;
	}
	return 0;
}

static int
name_host(struct inside *in)
{
	in->at = in->plan->hostname;
	return sethostname(in->at, strlen(in->at));
}

static int
raise_loopback(struct inside *in)
{
	if (in->plan->network_host)
		return 0;
	auto_close int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct ifreq lo = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
	return fd < 0 ? -1 : ioctl(fd, SIOCSIFFLAGS, &lo);
}

/* ---- in pid 1: what it keeps ---- */

static int
join_keyring(struct inside *in)
{
	(void)in;
	if (syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL) < 0 && errno != ENOSYS)
		return -1;
	return 0;
}

static int
drop_capabilities(struct inside *in)
{
	struct err why;
	if (confine_capabilities(kept_capabilities, &why) < 0)
		return -1;
	(void)in;
	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}

static int
reset_signals(struct inside *in)
{
	sigset_t none;

	(void)in;
	for (int number = 1; number < _NSIG; number++)
		signal(number, SIG_DFL); /* fails for KILL, STOP and libc's own: those are default */
	sigemptyset(&none);
	return sigprocmask(SIG_SETMASK, &none, NULL);
}

/* 0-2: the session's /dev/null. 3: the socket. All else closes at the exec. */
static int
lay_out_fds(struct inside *in)
{
	in->at = "/dev/null";
	const int null = open(in->at, O_RDWR | O_CLOEXEC);
	const int far = null < 0 ? -1 : fcntl(null, F_DUPFD_CLOEXEC, FD_ROOM);
	const int socket = fcntl(in->plan->socket, F_DUPFD_CLOEXEC, FD_ROOM);
	if (far < 0 || socket < 0)
		return -1;
	in->at = "0 to 3";
	for (int fd = 0; fd < SOCKET_FD; fd++)
		if (dup2(far, fd) < 0)
			return -1;
	if (dup2(socket, SOCKET_FD) < 0)
		return -1;
	return (int)syscall(SYS_close_range, SOCKET_FD + 1, ~0u, CLOSE_RANGE_CLOEXEC);
}

static int
load_filter(struct inside *in)
{
	struct sock_filter *code = (struct sock_filter *)(uintptr_t)in->plan->filter;
	const struct sock_fprog program = {.len = in->plan->filter_len, .filter = code};
	return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program);
}

static const struct step steps_of_pid1[] = {
    {"leave the propagation of mounts", leave_propagation},
    {"take the devices", take_devices},
    {"attach the workspace", attach_workspace},
    {"attach /usr", attach_usr},
    {"mount /proc", mount_proc},
    {"mount /dev", mount_dev},
    {"mount /sys", mount_sys},
    {"mount /run", mount_run},
    {"make the workspace the root", pivot},
    {"forbid nested user namespaces", forbid_nested_namespaces},
    {"protect /proc", protect_proc},
    {"mask /proc and /sys", mask_paths},
    {"set the hostname", name_host},
    {"raise the loopback interface", raise_loopback},
    {"join a keyring of its own", join_keyring},
    {"reset the signals", reset_signals},
    {"lay out the fds", lay_out_fds},
    {"drop capabilities", drop_capabilities},
    {"load the seccomp program", load_filter},
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

static void
run_steps(struct inside *in, const struct step *steps, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		in->at = NULL;
		if (steps[i].run(in) < 0)
			fail(in, steps[i].name);
	}
}

static _Noreturn void
become_pid1(struct inside *in)
{
	static const char name[] = "berth-init", path[] = PATH_ENV;
	char argv0[sizeof name], env0[sizeof path];
	char *const argv[] = {argv0, NULL}, *const env[] = {env0, NULL};

	memcpy(argv0, name, sizeof name);
	memcpy(env0, path, sizeof path);
	run_steps(in, steps_of_pid1, sizeof steps_of_pid1 / sizeof *steps_of_pid1);
	in->at = NULL;
	syscall(SYS_execveat, in->init, "", argv, env, AT_EMPTY_PATH);
	fail(in, "execute berth-init");
}

_Noreturn void
sandbox_launch(const struct sandbox_plan *plan)
{
	struct inside in = {.plan = plan, .report = plan->report};
	struct clone_args args = {.flags = CLONE_PARENT | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC |
					   CLONE_NEWUTS | CLONE_NEWCGROUP};

	umask(022);
	in.init = fcntl(plan->init, F_DUPFD_CLOEXEC, FD_ROOM);
	const int report = fcntl(plan->report, F_DUPFD_CLOEXEC, FD_ROOM);
	if (in.init < 0 || report < 0)
		fail(&in, "keep the fds");
	in.report = report;
	if (!plan->network_host)
		args.flags |= CLONE_NEWNET;
	run_steps(&in, steps_of_launcher, sizeof steps_of_launcher / sizeof *steps_of_launcher);
	in.at = NULL;
	/* A child of the keeper, not of this process: the keeper waits for it. In the cgroup that this
	 * process is in, which thereby is the root of its cgroup namespace. */
	const long pid = syscall(SYS_clone3, &args, sizeof args);
	if (pid == 0)
		become_pid1(&in);
	if (pid < 0)
		fail(&in, "clone pid 1");
	const struct sandbox_report started = {.pid = (int)pid};
	struct err ignored;
	_exit(fd_write_all(in.report, &started, sizeof started, &ignored) < 0);
}
