"""That nothing is lost: cut links, killed managers and stopped readers; journals past their bound. tests/bench/survive and
tests/bench/punch are the long forms."""
import asyncio
import signal
import subprocess

import punch
import pytest
import survive
from conftest import running, wait_until


@pytest.fixture(scope="module")
def small():
    """Its journals keep 4 MiB."""
    with running(f"journal_max = {4 * punch.MIB}\n") as server:
        yield server


def test_what_came_through_cuts_a_killed_manager_and_stops_is_what_was_printed(own_server, name):
    own_server.ssh(name, "true")
    wrong, _ = asyncio.run(survive.run(own_server, name, cuts=5, stopped_lines=160))
    assert wrong == []


def test_stdin_through_cut_links_is_read_once_and_whole(server, name, tmp_path):
    sent = tmp_path / "sent"
    sent.write_bytes(punch.written(0, 24 * punch.MIB + 7))
    server.ssh(name, "true")
    got = asyncio.run(survive.upload(server, name, sent, cuts=6))
    assert got == (3, [punch.sum_of(24 * punch.MIB + 7).encode()], b"begun\n")


def test_stdin_that_a_busy_keeper_did_not_hear_of_yet_is_not_given_twice(own_server, name):
    own_server.ssh(name, "true")
    [keeper] = [pid for pid, what in own_server.keeper_pids() if what == "berth-keeper"]
    data = punch.written(0, 96 * punch.MIB)
    got = asyncio.run(survive.upload_past(own_server, name, data, 90 * punch.MIB, keeper))
    assert got == (3, [punch.sum_of(len(data)).encode()], b"begun\n")


def test_past_its_bound_a_journal_tells_of_every_byte_that_it_dropped_and_drops_none_of_its_owners(small, name):
    wrong, what = punch.run(small, name, 50 * punch.MIB + 12345, 4 * punch.MIB, 24 * punch.MIB + 5)
    assert wrong == [], what


# Writes until its stdout has taken nothing for a second, tells how much that was, and ends.
FILL = r"""import os, select
os.set_blocking(1, False)
block = b''.join(b'%015d\n' % i for i in range(65536))
n = 0
while select.select([], [1], [], 1)[1]:
    n += os.write(1, block[n % len(block):][:65536])
open('count', 'w').write(str(n))
"""


@pytest.mark.parametrize("options", [(), ("-o", "SetEnv=BERTH_WAIT=all")], ids=["plain", "wait-all"])
def test_what_the_pipes_hold_when_a_command_ends_reaches_an_owner_that_stopped(small, name, options):
    server = small
    server.ssh(name, "cat > fill.py", stdin=FILL.encode())
    owner = server.popen(name, "python3 fill.py", options=options, stdin=subprocess.DEVNULL, bufsize=0)
    got = punch.read_some(owner, 1)
    owner.send_signal(signal.SIGSTOP)
    wait_until("its end", lambda: server.ssh(name, "cat count 2>/dev/null").out, 60)
    wait_until("its end", lambda: not next(c for c in server.json("calls", name) if c["command"] == "python3 fill.py")["live"])
    owner.send_signal(signal.SIGCONT)
    rest, err = owner.communicate(timeout=60)
    n = int(server.ssh(name, "cat count").out)
    assert (len(got + rest), err, owner.returncode) == (n, b"", 0)
    assert got + rest == (b"".join(b"%015d\n" % i for i in range(65536)) * (n // punch.MIB + 1))[:n]
