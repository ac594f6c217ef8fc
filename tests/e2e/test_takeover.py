"""The manager dies: calls, connections and files go on; the table of DESIGN section 2."""
import os
import signal
import subprocess
import sys

from conftest import wait_until


def sql(server, statement, *values):
    subprocess.run([sys.executable, "-c", "import sqlite3,sys; c=sqlite3.connect(sys.argv[1]); "
                    "c.execute(sys.argv[2], sys.argv[3:]); c.commit()", server.state / "index.db", statement, *values],
                   check=True)


def test_a_calls_output_and_exit_arrive_though_the_manager_was_killed(own_server, name):
    server = own_server
    call = server.popen(name, "echo before; read x; echo after-$x; exit 9")
    assert call.stdout.readline() == b"before\n"
    server.kill()
    out, _ = call.communicate(b"word\n", timeout=30)
    assert (out, call.returncode) == (b"after-word\n", 9)
    server.start()
    row = server.json("calls", name)[0]
    assert (row["exit_status"], row["ended_by"], row["stdout_bytes"]) == (9, "itself", 18), row


def test_a_connection_goes_on_with_the_next_manager(own_server, name):
    """New channels on the old connection, also after a pause under the new manager."""
    import asyncio
    import asyncssh
    server = own_server

    async def run():
        async with asyncssh.connect("127.0.0.1", server.port, username=name, known_hosts=None,
                                    client_keys=[str(server.key)]) as c:
            assert (await c.run("echo 1 > a; cat a")).stdout == "1\n"
            server.kill()
            assert (await c.run("cat a")).stdout == "1\n"
            server.start()
            assert (await c.run("cat a")).stdout == "1\n"
            loop = asyncio.get_running_loop()
            assert (await loop.run_in_executor(None, lambda: server.verb("pause", name))).status == 0
            r = await c.run("cat a")
            assert r.stdout == "1\n", (r.stdout, r.stderr, r.exit_status)

    asyncio.run(run())


def test_a_running_session_without_its_keeper_is_paused_and_unclean(own_server, name):
    server = own_server
    call = server.popen(name, "echo x > /workspace/a; sync; echo ready; exec sleep 300")
    assert call.stdout.readline() == b"ready\n"
    server.kill()
    for pid, what in server.keeper_pids():
        if what == "berth-keeper":
            os.kill(pid, signal.SIGKILL)
    call.communicate(timeout=30)
    server.start()
    row = server.session(name)
    assert row["state"] == "paused" and row["unclean"], row
    assert server.json("calls", name)[0]["ended_by"] == "lost"
    assert server.ssh(name, "cat a").out == b"x\n"
    assert server.verb("pause", name).status == 0
    assert not server.session(name)["unclean"]


def test_a_keeper_that_dies_under_a_living_manager_leaves_the_files(own_server, name):
    server = own_server
    server.ssh(name, "echo x > a")
    for pid, what in server.keeper_pids():
        if what == "berth-keeper":
            os.kill(pid, signal.SIGKILL)
    wait_until("the session to be paused", lambda: server.session(name)["state"] == "paused")
    assert server.session(name)["unclean"]
    assert server.ssh(name, "cat a").out == b"x\n"


def test_every_other_state_of_the_table(own_server):
    """The states are written into the index of a stopped server, with and without a keeper."""
    server = own_server
    for s in ("resuming", "paused", "failed", "restoring", "pausing"):
        for keeper in ("with", "without"):
            assert server.ssh(f"{s}-{keeper}", "echo x > a").status == 0
            if keeper == "without":
                assert server.verb("pause", f"{s}-{keeper}").status == 0
    assert server.ssh("new-with", "echo x > a").status == 0
    server.kill()
    for s in ("new", "resuming", "paused", "failed", "restoring", "pausing"):
        sql(server, "UPDATE sessions SET state=?, fence=fence+1 WHERE name LIKE ?", s, s + "-%")
    server.start()
    states = {r["name"]: (r["state"], r["unclean"]) for r in server.json("ls")}
    assert states["new-with"] == ("paused", True), states
    assert states["pausing-with"][0] == "running" and states["restoring-with"][0] == "running", states
    assert states["pausing-without"] == ("paused", True) and states["restoring-without"] == ("paused", True), states
    assert states["resuming-with"] == ("paused", True) and states["resuming-without"] == ("paused", False), states
    assert states["paused-with"][0] == "paused" and states["paused-without"] == ("paused", False), states
    assert states["failed-with"][0] == "failed" and states["failed-without"][0] == "failed", states
    for n in states:
        assert server.ssh(n, "cat a").out == b"x\n", (n, states[n])


def test_a_power_cut_that_takes_running_back_loses_no_file(own_server, name):
    """`running` is not synced for itself: the row is then as the start left it, and no keeper lives."""
    server = own_server
    for state in ("new", "resuming"):
        session = f"{name}-{state}"
        assert server.ssh(session, "echo x > a").status == 0
        if state == "resuming":
            assert server.verb("pause", session).status == 0
            assert server.ssh(session, "echo y >> a").status == 0
    server.kill()
    for pid, what in server.keeper_pids():
        if what == "berth-keeper":
            os.kill(pid, signal.SIGKILL)
    wait_until("the keepers to end", lambda: not server.keeper_pids())
    for state in ("new", "resuming"):
        sql(server, "UPDATE sessions SET state=?, fence=fence+1 WHERE name=?", state, f"{name}-{state}")
    server.start()
    for state, there in (("new", b"x\n"), ("resuming", b"x\ny\n")):
        row = server.session(f"{name}-{state}")
        assert (row["state"], row["unclean"]) == ("paused", True), row
        assert server.ssh(f"{name}-{state}", "cat a").out == there


def test_a_session_made_whose_start_never_began_is_kept(own_server, name):
    server = own_server
    assert server.ssh(name, "true").status == 0
    assert server.verb("pause", name).status == 0
    server.kill()
    sql(server, "UPDATE sessions SET state='new', upper=upper+1, fence=fence+1 WHERE name=?", name)
    server.start()
    row = server.session(name)
    assert (row["state"], row["unclean"]) == ("paused", False), row


def test_sigterm_leaves_sessions_running_and_sigint_pauses_them(own_server, name):
    server = own_server
    call = server.popen(name, "echo ready; read x; echo got $x")
    assert call.stdout.readline() == b"ready\n"
    assert server.stop(signal.SIGTERM) == 0
    server.start()
    out, _ = call.communicate(b"y\n", timeout=30)
    assert out == b"got y\n"
    assert server.stop(signal.SIGINT) == 0
    server.start()
    assert server.session(name)["state"] == "paused"
