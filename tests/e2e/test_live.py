"""Snapshots of sessions that go on: what they hold, what they cost those who work, and what no crash may make of them."""
import contextlib
import json
import os
import re
import select
import signal
import sqlite3
import time

import pytest

from conftest import at_most, running, wait_until
from test_pause import restart_cold
import trees


def state_of(server, name):
    """All files of a workspace, as one text."""
    r = server.ssh(name, "cd /workspace && find . -exec stat -c '%n %F %a %s' {} + | sort; "
                         "find . -type f -exec sha256sum {} + | sort; ls -A /etc /root | sha256sum")
    assert r.status == 0, r
    return r.stdout


def snapshots(server, name):
    return server.json("snapshots", name)


def by_call(server, name, n):
    """The snapshots, when there are n: the last one's commit is waited for by nobody."""
    return wait_until(f"{n} snapshots", lambda: (lambda s: s if len(s) >= n else None)(snapshots(server, name)))


def open_files(pid):
    with contextlib.suppress(OSError):
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                yield os.readlink(f"/proc/{pid}/fd/{fd}")


def keeper_of(server, name):
    """The one that holds the session's lock."""
    session = server.json("show", name)["id"]
    return next(pid for pid, what in server.keeper_pids() if what == "berth-keeper"
                and any(path.endswith(f"/sessions/{session}/lock") for path in open_files(pid)))


def forget_seen(server, name):
    session = server.state / "sessions" / server.json("show", name)["id"]
    seen = list(session.glob("seen.*"))
    assert seen
    for path in seen:
        path.unlink()


# ---- the verb ----


def test_a_session_goes_on_while_it_is_saved_and_the_snapshot_holds_that_moment(own_server, name):
    server = own_server
    call = server.popen(name, "echo one > a; echo ready; read x; cat a; echo $x")
    assert call.stdout.readline() == b"ready\n"
    made = server.json("snapshot", name)
    assert made["state"] == "running" and made["changed"] and 0 < made["frozen_ms"] < 5000, made
    out, _ = call.communicate(b"on\n", timeout=30)
    assert (out, call.returncode) == (b"one\non\n", 0)
    server.ssh(name, "echo two > a; echo > b")
    assert server.verb("restore", name, made["snapshot"]).status == 0
    assert server.ssh(name, "cat a; ls").out == b"one\na\n"
    restart_cold(server)
    assert server.ssh(name, "cat a; ls").out == b"one\na\n"


def test_every_kind_of_entry_is_in_a_chain_of_snapshots_of_one_upper(own_server, name):
    server = own_server
    server.ssh(name, "echo first > first")
    server.verb("snapshot", name)
    trees.make(server, name)
    server.verb("snapshot", name)
    server.ssh(name, "cd /workspace/tree; rm plain; mv link moved; mkdir -p new/er; echo x > new/er/f; rm -r deep/er; chmod 700 deep")
    assert server.verb("snapshot", name).status == 0
    before = trees.read(server, name)
    assert server.verb("pause", name).status == 0
    assert trees.differences(before, trees.read(server, name)) == {}, "warm"
    restart_cold(server)
    assert trees.differences(before, trees.read(server, name)) == {}, "cold"


def test_the_next_snapshot_holds_what_changed_and_none_is_made_where_nothing_did(server, name):
    server.ssh(name, "head -c 8000000 /dev/urandom > big; echo 1 > small")
    first = server.json("snapshot", name)
    server.ssh(name, "echo 2 > small")
    second = server.json("snapshot", name)
    assert first["bytes"] > 8000000 and second["bytes"] < 10000 and second["entries"] == 3, (first, second)
    again = server.json("snapshot", name)
    assert (again["snapshot"], again["changed"]) == (second["snapshot"], False)
    listed = snapshots(server, name)
    assert [s["snapshot"] for s in listed] == [first["snapshot"], second["snapshot"]]
    assert listed[1]["parent"] == first["snapshot"] and listed[1]["head"] and listed[1]["made_by"] == "snapshot"
    assert listed[1]["total_bytes"] == first["bytes"] + second["bytes"]


def test_a_snapshot_has_what_it_was_given(server, name):
    server.ssh(name, "echo 1 > a")
    r = server.verb("snapshot", name, "--name before.it --note 'a word' --label k=v --label b=2 --pin --ttl 7d")
    assert r.status == 0 and ": running, snapshot " in r.stdout, r
    [one] = snapshots(server, name)
    assert (one["name"], one["note"], one["labels"], one["pinned"]) == ("before.it", "a word", {"k": "v", "b": "2"}, True)
    assert one["expires"] > one["created"]
    assert "before.it" in server.verb("snapshots", name).stdout
    server.ssh(name, "echo 2 > a")
    r = server.verb("snapshot", name, "--name before.it")
    assert r.status == 64 and "named before.it already" in r.stderr, r
    assert len(snapshots(server, name)) == 1
    assert server.verb("restore", name, "before.it").status == 0
    assert server.ssh(name, "cat a").out == b"1\n"


@pytest.mark.parametrize("given, why", [
    ("--name abcdef", "look like the beginning of a digest"), ("--name 12", "look like"), ("--name A", "not a snapshot's name"),
    ("--name -x", "not a snapshot's name"), ("--label x", "not a label"), ("--note " + "x" * 1025, "--note"), ("--ttl 5", "--ttl")])
def test_what_no_snapshot_can_have_is_refused(server, name, given, why):
    server.ssh(name, "true")
    r = server.verb("snapshot", name, given)
    assert r.status == 64 and why in r.stderr, r
    assert snapshots(server, name) == []


def test_where_nothing_has_changed_the_head_gets_what_it_has_not(server, name):
    server.ssh(name, "echo 1 > a")
    server.verb("snapshot", name)
    assert "nothing has changed" in server.verb("snapshot", name, "--name one --label a=b").stdout
    r = server.verb("snapshot", name, "--name two --note later --pin")
    assert "nothing has changed" in r.stdout and "keeps its name one" in r.stdout, r
    assert server.verb("snapshot", name, "--name one").status == 0  # again: it is so
    [s] = snapshots(server, name)
    assert (s["name"], s["note"], s["labels"], s["pinned"]) == ("one", "later", {"a": "b"}, True)
    ref = server.state / "store" / "refs" / (s["snapshot"][7:] + ".json")
    assert json.loads(ref.read_text())["facts"]["name"] == "one"


def test_of_a_session_that_rests_the_head_is_the_answer(own_server, name):
    server = own_server
    r = server.verb("snapshot", name)
    assert r.status == 66, r
    server.ssh(name, "echo 1 > a")
    server.verb("pause", name)
    [head] = snapshots(server, name)
    made = server.json("snapshot", name, "--name rest")
    assert (made["snapshot"], made["state"], made["changed"]) == (head["snapshot"], "paused", False)
    assert [s["name"] for s in snapshots(server, name)] == ["rest"]
    server.ssh(name, "echo 2 > a; echo > b")
    os.kill(keeper_of(server, name), signal.SIGKILL)
    wait_until("its end", lambda: server.session(name)["state"] == "paused")
    assert server.session(name)["unclean"]
    made = server.json("snapshot", name, "--name unclean")
    assert made["state"] == "paused" and made["snapshot"] != head["snapshot"]
    assert not server.session(name)["unclean"]
    restart_cold(server)
    assert server.ssh(name, "cat a; ls").out == b"2\na\nb\n"


def test_a_new_session_can_be_saved_before_it_has_changed_anything(server, name):
    assert server.verb("new", name).status == 0
    first = server.json("snapshot", name, "--name empty")
    assert first["changed"]
    server.ssh(name, "echo 1 > a")
    assert server.verb("restore", name, "empty").status == 0
    assert server.ssh(name, "ls").out == b""


# ---- what is known of the upper ----


@pytest.mark.parametrize("how", ["known", "forgotten"])
def test_what_was_removed_stays_removed(own_server, name, how):
    """With what the last capture saw, a deletion is written; without, its layer takes the place of all before."""
    server = own_server
    server.ssh(name, "mkdir -p d/e; echo 1 > d/e/f; echo 1 > gone; echo 1 > stays; rm /etc/inputrc")
    server.verb("snapshot", name)
    server.ssh(name, "rm -r d gone; mkdir d; echo 2 > d/g")
    server.verb("snapshot", name)
    server.ssh(name, "rm d/g; touch late")
    if how == "forgotten":
        forget_seen(server, name)
    made = server.json("snapshot", name)
    assert made["changed"] and (made["entries"] > 5) == (how == "forgotten"), made
    before = state_of(server, name)
    server.ssh(name, "echo after > after")
    assert server.verb("restore", name, made["snapshot"]).status == 0
    assert state_of(server, name) == before, "restored from the cache"
    restart_cold(server)
    assert state_of(server, name) == before, "cold"
    if how == "forgotten":
        assert "is captured again" in server.log()


def test_an_upper_whose_keeper_died_after_snapshots_comes_back_as_it_was(own_server, name):
    """It stands on what it has always stood on: on its own layers, what it has removed would be seen again."""
    server = own_server
    server.ssh(name, "mkdir d; echo 1 > d/f; echo 1 > gone")
    server.verb("snapshot", name)
    server.ssh(name, "rm -r d gone; mkdir d; echo 2 > new")
    before = state_of(server, name)
    os.kill(keeper_of(server, name), signal.SIGKILL)
    wait_until("its end", lambda: server.session(name)["unclean"])
    assert state_of(server, name) == before, "mounted again"
    server.ssh(name, "echo 3 > newer")
    before = state_of(server, name)
    made = server.json("snapshot", name)
    assert made["changed"]
    assert server.verb("pause", name).status == 0
    assert state_of(server, name) == before, "warm"
    restart_cold(server)
    assert state_of(server, name) == before, "cold"


@pytest.mark.parametrize("synced", [0, 1])
def test_after_a_power_cut_a_saved_upper_that_was_not_synced_is_not_mounted_again(own_server, name, synced):
    """An unclean session that was saved rests on an upper that equals its archives: until its bytes may be lost."""
    server = own_server
    server.ssh(name, "echo below > below")
    server.verb("pause", name)
    server.ssh(name, "echo whole > a; rm below")
    os.kill(keeper_of(server, name), signal.SIGKILL)
    wait_until("its end", lambda: server.session(name)["unclean"])
    assert server.json("snapshot", name)["state"] == "paused" and not server.session(name)["unclean"]
    sid = server.session(name)["id"]
    assert server.stop() == 0
    [upper] = (server.state / "sessions" / sid).glob("upper.*/fs/workspace/a")
    upper.write_bytes(b"lost\n")  # renamed, but its data never reached the disk
    with contextlib.closing(sqlite3.connect(server.state / "index.db")) as db:
        db.execute("UPDATE uppers SET boot='another boot', synced=?", (synced,))
        db.commit()
    server.start()
    assert server.ssh(name, "cat a; ls").out == (b"lost\na\n" if synced else b"whole\na\n")
    server.ssh(name, "echo more > b")
    restart_cold(server)
    assert server.ssh(name, "ls").out == b"a\nb\n"


def test_an_unclean_upper_that_is_paused_is_captured_whole(own_server, name):
    server = own_server
    server.ssh(name, "echo 1 > gone; echo 1 > a")
    server.verb("snapshot", name)
    server.ssh(name, "rm gone; echo 2 > a")
    before = state_of(server, name)
    os.kill(keeper_of(server, name), signal.SIGKILL)
    wait_until("its end", lambda: server.session(name)["unclean"])
    assert server.verb("pause", name).status == 0
    restart_cold(server)
    assert state_of(server, name) == before


def test_an_upper_that_is_empty_again_is_empty_in_its_archives(own_server, name):
    server = own_server
    server.ssh(name, "rm -rf /root/.[a-z]*; echo 1 > a")
    server.verb("snapshot", name)
    server.ssh(name, "rm a")
    forget_seen(server, name)
    assert server.json("snapshot", name)["changed"]
    restart_cold(server)
    assert server.ssh(name, "ls").out == b""


def test_a_restart_of_the_server_does_not_forget(own_server, name):
    server = own_server
    server.ssh(name, "head -c 3000000 /dev/urandom > big; (sleep 1000 >/dev/null 2>&1 &)")
    server.verb("snapshot", name)
    server.kill()
    server.start()
    server.ssh(name, "echo 1 > small")
    made = server.json("snapshot", name)
    assert made["entries"] == 3 and made["bytes"] < 10000, made


def test_the_upper_of_many_snapshots_is_one_directory_of_the_next_start(server, name):
    for i in range(30):
        server.ssh(name, f"echo {i} > f{i}; echo {i} > same; rm -f f{i - 3}")
        assert server.verb("snapshot", name).status == 0
    before = state_of(server, name)
    assert server.verb("pause", name).status == 0
    cached = lambda: {p.name for p in (server.state / "cache").glob("layers/*")}
    was = cached()
    assert state_of(server, name) == before
    assert cached() == was, "nothing had to be unpacked"
    server.ssh(name, "echo more > more")
    assert server.json("snapshot", name)["entries"] == 3


def test_thirty_snapshots_of_one_upper_resume_cold(own_server, name):
    server = own_server
    for i in range(30):
        server.ssh(name, f"echo {i} > f{i}; echo {i} > same; rm -f f{i - 3}")
        assert server.verb("snapshot", name).status == 0
    before = state_of(server, name)
    restart_cold(server)
    assert state_of(server, name) == before


def test_what_is_written_into_memory_that_maps_a_file_is_saved_each_time(own_server, name):
    server = own_server
    code = ("import mmap,sys; f=open('m','w+b'); f.write(b'a'*4096); f.flush(); m=mmap.mmap(f.fileno(),4096)\n"
            "for c in b'bcd':\n m[0]=c; print('ready',flush=True); sys.stdin.readline()\n"
            "sys.stdin.readline()")
    call = server.popen(name, f"python3 -c \"{code}\"")
    made = []
    for _ in "bcd":
        assert call.stdout.readline() == b"ready\n"
        made.append(server.json("snapshot", name))
        call.stdin.write(b"\n")
        call.stdin.flush()
    assert all(m["changed"] for m in made), made
    call.stdin.close()
    assert call.wait(30) == 0
    for m, c in zip(made, (b"b", b"c", b"d")):
        assert server.verb("restore", name, m["snapshot"]).status == 0
        assert server.ssh(name, "head -c 1 m").out == c


# ---- faults ----


@pytest.mark.parametrize("moment", range(8))
def test_sigkill_of_the_manager_amid_a_snapshot_loses_nothing(own_server, name, moment):
    server = own_server
    server.ssh(name, "echo 1 > gone; head -c 30000000 /dev/urandom > big; (sleep 1000 >/dev/null 2>&1 &)")
    server.verb("snapshot", name)
    server.ssh(name, "rm gone; head -c 20000000 /dev/urandom > big2; sha256sum big2 > sum")
    verb = server.popen("berth", f"snapshot {name}")
    select.select([], [], [], 0.02 + 0.03 * moment)  # spread over its steps, whatever they are
    server.kill()
    verb.communicate(timeout=30)
    server.start()
    assert server.session(name)["state"] == "running"
    assert server.ssh(name, "pgrep -c sleep; sha256sum -c sum").out == b"1\nbig2: OK\n"
    server.ssh(name, "echo after > after")
    before = state_of(server, name)
    assert server.json("snapshot", name)["changed"]
    restart_cold(server)
    assert state_of(server, name) == before


@pytest.mark.parametrize("moment", range(3))
def test_sigkill_of_the_worker_amid_a_snapshot_leaves_all_as_it_was(own_server, name, moment):
    server = own_server
    server.ssh(name, "echo 1 > gone")
    server.verb("snapshot", name)
    server.ssh(name, "rm gone; head -c 60000000 /dev/urandom > big")
    before, listed = state_of(server, name), snapshots(server, name)
    verb = server.popen("berth", f"snapshot {name}")
    pid = wait_until("a worker", lambda: next((p for p, n in server.keeper_pids() if n == "berth-worker"), None))
    select.select([], [], [], 0.05 * moment)
    with contextlib.suppress(ProcessLookupError):  # it had just ended
        os.kill(pid, signal.SIGKILL)
    _, err = verb.communicate(timeout=30)
    if verb.returncode != 0:  # else it had already ended its work
        assert err.startswith(b"berth: snapshot "), err
        assert snapshots(server, name) == listed
    assert server.session(name)["state"] == "running"
    with at_most(10):
        assert state_of(server, name) == before
    made = server.json("snapshot", name)
    assert made["changed"] == (verb.returncode != 0)
    restart_cold(server)
    assert state_of(server, name) == before


def test_an_interrupted_snapshot_leaves_all_as_it_was():
    with running("compression = 12\nthreads = 1\n") as server:
        server.ssh("s", "head -c 48M /dev/urandom | base64 > big; sleep 1000 >/dev/null 2>&1 & echo live")
        import asyncio
        import asyncssh

        async def go():
            async with asyncssh.connect("127.0.0.1", server.port, username="berth", known_hosts=None,
                                        client_keys=[str(server.key)]) as c:
                p = await c.create_process("snapshot s --progress")
                await p.stderr.readline()
                p.send_signal("INT")
                return await p.wait()
        r = asyncio.run(asyncio.wait_for(go(), 60))
        assert r.exit_status == 130 and "interrupted" in r.stderr, r
        assert server.session("s")["state"] == "running" and snapshots(server, "s") == []
        with at_most(10):
            assert server.ssh("s", "pgrep -c sleep").out == b"1\n"
        assert list((server.state / "store" / "refs").glob("[0-9a-f]*.json")) == []


# ---- after calls ----


def test_each_call_that_changes_something_has_a_snapshot_that_names_it(server, name):
    assert server.verb("new", name, "--snapshot call").status == 0
    server.ssh(name, "echo 1 > a")
    server.ssh(name, "echo 2 > a")
    server.ssh(name, "cat a")
    server.ssh(name, "echo 3 > b; exit 3")
    made = by_call(server, name, 3)
    assert [[c["command"] for c in s["calls"]] for s in made] == [["echo 1 > a"], ["echo 2 > a"], ["echo 3 > b; exit 3"]]
    assert all(s["made_by"] == f"call {s['calls'][-1]['call']}" for s in made)
    assert re.search(r"call c_\w+: echo 2 > a", server.verb("snapshots", name).stdout)
    assert server.verb("restore", name, made[1]["snapshot"]).status == 0
    assert server.ssh(name, "cat a; ls").out == b"2\na\n"
    assert server.json("show", name)["snapshot"] == {"value": "call", "set": True}


def test_overlapping_calls_are_one_snapshot_and_none_of_them_is_frozen(server, name):
    server.verb("new", name, "--snapshot call")
    first = server.popen(name, "echo first > a; echo ready; read x; echo more >> a")
    assert first.stdout.readline() == b"ready\n"
    assert server.ssh(name, "echo second > b").status == 0
    assert snapshots(server, name) == []
    first.communicate(b"\n", timeout=30)
    [made] = by_call(server, name, 1)
    assert sorted(c["command"][:11] for c in made["calls"]) == ["echo first ", "echo second"]
    server.verb("restore", name, made["snapshot"])
    assert server.ssh(name, "cat a b").out == b"first\nmore\nsecond\n"


def test_calls_in_a_row_find_each_the_state_of_the_one_before_saved(server, name):
    """The next call waits until the files are read: each snapshot holds what its own call left, and no more."""
    import asyncio
    import asyncssh
    server.verb("new", name, "--snapshot call")

    async def go():
        async with asyncssh.connect("127.0.0.1", server.port, username=name, known_hosts=None,
                                    client_keys=[str(server.key)]) as c:
            for i in range(20):
                r = await c.run(f"echo {i} > n; cat n")
                assert r.stdout == f"{i}\n", r
    asyncio.run(asyncio.wait_for(go(), 100))
    made = by_call(server, name, 20)
    assert len(made) == 20 and [s["calls"][0]["command"] for s in made] == [f"echo {i} > n; cat n" for i in range(20)]
    for i in (3, 11, 19):
        assert server.verb("restore", name, made[i]["snapshot"], "--force").status == 0
        assert server.ssh(name, "cat n; true").out == f"{i}\n".encode()


def test_what_a_call_leaves_running_goes_on_after_its_snapshot(server, name):
    server.verb("new", name, "--snapshot call")
    server.ssh(name, "(while :; do date +%s%N > tick; sleep 0.05; done) >/dev/null 2>&1 & echo")
    by_call(server, name, 1)
    first = server.ssh(name, "cat tick").out
    wait_until("it to tick on", lambda: server.ssh(name, "cat tick").out not in (first, b""))


def test_the_end_of_a_call_waits_for_no_snapshot(own_server, name):
    """Nor does what it left behind stand in the way: the next call waits 2 s for it, and goes first."""
    server = own_server
    server.verb("new", name, "--snapshot call")
    server.ssh(name, "echo 0 > a")
    by_call(server, name, 1)
    server.ssh(name, "head -c 200M /dev/urandom > big & wait; echo x")
    with at_most(20):
        assert server.ssh(name, "echo next; ls").status == 0
    wait_until("the last state to be saved", lambda: server.verb("pause", name).status == 0)
    restart_cold(server)
    assert server.ssh(name, "stat -c %s big").out == b"%d\n" % (200 << 20)


def test_a_worker_that_stands_still_delays_the_next_call_by_two_seconds_at_most(own_server, name):
    server = own_server
    server.verb("new", name, "--snapshot call")
    server.ssh(name, "echo 0 > a")
    by_call(server, name, 1)
    holder = server.popen(name, "head -c 100M /dev/urandom > big; echo ready; read x")
    assert holder.stdout.readline() == b"ready\n"
    holder.stdin.write(b"\n")
    holder.stdin.flush()
    pid = wait_until("a worker", lambda: next((p for p, n in server.keeper_pids() if n == "berth-worker"), None))
    os.kill(pid, signal.SIGSTOP)
    with at_most(1):
        holder.communicate(timeout=30)
    began = time.monotonic()
    assert server.ssh(name, "echo goes first").out == b"goes first\n"
    assert time.monotonic() - began < 6
    os.kill(pid, signal.SIGCONT)
    if "failed" in server.verb("why", name).stdout:
        assert "goes first" in server.json("show", name)["snapshot_failure"]
    server.ssh(name, "echo 1 > b")
    wait_until("a snapshot of both", lambda: any(len(s["calls"]) > 1 for s in snapshots(server, name)) or len(snapshots(server, name)) > 1)


def test_sigkill_of_the_manager_between_calls_holds_nobody_up(own_server, name):
    server = own_server
    server.verb("new", name, "--snapshot call")
    server.ssh(name, "echo 0 > a")
    by_call(server, name, 1)
    for i in range(5):
        call = server.popen(name, f"head -c 10000000 /dev/urandom > big{i}; echo {i}")
        assert call.wait(30) == 0
        select.select([], [], [], 0.01 * i)
        server.kill()
        server.start()
        with at_most(10):
            assert server.ssh(name, f"echo {i} > b{i}; cat b{i}").out == f"{i}\n".encode()
    before = state_of(server, name)
    wait_until("the last ones to be named", lambda: snapshots(server, name)[-1]["calls"])
    restart_cold(server)
    assert state_of(server, name) == before


def test_the_mode_is_set_for_the_node_or_a_session_and_survives_a_restart():
    with running("snapshot = call\n") as server:
        server.ssh("a", "echo 1 > a")
        by_call(server, "a", 1)
        assert server.json("show", "a")["snapshot"] == {"value": "call", "set": False}
        assert server.verb("set a snapshot pause").status == 0
        server.ssh("a", "echo 2 > a")
        server.kill()
        server.start()
        server.ssh("a", "echo 3 > a")
        assert server.json("show", "a")["snapshot"] == {"value": "pause", "set": True}
        assert len(snapshots(server, "a")) == 1
        assert server.verb("set a snapshot default").status == 0
        server.ssh("a", "echo 4 > a")
        made = by_call(server, "a", 2)
        assert made[-1]["calls"][-1]["command"] == "echo 4 > a"
        for wrong in ("interval", "interval:x", "interval:10ms", "often"):
            r = server.verb("set a snapshot", wrong)
            assert r.status == 64 and "interval:10m" in r.stderr, r
            assert server.verb("new b --snapshot", wrong).status == 64


def test_intervals_save_only_what_ran(server, name):
    server.verb("new", name, "--snapshot interval:1s")
    server.ssh(name, "echo 1 > a")
    [made] = by_call(server, name, 1)
    assert made["made_by"] == "interval"
    before = made
    server.ssh(name, "(sleep 1.5; echo late > b) >/dev/null 2>&1 &")
    by_call(server, name, 2)
    assert snapshots(server, name)[0]["snapshot"] == before["snapshot"]
    wait_until("nothing to run", lambda: server.ssh(name, "pgrep sleep || echo none").out == b"none\n")
    wait_until("all to be saved", lambda: f"session {name}: snapshot" in server.log().splitlines()[-1])
    lines = server.log().count(f"session {name}: snapshot")
    select.select([], [], [], 2.5)
    assert server.log().count(f"session {name}: snapshot") <= lines + 1


def test_the_tree_shows_where_it_branches(server, name):
    ids = []
    for i in range(3):
        server.ssh(name, f"echo {i} > a")
        ids.append(server.json("snapshot", name)["snapshot"][7:19])
    server.verb("restore", name, ids[0])
    server.ssh(name, "echo other > a")
    ids.append(server.json("snapshot", name)["snapshot"][7:19])
    lines = server.verb("snapshots", name).stdout.splitlines()
    assert [line[:18].rstrip() for line in lines[1:]] == [
        ids[0], f"|- {ids[1]}", f"|  {ids[2]}", f"`- {ids[3]} *"], lines


@pytest.mark.parametrize("rung", ["rootless", "process"])
def test_on_every_rung_snapshots_of_a_running_session_are_right(rung, name):
    with running(rung=rung) as server:
        server.ssh(name, "echo 1 > a; echo 1 > gone; mkdir d; echo 1 > d/f")
        first = server.json("snapshot", name)
        server.ssh(name, "rm -r gone d; echo 2 > b")
        second = server.json("snapshot", name)
        assert first["changed"] and second["changed"] and second["entries"] < 8, second
        assert not server.json("snapshot", name)["changed"]
        server.ssh(name, "echo 3 > c")
        assert server.verb("pause", name).status == 0
        assert server.ssh(name, "ls; cat a b c").out == b"a\nb\nc\n1\n2\n3\n"
        assert server.verb("restore", name, second["snapshot"]).status == 0
        assert server.ssh(name, "ls; cat a b").out == b"a\nb\n1\n2\n"
        assert server.verb("restore", name, first["snapshot"]).status == 0
        assert server.ssh(name, "find . -type f | sort").out == b"./a\n./d/f\n./gone\n"
