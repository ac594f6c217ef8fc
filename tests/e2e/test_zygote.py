"""The process that connections are forked from: what they share, and what they must not."""
import contextlib
import os
import pathlib
import re
import shutil
import signal
import socket
import struct

from conftest import BUILD, EXECUTABLES, make_server, running, wait_until
from test_confinement import status_of
from test_door import audit

LIFE = 64  # connections of one; LIFE_MAX of conn/zygote.c
SETGID, SETUID, SETPCAP = 6, 7, 8


def pids_of(server, what):
    return [pid for pid, name in server.all_pids() if name == what]


def zygote_of(server):
    pid, = pids_of(server, "berth-zygote")
    return pid


def layout_of(pid):
    """Where its code lies, once it does: it may be executing itself."""
    def look():
        found = re.findall(r"^([0-9a-f]+)-\S+ r--p 00000000 .*/(?:berth-conn|libssh|libcrypto)", pathlib.Path(f"/proc/{pid}/maps").read_text(), re.M)
        return found if len(found) == 3 else None
    return wait_until("its libraries", look)


def packet_of(f):
    size, padding = struct.unpack(">IB", f.read(5))
    return f.read(size - 1)[:-padding]


def packet(payload):
    padding = 8 - (len(payload) + 5) % 8 + 4
    return struct.pack(">IB", len(payload) + padding + 1, padding) + payload + bytes(padding)


def text(s):
    return struct.pack(">I", len(s)) + s


@contextlib.contextmanager
def half(server):
    """A connection that has been greeted: it has a process."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as s, s.makefile("rb") as f:
        assert f.readline().startswith(b"SSH-2.0-berth_")
        yield s, f


def random_of(server):
    """What the server says at random of a new connection: its cookie, and its half of the key exchange."""
    with half(server) as (s, f):
        lists = [b"curve25519-sha256", b"ssh-ed25519", *[b"aes256-ctr"] * 2, *[b"hmac-sha2-256"] * 2, *[b"none"] * 2, b"", b""]
        s.sendall(b"SSH-2.0-test\r\n" + packet(bytes([20]) + os.urandom(16) + b"".join(map(text, lists)) + bytes(5)))
        cookie = packet_of(f)[1:17]
        s.sendall(packet(bytes([30]) + text(bytes([9]) + bytes(31))))  # the curve's base point: anybody's public key
        reply = packet_of(f)
        assert reply[0] == 31, reply
        key = 5 + struct.unpack_from(">I", reply, 1)[0]
        return cookie, reply[key + 4:key + 36]


def the_one_conn(server):
    wait_until("its process", lambda: len(pids_of(server, "berth-conn")) == 1)
    return pids_of(server, "berth-conn")[0]


def test_connections_share_their_layout_and_no_random_number():
    with running() as server:
        zygote = zygote_of(server)
        with half(server):
            assert layout_of(the_one_conn(server)) == layout_of(zygote)
        said = [random_of(server) for _ in range(2 * LIFE)]
        assert len({cookie for cookie, _ in said}) == len({key for _, key in said}) == len(said)
        assert zygote_of(server) == zygote, "it is the same process still"


def test_it_holds_three_rights_and_nothing_of_a_connection():
    with running() as server:
        pid = zygote_of(server)
        with half(server):
            the_one_conn(server)
            st = status_of(pid)
            assert {int(st[c], 16) for c in ("CapEff", "CapPrm", "CapBnd")} == {1 << SETGID | 1 << SETUID | 1 << SETPCAP}, st
            wait_until("it to let go", lambda: sorted(os.listdir(f"/proc/{pid}/fd")) == ["0", "1", "2", "3"])


def test_after_so_many_connections_it_is_another_layout():
    with running() as server:
        pid, before = zygote_of(server), layout_of(zygote_of(server))
        with contextlib.ExitStack() as stack:
            for _ in range(LIFE - 1):
                stack.enter_context(half(server))
            assert layout_of(pid) == before
            for _ in range(2):
                stack.enter_context(half(server))
            assert all(a != b for a, b in zip(layout_of(pid), before))
            assert len(pids_of(server, "berth-conn")) == LIFE + 1
        assert server.ssh("demo", "echo in").out == b"in\n"
        assert zygote_of(server) == pid


def test_after_a_crash_it_is_another_layout_and_the_others_live():
    with running() as server, half(server) as (s, f):
        other = the_one_conn(server)
        before = layout_of(zygote_of(server))
        assert before == layout_of(other)
        with half(server) as (_, second):
            crashes, = set(pids_of(server, "berth-conn")) - {other}
            os.kill(crashes, signal.SIGSEGV)
            assert second.read(1) == b"" or second.read() is not None
        wait_until("another layout", lambda: all(a != b for a, b in zip(layout_of(zygote_of(server)), before)))
        with half(server):
            new, = set(pids_of(server, "berth-conn")) - {other}
            assert all(a != b for a, b in zip(layout_of(new), before))
        s.sendall(b"SSH-2.0-test\r\n")
        assert packet_of(f)[0] == 20, "who was there goes on"


def test_one_that_is_killed_is_replaced_and_its_connections_go_on(name):
    with running() as server:
        with server.popen(name, "echo in; exec cat", bufsize=0) as p:
            assert p.stdout.readline() == b"in\n"
            before = zygote_of(server)
            os.kill(before, signal.SIGKILL)
            wait_until("the manager to see it", lambda: "the zygote is gone" in server.log())
            assert server.ssh(name, "echo another").out == b"another\n"
            assert zygote_of(server) != before
            assert p.communicate(b"more\n", timeout=60)[0] == b"more\n"


def test_connections_are_of_the_version_of_their_manager():
    """An upgrade puts other files where its own were: it has itself still."""
    server = make_server()
    server.build = server.base / "bin"
    server.build.mkdir()
    for what in EXECUTABLES:
        shutil.copy(BUILD / what, server.build / what)
    try:
        server.start()
        before = layout_of(zygote_of(server))
        (server.build / "berth-conn").unlink()
        (server.build / "berth-conn").write_text("#!/bin/false\n")
        for _ in range(LIFE + 2):
            with half(server):
                pass
        assert layout_of(zygote_of(server)) != before
        assert server.ssh("demo", "echo in").out == b"in\n"
        server.remove()
    finally:
        server.discard()


def test_a_burst_loses_nobody():
    """More at once than one life, and than its socket holds: what waits is kept over its new lives."""
    with running("connections_unproven_address = 512\nconnections_unproven_max = 512\n") as server:
        zygote = zygote_of(server)
        os.kill(zygote, signal.SIGSTOP)
        with contextlib.ExitStack() as stack:
            socks = [stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=60)) for _ in range(300)]
            wait_until("all to be let in", lambda: len(audit(server, "connect")) == 300)
            os.kill(zygote, signal.SIGCONT)
            for s in socks:
                assert s.recv(64).startswith(b"SSH-2.0-berth_")
