"""What the attacks share: the probe, and looks from outside that only the node's root has."""
import ctypes
import errno
import os
import pathlib
import re
import socket
import struct

import pytest

from berth_e2e import RUNG

HERE = pathlib.Path(__file__).parent

# Walls that other rungs do not have, as ENGINE.md says: sessions share the server's ids there, and STATE is theirs.
own_ids = pytest.mark.skipif(RUNG != "root", reason=f"on rung {RUNG} sessions have no ids of their own")
in_cgroup = pytest.mark.skipif(RUNG != "root", reason=f"on rung {RUNG} init is given no cgroup")


def arm(server, session):
    r = server.ssh(session, "gcc -O1 -w -o probe -x c -", stdin=(HERE / "probe.c").read_bytes())
    assert r.status == 0, r
    return session


def probe(server, session, *names):
    """Runs attempts of probe.c: {name: "OK" or the name of an errno}."""
    r = server.ssh(session, "./probe " + " ".join(names))
    assert r.status == 0, r
    out = {}
    for line in r.stdout.splitlines():
        attempt, code = line.split()
        out[attempt] = "OK" if code == "0" else errno.errorcode.get(int(code), code)
    assert set(names) <= set(out), (names, r)
    return out


# ---- from outside ----

libc = ctypes.CDLL(None, use_errno=True)
PIDFD_OPEN, PIDFD_GETFD = 434, 438


def status(pid):
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


def keeper_of(server, session):
    """(keeper, pid 1 of the session): processes of the node."""
    host = session.encode()
    for pid, what in server.keeper_pids():
        if what != "berth-keeper":
            continue
        for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            if nsenter_hostname(int(child)) == host:
                return pid, int(child)
    raise AssertionError(f"no keeper of {session}")


def nsenter_hostname(pid):
    """The hostname in a process's UTS namespace, asked by a child that enters it."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        fd = os.open(f"/proc/{pid}/ns/uts", os.O_RDONLY)
        ok = libc.setns(fd, 0x04000000) == 0
        os.write(writer, socket.gethostname().encode() if ok else b"?")
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader, "rb") as f:
        return f.read()


def take_fd(pid, number):
    """A duplicate of another process's descriptor."""
    pidfd = libc.syscall(PIDFD_OPEN, pid, 0)
    fd = libc.syscall(PIDFD_GETFD, pidfd, number, 0)
    assert fd >= 0, os.strerror(ctypes.get_errno())
    os.close(pidfd)
    return fd


def init_socket(pid1):
    """The end of the link that pid 1 holds: who writes into it speaks as a berth-init that was taken."""
    return socket.socket(fileno=take_fd(pid1, 3))


def message(number, *fields):
    """A packet as wire.c encodes it: U32 by int, U64 by a ("u64", n), text by bytes."""
    out = struct.pack("<I", number)
    for f in fields:
        if isinstance(f, bytes):
            out += struct.pack("<I", len(f)) + f
        elif isinstance(f, tuple):
            out += struct.pack("<Q", f[1])
        else:
            out += struct.pack("<I", f)
    return out


def send_with_fds(sock, packet, *fds):
    socket.send_fds(sock, [packet], list(fds))


def state_dir(server, session):
    return server.state / "sessions" / server.json("show", session)["id"]


def mounts_of(pid):
    return [line.split(" ") for line in pathlib.Path(f"/proc/{pid}/mountinfo").read_text().splitlines()]


def id_map(pid, which="uid_map"):
    """[(inside, outside, count)]"""
    return [tuple(map(int, line.split())) for line in pathlib.Path(f"/proc/{pid}/{which}").read_text().splitlines()]


def only_line(text, pattern):
    found = re.findall(pattern, text, re.M)
    assert found, text
    return found
