"""Each process has given up what its top comment says: seen from outside, and tried from within by a
debugger that makes it call what is forbidden."""
import asyncio
import ctypes
import os
import pathlib

import asyncssh
import pytest

CAPS = {"CHOWN": 0, "DAC_OVERRIDE": 1, "FOWNER": 3, "FSETID": 4, "MKNOD": 27, "SETFCAP": 31}


def status_of(pid):
    return dict(line.split(":\t", 1) for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)


def pid_of(server, what):
    return next(p for p, n in server.keeper_pids() if n == what)


# ---- a remote system call by ptrace: what a taken process could try ----

PTRACE = {"attach": 16, "detach": 17, "getregs": 12, "setregs": 13, "step": 9, "peek": 1, "poke": 4}
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
libc.ptrace.restype = ctypes.c_long
REGS = ["r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi", "rdi", "orig_rax",
        "rip", "cs", "eflags", "rsp", "ss", "fs_base", "gs_base", "ds", "es", "fs", "gs"]


class Regs(ctypes.Structure):
    _fields_ = [(r, ctypes.c_ulonglong) for r in REGS]


def ptrace(what, pid, addr=0, data=0):
    r = libc.ptrace(PTRACE[what], pid, addr, data)
    if r < 0 and what not in ("peek",):
        raise OSError(ctypes.get_errno(), f"ptrace {what}")
    return r


def find_syscall_instruction(pid):
    """Any `syscall` instruction in the process's libc."""
    for line in open(f"/proc/{pid}/maps"):
        if "libc.so.6" in line and "r-xp" in line:
            start, end = (int(x, 16) for x in line.split()[0].split("-"))
            with open(f"/proc/{pid}/mem", "rb") as mem:
                mem.seek(start)
                return start + mem.read(end - start).index(b"\x0f\x05")
    raise AssertionError("no libc mapped")


def calls_in(pid, wanted):
    """Makes pid execute each (number, a1..a6); returns their results. Its own state is put back."""
    ptrace("attach", pid)
    os.waitpid(pid, 0x40000000)
    results = []
    try:
        saved = Regs()
        ptrace("getregs", pid, 0, ctypes.addressof(saved))
        at = find_syscall_instruction(pid)
        for number, *args in wanted:
            regs = Regs()
            ctypes.pointer(regs)[0] = saved
            r = Regs.from_buffer_copy(saved)
            args += [0] * (6 - len(args))
            r.rip, r.rax, r.orig_rax = at, number, (1 << 64) - 1
            r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9 = args
            ptrace("setregs", pid, 0, ctypes.addressof(r))
            ptrace("step", pid)
            os.waitpid(pid, 0x40000000)
            got = Regs()
            ptrace("getregs", pid, 0, ctypes.addressof(got))
            results.append(ctypes.c_longlong(got.rax).value)
        ptrace("setregs", pid, 0, ctypes.addressof(saved))
    finally:
        ptrace("detach", pid)
    return results


SYS = {"open": 2, "openat": 257, "socket": 41, "connect": 42, "clone": 56, "fork": 57, "execve": 59, "kill": 62, "ptrace": 101,
       "setuid": 105, "mount": 165, "bpf": 321, "unshare": 272, "setns": 308, "process_vm_readv": 310, "memfd_create": 319,
       "keyctl": 250, "chroot": 161, "mknod": 133, "unlinkat": 263, "openat2": 437, "io_uring_setup": 425, "prctl": 157}
EPERM, EACCES, ENOENT = -1, -13, -2


def refused(pid, names):
    answers = calls_in(pid, [(SYS[n],) for n in names])
    return {n: a for n, a in zip(names, answers) if a != EPERM}


def test_a_conn_opens_nothing_starts_nothing_and_is_nobody(server, name):
    async def run():
        async with asyncssh.connect("127.0.0.1", server.port, username=name, known_hosts=None,
                                    client_keys=[str(server.key)]) as c:
            assert (await c.run("echo 1")).stdout == "1\n"
            pid = pid_of(server, "berth-conn")
            st = status_of(pid)
            assert int(st["Uid"].split()[0]) > 100000 and st["Groups"].strip() == "", st
            assert all(int(st[c], 16) == 0 for c in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb")), st
            assert st["NoNewPrivs"].strip() == "1" and st["Seccomp"].strip() == "2", st
            assert refused(pid, ["open", "openat", "openat2", "socket", "connect", "clone", "fork", "execve", "kill",
                                 "ptrace", "mount", "bpf", "unshare", "setns", "process_vm_readv", "keyctl", "chroot",
                                 "io_uring_setup", "setuid"]) == {}
            assert (await c.run("echo still alive")).stdout == "still alive\n"

    asyncio.run(run())


def test_a_keeper_has_a_uid_of_its_own_and_no_right(server, name):
    server.ssh(name, "true")
    other = name + "-b"
    server.ssh(other, "true")
    keepers = [p for p, n in server.keeper_pids() if n == "berth-keeper"]
    uids = {status_of(p)["Uid"].split()[0] for p in keepers}
    assert len(uids) == len(keepers) and "0" not in uids
    for pid in keepers:
        st = status_of(pid)
        assert all(int(st[c], 16) == 0 for c in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb")), st
        assert st["NoNewPrivs"].strip() == "1" and st["Seccomp"].strip() == "2", st
    pid = keepers[0]
    assert refused(pid, ["socket", "connect", "clone", "fork", "execve", "ptrace", "mount", "bpf", "unshare", "setns",
                         "process_vm_readv", "keyctl", "chroot", "mknod", "io_uring_setup", "setuid"]) == {}
    assert server.ssh(name, "echo alive").out == b"alive\n"


def test_a_worker_keeps_six_capabilities_and_its_directories(own_server, name):
    """Seen while it captures; the file system outside of its job is refused by Landlock."""
    server = own_server
    server.ssh(name, "head -c 400000000 /dev/urandom > big")
    pause = server.popen("berth", f"pause {name}")
    from conftest import wait_until
    pid = wait_until("a worker", lambda: next((p for p, n in server.keeper_pids() if n == "berth-worker"), None))
    wait_until("its confinement", lambda: status_of(pid)["Seccomp"].strip() == "2")
    st = status_of(pid)
    keep = sum(1 << b for b in CAPS.values())
    assert int(st["CapEff"], 16) | keep == keep and int(st["CapBnd"], 16) | keep == keep, st
    assert st["NoNewPrivs"].strip() == "1", st
    answers = refused(pid, ["socket", "connect", "execve", "kill", "ptrace", "mount", "bpf", "unshare", "setns",
                            "process_vm_readv", "keyctl", "chroot", "io_uring_setup", "setuid"])
    assert answers == {}
    # open("/etc/shadow") as root with DAC_OVERRIDE: only Landlock stands in the way
    assert open_in(pid, b"/etc/shadow\0") in (EACCES, EPERM)
    assert pause.wait(120) == 0
    pause.communicate()


def test_a_worker_that_reads_a_snapshot_can_change_nothing(own_server, name):
    """Seen while it waits for its reader."""
    from conftest import wait_until
    server = own_server
    server.ssh(name, "head -c 60000000 /dev/urandom > big")
    assert server.verb("pause", name).status == 0
    reading = server.popen("berth", f"cat {name} /workspace/big")
    assert len(reading.stdout.read(1000)) == 1000
    pid = wait_until("a worker", lambda: next((p for p, n in server.all_pids() if n == "berth-worker"), None))
    st = status_of(pid)
    assert all(int(st[c], 16) == 0 for c in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb")), st
    assert st["NoNewPrivs"].strip() == "1" and st["Seccomp"].strip() == "2", st
    assert refused(pid, ["socket", "connect", "execve", "kill", "ptrace", "mount", "bpf", "unshare", "setns", "mknod",
                         "unlinkat", "process_vm_readv", "keyctl", "chroot", "io_uring_setup", "setuid"]) == {}
    layout = str(server.state / "store" / "oci-layout").encode() + b"\0"
    assert open_in(pid, layout) >= 0, "what it is for"
    assert open_in(pid, layout, os.O_WRONLY) in (EACCES, EPERM)
    assert open_in(pid, layout.replace(b"oci-layout", b"new"), os.O_WRONLY | os.O_CREAT) in (EACCES, EPERM)
    for path in (server.state / "index.db", server.state / "keys" / "operator", "/etc/shadow"):
        assert open_in(pid, str(path).encode() + b"\0") in (EACCES, EPERM), path
    assert len(reading.stdout.read()) == 60000000 - 1000
    assert reading.wait() == 0, "and it goes on"


def open_in(pid, path, flags=0):
    """openat(AT_FDCWD, path, flags) inside the process, the path put below its stack."""
    ptrace("attach", pid)
    os.waitpid(pid, 0x40000000)
    try:
        saved = Regs()
        ptrace("getregs", pid, 0, ctypes.addressof(saved))
        at = find_syscall_instruction(pid)
        where = (saved.rsp - 65536) & ~15
        with open(f"/proc/{pid}/mem", "r+b", buffering=0) as mem:
            mem.seek(where)
            old = mem.read(len(path))
            mem.seek(where)
            mem.write(path)
            r = Regs.from_buffer_copy(saved)
            r.rip, r.rax, r.orig_rax = at, SYS["openat"], (1 << 64) - 1
            r.rdi, r.rsi, r.rdx, r.r10 = ctypes.c_ulonglong(-100).value, where, flags, 0o600
            ptrace("setregs", pid, 0, ctypes.addressof(r))
            ptrace("step", pid)
            os.waitpid(pid, 0x40000000)
            got = Regs()
            ptrace("getregs", pid, 0, ctypes.addressof(got))
            mem.seek(where)
            mem.write(old)
        ptrace("setregs", pid, 0, ctypes.addressof(saved))
        return ctypes.c_longlong(got.rax).value
    finally:
        ptrace("detach", pid)


@pytest.mark.parametrize("message", ["from nobody", "too long"])
def test_a_packet_that_fits_no_row_cuts_the_peer_and_is_logged(server, name, message):
    """A taken keeper or conn writes what it likes on its manager's socket: here by its own fd 3."""
    import subprocess
    session = name + ("-a" if message == "too long" else "-b")
    server.ssh(session, "true")
    keeper = [p for p, n in server.keeper_pids() if n == "berth-keeper"][-1]
    path = f"/proc/{keeper}/fd/3"
    assert os.path.exists(path)
    payload = b"\xff\xff\0\0" if message == "from nobody" else b"\x3d\0\0\0" + b"\xff" * 64
    code = ("import os,sys,ctypes; l=ctypes.CDLL(None,use_errno=True); p=l.syscall(434,int(sys.argv[1]),0); "
            "f=l.syscall(438,p,3,0); assert f>=0, ctypes.get_errno(); os.write(f,bytes.fromhex(sys.argv[2]))")
    subprocess.run(["/usr/bin/python3", "-c", code, str(keeper), payload.hex()], check=True)
    from conftest import wait_until
    wait_until("the log line", lambda: "its keeper is cut" in server.log())
    assert server.ssh(session, "echo back").out == b"back\n"
