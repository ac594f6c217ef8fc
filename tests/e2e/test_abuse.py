"""Clients that break every rule after login: one connection may suffer, its own; nobody else does, and nothing is left."""
import os

import pytest

import raw
from conftest import at_most, wait_until
from raw import Raw, text, u32


def conns(server):
    return {pid for pid, what in server.all_pids() if what == "berth-conn"}


def resident(pid):
    """KiB."""
    with open(f"/proc/{pid}/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmRSS"))


def conn_of(server, before):
    (pid,) = wait_until("its process", lambda: conns(server) - before)
    return pid


@pytest.mark.parametrize("packet", [0, 1, 9, 10, 11])
def test_a_greatest_packet_that_nothing_fits_in(server, name, packet):
    server.ssh(name, "true")
    before = conns(server)
    with Raw(server, name) as r:
        pid = conn_of(server, before)
        try:
            if packet:
                ours, theirs = r.open(packet=packet)
                r.exec(theirs, "head -c 100000 /dev/zero")
                r.wait(raw.CLOSE, ours, 50)
                r.send(raw.CLOSE, u32(theirs))
            else:
                r.ask_open(packet=packet)  # libssh answers, or not
            assert r.run("exit 3") == 3
        except raw.Gone:
            pass
    with at_most(20):
        wait_until("it to be gone", lambda: pid not in conns(server))
    assert server.ssh(name, "echo fine").out == b"fine\n"


def test_bytes_for_a_channel_that_we_closed_are_not_kept(server, name):
    server.ssh(name, "true")
    before = conns(server)
    with Raw(server, name) as r:
        pid = conn_of(server, before)
        ours, theirs = r.open()
        r.exec(theirs, "exit 0")
        r.wait(raw.CLOSE, ours)
        small = resident(pid)
        try:
            for _ in range(2000):
                r.data(theirs, bytes(32768))
            r.run("true")
        except raw.Gone:
            pass
        assert not os.path.exists(f"/proc/{pid}") or resident(pid) < small + 16384


def test_channels_that_are_never_closed_are_not_kept_for_ever(server, name):
    server.ssh(name, "true")
    before = conns(server)
    with Raw(server, name) as r:
        pid = conn_of(server, before)
        for i in range(2000):
            try:
                ours, theirs = r.open()
                r.exec(theirs, "exec", reply=False)
                r.send(raw.CLOSE + 0 if i < 1000 else raw.EOF, u32(theirs))
                if i >= 1000:
                    r.wait(raw.CLOSE, ours)
            except raw.Gone:
                return
            r.heard.clear()
            if i == 500:
                small = resident(pid)
        assert resident(pid) < small + 8192


CONNECT = """python3 -c '
import socket
s = socket.create_connection(("127.0.0.1", %d))
s.settimeout(50)
try:
    print("ended" if s.recv(1) == b"" else "?")
except ConnectionResetError:
    print("ended")
'"""


def listen(r, port=0):
    """-R: the port inside."""
    r.send(raw.GLOBAL, text("tcpip-forward"), b"\1", text("localhost"), u32(port))
    _, body = r.wait(raw.GLOBAL_SUCCESS)
    return int.from_bytes(body[:4], "big")


def test_a_refused_connection_from_inside_ends_there_and_touches_no_other_channel(server, name):
    with Raw(server, name) as r:
        ours, theirs = r.open()
        assert ours == 0
        r.exec(theirs, "cat")
        port = listen(r)
        inside = server.popen(name, CONNECT % port)
        _, body = r.wait(raw.OPEN)
        asked = body[4 + len("forwarded-tcpip"):][:4]
        r.send(raw.OPEN_FAILED, asked, u32(2), text("nobody listens"), text(""))
        with at_most(10):
            assert inside.communicate(timeout=30) == (b"ended\n", b"")
        r.data(theirs, "still here")
        r.wait(raw.DATA, ours)
        assert r.output(ours) == b"still here"
        assert not r.find((raw.EOF, raw.CLOSE), ours)
        r.send(raw.EOF, u32(theirs))
        r.wait(raw.CLOSE, ours)
        assert r.status(ours) == 0


def test_a_connection_from_inside_that_is_answered_too_late(server, name):
    with Raw(server, name) as r:
        ours, theirs = r.open()
        r.exec(theirs, "cat")
        port = listen(r)
        inside = server.popen(name, CONNECT % port)
        _, body = r.wait(raw.OPEN)
        asked = body[4 + len("forwarded-tcpip"):][:4]
        assert inside.communicate(timeout=50) == (b"ended\n", b"")
        r.send(raw.OPENED, asked, u32(77), u32(1 << 20), u32(32768))
        r.wait(raw.CLOSE, 77)
        r.send(raw.CLOSE, asked)
        r.data(theirs, "still here")
        r.wait(raw.DATA, ours)
        assert not r.find((raw.EOF, raw.CLOSE), ours)
        assert r.run("exit 4") == 4


def test_a_forward_ends_with_the_session_that_it_leads_to(server, name):
    inside = server.popen(name, """exec python3 -uc '
import socket
s = socket.socket(); s.bind(("127.0.0.1", 7007)); s.listen(5); print("up")
c = s.accept()[0]; c.sendall(b"last words"); c.recv(1)
'""")
    assert inside.stdout.readline() == b"up\n"
    with Raw(server, name) as r:
        ours, theirs = r.open(kind="direct-tcpip", more=text("127.0.0.1") + u32(7007) + text("here") + u32(1))
        r.wait(raw.DATA, ours)
        assert server.verb("pause", name).status == 0
        r.wait(raw.CLOSE, ours, 20)
        assert r.output(ours) == b"last words"
    inside.kill()
    inside.wait()
