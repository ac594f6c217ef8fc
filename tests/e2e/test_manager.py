"""What the manager must not do: nest, forget, wait for ever, answer for somebody else. Each was a defect once."""
import asyncio
import ctypes
import json
import os
import signal
import socket
import sqlite3
import time

import asyncssh

from conftest import at_most, wait_until


def pid_of(server, what):
    return next(p for p, n in server.keeper_pids() if n == what)


def foreign_fd(pid, fd):
    """A duplicate of another process's descriptor (pidfd_getfd)."""
    libc = ctypes.CDLL(None, use_errno=True)
    pidfd = libc.syscall(434, pid, 0)
    copy = libc.syscall(438, pidfd, fd, 0)
    os.close(pidfd)
    assert copy >= 0, os.strerror(ctypes.get_errno())
    return copy


def test_a_keeper_that_lost_its_link_is_ended_and_its_files_are_kept(own_server, name):
    server = own_server
    server.ssh(name, "echo x > a")
    keeper = pid_of(server, "berth-keeper")
    with socket.socket(fileno=foreign_fd(keeper, 3)) as link:
        link.shutdown(socket.SHUT_RDWR)
    wait_until("its end", lambda: not os.path.exists(f"/proc/{keeper}"))
    wait_until("the row", lambda: server.session(name)["state"] == "paused")
    assert server.session(name)["unclean"]
    assert server.verb("pause", name).status == 0
    assert server.ssh(name, "cat a").out == b"x\n"
    assert len(server.json("snapshots", name)) == 1


def test_the_same_layer_twice_in_a_chain_starts(server, name):
    server.ssh(name, "true")
    server.verb("pause", name)  # what a first start makes by itself
    for _ in range(2):
        assert server.ssh(name, "touch -d @1 /workspace/f /workspace /").status == 0
        assert server.verb("pause", name).status == 0
    head = server.json("snapshots", name)[-1]["snapshot"].split(":")[1]
    layers = json.loads((server.state / "store/blobs/sha256" / head).read_text())["layers"]
    assert len(layers) == 3 and layers[1]["digest"] == layers[2]["digest"], "else this tests nothing"
    assert server.ssh(name, "ls").out == b"f\n"


def test_call_records_outlast_a_busy_index(own_server, name):
    server = own_server
    server.ssh(name, "true")
    lock = sqlite3.connect(server.state / "index.db", isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    for i in range(3):
        assert server.ssh(name, f"echo locked {i}").status == 0
    wait_until("a failed commit", lambda: "call records wait" in server.log())
    lock.execute("ROLLBACK")
    lock.close()
    for i in range(2):
        server.ssh(name, f"echo after {i}")
    wait_until("all six", lambda: len([c for c in server.json("calls", name) if c["ended_by"]]) == 6)


def test_a_cancelled_verb_takes_no_other_with_it(own_server, name):
    server = own_server
    server.ssh(name, "true")

    async def run():
        async with asyncssh.connect("127.0.0.1", server.port, username=name, known_hosts=None,
                                    client_keys=[str(server.key)]) as work, \
                asyncssh.connect("127.0.0.1", server.port, username="berth", known_hosts=None,
                                 client_keys=[str(server.key)]) as c:
            stubborn = await work.create_process("trap '' TERM; echo ready; while :; do sleep 0.1; done")
            await stubborn.stdout.readline()
            pause = asyncio.create_task(c.run(f"pause {name} --grace 1s"))
            await asyncio.to_thread(wait_until, "the pause", lambda: server_state() == "pausing")
            dropped = await c.create_process(f"show {name}x")
            dropped.close()
            resume = await c.create_process(f"resume {name}")
            cancelled = await c.create_process(f"resume {name}")
            cancelled.close()
            assert (await asyncio.wait_for(pause, 20)).exit_status == 0
            assert (await asyncio.wait_for(resume.wait(), 20)).exit_status == 0

    def server_state():
        return server.session(name)["state"]

    asyncio.run(run())


def test_hundreds_of_starts_that_fail_at_once_do_not_nest(own_server, name):
    server = own_server
    server.ssh(name, "echo x > a")
    assert server.verb("pause", name).status == 0
    session = next((server.state / "sessions").iterdir())
    os.rename(session / "spill", session / "spill.aside")
    (session / "spill").write_bytes(b"in the way")

    async def run():
        async with asyncssh.connect("127.0.0.1", server.port, username="berth", known_hosts=None,
                                    client_keys=[str(server.key)]) as c:
            rs = await asyncio.gather(*(c.run(f"resume {name}") for _ in range(200)))
            assert all(r.exit_status != 0 and r.stderr.startswith("berth: resume ") for r in rs)

    asyncio.run(run())
    (session / "spill").unlink()
    os.rename(session / "spill.aside", session / "spill")
    assert server.ssh(name, "cat a").out == b"x\n"


def test_resting_and_deleted_sessions_hold_no_descriptor(own_server):
    server = own_server
    server.ssh("first", "true")
    server.verb("rm", "first")
    count = lambda: len(os.listdir(f"/proc/{server.process.pid}/fd"))  # noqa: E731
    wait_until("quiet", lambda: server.session("first") is None)
    before = count()
    for i in range(12):
        assert server.ssh(f"s{i}", "echo x > a").status == 0
        assert server.verb("rm" if i % 2 else "pause", f"s{i}").status == 0
    wait_until("no more than before", lambda: count() <= before + 1)


def test_an_answer_too_large_is_refused_with_a_hint(own_server, name):
    server = own_server
    server.ssh(name, "true")
    sid = server.session(name)["id"]
    assert server.stop() == 0
    c = sqlite3.connect(server.state / "index.db")
    c.executemany("INSERT INTO calls(id,session,principal,command,started_ns,ended_by) VALUES(?,?,?,?,?,'itself')",
                  [(f"c_{i:016d}", sid, "p", "x" * 500, i) for i in range(12000)])
    c.commit()
    c.close()
    server.start()
    r = server.verb("calls", name, "--limit 20000 --json")
    assert r.status == 64 and "--limit" in r.stderr and r.out == b"", r.err
    assert len(server.json("calls", name, "--limit", "2000")) == 2000


def test_a_grace_of_nothing_is_nothing(server, name):
    call = server.popen(name, "trap '' TERM; echo ready; while :; do sleep 0.1; done")
    assert call.stdout.readline() == b"ready\n"
    with at_most(seconds=4):  # the default would be 5
        assert server.verb("pause", name, "--grace 0s").status == 0
    call.communicate(timeout=30)


def test_an_exec_of_a_client_that_went_away_wakes_nobody(own_server, name):
    server = own_server
    holder = server.popen(name, "trap '' TERM; echo ready; while :; do sleep 0.1; done")
    assert holder.stdout.readline() == b"ready\n"
    pause = server.popen("berth", f"pause {name} --grace 1s")
    wait_until("the pause", lambda: server.session(name)["state"] == "pausing")
    gone = server.popen(name, "echo never")
    conns = {p for p, n in server.keeper_pids() if n == "berth-conn"}
    wait_until("its connection", lambda: len({p for p, n in server.keeper_pids() if n == "berth-conn"}) >= len(conns))
    gone.kill()
    gone.communicate()
    assert pause.wait(30) == 0
    pause.communicate()
    holder.communicate(timeout=30)
    assert server.verb("ls").status == 0
    time_limit = time.monotonic() + 1
    while time.monotonic() < time_limit:
        assert server.session(name)["state"] == "paused"


def test_sigint_ends_with_all_paused_though_clients_keep_coming(own_server, name):
    server = own_server
    server.ssh(name, "true")

    async def hammer(stop, busy):
        async with asyncssh.connect("127.0.0.1", server.port, username=name, known_hosts=None,
                                    client_keys=[str(server.key)]) as c:
            while not stop.is_set():
                try:
                    await c.run("true")
                    busy.set()
                except (asyncssh.Error, OSError):
                    return

    async def run():
        stop = asyncio.Event()
        busy = asyncio.Event()
        task = asyncio.create_task(hammer(stop, busy))
        await asyncio.wait_for(busy.wait(), 30)
        server.process.send_signal(signal.SIGINT)
        await asyncio.get_running_loop().run_in_executor(None, server.process.wait, 60)
        stop.set()
        await task

    asyncio.run(run())
    assert server.process.returncode == 0
    server.process.stdout.close()
    server.start()
    assert server.session(name)["state"] == "paused"


def test_restore_to_a_snapshot_that_the_pause_before_it_replaced(own_server, name):
    """Snapshot A of a pause is listed until B makes it one with both; a restore that was queued then must not follow it."""
    server = own_server
    server.ssh(name, "echo one > a")
    call = server.popen(name, "trap 'echo late > late' TERM; echo ready; while :; do sleep 0.1; done")
    assert call.stdout.readline() == b"ready\n"
    pause = server.popen("berth", f"pause {name} --grace 2s")
    listed = wait_until("snapshot A", lambda: server.json("snapshots", name))
    restore = server.popen("berth", f"restore {name} {listed[0]['snapshot']}")
    assert pause.wait(30) == 0
    _, err = restore.communicate(timeout=30)
    assert restore.returncode == 66 and b"not there any more" in err, err
    pause.communicate()
    call.communicate(timeout=30)
    assert server.ssh(name, "cat a late").out == b"one\nlate\n"
    assert server.verb("rm", name).status == 0
