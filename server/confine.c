#include "confine.h"
#include "base/log.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <linux/securebits.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
#define OWN_ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define OWN_ARCH AUDIT_ARCH_AARCH64
#else
#error "no seccomp architecture known for this machine"
#endif

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define UNDER_SANITIZER 1
#else
#define UNDER_SANITIZER 0
#endif

#if UNDER_SANITIZER
/* The leak checker traces its own process at exit, and waits for ever where it may not: confined
 * processes go without. Unit tests, which confine nothing, are where leaks show. */
const char *__asan_default_options(void);
const char *
__asan_default_options(void)
{
	return "detect_leaks=0";
}
#endif

enum { ALLOWED_MAX = 240 }; /* a jump offset of BPF is one byte */

int
confine_identity(uid_t uid, gid_t gid, struct err *err)
{
	if (uid == 0 && gid == 0)
		return 0;
	if (setgroups(0, NULL) < 0)
		return err_sys(err, errno, "drop the groups");
	if (setresgid(gid, gid, gid) < 0)
		return err_sys(err, errno, "become group %u", (unsigned)gid);
	if (setresuid(uid, uid, uid) < 0)
		return err_sys(err, errno, "become user %u", (unsigned)uid);
	return 0;
}

/* Of the bounding set: a right that this process has no use for must not come back by an exec.
 * Without CAP_SETPCAP there is nothing to drop it with, and no new privileges to fear. */
static int
drop_bounding(unsigned long long keep, struct err *err)
{
	for (unsigned cap = 0; cap < 64; cap++) {
		if (prctl(PR_CAPBSET_READ, cap, 0, 0, 0) < 0)
			break; /* beyond the last that this kernel knows */
		if (!(keep >> cap & 1) && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0 &&
		    errno != EPERM)
			return err_sys(err, errno, "drop capability %u", cap);
	}
	return 0;
}

int
confine_capabilities(unsigned long long keep, struct err *err)
{
	if (drop_bounding(keep, err) < 0)
		return -1;
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	const unsigned low = (unsigned)keep, high = (unsigned)(keep >> 32);
	const struct __user_cap_data_struct sets[2] = {{low, low, 0}, {high, high, 0}};
	if (syscall(SYS_capset, &head, sets) < 0)
		return err_sys(err, errno, "set the capabilities");
	return 0;
}

int
confine_syscalls(const int *allowed, size_t n, struct err *err)
{
	static const int for_sanitizers[] = {
	    SYS_mmap,       SYS_munmap,      SYS_mprotect,
	    SYS_madvise,    SYS_sigaltstack, SYS_rt_sigaction,
	    SYS_futex,      SYS_gettid,      SYS_getpid,
	    SYS_readlinkat, SYS_openat,      SYS_clone,
	    SYS_prctl,      SYS_write,       SYS_sched_yield,
	    SYS_kill,       SYS_wait4,       SYS_sched_getaffinity,
	    SYS_tgkill,     SYS_exit,
#ifdef SYS_readlink
	    SYS_readlink,
#endif
#ifdef SYS_open
	    SYS_open,
#endif
	    SYS_ptrace,
	};
	const size_t extra = UNDER_SANITIZER ? sizeof for_sanitizers / sizeof *for_sanitizers : 0;
	struct sock_filter f[ALLOWED_MAX + 8];
	unsigned short at = 0;

	assert(n + extra <= ALLOWED_MAX);
	f[at++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
					       offsetof(struct seccomp_data, arch));
	f[at++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, OWN_ARCH, 1, 0);
	f[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
	f[at++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
					       offsetof(struct seccomp_data, nr));
	for (size_t i = 0; i < n + extra; i++) {
		const int call = i < n ? allowed[i] : for_sanitizers[i - n];
		const unsigned char to_allow = (unsigned char)(n + extra - i);
		f[at++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)call,
						       to_allow, 0);
	}
	f[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM);
	f[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);

	const struct sock_fprog program = {.len = at, .filter = f};
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return err_sys(err, errno, "give up new privileges");
	if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program) < 0)
		return err_sys(err, errno, "load the seccomp filter");
	return 0;
}

#ifndef LANDLOCK_ACCESS_FS_REFER
#define LANDLOCK_ACCESS_FS_REFER (1ULL << 13) /* Linux 5.19 */
#endif
#ifndef LANDLOCK_ACCESS_FS_TRUNCATE
#define LANDLOCK_ACCESS_FS_TRUNCATE (1ULL << 14) /* 6.2 */
#endif
#define SCOPE_ABSTRACT_UNIX_SOCKET (1ULL << 0) /* 6.12: LANDLOCK_SCOPE_* */
#define SCOPE_SIGNAL		   (1ULL << 1)

enum { LANDLOCK_SCOPES = 6 }; /* the version that has them */

struct ruleset { /* struct landlock_ruleset_attr of version 6; older kernels take its beginning */
	uint64_t fs, net, scoped;
};

static uint64_t
rights_of(enum confine_right right, uint64_t all)
{
	const uint64_t read = LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR;

	switch (right) {
	case CONFINE_ALL:
		return all;
	case CONFINE_READ:
		return read;
	case CONFINE_RUN:
		return read | LANDLOCK_ACCESS_FS_EXECUTE;
	case CONFINE_DEVICE:
		return read | LANDLOCK_ACCESS_FS_WRITE_FILE | (all & LANDLOCK_ACCESS_FS_TRUNCATE);
	}
	return 0;
}

static int
add_rule(int rules, const struct confine_rule *r, uint64_t all, struct err *err)
{
	const uint64_t of_files = LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_WRITE_FILE |
				  LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_TRUNCATE;
	struct landlock_path_beneath_attr rule = {.allowed_access = rights_of(r->right, all),
						  .parent_fd = r->fd};
	struct stat st;

	if (fstat(r->fd, &st) < 0)
		return err_sys(err, errno, "look at what Landlock is to allow");
	if (!S_ISDIR(st.st_mode))
		rule.allowed_access &= of_files;
	if (syscall(SYS_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) < 0)
		return err_sys(err, errno, "add a directory to the Landlock rules");
	return 0;
}

static int
enter_rules(int rules, struct err *err)
{
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
	    syscall(SYS_landlock_restrict_self, rules, 0) < 0)
		return err_sys(err, errno, "enter the Landlock rules");
	return 0;
}

int
confine_landlock(const struct confine_rule *rules, size_t n, bool scoped, struct err *err)
{
	const long abi =
	    syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
	if (abi < 1)
		return 0;
	struct ruleset attr = {.fs = (LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1}; /* all of version 1 */
	size_t size = sizeof attr.fs;
	if (abi >= 2)
		attr.fs |= LANDLOCK_ACCESS_FS_REFER;
	if (abi >= 3)
		attr.fs |= LANDLOCK_ACCESS_FS_TRUNCATE;
	if (abi >= LANDLOCK_SCOPES && scoped) {
		attr.scoped = SCOPE_ABSTRACT_UNIX_SOCKET | SCOPE_SIGNAL;
		size = sizeof attr;
	}
	const int set = (int)syscall(SYS_landlock_create_ruleset, &attr, size, 0);
	if (set < 0)
		return err_sys(err, errno, "make a Landlock ruleset");
	int result = 0;
	for (size_t i = 0; i < n && result == 0; i++)
		if (rules[i].fd >= 0)
			result = add_rule(set, &rules[i], attr.fs, err);
	if (result == 0)
		result = enter_rules(set, err);
	close(set);
	return result < 0 ? -1 : (int)abi;
}

enum { TREES_MAX = 16 };

int
confine_files(const int *dirs, size_t n, const int *sources, size_t n_sources, struct err *err)
{
	struct confine_rule rules[TREES_MAX];

	assert(n + n_sources <= TREES_MAX);
	for (size_t i = 0; i < n; i++)
		rules[i] = (struct confine_rule){dirs[i], CONFINE_ALL};
	for (size_t i = 0; i < n_sources; i++)
		rules[n + i] = (struct confine_rule){sources[i], CONFINE_READ};
	const int version = confine_landlock(rules, n + n_sources, false, err);
	if (version == 0)
		log_line("this kernel has no Landlock: files are confined by identity alone");
	return version < 0 ? -1 : 0;
}

/* What any of our processes needs to go on and to end. */
#define CALLS_OF_ALL                                                                               \
	SYS_read, SYS_write, SYS_readv, SYS_writev, SYS_close, SYS_fstat, SYS_newfstatat,          \
	    SYS_lseek, SYS_mmap, SYS_munmap, SYS_mprotect, SYS_mremap, SYS_madvise, SYS_brk,       \
	    SYS_rt_sigreturn, SYS_rt_sigprocmask, SYS_rt_sigaction, SYS_epoll_wait,                \
	    SYS_epoll_pwait, SYS_epoll_ctl, SYS_epoll_create1, SYS_poll, SYS_ppoll, SYS_recvmsg,   \
	    SYS_sendmsg, SYS_fcntl, SYS_clock_gettime, SYS_gettimeofday, SYS_clock_nanosleep,      \
	    SYS_getrandom, SYS_futex, SYS_getpid, SYS_gettid, SYS_tgkill, SYS_exit,                \
	    SYS_exit_group, SYS_restart_syscall, SYS_getrusage, SYS_rseq, SYS_set_robust_list

int
confine_conn(uid_t uid, gid_t gid, struct err *err)
{
	/* recvfrom and sendto: libssh's socket. pread64: journals. setsockopt: TCP_QUICKACK. */
	static const int allowed[] = {
	    CALLS_OF_ALL,   SYS_recvfrom,    SYS_sendto,   SYS_pread64,  SYS_setsockopt,
	    SYS_getsockopt, SYS_getpeername, SYS_shutdown, SYS_eventfd2,
	};
	/* The bounding set first: the change of uid takes the right to drop it. */
	if (drop_bounding(0, err) < 0 || confine_identity(uid, gid, err) < 0 ||
	    confine_capabilities(0, err) < 0)
		return -1;
	return confine_syscalls(allowed, sizeof allowed / sizeof *allowed, err);
}

int
confine_keeper(uid_t uid, gid_t gid, bool keep_kill, struct err *err)
{
	/* with the sessions' own uid it needs no right to signal them */
	const unsigned long long keep = keep_kill && uid ? 1ull << CAP_KILL : 0;
	/* openat2, openat, mkdirat, unlinkat: its calls/ directory and the calls' cgroups, by fd.
	 * pwritev, fallocate, fdatasync: journals. wait: pid 1. ioctl: the size of terminals.
	 * getsockname, getpeername: sockets that init has opened. */
	static const int allowed[] = {
	    CALLS_OF_ALL,       SYS_openat,          SYS_openat2,
	    SYS_mkdirat,        SYS_unlinkat,        SYS_renameat,
	    SYS_pread64,        SYS_pwrite64,        SYS_pwritev,
	    SYS_pwritev2,       SYS_fallocate,       SYS_fsync,
	    SYS_fdatasync,      SYS_ftruncate,       SYS_pipe2,
	    SYS_eventfd2,       SYS_socketpair,      SYS_accept4,
	    SYS_setsockopt,     SYS_getsockopt,      SYS_waitid,
	    SYS_wait4,          SYS_ioctl,           SYS_dup3,
	    SYS_timerfd_create, SYS_timerfd_settime, SYS_pidfd_send_signal,
	    SYS_fchmod,         SYS_fchmodat,        SYS_getdents64,
	    SYS_fstatfs,        SYS_shutdown,        SYS_readlinkat,
	    SYS_memfd_create,   SYS_setitimer,	     SYS_getsockname,
	    SYS_getpeername,	SYS_pidfd_open, /* the last for keep_kill alone */
	};
	const size_t n = sizeof allowed / sizeof *allowed - !keep_kill;
	/* The bounding set first: the change of uid takes the right to drop it. */
	if (drop_bounding(keep, err) < 0)
		return -1;
	if (keep && prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0) < 0)
		return err_sys(err, errno, "keep a capability over the change of uid");
	if (confine_identity(uid, gid, err) < 0 || confine_capabilities(keep, err) < 0)
		return -1;
	if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
		return err_sys(err, errno, "become non-dumpable");
	return confine_syscalls(allowed, n, err);
}

int
confine_worker(const int *dirs, size_t n, struct err *err)
{
	return confine_worker_reading(dirs, n, NULL, 0, err);
}

int
confine_worker_reading(const int *dirs, size_t n, const int *sources, size_t n_sources,
		       struct err *err)
{
	static const int allowed[] = {
	    CALLS_OF_ALL,        SYS_openat,     SYS_openat2,
	    SYS_statx,           SYS_getdents64, SYS_pread64,
	    SYS_pwrite64,        SYS_pwritev,    SYS_mkdirat,
	    SYS_mknodat,         SYS_symlinkat,  SYS_linkat,
	    SYS_unlinkat,        SYS_renameat,   SYS_renameat2,
	    SYS_readlinkat,      SYS_fchmod,     SYS_fchmodat,
	    SYS_fchown,          SYS_fchownat,   SYS_utimensat,
	    SYS_ftruncate,       SYS_fallocate,  SYS_fsync,
	    SYS_fdatasync,       SYS_syncfs,     SYS_fstatfs,
	    SYS_fgetxattr,       SYS_flistxattr, SYS_fsetxattr,
	    SYS_getxattr,        SYS_listxattr,  SYS_setxattr,
	    SYS_lgetxattr,       SYS_llistxattr, SYS_lsetxattr,
	    SYS_copy_file_range, SYS_sendfile,   SYS_fadvise64,
	    SYS_clone3,          SYS_clone,      SYS_sched_getaffinity,
	    SYS_sched_yield,     SYS_prctl,      SYS_eventfd2,
	    SYS_pipe2,           SYS_getuid,     SYS_geteuid,
	    SYS_getgid,          SYS_getegid,    SYS_getcwd,
	    SYS_fchdir,          SYS_umask,      SYS_access,
	    SYS_faccessat,       SYS_faccessat2, SYS_fremovexattr,
	    SYS_lremovexattr,    SYS_dup3,       SYS_setpriority,
	    SYS_sync_file_range,
	};
	const unsigned long long keep = 1ull << CAP_CHOWN | 1ull << CAP_DAC_OVERRIDE |
					1ull << CAP_FOWNER | 1ull << CAP_FSETID |
					1ull << CAP_MKNOD | 1ull << CAP_SETFCAP;
	if (confine_files(dirs, n, sources, n_sources, err) < 0)
		return -1;
	if (geteuid() == 0 && confine_capabilities(keep, err) < 0)
		return -1;
	return confine_syscalls(allowed, sizeof allowed / sizeof *allowed, err);
}
