"""gc: what nothing needs goes, and really frees its bytes; what something needs never does, whoever dies when."""
import contextlib
import json
import os
import pathlib
import select
import signal
import sqlite3
import subprocess
import threading

import pytest

from conftest import running, wait_until

AT_ONCE = "gc_age = 0s\ngc_interval = 0s\ntombstone = 0s\n"


@pytest.fixture
def server():
    with running(AT_ONCE) as s:
        yield s


def pauses(server, name, n, bytes_each=0):
    made = []
    for i in range(n):
        r = server.ssh(name, f"echo {i} > f{i}; head -c {bytes_each} /dev/urandom > big{i}" if bytes_each else f"echo {i} > f{i}")
        assert r.status == 0, r
        made.append(server.json("pause", name)["snapshot"])
    return made


def blobs(server):
    return {p.name for p in (server.state / "store/blobs/sha256").iterdir()}


def listed(server, name):
    return [s["snapshot"] for s in server.json("snapshots", name)]


def check_whole(server, names=()):
    """Each row has its manifest, config, layers with their indexes, and its ref; and each session can be started of
    archives alone."""
    store = server.state / "store"
    with contextlib.closing(sqlite3.connect(f"file:{server.state}/index.db?mode=ro", uri=True)) as db:
        rows = [r[0].hex() for r in db.execute("SELECT digest FROM snapshots")]
        layers = [r[0].hex() for r in db.execute("SELECT DISTINCT layer FROM snapshot_layers")]
        heads = [r[0].hex() for r in db.execute("SELECT head FROM sessions WHERE head IS NOT NULL")]
    assert set(heads) <= set(rows)
    for row in rows:
        manifest = json.loads((store / "blobs/sha256" / row).read_text())
        assert (store / "blobs/sha256" / manifest["config"]["digest"][7:]).exists()
        assert (store / "refs" / f"{row}.json").exists(), row
        assert all(layer["digest"][7:] in layers for layer in manifest["layers"])
    for layer in layers:
        assert (store / "blobs/sha256" / layer).exists() and (store / "idx" / f"{layer}.idx").exists(), layer
    return rows, layers


def used(path):
    return int(subprocess.run(["du", "-s", "--block-size=1", path], capture_output=True, check=True).stdout.split()[0])


def kinds(answer):
    counts = {}
    for gone in answer["gone"]:
        counts[gone["kind"]] = counts.get(gone["kind"], 0) + 1
    return counts


def test_retention_drops_what_its_rule_says_and_frees_the_bytes(server, name):
    made = pauses(server, name, 6, 2_000_000)
    server.ssh(name, "rm big*; echo end > end")
    made.append(server.json("pause", name)["snapshot"])
    assert kinds(server.json("gc")) == {}, "by default everything is kept"
    r = server.verb("set", name, "retention", "last=2")
    assert (r.status, r.stdout) == (0, f"{name}: retention last=2\n"), r
    assert server.json("show", name)["retention"] == "last=2"
    before = used(server.state / "store")
    dry = server.json("gc", "--dry-run")
    assert kinds(dry)["snapshot"] == 5 and dry["dry_run"] is True
    assert listed(server, name) == made, "a dry run removes nothing"
    done = server.json("gc")
    assert kinds(done)["snapshot"] == 5 and done["bytes"] > 0
    assert listed(server, name) == made[5:]
    assert server.json("snapshots", name)[0].get("parent") is None
    # the head still lists the layers of the six: none of them may go
    assert len(blobs(server)) >= 7 + 2 * 2 and used(server.state / "store") < before
    rows, layers = check_whole(server)
    assert len(rows) == 2 and len(layers) == 7
    assert server.ssh(name, "cat f0 f5 end; ls | wc -l").out.split() == [b"0", b"5", b"end", b"7"]


def test_a_snapshot_between_two_kept_ones_is_bridged(server, name):
    made = pauses(server, name, 4)
    with contextlib.closing(sqlite3.connect(server.state / "index.db")) as db:
        db.execute("UPDATE snapshots SET pinned=1 WHERE digest=?", (bytes.fromhex(made[0][7:]),))
        db.execute("UPDATE snapshots SET name='good' WHERE digest=?", (bytes.fromhex(made[2][7:]),))
        db.commit()
    server.verb("set", name, "retention", "last=1")
    done = server.json("gc")
    assert [g["digest"] for g in done["gone"] if g["kind"] == "snapshot"] == [made[1]]
    parents = {s["snapshot"]: s.get("parent") for s in server.json("snapshots", name)}
    assert parents == {made[0]: None, made[2]: made[0], made[3]: made[2]}
    check_whole(server)
    assert server.verb("restore", name, "good").status == 0
    assert server.ssh(name, "ls").out == b"f0\nf1\nf2\n"


def test_a_removed_session_goes_wholly_and_frees_its_bytes(server, name):
    pauses(server, name, 2, 3_000_000)
    server.ssh(name, "echo live")
    (sid,) = [s["id"] for s in server.json("ls") if s["name"] == name]
    keep = name + "k"
    pauses(server, keep, 1)
    assert server.verb("rm", name).status == 0
    before = used(server.state)
    done = server.json("gc")
    assert kinds(done)["session"] == 1, done
    assert used(server.state) < before - 6_000_000 and done["bytes"] > 6_000_000
    assert not (server.state / "sessions" / sid).exists()
    assert not (server.state / "store/refs" / f"session-{sid}.json").exists()
    assert not list((server.state / "scratch").glob("gone.*"))
    with contextlib.closing(sqlite3.connect(f"file:{server.state}/index.db?mode=ro", uri=True)) as db:
        for table, column in [("sessions", "id"), ("snapshots", "session"), ("calls", "session"), ("uppers", "session")]:
            assert db.execute(f"SELECT count(*) FROM {table} WHERE {column}=?", (sid,)).fetchone() == (0,), table
    rows, _ = check_whole(server)
    assert len(rows) == 1 and server.ssh(keep, "cat f0").out == b"0\n"
    assert server.ssh(name, "ls").out == b"", "its name is free"


def test_a_removed_session_stays_until_its_day_is_over(name):
    with running("gc_age = 0s\ntombstone = 1d\n") as server:
        made = pauses(server, name, 1)
        server.verb("rm", name)
        assert kinds(server.json("gc")).get("session") is None
        assert listed(server, name)[0] == made[0]


def test_it_runs_by_itself_after_rm(name):
    with running("gc_age = 0s\ntombstone = 1s\ngc_interval = 1h\n") as server:
        pauses(server, name, 1)
        (sid,) = [s["id"] for s in server.json("ls") if s["name"] == name]
        server.verb("rm", name)
        wait_until("the session to be collected", lambda: not (server.state / "sessions" / sid).exists())
        wait_until("its blobs to be collected", lambda: not blobs(server))


def test_it_runs_by_itself_now_and_then(name):
    with running("gc_age = 0s\ngc_interval = 1s\nretention = last=1\n") as server:
        made = pauses(server, name, 3)
        wait_until("two snapshots to be collected", lambda: listed(server, name) == made[2:])
        wait_until("its end", lambda: "gc: 2 snapshots" in server.log() or server.log().count("gc: 1 snapshots") == 2)
        check_whole(server)


def test_orphans_are_named_and_go(server, name):
    pauses(server, name, 1)
    store = server.state / "store"
    before = blobs(server)
    (store / "blobs/sha256" / ("ab" * 32)).write_bytes(b"x" * 100_000)
    (store / "idx" / ("cd" * 32 + ".idx")).write_bytes(b"y")
    (store / "refs" / ("ef" * 32 + ".json")).write_text("{}")
    done = {g["digest"][7:]: g for g in server.json("gc")["gone"]}
    assert done["ab" * 32]["kind"] == "blob" and done["ab" * 32]["bytes"] >= 100_000
    assert done["cd" * 32]["why"] == "an index without its layer"
    assert done["ef" * 32]["kind"] == "ref"
    assert blobs(server) == before and not (store / "idx" / ("cd" * 32 + ".idx")).exists()
    assert not (store / "refs" / ("ef" * 32 + ".json")).exists()
    check_whole(server)


def test_what_is_young_stays(name):
    with running("gc_interval = 0s\n") as server:
        pauses(server, name, 1)
        orphan = server.state / "store/blobs/sha256" / ("ab" * 32)
        orphan.write_bytes(b"x")
        assert kinds(server.json("gc")) == {}
        os.utime(orphan, (0, 0))
        assert kinds(server.json("gc")) == {"blob": 1}
        assert not orphan.exists()


def test_an_index_that_is_older_than_the_store_removes_nothing(server, name):
    pauses(server, name, 1)
    assert server.stop() == 0
    old = (server.state / "index.db").read_bytes()
    server.start()
    pauses(server, name + "2", 1)
    assert server.stop() == 0
    (server.state / "index.db").write_bytes(old)
    server.start()
    before = blobs(server)
    r = server.verb("gc")
    assert r.status == 65 and "--reindex" in r.stderr, r
    assert blobs(server) == before


def test_a_snapshot_whose_config_nobody_can_name_keeps_all_blobs(server, name):
    made = pauses(server, name, 2)
    ref = server.state / "store/refs" / f"{made[1][7:]}.json"
    text = ref.read_bytes()
    manifest = server.state / "store/blobs/sha256" / made[1][7:]
    whole = manifest.read_bytes()
    ref.unlink()
    manifest.write_bytes(b"{}")
    before = blobs(server)
    (server.state / "store/blobs/sha256" / ("ab" * 32)).write_bytes(b"x")
    answer = server.json("gc")
    assert answer["unsure"] == 1 and blobs(server) == before | {"ab" * 32}
    ref.write_bytes(text)
    manifest.write_bytes(whole)
    assert server.json("gc")["unsure"] == 0 and blobs(server) == before


def test_mounted_layers_stay_and_cold_ones_go(name):
    with running("gc_age = 0s\ngc_interval = 0s\ncache_max = 0\nwarm_keep = 0s\n") as server:
        other = name + "o"
        pauses(server, name, 3, 100_000)
        pauses(server, other, 2, 100_000)
        done = server.json("gc")
        assert kinds(done) == {"upper": 5}, "kept uppers whose archives are whole, of paused sessions"
        assert not list(server.state.glob("sessions/*/upper.*"))
        assert server.ssh(name, "cat f0 f1 f2").out == b"0\n1\n2\n", "cold"
        assert server.ssh(other, "cat f0 f1").out == b"0\n1\n"
        server.verb("pause", other)
        cached = {p.name for p in (server.state / "cache/layers").iterdir() if p.is_dir()}
        assert len(cached) == 5
        done = server.json("gc")
        assert kinds(done) == {"cached layer": 2}, done
        assert server.ssh(name, "cat f0 f1 f2; cat big0 | wc -c").out == b"0\n1\n2\n100000\n"
        server.kill()
        server.start()
        assert kinds(server.json("gc")) == {}, "the next manager knows what is mounted"
        assert server.ssh(name, "cat f0 f1 f2; cat big2 | wc -c").out == b"0\n1\n2\n100000\n"
        assert server.ssh(other, "cat f0 f1").out == b"0\n1\n"


def test_the_cache_drops_what_was_not_used_for_longest(name):
    with running("gc_age = 0s\ngc_interval = 0s\ncache_max = 3M\nwarm_keep = 0s\n") as server:
        for i in range(3):
            server.ssh(f"{name}{i}", "head -c 1400000 /dev/urandom > big")
            server.verb("pause", f"{name}{i}")
        server.json("gc")
        for i in (0, 1, 2, 0):
            assert server.ssh(f"{name}{i}", "wc -c < big").out == b"1400000\n"
            server.verb("pause", f"{name}{i}")
        server.json("gc")
        rows = dict((s["name"], s["head"][7:]) for s in server.json("ls"))
        cached = {p.name for p in (server.state / "cache/layers").iterdir() if p.is_dir()}
        first = {n: json.loads((server.state / "store/blobs/sha256" / head).read_text())["layers"][0]["digest"][7:]
                 for n, head in rows.items()}
        assert {n[-1] for n, layer in first.items() if layer in cached} == {"0", "2"}


def test_captures_of_what_dies_at_that_moment_lose_nothing(server, name):
    """Sessions that make the same layers again and again, while every collection wants to take those of the ones that
    were removed before. The age of 0 leaves nothing but the lock and the order of the steps to protect them."""
    stop, failures = threading.Event(), []

    def collect():
        while not stop.is_set():
            r = server.verb("gc")
            if r.status not in (0, 75):
                failures.append(r)

    def work(k):
        for i in range(12):
            session = f"{name}{k}x{i}"
            server.ssh(session, "mkdir -p /workspace/d; head -c 300000 /dev/zero > /workspace/d/same; echo same > /workspace/a; "
                                "touch -d 2020-01-01 /workspace/d/same /workspace/a /workspace/d /workspace")
            r = server.verb("pause", session)
            if r.status != 0:
                failures.append(r)
            if i % 2 == 0 and server.verb("rm", session).status != 0:
                failures.append(session)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(3)] + [threading.Thread(target=collect)]
    for t in threads:
        t.start()
    for t in threads[:3]:
        t.join()
    stop.set()
    threads[3].join()
    assert failures == []
    rows, layers = check_whole(server)
    assert len(rows) == 18
    server.json("gc")
    check_whole(server)
    assert server.stop() == 0
    for tree in [*server.state.glob("cache/layers/*"), *server.state.glob("sessions/*/upper.*")]:
        subprocess.run(["rm", "-rf", tree], check=True)
    server.start()
    for s in server.json("ls"):
        assert server.ssh(s["name"], "cat a; wc -c < d/same").out == b"same\n300000\n"
        server.verb("pause", s["name"])


@pytest.mark.parametrize("who", ["manager", "worker"])
def test_killed_at_any_moment_nothing_is_lost_and_the_next_one_ends_it(name, who):
    """SIGKILL at moments that are meant to fall anywhere."""
    with running(AT_ONCE) as server:
        kept = name + "k"
        pauses(server, kept, 3)
        head = server.session(kept)["head"]
        for round_ in range(14):
            session = f"{name}{round_}"
            pauses(server, session, 2, 200_000)
            server.verb("rm", session)
            gc = server.popen("berth", "gc")
            select.select([], [], [], round_ * 0.012)
            if who == "manager":
                server.kill()
                gc.communicate(timeout=60)
                server.start()
            else:
                for pid, what in server.all_pids():
                    if what == "berth-worker":
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGKILL)
                gc.communicate(timeout=60)
            check_whole(server)
        server.json("gc")
        rows, layers = check_whole(server)
        assert len(rows) == 3 and server.session(kept)["head"] == head
        configs = {json.loads((server.state / "store/blobs/sha256" / r).read_text())["config"]["digest"][7:] for r in rows}
        assert blobs(server) == set(rows) | set(layers) | configs, "nothing is left of the others"
        assert len(list(server.state.glob("sessions/s_*"))) == 1
        assert not list(server.state.glob("scratch/gone.*")) and not list(server.state.glob("cache/layers/gone.*"))
        assert server.ssh(kept, "cat f0 f1 f2").out == b"0\n1\n2\n"


def test_usage_says_what_a_removal_would_free(server, name):
    other = name + "o"
    pauses(server, name, 2, 500_000)
    pauses(server, other, 1, 700_000)
    server.ssh(name, "head -c 300000 /dev/urandom > live; head -c 200000 /dev/zero; sync")
    one = server.json("usage", name)
    (s,) = one["sessions"]
    assert (s["session"], s["snapshots"], s["shared_bytes"]) == (name, 2, 0)
    assert 1_000_000 < s["own_bytes"] < 1_100_000
    assert s["upper_bytes"] > 1_300_000 and s["journal_bytes"] > 0
    all_ = server.json("usage")
    assert {s["session"] for s in all_["sessions"]} == {name, other}
    assert all_["store_bytes"] >= sum(s["own_bytes"] for s in all_["sessions"])
    assert all_["free_bytes"] > 0 and all_["blobs"] >= 9
    assert name in server.verb("usage").stdout and "journals" in server.verb("usage", name).stdout
    server.verb("rm", name)
    server.json("gc")
    after = server.json("usage")
    assert all_["store_bytes"] - after["store_bytes"] >= one["sessions"][0]["own_bytes"]
    key = server.add_key("scoped", f'role="developer",sessions="{other}"')
    assert [x["session"] for x in json.loads(server.verb("usage", "--json", key=key).out)["sessions"]] == [other]
    assert server.verb("usage", name, key=key).status == 66


def test_gc_is_for_operators(server):
    key = server.add_key("dev", 'role="developer",sessions="*"')
    assert server.verb("gc", key=key).status == 77
