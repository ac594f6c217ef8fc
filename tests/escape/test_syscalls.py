"""System calls that a session's root must not have, by every door of the kernel (probe.c)."""
import platform
import re

import pytest

from attack import HERE, probe

NO = {"EPERM", "ENOSYS"}
X86 = platform.machine() == "x86_64"

# attempt: what may come back. EPERM and ENOSYS are the filter's answers; others are the wall behind it.
REFUSED = {
    # namespaces
    **dict.fromkeys("unshare_user unshare_mount unshare_net unshare_pid unshare_cgroup unshare_time clone_user clone3_mount "
                    "clone3_net clone3_time setns_self setns_pidfd".split(), NO),
    "clone3_user": {"ENOSPC"}, "clone3_user_mount": {"ENOSPC"}, "ns_of_pid1": {"EACCES"},
    # mounts
    **dict.fromkeys("mount_proc mount_sysfs mount_tmpfs mount_cgroup mount_cgroup2 mount_devpts mount_overlay bind_over remount_rw "
                    "remount_suid umount_mask umount_firmware umount_root pivot fsopen_tmpfs open_tree_clone move_mount_proc "
                    "mount_setattr_root fspick_root".split(), NO),
    # the kernel's settings
    **dict.fromkeys("core_pattern modprobe_path sysrq_sys max_userns drop_caches ns_last_pid irq".split(),
                    {"EROFS", "EACCES", "ENOENT"}),
    "sysrq": {"EROFS", "ENOENT", "EACCES"}, "oom_lower": {"EACCES"}, "oom_lower_pid1": {"EACCES"},
    **dict.fromkeys("uevent sys_power sys_kernel".split(), {"EROFS", "ENOENT", "EACCES"}),
    "uid_map": {"EPERM"}, "kcore": {"ENODATA", "EACCES", "ENOENT"},
    "kmsg": {"EACCES", "EPERM"},
    **dict.fromkeys("hostname settime syslog_read reboot_it swap acct_on quota rlimit_up".split(), NO),
    "nice_up": {"EACCES", "EPERM"}, "realtime": {"EPERM"},
    # devices
    **dict.fromkeys("mknod_block mknod_mem mknod_null mknod_fuse mknod_whiteout mknod_in_shm mknod_in_dev".split(), {"EPERM"}),
    "rename_whiteout": {"EPERM", "EINVAL"}, "chmod_null": {"EPERM", "EROFS"}, "chown_null": {"EPERM", "EROFS", "EOVERFLOW"},
    # pid 1
    **dict.fromkeys("ptrace_pid1 ptrace_seize_pid1 readv_pid1 writev_pid1 getfd_pid1 kcmp_pid1 madvise_pid1".split(),
                    {"EPERM", "EACCES"}),
    **dict.fromkeys("mem_pid1 exe_pid1 exe_pid1_write exe_pid1_link fd_pid1 fd3_pid1 root_pid1 cwd_pid1 environ_pid1 maps_pid1 "
                    "map_files_pid1 syscall_pid1 stack_pid1 exec_pid1".split(), {"EACCES", "EPERM", "ENOENT"}),
    # the larger half of the kernel
    **dict.fromkeys("keyctl_it add_key_it request_key_it bpf_it perf userfault io_uring handle_of open_handle kexec kexec_file "
                    "module module_fd module_delete fanotify".split(), NO),
    "mm_exe": {"EPERM", "EINVAL", "EACCES", "EBUSY"}, "get_privs": {"EINVAL"}, "cap_back": {"EPERM"}, "securebits": {"EPERM"},
    **dict.fromkeys("tiocsti tiocsti_high tioclinux".split(), {"EPERM"}), "tioccons": {"EPERM", "ENOTTY"},
    # sockets
    **dict.fromkeys("sock_vsock sock_vsock_high sock_packet sock_alg sock_bluetooth sock_can sock_tipc sock_xdp sock_key".split(),
                    NO | {"EAFNOSUPPORT"}),
    **dict.fromkeys("nl_audit nl_netfilter nl_xfrm nl_generic nl_crypto nl_connector nl_scsi nl_rdma nl_netfilter_high".split(),
                    {"EPROTONOSUPPORT"}),
    "tun": {"ENOENT"}, "no_such_call": {"ENOSYS"},
    # marks of the overlay
    **dict.fromkeys("xattr_trusted_opaque xattr_trusted_origin xattr_trusted_any".split(), {"EPERM", "EOPNOTSUPP"}),
    "immutable": {"EPERM", "EOPNOTSUPP", "ENOTTY"},
}
# What other rungs answer instead, and what they cannot refuse.
OTHERWISE = {
    # its pid 1 belongs to the uid of the session's root: names can be listed, nothing can be followed or changed
    "rootless": {**dict.fromkeys("fd_pid1 map_files_pid1 syscall_pid1 stack_pid1".split(), {"OK"}),
                 # the server had no right to forbid going back to what it has itself
                 "oom_lower_pid1": {"OK"}},
    # no workspace at /workspace, and Landlock in front of all else
    "process": {**dict.fromkeys("mknod_block mknod_mem mknod_null mknod_fuse mknod_whiteout mknod_in_shm mknod_in_dev "
                                "rename_whiteout xattr_trusted_opaque xattr_trusted_origin xattr_trusted_any".split(),
                                {"ENOENT", "EACCES"}),
                "immutable": {"EBADF"}, "uid_map": {"EACCES"}, "tun": {"EACCES"},
                **dict.fromkeys("clone3_user clone3_user_mount clone3_mount clone3_net clone3_time".split(), {"ENOSYS"})},
}
OTHERWISE["process-user"] = OTHERWISE["process"]

if X86:
    REFUSED |= {
        **dict.fromkeys("iopl_it ioperm_it i386_mount i386_unshare i386_setns i386_keyctl i386_bpf i386_iopl i386_modify_ldt ldt "
                        "x32_mount x32_getpid x32_ioctl x32_ptrace i386_tiocsti".split(), NO),
        "i386_socketcall": {"ENOSYS"}, "i386_socket": NO | {"EAFNOSUPPORT"}, "vsyscall_write": {"EFAULT"},
    }

ALLOWED = ["nl_route", "nl_diag"]  # getifaddrs and ss


@pytest.fixture(scope="module")
def results(server, armed):
    return probe(server, armed, *REFUSED, *ALLOWED)


@pytest.mark.parametrize("attempt", REFUSED)
def test_refused(server, results, attempt):
    assert results[attempt] in REFUSED[attempt] | OTHERWISE.get(server.rung, {}).get(attempt, set())


@pytest.mark.parametrize("attempt", ALLOWED)
def test_what_programs_need_is_left(server, results, attempt):
    assert results[attempt] == "OK"


def test_every_attempt_of_the_probe_is_judged():
    assert set(re.findall(r"^T\((\w+)\)", (HERE / "probe.c").read_text(), re.M)) == set(REFUSED) | set(ALLOWED)
