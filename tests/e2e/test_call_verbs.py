"""`call wait`, `call kill` and `call output --stream`: of calls that run, have ended, were paused, or were lost."""
import json
import os
import signal
import subprocess

import pytest
from conftest import RUNG, at_most, wait_until


def verb(server, *words):
    return subprocess.Popen(server.ssh_argv("berth", " ".join(words)), stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def detach(server, name, command, *values):
    r = server.ssh(name, command, options=("-o", "SetEnv=" + " ".join(("BERTH_DETACH=1", *values))))
    assert r.status == 0, r
    return r.stdout.strip()


def test_wait_ends_as_the_call_does(server, name):
    server.ssh(name, "mkfifo go")
    ident = detach(server, name, "read x < go; exit 42")
    waits = [verb(server, "call", "wait", ident) for _ in range(3)]
    tells = verb(server, "call", "wait", ident, "--json")
    assert server.verb("call wait", ident, "--timeout 100ms").status == 124
    assert all(w.poll() is None for w in waits)
    server.ssh(name, "echo > go")
    assert [w.wait(30) for w in waits] == [42] * 3
    out, _ = tells.communicate(timeout=30)
    row = json.loads(out)
    assert tells.returncode == 0 and (row["call"], row["exit_status"], row["live"]) == (ident, 42, False)
    assert server.verb("call wait", ident).status == 42


def test_wait_tells_a_signal_as_a_signal(server, name):
    import asyncio
    import asyncssh
    ident = detach(server, name, "kill -KILL $$")

    async def ask():
        async with asyncssh.connect("127.0.0.1", server.port, username="berth", known_hosts=None,
                                    client_keys=[str(server.key)]) as c:
            return await c.run(f"call wait {ident}")

    assert asyncio.run(ask()).exit_signal[0] == "KILL"


def test_who_no_longer_waits_is_forgotten(server, name):
    ident = detach(server, name, "exec sleep 300")
    waiting = verb(server, "call", "wait", ident)
    wait_until("its conn", lambda: any(what == "berth-conn" for _, what in server.all_pids()))
    waiting.kill()
    waiting.wait()
    assert server.verb("call kill", ident).status == 0
    assert server.verb("call wait", ident).status == 255


def test_kill_reaches_processes_that_left_and_names_signals(server, name):
    server.ssh(name, "mkfifo up")
    # without cgroups a process that left its session is not told from others once its parent has ended (procs.h)
    leave = "setsid" if RUNG == "root" else ""
    ident = detach(server, name, leave + " sh -c 'trap \"\" TERM; echo > up; sleep 621; sleep 622' & trap 'exit 8' TERM; sleep 623 & wait")
    server.ssh(name, "read x < up")
    assert server.verb("call kill", ident).status == 0
    assert server.verb("call wait", ident).status == 8
    wait_until("its record", lambda: server.json("call", "show", ident)["ended_by"])
    assert server.json("call", "show", ident)["left_running"]
    assert server.verb("call kill", ident, "--signal SIGKILL").status == 0, "what it left"
    wait_until("all of it to be gone", lambda: server.ssh(name, "ps -e -o args | grep -c '^sleep 62'").out == b"0\n")
    r = wait_until("nothing to be left", lambda: (r := server.verb("call kill", ident)).status == 66 and r, 60)
    assert "nothing of it runs" in r.stderr


def test_a_signal_that_is_none_and_a_call_that_is_none(server, name):
    ident = detach(server, name, "exec sleep 300")
    for bad in ("NOPE", "0", "65", "-1"):
        assert server.verb("call kill", ident, "--signal", bad).status == 64
    assert server.verb("call kill c_aaaaaaaaaaaaaaaa").status == 66
    assert server.verb("call wait c_aaaaaaaaaaaaaaaa").status == 66
    assert server.verb("call kill", ident, "--signal 9").status == 0
    assert server.verb("call wait", ident).status == 255


@pytest.mark.parametrize("when", ["runs", "ended", "paused", "restarted"])
def test_output_of_one_stream_whenever(own_server, name, when):
    server = own_server
    server.ssh(name, "mkfifo go")
    ident = detach(server, name, "echo one; echo ERR >&2; echo two; " + ("read x < go; " if when == "runs" else "") + "exit 3")
    if when == "runs":
        wait_until("its output", lambda: server.verb("call output", ident).out == b"one\ntwo\n")
    else:
        assert server.verb("call wait", ident).status == 3
    if when == "paused":
        assert server.verb("pause", name).status == 0
    if when == "restarted":
        server.stop()
        server.start()
    got = {s: server.verb("call output", ident, "--stream", s) for s in ("out", "err", "both")}
    assert (got["out"].out, got["out"].err) == (b"one\ntwo\n", b"")
    assert (got["err"].out, got["err"].err) == (b"", b"ERR\n")
    assert (got["both"].out, got["both"].err) == (b"one\ntwo\n", b"ERR\n")
    assert server.verb("call output", ident, "--stream out --from 4").out == b"two\n"
    assert server.verb("call output", ident, "--stream all").status == 64
    if when == "runs":
        assert server.verb("call kill", ident, "--signal KILL").status == 0


def test_wait_for_a_call_that_is_lost(own_server, name):
    server = own_server
    ident = detach(server, name, "exec sleep 300")
    waiting = verb(server, "call", "wait", ident)
    assert server.verb("call wait", ident, "--timeout 100ms").status == 124  # the other one was there before
    for pid, what in server.keeper_pids():
        if what == "berth-keeper":
            os.kill(pid, signal.SIGKILL)
    with at_most(30):
        _, err = waiting.communicate(timeout=30)
    assert waiting.returncode == 69 and b"lost" in err
    assert server.verb("call wait", ident).status == 69


def test_wait_for_a_call_that_a_pause_ends(server, name):
    ident = detach(server, name, "exec sleep 300")
    waiting = verb(server, "call", "wait", ident)
    assert server.verb("pause", name, "--force --grace 100ms").status == 0
    assert waiting.wait(30) == 255
    assert server.json("call", "wait", ident)["ended_by"] == "pause"


def test_another_ones_scope_hides_a_call_from_all_verbs(server, name):
    ident = detach(server, name, "exec sleep 300")
    key = server.add_key("scoped-" + name, 'role="developer",sessions="other-*"')
    assert server.verb("ls", key=key).status == 0
    for words in (f"call wait {ident}", f"call kill {ident}", f"call output {ident}"):
        assert server.verb(words, key=key).status == 66
    assert server.verb("call kill", ident).status == 0


def test_output_of_a_lost_call_says_that_there_may_have_been_more(own_server, name):
    server = own_server
    ident = detach(server, name, "echo begun; exec sleep 300")
    wait_until("its output", lambda: server.verb("call output", ident).out == b"begun\n")
    for pid, what in server.keeper_pids():
        if what == "berth-keeper":
            os.kill(pid, signal.SIGKILL)
    assert server.verb("call wait", ident).status == 69
    for words in ("", "--follow", "--from 3 --follow"):  # as it says to who followed it when it died
        r = server.verb("call output", ident, words)
        assert (r.status, r.out) == (74, b"un\n" if "3" in words else b"begun\n") and "without a word" in r.stderr, r
