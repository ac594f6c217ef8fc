/* Tries, inside a session and as its root, what must be refused; prints "NAME ERRNO" a line, 0 when the
 * kernel did it. What could be done is undone by the end of the process. Compiled in the session. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#define T(name) static long name(void)
static char room[4096];

/* ---- namespaces ---- */
T(unshare_user) { return unshare(CLONE_NEWUSER); }
T(unshare_mount) { return unshare(CLONE_NEWNS); }
T(unshare_net) { return unshare(CLONE_NEWNET); }
T(unshare_pid) { return unshare(CLONE_NEWPID); }
T(unshare_cgroup) { return unshare(CLONE_NEWCGROUP); }
static long reap(long pid) { if (pid == 0) _exit(0); if (pid > 0) waitpid(pid, 0, __WALL); return pid < 0 ? -1 : 0; }
T(clone_user) { return reap(syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0)); }
static long clone3_with(unsigned long flags)
{
	struct clone_args a = {.flags = flags, .exit_signal = SIGCHLD};
	return reap(syscall(SYS_clone3, &a, sizeof a));
}
T(clone3_user) { return clone3_with(CLONE_NEWUSER); }
T(clone3_user_mount) { return clone3_with(CLONE_NEWUSER | CLONE_NEWNS); }
T(clone3_mount) { return clone3_with(CLONE_NEWNS); }
T(clone3_net) { return clone3_with(CLONE_NEWNET); }
T(clone3_time) { return clone3_with(CLONE_NEWTIME); }
T(unshare_time) { return unshare(CLONE_NEWTIME); }
T(setns_self) { int fd = open("/proc/self/ns/mnt", O_RDONLY); return fd < 0 ? -1 : setns(fd, 0); }
T(setns_pidfd) { int fd = syscall(SYS_pidfd_open, 1, 0); return fd < 0 ? -1 : setns(fd, CLONE_NEWNS); }
T(ns_of_pid1) { return open("/proc/1/ns/mnt", O_RDONLY); }

/* ---- mounts ---- */
static long mount_one(const char *type) { mkdir("/workspace/m", 0755); return mount("none", "/workspace/m", type, 0, 0); }
T(mount_proc) { return mount_one("proc"); }
T(mount_sysfs) { return mount_one("sysfs"); }
T(mount_tmpfs) { return mount_one("tmpfs"); }
T(mount_cgroup) { return mount_one("cgroup"); }
T(mount_cgroup2) { return mount_one("cgroup2"); }
T(mount_devpts) { return mount_one("devpts"); }
T(mount_overlay) { return mount("o", "/mnt", "overlay", 0, "lowerdir=/etc,upperdir=/tmp,workdir=/workspace"); }
T(bind_over) { return mount("/tmp", "/etc", 0, MS_BIND, 0); }
T(remount_rw) { return mount(0, "/proc/sys", 0, MS_REMOUNT | MS_BIND, 0); }
T(remount_suid) { return mount(0, "/", 0, MS_REMOUNT | MS_BIND, 0); }
T(umount_mask) { return umount2("/proc/sys", MNT_DETACH); }
T(umount_firmware) { return umount2("/sys/firmware", MNT_DETACH); }
T(umount_root) { return umount2("/", MNT_DETACH); }
T(pivot) { return syscall(SYS_pivot_root, ".", "."); }
T(fsopen_tmpfs) { return syscall(SYS_fsopen, "tmpfs", 0); }
T(open_tree_clone) { return syscall(SYS_open_tree, AT_FDCWD, "/", 1 /* OPEN_TREE_CLONE */); }
T(move_mount_proc) { return syscall(SYS_move_mount, AT_FDCWD, "/proc/sys", AT_FDCWD, "/mnt", 0); }
T(mount_setattr_root) { struct { unsigned long a, b, c, d; } at = {0, 1, 0, 0}; return syscall(SYS_mount_setattr, AT_FDCWD, "/", 0, &at, sizeof at); }
T(fspick_root) { return syscall(SYS_fspick, AT_FDCWD, "/", 0); }

/* ---- the kernel's settings ---- */
static long write_to(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);
	long n = fd < 0 ? -1 : write(fd, text, strlen(text));
	return n < 0 ? -1 : 0;
}
T(core_pattern) { return write_to("/proc/sys/kernel/core_pattern", "|/workspace/x"); }
T(modprobe_path) { return write_to("/proc/sys/kernel/modprobe", "/workspace/x"); }
T(sysrq) { return write_to("/proc/sysrq-trigger", "h"); }
T(sysrq_sys) { return write_to("/proc/sys/kernel/sysrq", "1"); }
T(max_userns) { return write_to("/proc/sys/user/max_user_namespaces", "10"); }
T(drop_caches) { return write_to("/proc/sys/vm/drop_caches", "1"); }
T(ns_last_pid) { return write_to("/proc/sys/kernel/ns_last_pid", "100"); }
T(irq) { return write_to("/proc/irq/default_smp_affinity", "1"); }
T(oom_lower) { return write_to("/proc/self/oom_score_adj", "-1"); }
T(oom_lower_pid1) { return write_to("/proc/1/oom_score_adj", "0"); }
T(uevent) { return write_to("/sys/class/mem/null/uevent", "add"); }
T(sys_power) { return write_to("/sys/power/state", "mem"); }
T(sys_kernel) { return write_to("/sys/kernel/profiling", "1"); }
T(uid_map) { return write_to("/proc/self/uid_map", "0 0 1"); }
T(kcore) { int fd = open("/proc/kcore", O_RDONLY); return fd < 0 ? -1 : read(fd, room, 16) > 0 ? 0 : (errno = ENODATA, -1); }
T(kmsg) { int fd = open("/proc/kmsg", O_RDONLY | O_NONBLOCK); return fd < 0 ? -1 : read(fd, room, 16); }
T(hostname) { return sethostname("x", 1); }
T(settime) { struct timespec t = {1, 0}; return clock_settime(CLOCK_REALTIME, &t); }
T(syslog_read) { return syscall(SYS_syslog, 3, room, sizeof room); }
T(reboot_it) { return syscall(SYS_reboot, 0xfee1dead, 672274793, 0 /* CAD off */, 0); }
T(swap) { return syscall(SYS_swapon, "/workspace/probe", 0); }
T(acct_on) { return syscall(SYS_acct, "/workspace/acct"); }
T(quota) { return syscall(SYS_quotactl, 0, "/", 0, 0); }
T(rlimit_up) { struct rlimit r; getrlimit(RLIMIT_NOFILE, &r); r.rlim_max++; return setrlimit(RLIMIT_NOFILE, &r); }
T(nice_up) { return setpriority(PRIO_PROCESS, 0, -5); }
T(realtime) { struct sched_param p = {1}; return sched_setscheduler(0, SCHED_FIFO, &p); }

/* ---- devices ---- */
static long node(mode_t type, unsigned major, unsigned minor)
{
	unlink("/workspace/node");
	return mknod("/workspace/node", type | 0666, makedev(major, minor));
}
T(mknod_block) { return node(S_IFBLK, 8, 0); }
T(mknod_mem) { return node(S_IFCHR, 1, 1); }
T(mknod_null) { return node(S_IFCHR, 1, 3); }
T(mknod_fuse) { return node(S_IFCHR, 10, 229); }
T(mknod_whiteout) { return node(S_IFCHR, 0, 0); }
static long in_tmp(const char *path, mode_t type, dev_t dev) { unlink(path); return mknod(path, type | 0666, dev); }
T(mknod_in_shm) { return in_tmp("/dev/shm/n", S_IFBLK, makedev(8, 0)); }
T(mknod_in_dev) { return in_tmp("/dev/n", S_IFCHR, makedev(1, 1)); }
T(rename_whiteout) { close(open("/workspace/rw", O_CREAT | O_WRONLY, 0644)); return syscall(SYS_renameat2, AT_FDCWD, "/workspace/rw", AT_FDCWD, "/workspace/rw2", 4 /* RENAME_WHITEOUT */); }
T(chmod_null) { return chmod("/dev/null", 0777); }
T(chown_null) { return chown("/dev/null", 0, 0); }

/* ---- pid 1 ---- */
static long look(const char *path, int flags) { return open(path, flags) < 0 ? -1 : 0; }
T(ptrace_pid1) { return ptrace(PTRACE_ATTACH, 1, 0, 0); }
T(ptrace_seize_pid1) { return ptrace(PTRACE_SEIZE, 1, 0, 0); }
T(readv_pid1) { struct iovec l = {room, 8}, r = {(void *)0x400000, 8}; return process_vm_readv(1, &l, 1, &r, 1, 0) < 0 ? -1 : 0; }
T(writev_pid1) { struct iovec l = {room, 8}, r = {(void *)0x400000, 8}; return process_vm_writev(1, &l, 1, &r, 1, 0) < 0 ? -1 : 0; }
T(getfd_pid1) { int p = syscall(SYS_pidfd_open, 1, 0); return p < 0 ? -1 : syscall(SYS_pidfd_getfd, p, 3, 0); }
T(kcmp_pid1) { return syscall(SYS_kcmp, getpid(), 1, 0, 0, 3); }
T(madvise_pid1) { int p = syscall(SYS_pidfd_open, 1, 0); struct iovec r = {(void *)0x400000, 4096}; return syscall(SYS_process_madvise, p, &r, 1, 21, 0); }
T(mem_pid1) { return look("/proc/1/mem", O_RDWR); }
T(exe_pid1) { return look("/proc/1/exe", O_RDONLY); }
T(exe_pid1_write) { return look("/proc/1/exe", O_WRONLY); }
T(exe_pid1_link) { return readlink("/proc/1/exe", room, sizeof room) < 0 ? -1 : 0; }
T(fd_pid1) { return look("/proc/1/fd", O_RDONLY | O_DIRECTORY); }
T(fd3_pid1) { return look("/proc/1/fd/3", O_RDWR); }
T(root_pid1) { return look("/proc/1/root", O_RDONLY); }
T(cwd_pid1) { return look("/proc/1/cwd", O_RDONLY); }
T(environ_pid1) { return look("/proc/1/environ", O_RDONLY); }
T(maps_pid1) { return look("/proc/1/maps", O_RDONLY); }
T(map_files_pid1) { return look("/proc/1/map_files", O_RDONLY | O_DIRECTORY); }
T(syscall_pid1) { return look("/proc/1/syscall", O_RDONLY); }
T(stack_pid1) { return look("/proc/1/stack", O_RDONLY); }
T(exec_pid1) { return execl("/proc/1/exe", "x", NULL); }

/* ---- the larger half of the kernel ---- */
T(keyctl_it) { return syscall(SYS_keyctl, 0, -3, 0); }
T(add_key_it) { return syscall(SYS_add_key, "user", "x", "y", 1, -3); }
T(request_key_it) { return syscall(SYS_request_key, "user", "x", NULL, -3); }
T(bpf_it) { char a[128] = {1, 0, 0, 0}; return syscall(SYS_bpf, 0, a, sizeof a); }
T(perf) { char a[128] = {0}; return syscall(SYS_perf_event_open, a, 0, -1, -1, 0); }
T(userfault) { return syscall(SYS_userfaultfd, 1); }
T(io_uring) { char p[256] = {0}; return syscall(SYS_io_uring_setup, 1, p); }
T(handle_of) { struct { struct file_handle h; char r[128]; } h = {.h.handle_bytes = 128}; int m; return name_to_handle_at(AT_FDCWD, "/", &h.h, &m, 0); }
T(open_handle) { struct { struct file_handle h; char r[128]; } h = {.h.handle_bytes = 8, .h.handle_type = 1, .r = {2}}; return open_by_handle_at(AT_FDCWD, &h.h, O_RDONLY); }
T(kexec) { return syscall(SYS_kexec_load, 0, 0, 0, 0); }
T(kexec_file) { return syscall(SYS_kexec_file_load, 0, 0, 0, 0, 0); }
T(module) { return syscall(SYS_init_module, room, 16, ""); }
T(module_fd) { return syscall(SYS_finit_module, 0, "", 0); }
T(module_delete) { return syscall(SYS_delete_module, "x", 0); }
#ifdef SYS_iopl
T(iopl_it) { return syscall(SYS_iopl, 3); }
T(ioperm_it) { return syscall(SYS_ioperm, 0x80, 1, 1); }
#endif
T(fanotify) { return syscall(SYS_fanotify_init, 0, 0); }
T(mm_exe) { return prctl(PR_SET_MM, PR_SET_MM_EXE_FILE, open("/bin/sh", O_RDONLY), 0, 0); }
T(get_privs) { return prctl(PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0); }
T(cap_back) { return prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, 21 /* SYS_ADMIN */, 0, 0); }
T(securebits) { return prctl(PR_SET_SECUREBITS, 0x2f, 0, 0, 0) == 0 && prctl(PR_CAPBSET_READ, 21, 0, 0, 0) == 1 ? 0 : (errno = EPERM, -1); }
T(tiocsti) { char c = 'x'; return ioctl(0, TIOCSTI, &c); }
T(tiocsti_high) { char c = 'x'; return syscall(SYS_ioctl, 0, 0x100000000ul | TIOCSTI, &c); }
T(tioclinux) { char c = 2; return ioctl(0, TIOCLINUX, &c); }
T(tioccons) { return ioctl(0, TIOCCONS, 0); }

/* ---- sockets ---- */
static long sock(int family, int type, int protocol) { return socket(family, type, protocol); }
T(sock_vsock) { return sock(40, SOCK_STREAM, 0); }
T(sock_vsock_high) { return syscall(SYS_socket, 0x100000028ul, SOCK_STREAM, 0); }
T(sock_packet) { return sock(AF_PACKET, SOCK_RAW, 0); }
T(sock_alg) { return sock(AF_ALG, SOCK_SEQPACKET, 0); }
T(sock_bluetooth) { return sock(AF_BLUETOOTH, SOCK_RAW, 1); }
T(sock_can) { return sock(AF_CAN, SOCK_RAW, 1); }
T(sock_tipc) { return sock(AF_TIPC, SOCK_STREAM, 0); }
T(sock_xdp) { return sock(AF_XDP, SOCK_RAW, 0); }
T(sock_key) { return sock(AF_KEY, SOCK_RAW, 2); }
T(nl_audit) { return sock(AF_NETLINK, SOCK_RAW, 9); }
T(nl_netfilter) { return sock(AF_NETLINK, SOCK_RAW, 12); }
T(nl_xfrm) { return sock(AF_NETLINK, SOCK_RAW, 6); }
T(nl_generic) { return sock(AF_NETLINK, SOCK_RAW, 16); }
T(nl_crypto) { return sock(AF_NETLINK, SOCK_RAW, 21); }
T(nl_connector) { return sock(AF_NETLINK, SOCK_DGRAM, 11); }
T(nl_scsi) { return sock(AF_NETLINK, SOCK_RAW, 18); }
T(nl_rdma) { return sock(AF_NETLINK, SOCK_RAW, 20); }
T(nl_netfilter_high) { return syscall(SYS_socket, AF_NETLINK, SOCK_RAW, 0x10000000cul); }
T(nl_route) { return sock(AF_NETLINK, SOCK_RAW, 0); }
T(nl_diag) { return sock(AF_NETLINK, SOCK_RAW, 4); }
T(tun) { return look("/dev/net/tun", O_RDWR); }

/* ---- other doors to the same calls ---- */
#ifdef __x86_64__
static long old_call(long n, long a, long b, long c)
{
	long r;
	__asm__ volatile("int $0x80" : "=a"(r) : "a"(n), "b"(a), "c"(b), "d"(c) : "memory", "r8", "r9", "r10", "r11");
	if ((int)r < 0 && (int)r > -4096) { errno = -(int)r; return -1; }
	return r;
}
static char *low(void) { return mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0); }
T(i386_mount) { char *p = low(); strcpy(p, "tmpfs"); strcpy(p + 64, "/mnt"); return old_call(21, (long)p, (long)p + 64, (long)p); }
T(i386_unshare) { return old_call(310, CLONE_NEWUSER, 0, 0); }
T(i386_setns) { return old_call(346, open("/proc/self/ns/mnt", O_RDONLY), 0, 0); }
T(i386_keyctl) { return old_call(288, 0, -3, 0); }
T(i386_bpf) { char *p = low(); return old_call(357, 0, (long)p, 64); }
T(i386_socketcall) { int *p = (int *)low(); p[0] = 40; p[1] = SOCK_STREAM; return old_call(102, 1, (long)p, 0); }
T(i386_socket) { return old_call(359, 40, SOCK_STREAM, 0); }
T(i386_tiocsti) { char *p = low(); return old_call(54, 0, TIOCSTI, (long)p); }
T(i386_iopl) { return old_call(110, 3, 0, 0); }
T(i386_modify_ldt) { return old_call(123, 0, (long)low(), 16); }
T(x32_mount) { return syscall(0x40000000 + SYS_mount, "none", "/mnt", "tmpfs", 0, 0); }
T(x32_getpid) { return syscall(0x40000000 + SYS_getpid); }
T(x32_ioctl) { char c = 'x'; return syscall(0x40000000 + 514, 0, TIOCSTI, &c); }
T(x32_ptrace) { return syscall(0x40000000 + 521, PTRACE_ATTACH, 1, 0, 0); }
T(vsyscall_write) { int s; pid_t p = fork(); if (p == 0) { *(volatile char *)0xffffffffff600000ul = 1; _exit(0); } waitpid(p, &s, 0); return WIFSIGNALED(s) ? (errno = EFAULT, -1) : 0; }
T(ldt) { return syscall(SYS_modify_ldt, 0, room, 16); }
#endif
T(no_such_call) { return syscall(9999); }

/* ---- marks of the overlay ---- */
static long mark(const char *name) { close(open("/workspace/marked", O_CREAT | O_WRONLY, 0644)); return setxattr("/workspace/marked", name, "y", 1, 0); }
T(xattr_trusted_opaque) { return mark("trusted.overlay.opaque"); }
T(xattr_trusted_origin) { return mark("trusted.overlay.origin"); }
T(xattr_trusted_any) { return mark("trusted.x"); }
T(immutable) { int f = 0x10, fd = open("/workspace/marked", O_RDONLY | O_CREAT, 0644); return ioctl(fd, 0x40086602 /* FS_IOC_SETFLAGS */, &f); }

#define A(name) {#name, name},
static const struct {
	const char *name;
	long (*run)(void);
} all[] = {
	A(unshare_user) A(unshare_mount) A(unshare_net) A(unshare_pid) A(unshare_cgroup) A(clone_user)
	A(clone3_user) A(clone3_user_mount) A(clone3_mount) A(clone3_net) A(clone3_time) A(unshare_time)
	A(setns_self) A(setns_pidfd) A(ns_of_pid1) A(mount_proc) A(mount_sysfs) A(mount_tmpfs)
	A(mount_cgroup) A(mount_cgroup2) A(mount_devpts) A(mount_overlay) A(bind_over) A(remount_rw)
	A(remount_suid) A(umount_mask) A(umount_firmware) A(umount_root) A(pivot) A(fsopen_tmpfs)
	A(open_tree_clone) A(move_mount_proc) A(mount_setattr_root) A(fspick_root) A(core_pattern)
	A(modprobe_path) A(sysrq) A(sysrq_sys) A(max_userns) A(drop_caches) A(ns_last_pid) A(irq)
	A(oom_lower) A(oom_lower_pid1) A(uevent) A(sys_power) A(sys_kernel) A(uid_map) A(kcore)
	A(kmsg) A(hostname) A(settime) A(syslog_read) A(reboot_it) A(swap) A(acct_on) A(quota) A(rlimit_up)
	A(nice_up) A(realtime) A(mknod_block) A(mknod_mem) A(mknod_null) A(mknod_fuse) A(mknod_whiteout)
	A(mknod_in_shm) A(mknod_in_dev) A(rename_whiteout) A(chmod_null) A(chown_null) A(ptrace_pid1)
	A(ptrace_seize_pid1) A(readv_pid1) A(writev_pid1) A(getfd_pid1) A(kcmp_pid1) A(madvise_pid1)
	A(mem_pid1) A(exe_pid1) A(exe_pid1_write) A(exe_pid1_link) A(fd_pid1) A(fd3_pid1) A(root_pid1)
	A(cwd_pid1) A(environ_pid1) A(maps_pid1) A(map_files_pid1) A(syscall_pid1) A(stack_pid1)
	A(exec_pid1) A(keyctl_it) A(add_key_it) A(request_key_it) A(bpf_it) A(perf) A(userfault)
	A(io_uring) A(handle_of) A(open_handle) A(kexec) A(kexec_file) A(module) A(module_fd)
	A(module_delete)
#ifdef SYS_iopl
	A(iopl_it) A(ioperm_it)
#endif
	A(fanotify) A(mm_exe) A(get_privs) A(cap_back) A(securebits) A(tiocsti) A(tiocsti_high)
	A(tioclinux) A(tioccons) A(sock_vsock) A(sock_vsock_high) A(sock_packet) A(sock_alg)
	A(sock_bluetooth) A(sock_can) A(sock_tipc) A(sock_xdp) A(sock_key) A(nl_audit) A(nl_netfilter)
	A(nl_xfrm) A(nl_generic) A(nl_crypto) A(nl_connector) A(nl_scsi) A(nl_rdma) A(nl_netfilter_high)
	A(nl_route) A(nl_diag) A(tun)
#ifdef __x86_64__
	A(i386_mount) A(i386_unshare) A(i386_setns) A(i386_keyctl) A(i386_bpf) A(i386_socketcall)
	A(i386_socket) A(i386_tiocsti) A(i386_iopl) A(i386_modify_ldt) A(x32_mount) A(x32_getpid)
	A(x32_ioctl) A(x32_ptrace) A(vsyscall_write) A(ldt)
#endif
	A(no_such_call) A(xattr_trusted_opaque) A(xattr_trusted_origin) A(xattr_trusted_any)
	 A(immutable)
};

/* Each in a process of its own: what one has changed is not there for the next. */
int main(int argc, char **argv)
{
	for (int i = 1; i < argc; i++)
		for (size_t k = 0; k < sizeof all / sizeof *all; k++) {
			int status;
			if (strcmp(argv[i], all[k].name))
				continue;
			pid_t pid = fork();
			if (pid == 0) {
				long r = all[k].run();
				_exit(r < 0 ? errno : 0);
			}
			waitpid(pid, &status, 0);
			printf("%s %d\n", argv[i], WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status));
		}
	return 0;
}
