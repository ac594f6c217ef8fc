"""Sessions that are started before anybody wants them: who takes one, what becomes of the others."""
import contextlib
import hashlib
import os
import pathlib
import signal

import conftest
import pytest
from conftest import wait_until

SPARES = 3


def sql(server, statement, *values):
    import sqlite3
    with sqlite3.connect(server.state / "index.db") as db:
        return db.execute(statement, values).fetchall()


def keepers(server):
    return {pid for pid, what in server.all_pids() if what == "berth-keeper"}


def directories(server):
    return {p.name for p in (server.state / "spares").iterdir()}


def inits(server):
    """Keepers whose pid 1 runs: the spares are ready, or nearly."""
    found = set()
    for pid in keepers(server):
        with contextlib.suppress(OSError):  # one that was about to launch has ended
            if pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().strip():
                found.add(pid)
    return found


@pytest.fixture
def spared():
    """A server whose spares are there."""
    with conftest.running(f"spares = {SPARES}\n") as server:
        wait_until("the spares", lambda: server.log_path.exists() and len(inits(server)) == SPARES)
        yield server


def test_a_first_channel_takes_a_spare_which_has_its_name_from_then_on(spared, name):
    server, before = spared, inits(spared)
    assert server.json("ls") == []
    r = server.ssh(name, "cat /proc/sys/kernel/hostname; echo x > a; cat a")
    assert r.out == f"{name}\nx\n".encode(), r
    mine = server.session(name)["id"]
    assert mine not in directories(server) and (server.state / "sessions" / mine / "upper.1" / "fs").is_dir()
    assert mine in {p.name for p in (server.run / "keepers").iterdir()}
    wait_until("another one", lambda: len(inits(server)) == SPARES + 1)
    assert before <= inits(server), "it was one of those that were there"
    assert [s["name"] for s in server.json("ls")] == [name]


def test_each_has_its_own_ids_and_none_is_taken_twice(spared, name):
    server = spared
    names = [f"{name}-{i}" for i in range(2 * SPARES + 2)]
    children = [server.popen(n, "cat /proc/self/uid_map; cat /proc/sys/kernel/hostname") for n in names]
    outs = [c.communicate(timeout=60)[0].decode().split() for c in children]
    assert [o[-1] for o in outs] == names
    assert len({o[1] for o in outs}) == len(names), outs
    assert len({s["id"] for s in server.json("ls")}) == len(names)


def test_what_asks_for_more_than_a_name_is_started_for_itself(spared, name):
    server, before = spared, directories(spared)
    assert server.verb("new", name, "--files", "277").status == 0
    assert server.session(name)["id"] not in before
    assert server.ssh(name, "ulimit -Hn").out == b"277\n"
    assert server.verb("new", name + "-plain").status == 0
    assert server.session(name + "-plain")["id"] in before


def test_a_spare_that_dies_is_replaced(spared, name):
    server, before = spared, directories(spared)
    for pid in keepers(server):
        os.kill(pid, signal.SIGKILL)
    wait_until("new ones", lambda: len(directories(server)) == SPARES and not directories(server) & before
               and len(inits(server)) == SPARES)
    assert server.ssh(name, "echo works").out == b"works\n"


def test_spares_end_with_a_killed_manager_and_the_next_one_cleans_up(spared):
    server, before = spared, directories(spared)
    server.kill()
    wait_until("the spares to end", lambda: not server.all_pids())
    server.start()
    wait_until("new ones", lambda: len(inits(server)) == SPARES)
    assert not directories(server) & before
    assert not {p.name for p in (server.run / "keepers").iterdir()} & before


def test_spares_end_with_a_manager_that_leaves_its_sessions_running(spared, name):
    server = spared
    call = server.popen(name, "echo ready; read x; echo got $x")
    assert call.stdout.readline() == b"ready\n"
    mine = server.session(name)["id"]
    assert server.stop(signal.SIGTERM) == 0
    wait_until("the others to end", lambda: len(keepers(server)) == 1)
    assert directories(server) == set()
    assert {p.name for p in (server.run / "keepers").iterdir()} == {mine}
    server.start()
    assert call.communicate(b"y\n", timeout=30)[0] == b"got y\n"


def test_what_has_a_row_is_a_session_wherever_its_directory_is(spared, name):
    """The manager died, or the power was cut, between a claim's row and its rename."""
    server = spared
    assert server.ssh(name, "echo x > a; sync").status == 0
    mine = server.session(name)["id"]
    server.kill()
    for pid in keepers(server):
        os.kill(pid, signal.SIGKILL)
    wait_until("all to end", lambda: not server.all_pids())
    sql(server, "UPDATE sessions SET state='new' WHERE name=?", name)
    (server.state / "sessions" / mine).rename(server.state / "spares" / mine)
    server.start()
    assert server.session(name)["unclean"]
    assert server.ssh(name, "cat a").out == b"x\n"


def test_without_spares_each_start_is_its_own(name):
    with conftest.running("spares = 0\n") as server:
        assert server.ssh(name, "cat /proc/sys/kernel/hostname").out == f"{name}\n".encode()
        assert len(keepers(server)) == 1 and directories(server) == set()


def cgroups(server):
    """Its directories in all hierarchies, named after the path of its state."""
    mine = "berth-" + hashlib.sha256(str(server.state).encode()).hexdigest()[:8]
    return sorted(str(p) for where in ("", "*/") for p in pathlib.Path("/sys/fs/cgroup").glob(f"{where}{mine}/**/"))


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGKILL])
def test_spares_in_the_making_leave_nothing_when_their_manager_ends(sig):
    """A process that mounts and a keeper that starts its pid 1 are stopped wherever they are. Each round stops a little
    later: the moments are meant to fall anywhere."""
    server = conftest.make_server("spares = 12\n")
    try:
        for rest in range(40):
            server.start()
            wait_until("some", lambda: len(directories(server)) > rest % 8, 60)
            if sig == signal.SIGKILL:
                server.kill()
                server.start()  # while they end
            assert server.stop(signal.SIGTERM) == 0, server.log()[-3000:]
            assert cgroups(server) == [], (rest, server.log()[-3000:])
            wait_until("all to end", lambda: not server.all_pids())
            assert directories(server) == set() == {p.name for p in (server.run / "keepers").iterdir()}
            assert str(server.base) not in pathlib.Path("/proc/mounts").read_text()
        server.remove()
    finally:
        server.discard()
