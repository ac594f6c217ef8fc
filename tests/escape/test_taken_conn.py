"""A berth-conn that was taken: it says to the manager whatever bytes and descriptors it likes. Its connection is cut; the
manager waits for nothing."""
import contextlib
import os
import signal
import socket

import pytest

from attack import message, send_with_fds, take_fd
from berth_e2e import at_most, wait_until
from test_taken_init import lingering

VERB_CANCEL = 20


@pytest.mark.parametrize("sent", ["one too many", "behind what is cut", "more than fit"])
def test_a_socket_that_lingers_does_not_hang_the_manager(server, name, sent):
    server.ssh(name, "true")
    wait_until("earlier connections to end", lambda: not [pid for pid, what in server.keeper_pids() if what == "berth-conn"])
    p = server.popen(name, "echo up; exec sleep 1000")
    assert p.stdout.readline() == b"up\n"
    [conn] = [pid for pid, what in server.keeper_pids() if what == "berth-conn"]
    log = len(server.log())
    with contextlib.ExitStack() as stack:
        link = stack.enter_context(socket.socket(fileno=take_fd(conn, 3)))
        fds = [stack.enter_context(lingering()).detach() for _ in range(3)]
        os.kill(server.process.pid, signal.SIGSTOP)
        if sent == "one too many":
            send_with_fds(link, message(VERB_CANCEL, 1), *fds)
        elif sent == "behind what is cut":
            link.send(b"\xff" * 64)
            for fd in fds:
                send_with_fds(link, message(VERB_CANCEL, 1), fd)
        else:
            nulls = [os.open("/dev/null", os.O_RDWR) for _ in range(40)]
            send_with_fds(link, message(VERB_CANCEL, 1), *nulls, *fds)
            fds += nulls
        for fd in fds:
            os.close(fd)
        os.kill(server.process.pid, signal.SIGCONT)
        with at_most(15):
            assert server.verb("ls", timeout=15).status == 0
        assert "connection from 127.0.0.1:" in server.log()[log:] and " is cut" in server.log()[log:]
        p.kill()  # its calls go on without the manager, as after a restart of it
        assert p.wait(20) != 0
    assert server.ssh(name, "echo alive").out == b"alive\n"
