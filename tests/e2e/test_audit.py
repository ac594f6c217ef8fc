"""The audit log: what is in it, that it cannot be changed unseen, and that no death of the manager costs it a line."""
import contextlib
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import threading
import time

import pytest

from conftest import BUILD, running, wait_until


def files(directory):
    return sorted(directory.glob("*.jsonl"))


def lines(server):
    return [json.loads(line) for path in files(server.state / "audit") for line in path.read_bytes().splitlines()]


def verify(directory, *options):
    done = subprocess.run([BUILD / "berth-verify-audit", directory, *options], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


def is_whole(server, *options):
    status, said = verify(server.state / "audit", "--key", server.state / "keys" / "host_ed25519.pub", *options)
    assert status == 0, said + server.log()[-3000:]
    return said


def of(rows, kind, **fields):
    return [r for r in rows if r["kind"] == kind and all(r.get(k) == v for k, v in fields.items())]


def test_a_session_from_its_first_channel_to_its_end_is_in_the_log(own_server, name):
    server = own_server
    stranger = server.base / "stranger"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", stranger], check=True)
    assert server.ssh(name, "true", key=stranger).status == 255
    dev = server.add_key("dev", f'role="developer",sessions="{name}"')
    assert server.ssh(name, "echo out; echo err >&2; exit 7").status == 7
    assert server.ssh(name, "kill -TERM $$", key=dev).status == 255
    assert server.verb("set", name, "pids", "500").status == 0
    snapshot = server.json("pause", name)["snapshot"]
    assert server.ssh(name, "echo again").out == b"again\n"
    assert server.verb("restore", name, snapshot).status == 0
    assert server.verb("rm", name, key=dev).status == 77
    assert server.verb("rm", name).status == 0
    wait_until("the last connection's end", lambda: len(of(lines(server), "connect")) == len(of(lines(server), "disconnect")))
    server.stop(signal.SIGTERM)
    rows = lines(server)
    assert [r["seq"] for r in rows] == list(range(1, len(rows) + 1))
    refused = of(rows, "auth", result="refused")
    fingerprint = subprocess.check_output(["ssh-keygen", "-l", "-f", stranger]).decode().split()[1]
    assert [r["key"] for r in refused] == [fingerprint] and refused[0]["user"] == name
    accepted = of(rows, "auth", result="accepted", user=name)
    assert {r["role"] for r in accepted} == {"operator", "developer"} and all(r["peer"].startswith("127.") for r in accepted)
    assert {r["conn"] for r in of(rows, "connect")} == {r["conn"] for r in of(rows, "disconnect")}
    assert of(rows, "channel", name=name)
    start = of(rows, "call_start", command="echo out; echo err >&2; exit 7")
    assert len(start) == 1 and "operator" in start[0]["principal"]
    end = of(rows, "call_end", call=start[0]["call"])
    assert len(end) == 1
    assert (end[0]["exit_status"], end[0]["ended_by"], end[0]["stdout_bytes"], end[0]["stderr_bytes"]) == (7, "itself", 4, 4)
    assert end[0]["stdout_sha256"] == subprocess.check_output(["sha256sum"], input=b"out\n").decode().split()[0]
    assert end[0]["wall_ns"] > 0
    assert [r["signal"] for r in of(rows, "call_end") if r["signal"]] == [15]
    states = [r["state"] for r in of(rows, "session", name=name)]
    order = iter(states)
    assert all(s in order for s in ["new", "running", "pausing", "paused", "resuming", "running", "restoring", "paused", "deleted"]), states
    assert of(rows, "session", name=name, state="paused", head=snapshot.removeprefix("sha256:"))
    assert of(rows, "limit", key="pids", value="500", name=name)
    assert [r["keys"] for r in of(rows, "keys")] == [1, 2]
    assert [r["result"] for r in of(rows, "verb", verb="rm")] == ["denied", "begun"]
    assert rows[0]["kind"] == "start" and rows[-2]["kind"] == "stop" and rows[-1]["kind"] == "head"
    is_whole(server)
    for path in files(server.state / "audit"):
        assert path.stat().st_mode & 0o777 == 0o600
    assert (server.state / "audit").stat().st_mode & 0o777 == 0o700
    server.start()


def test_the_verb_shows_the_end_of_the_log_to_operators(server, name):
    dev = server.add_key("dev-" + name, 'role="orchestrator"')
    assert server.ssh(name, "echo 'quoted \"word\"'").status == 0
    assert server.verb("audit", key=dev).status == 77
    rows = server.json("audit", "--session", name)
    assert [r["kind"] for r in rows].count("call_end") == 1
    assert {r["session"] for r in rows} == {server.session(name)["id"]}
    assert of(rows, "call_start", command="echo 'quoted \"word\"'")
    last = server.json("audit", "--limit", "3")
    assert len(last) == 3 and last[-1]["kind"] == "verb" and last[-1]["verb"] == "audit"
    text = server.verb("audit", "--limit", "2").stdout.splitlines()
    assert len(text) == 2 and re.match(r" *\d+  20\d\d-.*Z  verb +\"conn\"", text[-1]), text
    assert server.verb("audit", "--session", "nobody").status == 66


def test_who_follows_gets_each_line_as_it_is_written(server, name):
    server.ssh(name, "true")
    follow = server.popen("berth", f"audit --session {name} --follow --json")
    rows = []
    while not of(rows, "call_end"):
        rows.append(json.loads(follow.stdout.readline()))
    assert server.ssh(name, "echo later").status == 0
    assert server.ssh(name + "x", "echo other").status == 0
    while len(of(rows, "call_end")) < 2:
        rows.append(json.loads(follow.stdout.readline()))
    assert server.verb("rm", name, "--force").status == 0
    while not of(rows, "session", state="deleted"):
        rows.append(json.loads(follow.stdout.readline()))
    follow.kill()
    follow.communicate()
    assert {r["session"] for r in rows} == {of(rows, "call_end")[0]["session"]}
    seqs = [r["seq"] for r in rows]
    assert seqs == sorted(set(seqs)) and of(rows, "call_start", command="echo later")
    mine = [r for r in lines(server) if r.get("session") == rows[0]["session"]]
    assert rows == mine[:len(rows)], "none was left out"
    assert server.verb("ls").status == 0


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A log of several files, ended well, with a key and a head that was kept elsewhere."""
    with running("audit_file_max = 4K\n") as server:
        for i in range(12):
            assert server.ssh("a", f"echo {i}").status == 0
        server.verb("rm", "a", "--force")
        server.stop(signal.SIGTERM)
        is_whole(server)
        copy = tmp_path_factory.mktemp("good")
        shutil.copytree(server.state / "audit", copy / "audit")
        shutil.copy(server.state / "keys" / "host_ed25519.pub", copy / "key.pub")
        last = [line for path in files(copy / "audit") for line in path.read_text().splitlines()][-1]
        assert '"kind":"head"' in last and len(files(copy / "audit")) > 3
        (copy / "head").write_text(last + "\n")
    return copy


def change(path, at, fn):
    rows = path.read_bytes().splitlines(keepends=True)
    fn(rows, at)
    path.write_bytes(b"".join(rows))


def changed_word(rows, i):
    rows[i] = rows[i].replace(b"20", b"21", 1) if b'"time":"20' in rows[i] else rows[i][:-3] + b"x}\n"


TAMPER = {
    "changed": (changed_word, lambda i: {i + 1, i + 2}),
    "missing": (lambda rows, i: rows.pop(i), lambda i: {i + 1}),
    "moved": (lambda rows, i: rows.insert(i + 1, rows.pop(i)), lambda i: {i + 1}),
    "doubled": (lambda rows, i: rows.insert(i, rows[i]), lambda i: {i + 2}),
    "cut": (lambda rows, i: rows.__setitem__(slice(i, None), [rows[i][:20]]), lambda i: {i + 1}),
    "made up": (lambda rows, i: rows.insert(i, b'{"hello":1}\n'), lambda i: {i + 1}),
}


@pytest.mark.parametrize("what", TAMPER)
def test_tampering_with_a_line_is_found_and_its_place_named(good, tmp_path, what):
    fn, expected = TAMPER[what]
    for n, path in enumerate(files(good / "audit")[:3]):
        copy = tmp_path / str(n)
        shutil.copytree(good / "audit", copy)
        change(copy / path.name, 1, fn)
        status, said = verify(copy, "--key", good / "key.pub")
        assert status == 65, said
        file, line = re.match(r"(\S+):(\d+): ", said).groups()
        assert file == path.name and int(line) in expected(1), said


def test_a_missing_renamed_or_strange_file_is_found(good, tmp_path):
    names = [p.name for p in files(good / "audit")]
    for n, fn in enumerate([lambda d: (d / names[0]).unlink(), lambda d: (d / names[1]).unlink(),
                            lambda d: (d / names[1]).rename(d / names[1].replace("0", "1", 1)),
                            lambda d: shutil.copy(d / names[1], d / "copy.jsonl"),
                            lambda d: [p.unlink() for p in files(d)]]):
        copy = tmp_path / str(n)
        shutil.copytree(good / "audit", copy)
        fn(copy)
        status, said = verify(copy, "--key", good / "key.pub")
        assert status == 65, (n, said)


def test_a_cut_tail_is_found_against_a_head_that_was_kept_elsewhere(good, tmp_path):
    copy = tmp_path / "audit"
    shutil.copytree(good / "audit", copy)
    key = ("--key", good / "key.pub")
    assert verify(copy, *key, "--head", good / "head")[0] == 0
    assert verify(copy, *key, "--head", (good / "head").read_text().strip())[0] == 0
    last = files(copy)[-1]
    change(last, -1, lambda rows, i: rows.pop(i))
    status, said = verify(copy, *key)
    assert status == 0, "without a head there is nothing to tell it by: " + said
    status, said = verify(copy, *key, "--head", good / "head")
    assert status == 65 and "end is cut" in said, said
    last.unlink()
    assert verify(copy, *key, "--head", good / "head")[0] == 65
    forged = (good / "head").read_text().replace('"seq":', '"seq":1', 1)
    assert verify(copy, *key, "--head", forged)[0] == 65


def test_whoever_rewrites_the_chain_cannot_sign_it(good, tmp_path):
    """The chain made anew over changed lines, with its old heads, and with heads by another key."""
    import hashlib
    copy = tmp_path / "audit"
    shutil.copytree(good / "audit", copy)
    prev = "0" * 64
    for path in files(copy):
        out = []
        for line in path.read_text().splitlines():
            line = re.sub(r'"prev":"[0-9a-f]*"', f'"prev":"{prev}"', line).replace("echo 3", "echo 4")
            prev = hashlib.sha256(line.encode()).hexdigest()
            out.append(line + "\n")
        path.write_text("".join(out))
    status, said = verify(copy)
    assert status == 65 and "signature" in said, said
    other = tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", other], check=True)
    status, said = verify(good / "audit", "--key", str(other) + ".pub")
    assert status == 65 and "another key" in said, said
    assert verify(good / "audit", "--key", str(other) + ".pub", "--key", good / "key.pub")[0] == 0


@pytest.mark.parametrize("argv,status", [([], 64), (["--nothing", "x"], 64), (["/nonexistent"], 66), (["a", "b"], 64), (["--help"], 0)])
def test_the_verifier_says_how_it_is_used(argv, status):
    done = subprocess.run([BUILD / "berth-verify-audit", *argv], capture_output=True, text=True)
    assert done.returncode == status and (status == 0 or done.stderr.count("\n") == 1), done


def test_the_chain_goes_on_over_restarts_and_files(own_server, name):
    server = own_server
    for sig in (signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGKILL):
        assert server.ssh(name, "true").status == 0
        server.stop(sig)
        before = lines(server)
        server.start()
        assert lines(server)[:len(before)] == before
    is_whole(server)
    assert len(of(lines(server), "start")) == 5


def test_a_line_that_a_crash_tore_stays_and_is_told_of(own_server, name):
    server = own_server
    server.ssh(name, "true")
    server.kill()
    last = files(server.state / "audit")[-1]
    with open(last, "ab") as f:
        f.write(b'{"seq":9999,"prev":"00')
    status, said = verify(server.state / "audit")
    assert status == 65 and last.name in said, said
    server.start()
    assert "a crash cut it" in is_whole(server)
    cut = of([json.loads(x) for x in files(server.state / "audit")[-1].read_bytes().splitlines()], "cut")
    assert cut[0]["file"] == last.name and cut[0]["bytes"] == 22
    with open(last, "ab") as f:
        f.write(b"0")  # what was left is bound too
    assert verify(server.state / "audit")[0] == 65
    os.truncate(last, last.stat().st_size - 1)
    is_whole(server)


def await_line(server):
    """Until a record's line has come into the log: the commit of its row is then under way."""
    before = sum(path.stat().st_size for path in files(server.state / "audit"))
    end = time.monotonic() + 30
    while True:
        assert time.monotonic() < end
        if sum(path.stat().st_size for path in files(server.state / "audit")) == before:
            continue
        if b'"kind":"call_' in b"".join(path.read_bytes() for path in files(server.state / "audit"))[before:]:
            return


def is_between(server):
    """Whether a dead manager has left a line of a record whose row is not committed."""
    with contextlib.closing(sqlite3.connect(server.state / "index.db")) as db:
        row = db.execute("SELECT last FROM spools WHERE session='audit'").fetchone() or [0]
    return any(r["seq"] > row[0] for r in lines(server) if r["kind"].startswith("call_"))


@pytest.mark.parametrize("sync", ["soon", "always"])
def test_every_call_is_there_once_though_the_manager_is_killed_at_random_moments(name, sync):
    """Calls go on over one connection while the manager dies again and again: between the line of a record, the
    commit of its row, and its acknowledgement, wherever it falls."""
    import asyncio
    import asyncssh
    rounds, ended, stop = 12, [], threading.Event()

    async def calls(server, number):
        async with asyncssh.connect("127.0.0.1", server.port, username=name, known_hosts=None,
                                    client_keys=[str(server.key)]) as c:
            n = 0
            while not stop.is_set():
                n += 1
                command = f"echo {number}-{n}"
                r = await c.run(command)
                assert r.exit_status == 0 and r.stdout == f"{number}-{n}\n"
                ended.append(command)

    async def all_calls(server):
        await asyncio.gather(*(calls(server, i) for i in range(3)))

    with running(f"audit_sync = {sync}\naudit_file_max = 64K\n") as server:
        assert server.ssh(name, "true").status == 0
        failure = []

        def run():
            try:
                asyncio.run(all_calls(server))
            except BaseException as e:  # told by the test below
                failure.append(e)

        thread = threading.Thread(target=run)
        thread.start()
        seed = random.randrange(1 << 30)
        print("seed", seed)
        rng = random.Random(seed)
        wait_until("all three to be logged in", lambda: failure or len({e.split("-")[0] for e in list(ended)}) == 3)
        between = 0
        for i in range(rounds):
            if i % 2:
                thread.join(rng.uniform(0.02, 0.4))  # the moment is meant to fall anywhere
            else:
                await_line(server)
            assert not failure, failure
            server.kill()
            between += is_between(server)
            server.start()
        assert between, "no death fell between the line of a record and the commit of its row"
        stop.set()
        thread.join(60)
        assert not failure and not thread.is_alive(), failure
        assert len(ended) > 3 * rounds
        server.json("calls", name)  # reads what keepers have sent
        rows = lines(server)
        wait_until("the last records", lambda: len(of(lines(server), "call_end")) >= len(ended) + 1)
        rows = lines(server)
        starts = [r["command"] for r in of(rows, "call_start")]
        by_id = {r["call"]: r["command"] for r in of(rows, "call_start")}
        ends = [by_id[r["call"]] for r in of(rows, "call_end")]
        assert sorted(starts) == sorted(["true", *ended])
        assert sorted(ends) == sorted(["true", *ended])
        assert len(set(by_id)) == len(starts)
        is_whole(server)


def test_a_keeper_that_died_without_a_manager_leaves_its_calls_for_the_log(own_server, name):
    server = own_server
    call = server.popen(name, "echo ready; exec sleep 300")
    assert call.stdout.readline() == b"ready\n"
    server.kill()
    for pid, what in server.keeper_pids():
        if what == "berth-keeper":
            os.kill(pid, signal.SIGKILL)
    call.communicate(timeout=30)
    for _ in range(2):
        server.start()
        rows = lines(server)
        start = of(rows, "call_start", command="echo ready; exec sleep 300")
        assert len(start) == 1
        assert [r["ended_by"] for r in of(rows, "call_end", call=start[0]["call"])] == ["lost"]
        server.kill()
    server.start()
    is_whole(server)


def test_on_a_full_disk_the_server_says_so_goes_on_and_tells_what_is_missing(name):
    """The log's directory is a filesystem of 64 KiB: the rest of the disk has room."""
    with running(rung="root") as server:
        assert server.ssh(name, "true").status == 0
        server.stop(signal.SIGTERM)
        audit = server.state / "audit"
        keep = server.base / "keep"
        shutil.copytree(audit, keep)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "none", audit], check=True)
        try:
            for path in files(keep):
                shutil.copy(path, audit / path.name)
            server.start()
            filler = audit / "filler"
            with open(filler, "wb", buffering=0) as f:
                try:
                    while f.write(b"x" * 512):
                        pass
                except OSError:
                    pass
            wait_until("the log to be full", lambda: server.verb("ls").status == 0 and "audit log cannot be written" in server.log())
            refused = server.verb("ls")
            assert refused.status == 0, "the server serves"
            assert server.ssh(name, "echo served").out == b"served\n"
            filler.unlink()
            wait_until("the log to go on", lambda: of(lines(server), "unwritten"))
            assert of(lines(server), "unwritten")[0]["lines"] >= 2
            assert "written again" in server.log()
            wait_until("the call that waited", lambda: of(lines(server), "call_start", command="echo served"))
            is_whole(server)
            server.stop(signal.SIGINT)
            is_whole(server)
        finally:
            server.stop(signal.SIGINT)
            subprocess.run(["umount", audit], check=True)


def test_all_that_a_verb_was_given_is_on_the_record(server, name):
    """Also what may be given more than once, and words; and a line of the largest there is."""
    server.ssh(name, "true")
    assert server.verb("label", name, "one=1", "two=2").status == 0
    server.verb("bisect", name, "aaaaaa", "bbbbbb", "--", "sh", "-c", "hidden")
    huge = "x" * 3000
    server.verb("bisect", name, "aaaaaa", "bbbbbb", "--", *[huge] * 20)
    given = {line["verb"]: line["given"] for line in lines(server) if line["kind"] == "verb" and line.get("name") == name}
    assert "label=one=1 label=two=2" in given["label"], given
    both = [line["given"] for line in lines(server) if line.get("verb") == "bisect"]
    assert "command=sh command=-c command=hidden" in both[0] and len(both) == 2, both
    assert both[1].endswith("…") and len(both[1]) > 10000, both[1][-100:]
