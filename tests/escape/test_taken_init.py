"""A berth-init that was taken: it says to its keeper whatever bytes and descriptors it likes. The session may end, with
a line in the log; the keeper does not hang, the server and other sessions go on, and the session comes back."""

import contextlib
import fcntl
import os
import select
import signal
import socket
import struct

import pytest

from attack import in_cgroup, init_socket, keeper_of, message, send_with_fds, take_fd
from berth_e2e import wait_until

HELLO, DONE = 1, 60
INIT_EXEC, INIT_PTY, INIT_EXITED, INIT_SIGNAL, INIT_READY = 80, 81, 82, 83, 84
INIT_OPEN, INIT_OPENED, INIT_OPEN_FAILED, INIT_OPEN_CANCEL = 86, 87, 88, 89
INIT = 4


def exited(call, status=0, error=0):
    return message(INIT_EXITED, call, status, error, ("u64", 0), ("u64", 0))


CUT = {  # what ends the link, and with it the session
    "one byte": b"\0",
    "nothing that is a message": b"\xff" * 64,
    "an unknown number": message(7777),
    "a number of zero": message(0),
    "the largest packet": b"\x52\0\0\0" + b"A" * 100000,
    "hello a second time": message(HELLO, 1, INIT),
    "a message of the manager's": message(55, 1),
    "a message of a conn's": message(30, 1, 0, b"id", b"", 0, b"", 0, 0, 0, 0),
    "a message of its own keeper's": message(INIT_SIGNAL, 0, 9),
    "a keeper's answer to the manager": message(DONE, 1, 0, b"", 0),
    "a field too short": message(INIT_EXITED, 1, 0),
    "bytes behind the fields": exited(1) + b"x",
    "a terminal without its descriptor": message(INIT_PTY, 1),
    "a socket without its descriptor": message(INIT_OPENED, 1),
    "its own keeper's request for a socket": message(INIT_OPEN, 1, 0, 4, 1, b"\x7f\0\0\1", 22),
    "its own keeper's end of a request": message(INIT_OPEN_CANCEL, 1),
}


def assert_ended_and_came_back(server, session, keeper):
    wait_until("the keeper to end", lambda: not os.path.exists(f"/proc/{keeper}"))
    wait_until("the row", lambda: server.session(session)["state"] == "paused")
    assert server.ssh(session, "cat /workspace/f").out == b"kept\n"
    assert server.session(session)["state"] == "running"
    assert keeper_of(server, session)[0] != keeper


@pytest.mark.parametrize("bytes_of", CUT)
def test_bad_bytes_end_the_session_alone_and_it_comes_back(server, name, bytes_of):
    server.ssh(name, "echo kept > /workspace/f")
    keeper, pid1 = keeper_of(server, name)
    log = len(server.log())
    with init_socket(pid1) as s:
        s.send(CUT[bytes_of])
    assert_ended_and_came_back(server, name, keeper)
    assert f" {name}: init is cut" in server.log()[log:]


def test_a_packet_with_a_descriptor_too_many_ends_the_session_and_leaks_nothing(server, name):
    server.ssh(name, "echo kept > /workspace/f")
    keeper, pid1 = keeper_of(server, name)
    reader, writer = os.pipe()
    with init_socket(pid1) as s:
        send_with_fds(s, exited(1), writer)
    os.close(writer)
    wait_until("the keeper to end", lambda: not os.path.exists(f"/proc/{keeper}"))
    assert os.read(reader, 1) == b"", "nobody holds it any more"
    os.close(reader)
    assert_ended_and_came_back(server, name, keeper)


def test_more_descriptors_than_fit_end_the_session(server, name):
    server.ssh(name, "echo kept > /workspace/f")
    keeper, pid1 = keeper_of(server, name)
    null = os.open("/dev/null", os.O_RDWR)
    with init_socket(pid1) as s:
        send_with_fds(s, message(INIT_PTY, 1), *[null] * 200)
    os.close(null)
    assert_ended_and_came_back(server, name, keeper)


def test_a_closed_link_ends_the_session_and_it_comes_back(server, name):
    server.ssh(name, "echo kept > /workspace/f")
    keeper, pid1 = keeper_of(server, name)
    with init_socket(pid1) as s:
        s.shutdown(socket.SHUT_RDWR)
    assert_ended_and_came_back(server, name, keeper)


def test_words_about_calls_that_do_not_run_are_ignored(server, name):
    server.ssh(name, "echo kept > /workspace/f")
    keeper, pid1 = keeper_of(server, name)
    null = os.open("/dev/null", os.O_RDWR)
    with init_socket(pid1) as s:
        for call in (0, 1, 2, 77, 0xffffffff):
            s.send(exited(call, 0xffffffff, 0xffffffff))
            send_with_fds(s, message(INIT_PTY, call), null)
        s.send(message(INIT_READY, 1))
    os.close(null)
    assert server.ssh(name, "cat /workspace/f").out == b"kept\n"
    assert keeper_of(server, name) == (keeper, pid1)


def test_sockets_that_nobody_asked_for_are_closed_and_nothing_more(server, name):
    """What comes for a request that is there is tried by tests/unit/test_sockets.c: wrong kinds, twice, too late."""
    server.ssh(name, "echo kept > /workspace/f")
    keeper, pid1 = keeper_of(server, name)
    held = len(os.listdir(f"/proc/{keeper}/fd"))
    listener = socket.create_server(("127.0.0.1", 0))
    reader, writer = os.pipe()
    with init_socket(pid1) as s:
        for request in (0, 1, 2, 77, 0xffffffff):
            for fd in (listener.fileno(), writer):
                send_with_fds(s, message(INIT_OPENED, request), fd)
            s.send(message(INIT_OPEN_FAILED, request, 0xffffffff))
    os.close(writer)
    assert os.read(reader, 1) == b"", "nobody holds it any more"
    os.close(reader)
    listener.close()
    assert server.ssh(name, "cat /workspace/f").out == b"kept\n"
    assert keeper_of(server, name) == (keeper, pid1)
    wait_until("the keeper to hold what it held", lambda: len(os.listdir(f"/proc/{keeper}/fd")) <= held)


@contextlib.contextmanager
def lingering():
    """A socket whose last close waits for a peer that takes nothing: for an hour, if nobody objects."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        peer, _ = listener.accept()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 3600))
        client.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                client.send(b"x" * 65536)
        yield client
        peer.close()  # with what it did not read: whoever still waits is let go


def give_away(link, packet, sock, keeper):
    """Sends the only descriptor of a socket: whoever drops it closes it. The keeper looks when ours is closed."""
    os.kill(keeper, signal.SIGSTOP)
    fd = sock.detach()
    send_with_fds(link, packet, fd)
    os.close(fd)
    os.kill(keeper, signal.SIGCONT)


@pytest.mark.parametrize("packet", [message(INIT_OPENED, 7), message(INIT_PTY, 1)], ids=["socket", "terminal"])
def test_a_socket_that_lingers_does_not_hang_the_keeper(server, name, packet):
    server.ssh(name, "echo kept > /workspace/f")
    keeper, pid1 = keeper_of(server, name)
    with init_socket(pid1) as s, lingering() as sock:
        give_away(s, packet, sock, keeper)
        assert server.ssh(name, "cat /workspace/f", timeout=20).out == b"kept\n"
    assert keeper_of(server, name) == (keeper, pid1)


def test_a_socket_that_lingers_does_not_hold_up_the_end_of_a_link(server, name):
    server.ssh(name, "echo kept > /workspace/f")
    keeper, pid1 = keeper_of(server, name)
    with init_socket(pid1) as s, lingering() as sock:
        give_away(s, exited(1), sock, keeper)
        assert_ended_and_came_back(server, name, keeper)


@pytest.mark.parametrize("status,error", [(0xffffffff, 0), (0x7f, 0), (0x137f, 0), (0, 0xffffffff), (0xffff, 2), (0x80, 0)])
def test_a_lie_about_a_call_that_runs_ends_that_call_alone(server, name, status, error):
    server.ssh(name, "echo kept > /workspace/f")
    keeper, pid1 = keeper_of(server, name)
    p = server.popen(name, "echo up; exec sleep 1000")
    assert p.stdout.readline() == b"up\n"
    with init_socket(pid1) as s:
        for call in range(1, 9):
            s.send(exited(call, status, error))
    assert p.wait(30) >= 0
    assert server.ssh(name, "cat /workspace/f").out == b"kept\n"
    assert server.verb("call", "show", server.json("calls", name)[1]["call"]).status == 0
    assert server.verb("pause", name, "--force").status == 0


def test_a_flood_of_messages_starves_neither_the_session_nor_the_server(server, name):
    server.ssh(name, "true")
    keeper, pid1 = keeper_of(server, name)
    flood = os.fork()
    if flood == 0:
        s = init_socket(pid1)
        packet = exited(0xfffffff0)
        while True:
            try:
                s.send(packet)
            except BlockingIOError:
                select.select([], [s], [], 1)
            except OSError:
                os._exit(0)
    try:
        for i in range(5):
            assert server.ssh(name, f"echo {i}").out == b"%d\n" % i
            assert server.ssh("bystander", "echo alive").out == b"alive\n"
        assert server.verb("pause", name).status == 0
    finally:
        os.kill(flood, signal.SIGKILL)
        os.waitpid(flood, 0)
    assert server.ssh(name, "echo again").out == b"again\n"


# ---- wrong kinds of descriptors for a terminal ----

def descriptors():
    reader, writer = os.pipe()
    yield "null", os.open("/dev/null", os.O_RDWR)
    yield "pipe", reader
    yield "directory", os.open("/", os.O_RDONLY)
    yield "file", os.open("/etc/hostname", os.O_RDONLY)
    yield "path", os.open("/dev/null", os.O_PATH)
    yield "socket", socket.socket().detach()
    poll = select.epoll()
    yield "epoll", os.dup(poll.fileno())
    master, slave = os.openpty()
    os.close(master)
    yield "slave", slave


@pytest.fixture
def stopped_pty(server, name):
    """A call with a terminal whose init is stopped before it could answer: (its process, the link, the number of it)."""
    server.ssh(name, "echo kept > /workspace/f")
    keeper, pid1 = keeper_of(server, name)
    os.kill(pid1, signal.SIGSTOP)
    p = server.popen(name, "cat", options=["-tt"])
    s = init_socket(pid1)
    wait_until("init_exec", lambda: select.select([s], [], [], 0)[0])
    peek = s.recv(65536, socket.MSG_PEEK)
    kind, number = struct.unpack("<II", peek[:8])
    assert kind == INIT_EXEC
    yield p, s, number, keeper, pid1
    s.close()
    if os.path.exists(f"/proc/{pid1}"):
        os.kill(pid1, signal.SIGCONT)
    p.kill()
    p.communicate()


def test_what_is_no_terminal_is_not_taken_for_one(server, name, stopped_pty):
    p, s, number, keeper, pid1 = stopped_pty
    for kind, fd in descriptors():
        send_with_fds(s, message(INIT_PTY, number), fd)
        os.close(fd)
    os.kill(pid1, signal.SIGCONT)
    p.stdin.write(b"hello\n\x04")
    p.stdin.flush()
    assert p.wait(30) == 0 and b"hello" in p.stdout.read()
    assert server.ssh(name, "cat /workspace/f").out == b"kept\n"
    held = [os.stat(f"/proc/{keeper}/fd/{n}") for n in os.listdir(f"/proc/{keeper}/fd")]
    for path in ("/", "/etc/hostname"):
        assert not any(os.path.samestat(os.stat(path), h) for h in held), f"the keeper still holds {path}"


# ---- what it is given ----

def directories_of(keeper):
    return [int(n) for n in os.listdir(f"/proc/{keeper}/fd") if os.path.isdir(f"/proc/{keeper}/fd/{n}")]


@in_cgroup
def test_from_the_cgroup_that_init_is_given_no_way_leads_up_to_the_node(server, name):
    """Init gets a directory of box for each call: with ".." a taken one must not leave box, let alone reach the node's /."""
    server.ssh(name, "true")
    keeper, _ = keeper_of(server, name)
    roots, seen = set(), []
    for number in directories_of(keeper):
        if "cgroup" not in os.readlink(f"/proc/{keeper}/fd/{number}") and not os.path.exists(f"/proc/{keeper}/fd/{number}/cgroup.procs"):
            continue
        box = take_fd(keeper, number)
        up = os.open("../../../../../..", os.O_PATH | os.O_DIRECTORY, dir_fd=box)
        roots.add(os.fstat(up).st_ino)
        seen.append(os.fstat(box).st_ino)
        os.close(up)
        os.close(box)
    assert len(seen) == 2, "box, and the next call's directory in it"
    [root] = roots
    assert root in seen, "from both the way up ends at box"


def test_a_terminal_made_blocking_by_init_does_not_hang_the_keeper(server, name):
    server.ssh(name, "echo kept > /workspace/f")
    keeper, _ = keeper_of(server, name)
    p = server.popen(name, "stty -echo; echo up; while read x; do echo got $x; done; echo end", options=["-tt"])
    assert p.stdout.readline() == b"up\r\n"
    [number] = {os.stat(f"/proc/{keeper}/fd/{n}").st_rdev: int(n) for n in os.listdir(f"/proc/{keeper}/fd")
                if os.readlink(f"/proc/{keeper}/fd/{n}") == "/dev/pts/ptmx"}.values()
    master = take_fd(keeper, number)  # as a taken init would have kept it
    for i in range(3):
        fcntl.fcntl(master, fcntl.F_SETFL, os.O_RDWR)
        p.stdin.write(b"%d\n" % i)
        p.stdin.flush()
        assert p.stdout.readline() == b"got %d\r\n" % i
        assert server.ssh(name, "cat /workspace/f", timeout=20).out == b"kept\n"
    fcntl.fcntl(master, fcntl.F_SETFL, os.O_RDWR)
    p.stdin.write(b"\x04")
    p.stdin.flush()
    os.close(master)
    assert p.stdout.read() == b"end\r\n" and p.wait(20) == 0
