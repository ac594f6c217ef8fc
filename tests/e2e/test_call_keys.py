"""BERTH_CALL: the same key is the same call. It is begun once, whatever dies, and every channel that asks for it gets
all of its output and its end."""
import concurrent.futures
import os
import pathlib
import signal
import subprocess
import time

import pytest
from conftest import at_most, running, wait_until


def options(*values):
    return ("-o", "SetEnv=" + " ".join(values))


def call(server, name, key, command, *values, stdin=b"", **kw):
    return server.ssh(name, command, stdin=stdin, options=options(f"BERTH_CALL={key}", *values), **kw)


def begin(server, name, key, command, *values):
    return server.popen(name, command, options=options(f"BERTH_CALL={key}", *values))


def drop(client):
    """The link is cut: the client is gone without a word."""
    client.kill()
    client.wait()


def kill_keeper(server):
    """The keepers of sessions: of tests with one session, that one."""
    for pid, what in server.keeper_pids():
        if what == "berth-keeper":
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("key,words", [("", "not 1 to 128"), ("k" * 129, "not 1 to 128"), ("a\x01b", "not printable"),
                                       ("schl\u00fcssel", "not printable")])
def test_what_is_no_key_is_refused(server, name, key, words):
    r = call(server, name, key, "echo ran")
    assert r.status == 64 and r.out == b"" and "BERTH_CALL" in r.stderr and words in r.stderr, r


def test_fifty_clients_race_with_one_key_and_it_runs_once(server, name):
    command = "echo run >> count; echo out; echo err >&2; sleep 0.3; echo more; exit 7"
    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        got = list(pool.map(lambda _: call(server, name, "race", command, timeout=120), range(50)))
    assert {(r.status, r.out, r.err) for r in got} == {(7, b"out\nmore\n", b"err\n")}
    assert server.ssh(name, "cat count").out == b"run\n"
    assert len([c for c in server.json("calls", name) if c["command"] == command]) == 1


def test_a_second_channel_reads_from_the_start_while_it_runs(server, name):
    server.ssh(name, "mkfifo go")
    command = "echo one; read x < go; echo two $x; exit 3"
    first = begin(server, name, "k", command)
    assert first.stdout.readline() == b"one\n"
    second = begin(server, name, "k", command)
    assert second.stdout.readline() == b"one\n"
    server.ssh(name, "echo now > go")
    for client in (first, second):
        out, err = client.communicate(timeout=30)
        assert (out, err, client.returncode) == (b"two now\n", b"", 3)


def test_a_replay_is_the_same_out_err_and_signal(server, name):
    command = "echo out; echo err >&2; head -c 300000 /dev/zero | tr '\\0' x; kill -SEGV $$"
    first = call(server, name, "k", command)
    assert first.status == 255 and len(first.out) == 300004, first  # ssh's status of a signal
    again = call(server, name, "k", command)
    assert (again.status, again.out, again.err) == (first.status, first.out, first.err)
    import asyncio
    import asyncssh

    async def ask():
        async with asyncssh.connect("127.0.0.1", server.port, username=name, known_hosts=None,
                                    client_keys=[str(server.key)]) as c:
            return await c.run(command, env={"BERTH_CALL": "k"})

    r = asyncio.run(ask())
    assert r.exit_signal and r.exit_signal[0] == "SEGV" and len(r.stdout) == 300004 and r.stderr == "err\n", r


def test_a_replay_says_what_was_said_of_a_timeout(server, name):
    first = call(server, name, "k", "echo begun; sleep 60", "BERTH_TIMEOUT=300ms")
    assert first.status == 124 and "timed out after 300ms" in first.stderr, first
    again = call(server, name, "k", "echo begun; sleep 60")
    assert (again.status, again.out, again.err) == (first.status, first.out, first.err)


@pytest.mark.parametrize("command,values,pty", [("echo other", (), False), ("echo this", ("LC_ALL=C",), False),
                                                ("echo this", ("BERTH_CWD=/tmp",), False), ("echo this", (), True)])
def test_the_same_key_for_something_else_is_refused(server, name, command, values, pty):
    assert call(server, name, "k", "echo this").out == b"this\n"
    ident = server.json("calls", name)[0]["call"]
    extra = ("-tt",) if pty else ()
    r = server.ssh(name, command, options=(*extra, *options("BERTH_CALL=k", *values)))
    said = r.stdout + r.stderr
    assert r.status == 64 and ident in said and "has this key" in said, r
    assert len(server.json("calls", name)) == 1


def test_another_session_has_keys_of_its_own(server, name):
    assert call(server, name, "k", "echo here").out == b"here\n"
    assert call(server, name + "-b", "k", "echo there").out == b"there\n"


def test_a_lost_link_ends_nothing_and_the_next_one_gives_the_rest_of_stdin(server, name):
    command = "trap 'echo hup' HUP; read a; echo got $a; read b; echo got $b; cat; exit 5"
    first = begin(server, name, "k", command)
    first.stdin.write(b"one\n")
    first.stdin.flush()
    assert first.stdout.readline() == b"got one\n"
    drop(first)
    r = call(server, name, "k", command, stdin=b"one\ntwo\nthree\n")
    assert (r.status, r.out) == (5, b"got one\ngot two\nthree\n"), r


def test_who_joined_before_the_link_was_lost_becomes_the_owner(server, name):
    command = "read a; echo got $a; read b; echo got $b"
    first = begin(server, name, "k", command)
    first.stdin.write(b"one\n")
    first.stdin.flush()
    assert first.stdout.readline() == b"got one\n"
    second = begin(server, name, "k", command)
    second.stdin.write(b"one\ntwo\n")
    second.stdin.flush()
    assert second.stdout.readline() == b"got one\n"
    drop(first)
    out, _ = second.communicate(timeout=30)
    assert (out, second.returncode) == (b"got two\n", 0)


def test_an_owner_that_gives_no_stdin_ends_it(server, name):
    first = begin(server, name, "k", "echo up; cat; exit 6")
    assert first.stdout.readline() == b"up\n"
    drop(first)
    r = call(server, name, "k", "echo up; cat; exit 6", "BERTH_STDIN=null", timeout=30)
    assert (r.status, r.out) == (6, b"up\n"), r


def test_the_end_of_stdin_is_passed_on(server, name):
    assert call(server, name, "k", "wc -c", stdin=b"x" * 3000000).out == b"3000000\n"


def test_a_detached_call_with_a_key_answers_with_the_same_id(server, name):
    server.ssh(name, "mkfifo go")
    ids = {call(server, name, "k", "echo up; read x < go; exit 4", "BERTH_DETACH=1").out for _ in range(3)}
    assert len(ids) == 1, ids
    client = begin(server, name, "k", "echo up; read x < go; exit 4")
    assert client.stdout.readline() == b"up\n"
    server.ssh(name, "echo > go")
    assert client.wait(30) == 4
    assert {call(server, name, "k", "echo up; read x < go; exit 4", "BERTH_DETACH=1").out} == ids


def test_more_than_the_pipes_hold_arrives_though_the_owner_changes(server, name):
    """The journal's bound is 64 MiB; the second owner begins at its start and is waited for."""
    server.ssh(name, "mkfifo go")
    command = "seq 1 200000; read x < go; seq 200001 900000"
    first = begin(server, name, "k", command)
    assert first.stdout.readline() == b"1\n"
    drop(first)
    second = begin(server, name, "k", command)
    assert second.stdout.readline() == b"1\n"
    server.ssh(name, "echo > go")
    out = second.stdout.read()
    assert second.wait(30) == 0 and out == b"".join(b"%d\n" % i for i in range(2, 900001))


def test_a_killed_keeper_leaves_it_lost_and_it_is_not_run_again(own_server, name):
    server = own_server
    command = "echo run >> count; sync; echo begun; exec sleep 300"
    client = begin(server, name, "k", command)
    assert client.stdout.readline() == b"begun\n"
    kill_keeper(server)
    _, err = client.communicate(timeout=30)
    assert client.returncode == 69 and b"lost" in err
    wait_until("the session to be paused", lambda: server.session(name)["state"] == "paused")
    for _ in range(2):
        r = call(server, name, "k", command)
        assert (r.status, r.out) == (69, b"begun\n") and "lost" in r.stderr, r
    assert server.ssh(name, "cat count").out == b"run\n"
    assert [c["ended_by"] for c in server.json("calls", name) if c["command"] == command] == ["lost"]
    other = call(server, name, "k", "echo else")
    assert other.status == 64, other


def test_a_key_whose_journal_a_crash_took_is_lost_too(own_server, name):
    server = own_server
    assert call(server, name, "k", "echo run >> count").status == 0
    assert server.verb("pause", name).status == 0
    ident = server.json("calls", name)[0]["call"]
    [journal] = pathlib.Path(server.state).glob(f"sessions/*/calls/{ident}.j")
    journal.unlink()
    r = call(server, name, "k", "echo run >> count")
    assert r.status == 69 and ident in r.stderr, r
    assert server.ssh(name, "cat count").out == b"run\n"


def test_a_killed_manager_changes_nothing_for_it(own_server, name):
    server = own_server
    server.ssh(name, "mkfifo go")
    command = "echo run >> count; echo begun; read x < go; exit 9"
    first = begin(server, name, "k", command)
    assert first.stdout.readline() == b"begun\n"
    server.kill()
    drop(first)
    server.start()
    second = begin(server, name, "k", command)
    assert second.stdout.readline() == b"begun\n"
    server.ssh(name, "echo > go")
    assert second.wait(30) == 9
    assert server.ssh(name, "cat count").out == b"run\n"


def test_it_is_replayed_after_a_pause_and_after_a_restart(own_server, name):
    server = own_server
    command = "echo run >> count; echo out; echo err >&2; exit 6"
    assert call(server, name, "k", command).status == 6
    assert server.verb("pause", name).status == 0
    r = call(server, name, "k", command)
    assert (r.status, r.out, r.err) == (6, b"out\n", b"err\n"), r
    server.stop()
    server.start()
    r = call(server, name, "k", command)
    assert (r.status, r.out, r.err) == (6, b"out\n", b"err\n"), r
    assert server.ssh(name, "cat count").out == b"run\n"


def test_a_pause_ends_it_and_the_key_tells_so(server, name):
    client = begin(server, name, "k", "echo begun; exec sleep 300")
    assert client.stdout.readline() == b"begun\n"
    drop(client)
    assert server.verb("pause", name, "--force", "--grace", "100ms").status == 0
    with at_most(30):
        r = call(server, name, "k", "echo begun; exec sleep 300")
    assert r.out == b"begun\n" and r.status == 255, r
    assert server.json("calls", name)[0]["ended_by"] == "pause"


def removed(server, ident):
    return server.verb("call output", ident).status == 66


def test_journals_go_by_age_and_their_keys_with_them():
    with running("journal_keep = 2s\n") as server:
        assert call(server, "old", "k", "echo run >> count; echo out").out == b"out\n"
        ident = server.json("calls", "old")[0]["call"]
        assert server.verb("call output", ident).out == b"out\n"
        assert server.verb("pause old").status == 0
        wait_until("its time to be over", lambda: time.time() - journal(server, ident).stat().st_mtime > 2)
        live = begin(server, "old", "live", "echo begun; read x; echo $x")  # starts a keeper, which looks
        assert live.stdout.readline() == b"begun\n"
        wait_until("the journal to go", lambda: removed(server, ident))
        r = server.verb("call output", ident)
        assert r.status == 66 and "no longer kept" in r.stderr and f"call show {ident}" in r.stderr
        assert server.json("call", "show", ident)["exit_status"] == 0
        out, _ = live.communicate(b"alive\n", timeout=30)
        assert out == b"alive\n", "never that of a call that runs"
        assert call(server, "old", "k", "echo run >> count; echo out").out == b"out\n", "the key is free again"
        assert server.ssh("old", "cat count").out == b"run\nrun\n"


def test_journals_go_by_size_the_oldest_first():
    with running("journal_session_max = 3M\n") as server:
        ids = []
        for i in range(4):
            assert server.ssh("big", f"head -c 1000000 /dev/urandom; echo {i} >&2").status == 0
            ids.append(server.json("calls", "big")[0]["call"])
        assert server.verb("pause big").status == 0
        assert server.ssh("big", "true").status == 0
        wait_until("the oldest to go", lambda: removed(server, ids[0]))
        assert [removed(server, i) for i in ids[2:]] == [False, False]


def journal(server, ident):
    [path] = pathlib.Path(server.state).glob(f"sessions/*/calls/{ident}.j")
    return path


def test_stdin_that_nobody_takes_up_ends_after_a_minute(server, name):
    client = begin(server, name, "k", "echo begun; cat; echo end >&2; exit 2")
    client.stdin.write(b"some\n")
    client.stdin.flush()
    assert client.stdout.readline() + client.stdout.readline() == b"begun\nsome\n"
    drop(client)
    began = time.monotonic()
    ident = server.json("calls", name)[0]["call"]
    assert server.verb("call wait", ident, "--timeout 100s").status == 2
    assert time.monotonic() - began > 50, "it was held"
    r = call(server, name, "k", "echo begun; cat; echo end >&2; exit 2")
    assert (r.status, r.out, r.err) == (2, b"begun\nsome\n", b"end\n")
