/* What a session may ask of the kernel. Calls that ordinary programs make are listed; an unlisted
 * one answers ENOSYS, as an older kernel would, so that libraries fall back. Calls that programs
 * know and that a session must not have answer EPERM.
 *
 * Invariants
 *  1. nothing that makes or moves a mount, a namespace or a kernel key, loads code into the kernel,
 *     or opens files by handle is allowed, whatever capabilities a process has. The program for
 *     sessions with `nested` allows mount and namespaces; in their own user namespace those lack
 *     CAP_SYS_ADMIN all the same;
 *  2. an argument of 32 bits is compared in its low 32 bits alone: the kernel ignores the rest, so
 * a comparison of all 64 could be slipped past;
 *  3. a system call has one rule under every architecture that the kernel would let a process use:
 *     the native one and its 32 bit one. x32 answers EPERM.
 *
 * clone3 hides its flags behind a pointer and berth-init needs it (CLONE_INTO_CGROUP), so it is
 * allowed: user namespaces are refused by max_user_namespaces = 0, all others by the lack of
 * CAP_SYS_ADMIN. ptrace and process_vm_* reach the session's own processes only: debuggers work. */
#include "profile.h"
#include "base/buf.h"
#include "base/fd.h"

#include <asm/ioctls.h>
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/netlink.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <seccomp.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define LOW_32 0xffffffffull

/* clang-format off */ /* as many names to a line as fit */
/* Names of all architectures together: what one of them lacks is passed over. */
static const char *const allowed[] = {
    "_llseek", "_newselect", "accept", "accept4", "access", "alarm", "arch_prctl",
    "arm_fadvise64_64", "arm_sync_file_range", "bind", "breakpoint", "brk", "cachestat",
    "cacheflush", "capget", "capset", "chdir", "chmod", "chown", "chown32", "chroot",
    "clock_getres", "clock_getres_time64", "clock_gettime", "clock_gettime64",
    "clock_nanosleep", "clock_nanosleep_time64", "close", "close_range", "connect",
    "copy_file_range", "creat", "dup", "dup2", "dup3", "epoll_create", "epoll_create1",
    "epoll_ctl", "epoll_ctl_old", "epoll_pwait", "epoll_pwait2", "epoll_wait",
    "epoll_wait_old", "eventfd", "eventfd2", "execve", "execveat", "exit", "exit_group",
    "faccessat", "faccessat2", "fadvise64", "fadvise64_64", "fallocate", "fchdir", "fchmod",
    "fchmodat", "fchmodat2", "fchown", "fchown32", "fchownat", "fcntl", "fcntl64",
    "fdatasync", "fgetxattr", "flistxattr", "flock", "fork", "fremovexattr", "fsetxattr",
    "fstat", "fstat64", "fstatat64", "fstatfs", "fstatfs64", "fsync", "ftruncate",
    "ftruncate64", "futex", "futex_requeue", "futex_time64", "futex_wait", "futex_waitv",
    "futex_wake", "futimesat", "get_mempolicy", "get_robust_list", "get_thread_area",
    "get_tls", "getcpu", "getcwd", "getdents", "getdents64", "getegid", "getegid32",
    "geteuid", "geteuid32", "getgid", "getgid32", "getgroups", "getgroups32", "getitimer",
    "getpeername", "getpgid", "getpgrp", "getpid", "getppid", "getpriority", "getrandom",
    "getresgid", "getresgid32", "getresuid", "getresuid32", "getrlimit", "getrusage",
    "getsid", "getsockname", "getsockopt", "gettid", "gettimeofday", "getuid", "getuid32",
    "getxattr", "inotify_add_watch", "inotify_init", "inotify_init1", "inotify_rm_watch",
    "io_cancel", "io_destroy", "io_getevents", "io_pgetevents", "io_pgetevents_time64",
    "io_setup", "io_submit", "ioprio_get", "ioprio_set", "ipc", "kcmp", "kill",
    "landlock_add_rule", "landlock_create_ruleset", "landlock_restrict_self", "lchown",
    "lchown32", "lgetxattr", "link", "linkat", "listen", "listxattr", "llistxattr",
    "lremovexattr", "lseek", "lsetxattr", "lstat", "lstat64", "madvise", "map_shadow_stack",
    "mbind", "membarrier", "memfd_create", "memfd_secret", "mincore", "mkdir", "mkdirat",
    "mknod", "mknodat", "mlock", "mlock2", "mlockall", "mmap", "mmap2", "mprotect",
    "mq_getsetattr", "mq_notify", "mq_open", "mq_timedreceive", "mq_timedreceive_time64",
    "mq_timedsend", "mq_timedsend_time64", "mq_unlink", "mremap", "mseal", "msgctl", "msgget",
    "msgrcv", "msgsnd", "msync", "munlock", "munlockall", "munmap", "nanosleep", "newfstatat",
    "open", "openat", "openat2", "pause", "pidfd_getfd", "pidfd_open", "pidfd_send_signal",
    "pipe", "pipe2", "pkey_alloc", "pkey_free", "pkey_mprotect", "poll", "ppoll",
    "ppoll_time64", "prctl", "pread64", "preadv", "preadv2", "prlimit64", "process_madvise",
    "process_mrelease", "process_vm_readv", "process_vm_writev", "pselect6",
    "pselect6_time64", "ptrace", "pwrite64", "pwritev", "pwritev2", "read", "readahead",
    "readlink", "readlinkat", "readv", "recv", "recvfrom", "recvmmsg", "recvmmsg_time64",
    "recvmsg", "remap_file_pages", "removexattr", "rename", "renameat", "renameat2",
    "restart_syscall", "riscv_flush_icache", "rmdir", "rseq", "rt_sigaction", "rt_sigpending",
    "rt_sigprocmask", "rt_sigqueueinfo", "rt_sigreturn", "rt_sigsuspend", "rt_sigtimedwait",
    "rt_sigtimedwait_time64", "rt_tgsigqueueinfo", "sched_get_priority_max",
    "sched_get_priority_min", "sched_getaffinity", "sched_getattr", "sched_getparam",
    "sched_getscheduler", "sched_rr_get_interval", "sched_rr_get_interval_time64",
    "sched_setaffinity", "sched_setattr", "sched_setparam", "sched_setscheduler",
    "sched_yield", "seccomp", "select", "semctl", "semget", "semop", "semtimedop",
    "semtimedop_time64", "send", "sendfile", "sendfile64", "sendmmsg", "sendmsg", "sendto",
    "set_mempolicy", "set_robust_list", "set_thread_area", "set_tid_address", "set_tls",
    "setfsgid", "setfsgid32", "setfsuid", "setfsuid32", "setgid", "setgid32", "setgroups",
    "setgroups32", "setitimer", "setpgid", "setpriority", "setregid", "setregid32",
    "setresgid", "setresgid32", "setresuid", "setresuid32", "setreuid", "setreuid32",
    "setrlimit", "setsid", "setsockopt", "setuid", "setuid32", "setxattr", "shmat", "shmctl",
    "shmdt", "shmget", "shutdown", "sigaction", "sigaltstack", "signal", "signalfd",
    "signalfd4", "sigpending", "sigprocmask", "sigreturn", "sigsuspend", "socketcall",
    "socketpair", "splice", "stat", "stat64", "statfs", "statfs64", "statx", "symlink",
    "symlinkat", "sync", "sync_file_range", "sync_file_range2", "syncfs", "sysinfo", "tee",
    "tgkill", "time", "timer_create", "timer_delete", "timer_getoverrun", "timer_gettime",
    "timer_gettime64", "timer_settime", "timer_settime64", "timerfd_create",
    "timerfd_gettime", "timerfd_gettime64", "timerfd_settime", "timerfd_settime64", "times",
    "tkill", "truncate", "truncate64", "ugetrlimit", "umask", "uname", "unlink", "unlinkat",
    "utime", "utimensat", "utimensat_time64", "utimes", "vfork", "vmsplice", "wait4",
    "waitid", "waitpid", "write", "writev",
};

/* Known to programs, and refused in words they understand. */
static const char *const refused[] = {
    "acct", "add_key", "adjtimex", "bpf", "clock_adjtime", "clock_adjtime64", "clock_settime",
    "clock_settime64", "delete_module", "fanotify_init", "finit_module", "fsconfig",
    "fsmount", "fsopen", "fspick", "init_module", "ioperm", "iopl", "kexec_file_load",
    "kexec_load", "keyctl", "lookup_dcookie", "migrate_pages", "mount_setattr", "move_mount",
    "move_pages", "name_to_handle_at", "nfsservctl", "open_by_handle_at", "open_tree",
    "perf_event_open", "quotactl", "quotactl_fd", "reboot", "request_key", "settimeofday",
    "stime", "swapoff", "swapon", "syslog", "userfaultfd", "uselib", "vhangup", "vm86",
    "vm86old",
};

/* The same, but for sessions with `nested`: what bubblewrap and browsers do in a user namespace. */
static const char *const nesting[] = {
    "mount", "pivot_root", "setdomainname", "sethostname", "setns", "umount", "umount2",
};
/* clang-format on */

/* Beside netlink, below. Not vsock above all: it reaches the machine below this one and knows no
 * network namespaces. */
static const int families[] = {AF_UNIX, AF_INET, AF_INET6};

/* Of netlink what getifaddrs, ss and udev's library ask. The others lead into parts of the kernel
 * that no unprivileged program needs: to them it looks as if they were not built in. */
static const int netlinks[] = {NETLINK_ROUTE, NETLINK_SOCK_DIAG, NETLINK_KOBJECT_UEVENT};

static const unsigned long personalities[] = {
    PER_LINUX, PER_LINUX32, UNAME26, PER_LINUX32 | UNAME26, ADDR_NO_RANDOMIZE, LOW_32 /* asks */,
};

#define NAMESPACE_FLAGS                                                                            \
	(CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER |             \
	 CLONE_NEWPID | CLONE_NEWNET)

static const struct {
	int bit;
} namespace_bits[] = {{CLONE_NEWNS},   {CLONE_NEWCGROUP}, {CLONE_NEWUTS}, {CLONE_NEWIPC},
		      {CLONE_NEWUSER}, {CLONE_NEWPID},    {CLONE_NEWNET}};

#define COUNT(a) (sizeof(a) / sizeof *(a))

/* ---- rules ---- */

static int
add_rule(scmp_filter_ctx filter, const char *name, uint32_t action, const struct scmp_arg_cmp *arg,
	 struct err *err)
{
	const int number = seccomp_syscall_resolve_name(name);
	if (number == __NR_SCMP_ERROR)
		return 0; /* newer than this libseccomp: answers ENOSYS then */
	const int result = seccomp_rule_add_array(filter, action, number, arg ? 1 : 0, arg);
	if (result < 0 && result != -EEXIST)
		return err_sys(err, -result, "seccomp rule for %s", name);
	return 0;
}

static int
add_names(scmp_filter_ctx filter, const char *const *names, size_t n, uint32_t action,
	  struct err *err)
{
	for (size_t i = 0; i < n; i++)
		if (add_rule(filter, names[i], action, NULL, err) < 0)
			return -1;
	return 0;
}

/* clone and unshare: any single namespace bit refuses. */
static int
add_namespaces(scmp_filter_ctx filter, const char *name, struct err *err)
{
	const struct scmp_arg_cmp none = SCMP_A0(SCMP_CMP_MASKED_EQ, NAMESPACE_FLAGS, 0);

	if (add_rule(filter, name, SCMP_ACT_ALLOW, &none, err) < 0)
		return -1;
	for (size_t i = 0; i < COUNT(namespace_bits); i++) {
		const scmp_datum_t bit = (scmp_datum_t)namespace_bits[i].bit;
		const struct scmp_arg_cmp has = SCMP_A0(SCMP_CMP_MASKED_EQ, bit, bit);
		if (add_rule(filter, name, SCMP_ACT_ERRNO(EPERM), &has, err) < 0)
			return -1;
	}
	return 0;
}

static uint32_t
action_of_netlink(int protocol)
{
	for (size_t i = 0; i < COUNT(netlinks); i++)
		if (netlinks[i] == protocol)
			return SCMP_ACT_ALLOW;
	return SCMP_ACT_ERRNO(EPROTONOSUPPORT); /* libaudit, above all, takes that for "no audit" */
}

static int
add_netlink(scmp_filter_ctx filter, struct err *err)
{
	const int number = seccomp_syscall_resolve_name("socket");

	for (int protocol = 0; protocol < MAX_LINKS; protocol++) {
		const struct scmp_arg_cmp is[] = {
		    SCMP_A0(SCMP_CMP_MASKED_EQ, LOW_32, AF_NETLINK),
		    SCMP_A2(SCMP_CMP_MASKED_EQ, LOW_32, (scmp_datum_t)protocol),
		};
		const int result = seccomp_rule_add_array(filter, action_of_netlink(protocol),
							  number, COUNT(is), is);
		if (result < 0)
			return err_sys(err, -result, "seccomp rule for netlink %d", protocol);
	}
	return 0;
}

static int
add_nesting(scmp_filter_ctx filter, bool nested, struct err *err)
{
	static const char *const makers[] = {"clone", "unshare"};

	if (nested)
		return add_names(filter, nesting, COUNT(nesting), SCMP_ACT_ALLOW, err) < 0
			   ? -1
			   : add_names(filter, makers, COUNT(makers), SCMP_ACT_ALLOW, err);
	if (add_names(filter, nesting, COUNT(nesting), SCMP_ACT_ERRNO(EPERM), err) < 0)
		return -1;
	for (size_t i = 0; i < COUNT(makers); i++)
		if (add_namespaces(filter, makers[i], err) < 0)
			return -1;
	return 0;
}

static int
add_arguments(scmp_filter_ctx filter, bool internet, struct err *err)
{
	for (size_t i = 0; i < COUNT(personalities); i++) {
		const struct scmp_arg_cmp is =
		    SCMP_A0(SCMP_CMP_MASKED_EQ, LOW_32, personalities[i]);
		if (add_rule(filter, "personality", SCMP_ACT_ALLOW, &is, err) < 0)
			return -1;
	}
	for (size_t i = 0; i < COUNT(families); i++) {
		const struct scmp_arg_cmp is =
		    SCMP_A0(SCMP_CMP_MASKED_EQ, LOW_32, (scmp_datum_t)families[i]);
		const bool has = internet || families[i] == AF_UNIX;
		const uint32_t action = has ? SCMP_ACT_ALLOW : SCMP_ACT_ERRNO(EAFNOSUPPORT);
		if (add_rule(filter, "socket", action, &is, err) < 0)
			return -1;
	}
	return add_netlink(filter, err);
}

/* ---- what libseccomp cannot say, in front of its program ---- */

#if defined(__x86_64__)
#define OWN_ARCH AUDIT_ARCH_X86_64
#define OLD_ARCH AUDIT_ARCH_I386
enum { OWN_IOCTL = 16, OLD_SCMP_ARCH = SCMP_ARCH_X86 };
#elif defined(__aarch64__)
#define OWN_ARCH AUDIT_ARCH_AARCH64
#define OLD_ARCH AUDIT_ARCH_ARM
enum { OWN_IOCTL = 29, OLD_SCMP_ARCH = SCMP_ARCH_ARM };
#else
#error "no seccomp profile for this machine"
#endif

enum { OLD_IOCTL = 54, OLD_SOCKETCALL = 102, SOCKETCALL_SOCKET = 1 }; /* of 32 bit x86 and ARM */

#define LOAD(field)                                                                                \
	BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (unsigned)offsetof(struct seccomp_data, field))
#define IS(value, t, f) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)(value), t, f)
#define ANSWER(number)  BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (number))

/* ioctl is allowed but for two numbers, and libseccomp takes no two comparisons of one argument in
 * a rule. And 32 bit x86 can make a socket through socketcall, whose arguments are in memory: that
 * one answers ENOSYS, and libraries use socket(2). Jumps count from the next instruction; what is
 * none of these falls through to libseccomp's program, which loads what it needs itself. args[] are
 * read in their low 32 bits (invariant 2): both machines above are little endian. */
static const struct sock_filter prelude[] = {
    /*  0 */ LOAD(arch),
    /*  1 */ IS(OWN_ARCH, 0, 2),
    /*  2 */ LOAD(nr),
    /*  3 */ IS(OWN_IOCTL, 6, 11),
    /*  4 */ IS(OLD_ARCH, 0, 10),
    /*  5 */ LOAD(nr),
    /*  6 */ IS(OLD_IOCTL, 3, 0),
    /*  7 */ IS(OLD_SOCKETCALL, 0, 7),
    /*  8 */ LOAD(args[0]),
    /*  9 */ IS(SOCKETCALL_SOCKET, 4, 5),
    /* 10 */ LOAD(args[1]),
    /* 11 */ IS(TIOCSTI, 1, 0),
    /* 12 */ IS(TIOCLINUX, 0, 2),
    /* 13 */ ANSWER(EPERM),
    /* 14 */ ANSWER(ENOSYS),
};

/* ---- the whole ---- */

static int
build(scmp_filter_ctx filter, unsigned with, struct err *err)
{
	static const char *const ioctl_name[] = {"ioctl"};
	int result = seccomp_arch_add(filter, OLD_SCMP_ARCH);

	if (result < 0 && result != -EEXIST)
		return err_sys(err, -result, "add the 32 bit architecture to the seccomp program");
	/* x32, and every other architecture */
	result = seccomp_attr_set(filter, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_ERRNO(EPERM));
	if (result == 0)
		result = seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2); /* a binary tree */
	if (result < 0)
		return err_sys(err, -result, "set up the seccomp program");
	if (add_names(filter, allowed, COUNT(allowed), SCMP_ACT_ALLOW, err) < 0 ||
	    add_names(filter, ioctl_name, 1, SCMP_ACT_ALLOW, err) < 0 ||
	    add_names(filter, refused, COUNT(refused), SCMP_ACT_ERRNO(EPERM), err) < 0 ||
	    add_nesting(filter, with & PROFILE_NESTED, err) < 0)
		return -1;
	static const char *const unseen[] = {"clone3"};
	if (with & PROFILE_CLONE3 && add_names(filter, unseen, 1, SCMP_ACT_ALLOW, err) < 0)
		return -1;
	return add_arguments(filter, with & PROFILE_INTERNET, err);
}

/* libseccomp writes to an fd only: its program goes through an anonymous file. */
static int
export_program(scmp_filter_ctx filter, struct buf *out, struct err *err)
{
	auto_close int fd = memfd_create("seccomp", MFD_CLOEXEC);
	if (fd < 0)
		return err_sys(err, errno, "make an anonymous file");
	const int result = seccomp_export_bpf(filter, fd);
	if (result < 0)
		return err_sys(err, -result, "compile the seccomp program");
	if (lseek(fd, 0, SEEK_SET) < 0)
		return err_sys(err, errno, "rewind an anonymous file");
	buf_add(out, prelude, sizeof prelude);
	return fd_read_to_end(fd, out, err);
}

int
profile_compile(unsigned with, struct err *err)
{
	auto_buf program = BUF_MAX(BPF_MAXINSNS * sizeof(struct sock_filter));
	scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ERRNO(ENOSYS));

	if (!filter)
		return err_set(err, ERR_INTERNAL, "libseccomp cannot start a program");
	int result = build(filter, with, err);
	if (result == 0)
		result = export_program(filter, &program, err);
	seccomp_release(filter);
	if (result < 0)
		return err_add(err, "the seccomp program of sessions");
	return fd_sealed("berth-seccomp", program.at, program.len, err);
}
