"""berthd --reindex: index.db anew from the store alone; and what other tools read of the store."""
import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess

import pytest

from conftest import make_server, running, wait_until


def reindex(server):
    return subprocess.run([*server.as_user(), server.build / "berthd", "--reindex", "--state", server.state, "--run", server.run,
                           "--config", server.config], capture_output=True, text=True, timeout=120)


def told(server):
    """All that the verbs say of sessions and snapshots, but for what is of this moment."""
    moment = {"used", "calls", "waits_for"}
    answer = {"ls": [], "snapshots": {}, "show": {}, "images": []}
    for s in server.json("ls"):
        answer["ls"].append({k: v for k, v in s.items() if k not in moment})
        answer["snapshots"][s["name"]] = server.json("snapshots", s["name"])
        shown = server.json("show", s["name"])
        for limit in shown["limits"].values():
            limit.pop("used", None)
        answer["show"][s["name"]] = {k: v for k, v in shown.items() if k not in moment}
    answer["images"] = [{k: v for k, v in i.items() if k != "created"} for i in server.json("image", "ls")]
    return answer


def rich(server, name):
    server.ssh(name, "echo one > a")
    server.verb("pause", name, "--note", "'the first \"one\"'")
    server.ssh(name, "trap 'echo term > t; exit' TERM; echo two > a")
    server.verb("pause", name)
    first, second = [s["snapshot"] for s in server.json("snapshots", name)]
    assert server.verb("restore", name, first[7:20], "--note", "back").status == 0
    server.ssh(name, "echo three > a")
    server.verb("pause", name)
    # a pause whose shutdown writes: its first part stays in the store for a while
    term = server.popen(name, "echo before > b; trap 'echo saved > on-term; exit 0' TERM; echo ready; while :; do sleep 0.1; done")
    assert term.stdout.readline() == b"ready\n"
    server.verb("pause", name)
    term.communicate(timeout=30)
    with contextlib.closing(sqlite3.connect(server.state / "index.db")) as db:
        assert len(list((server.state / "store/refs").glob("?" * 64 + ".json"))) > db.execute(
            "SELECT count(*) FROM snapshots WHERE session=(SELECT id FROM sessions WHERE name=?)", (name,)).fetchone()[0]
    other = name + "-limited"
    mount = server.base / "shared"
    server.verb("new", other, "--memory", "512M", "--pids", "300", "--setuid", "yes", "--mount", f"{mount}:/mnt/x:ro",
                "--fork-ready", "yes")
    server.verb("set", other, "snapshot", "interval:10m")
    server.verb("set", other, "retention", "'last=4 ttl=30d'")
    server.ssh(other, "echo limited > /workspace/l")
    server.verb("pause", other)
    gone = name + "-gone"
    server.ssh(gone, "echo gone > g")
    server.verb("rm", gone)
    return first, second


@pytest.fixture
def server():
    server = make_server("gc_interval = 0s\n")
    (server.base / "shared").mkdir()
    server.config.write_text(server.config.read_text() + f"mounts = {server.base / 'shared'}\n")
    try:
        server.start()
        yield server
        server.remove()
    except BaseException:
        print(server.log()[-6000:])
        raise
    finally:
        server.discard()


def test_every_session_and_snapshot_is_back(server, name):
    first, second = rich(server, name)
    image = server.base / "root"
    (image / "etc").mkdir(parents=True)
    (image / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    assert server.verb("image", "import", "tiny", str(image)).status == 0
    before = told(server)
    assert len(before["snapshots"][name]) == 4
    assert server.stop() == 0
    (server.state / "index.db").rename(server.base / "lost.db")
    r = subprocess.run([server.build / "berthd", "--state", server.state, "--run", server.run, "--config", server.config],
                       capture_output=True, text=True, timeout=60)
    assert r.returncode == 65 and "--reindex" in r.stderr, "a server without its index does not begin with an empty one"
    assert not (server.state / "index.db").exists()
    r = reindex(server)
    assert r.returncode == 0 and "reindex:" not in r.stderr, r
    assert "3 sessions" in r.stdout and "1 images" in r.stdout, r.stdout
    server.start()
    after = told(server)
    assert after["ls"] == before["ls"]
    assert after["snapshots"] == before["snapshots"]
    assert after["show"] == before["show"]
    assert after["images"] == before["images"]
    assert server.ssh(name, "cat a on-term").out == b"three\nsaved\n"
    assert server.verb("restore", name, second[7:20]).status == 0
    assert server.ssh(name, "cat a").out == b"two\n"
    r = server.ssh(name + "-gone", "true")
    assert r.status == 66 and "was deleted" in r.stderr, "the tombstone is back too"
    assert server.verb("gc").status == 0


def test_what_ran_comes_back_unclean_and_whole(server, name):
    server.ssh(name, "echo archived > a")
    server.verb("pause", name)
    server.ssh(name, "echo in the upper > b; rm a; sync")
    new = name + "-new"
    server.ssh(new, "echo never paused > n")
    ids = {s["name"]: s["id"] for s in server.json("ls")}
    wait_until("the ref of the new one", lambda: (server.state / "store/refs" / f"session-{ids[new]}.json").exists())
    server.kill()
    for pid, what in server.all_pids():  # keepers end with their machine
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    (server.state / "index.db").unlink()
    assert reindex(server).returncode == 0
    server.start()
    assert {s["name"]: (s["state"], s["unclean"]) for s in server.json("ls")} == {name: ("paused", True), new: ("paused", True)}
    assert server.ssh(name, "ls; cat b").out == b"b\nin the upper\n"
    assert server.ssh(new, "cat n").out == b"never paused\n"


@pytest.mark.parametrize("lives", [True, False])
def test_what_a_session_has_removed_since_its_snapshots_stays_removed(server, name, lives):
    """The upper of a session that was saved as it ran stands below the layers that these snapshots have of it."""
    server.ssh(name, "echo 1 > below; mkdir d; echo 1 > d/f")
    server.verb("pause", name)
    server.ssh(name, "echo 1 > gone; echo 1 > d/gone; (sleep 1000 >/dev/null 2>&1 &)")
    server.verb("snapshot", name)
    server.ssh(name, "echo 2 > stays; echo 2 > gone2")
    server.verb("snapshot", name)
    server.ssh(name, "rm gone gone2 d/gone")
    server.kill()
    for pid, what in server.all_pids():
        if not lives:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    (server.state / "index.db").unlink()
    assert reindex(server).returncode == 0
    server.start()
    assert server.session(name)["state"] == ("running" if lives else "paused")
    assert server.ssh(name, "find * | sort").out == b"below\nd\nd/f\nstays\n"
    assert server.verb("pause", name).status == 0
    assert server.ssh(name, "find * | sort").out == b"below\nd\nd/f\nstays\n", "warm"
    server.verb("pause", name)
    assert server.stop() == 0
    subprocess.run(["rm", "-rf", server.state / "cache/layers", *(server.state / "sessions").glob("s_*/upper.*")], check=True)
    server.start()
    assert server.ssh(name, "find * | sort").out == b"below\nd\nd/f\nstays\n", "cold"


def test_what_a_session_that_runs_on_stands_on_is_left_by_the_collector(name):
    """Which of its former uppers are mounted below it, the index that is lost alone has known."""
    with running("gc_age = 0s\ngc_interval = 0s\n") as server:
        for i in range(3):
            server.ssh(name, f"mkdir -p d; echo {i} > d/f{i}")
            server.verb("pause", name)
        server.ssh(name, "echo 3 > d/f3; (sleep 1000 >/dev/null 2>&1 &)")
        server.kill()
        (server.state / "index.db").unlink()
        assert reindex(server).returncode == 0
        server.start()
        assert server.session(name)["state"] == "running"
        assert server.verb("gc").status == 0
        assert server.ssh(name, "ls d; cat d/*").out == b"f0\nf1\nf2\nf3\n0\n1\n2\n3\n"
        assert server.verb("pause", name).status == 0
        assert server.verb("gc").status == 0
        uppers = list(server.state.glob("sessions/s_*/upper.*"))
        assert len(uppers) == 1, "those that are not known go when nobody stands on them"
        assert server.ssh(name, "ls d; cat d/*").out == b"f0\nf1\nf2\nf3\n0\n1\n2\n3\n"


def test_what_still_runs_is_taken_back(server, name):
    call = server.popen(name, "echo ready; read x; echo got $x")
    assert call.stdout.readline() == b"ready\n"
    (sid,) = [s["id"] for s in server.json("ls")]
    wait_until("its ref", lambda: (server.state / "store/refs" / f"session-{sid}.json").exists())
    server.kill()
    shutil.copy(server.state / "index.db", server.base / "old.db")
    assert reindex(server).returncode == 0
    server.start()
    assert server.session(name)["state"] == "running"
    out, _ = call.communicate(b"this\n", timeout=30)
    assert out == b"got this\n"


def test_it_refuses_beside_a_server_and_keeps_what_was(server, name):
    server.ssh(name, "echo x > a")
    server.verb("pause", name)
    r = reindex(server)
    assert r.returncode == 69 and "another berthd" in r.stderr, r
    assert server.stop() == 0
    was = (server.state / "index.db").read_bytes()
    r = reindex(server)
    assert r.returncode == 0, r
    (old,) = server.state.glob("index.db.old-*")
    assert old.read_bytes() == was
    assert not (server.state / "reindex").exists()
    server.start()
    assert server.ssh(name, "cat a").out == b"x\n"


def test_damage_is_told_and_hides_nothing_else(server, name):
    for i in range(3):
        server.ssh(name, f"echo {i} > a")
        server.verb("pause", name)
    made = [s["snapshot"][7:] for s in server.json("snapshots", name)]
    other = name + "-o"
    server.ssh(other, "echo o > o")
    server.verb("pause", other)
    assert server.stop() == 0
    refs = server.state / "store/refs"
    (refs / f"{made[1]}.json").write_text("{ broken")
    (server.state / "index.db").unlink()
    r = reindex(server)
    assert r.returncode == 0 and f"refs/{made[1]}.json" in r.stderr, r
    server.start()
    snapshots = server.json("snapshots", name)
    assert [s["snapshot"][7:] for s in snapshots] == [made[0], made[2]]
    assert snapshots[1]["parent"][7:] == made[0], "the nearest that is there"
    assert server.ssh(name, "cat a").out == b"2\n" and server.ssh(other, "cat o").out == b"o\n"


def test_a_lost_head_gives_way_to_the_newest_that_is_there(server, name):
    for i in range(2):
        server.ssh(name, f"echo {i} > a")
        server.verb("pause", name)
    made = [s["snapshot"][7:] for s in server.json("snapshots", name)]
    assert server.stop() == 0
    (server.state / "store/blobs/sha256" / made[1]).unlink()
    (server.state / "index.db").unlink()
    r = reindex(server)
    assert r.returncode == 0 and "head" in r.stderr, r
    server.start()
    s = server.session(name)
    assert s["head"][7:] == made[0] and "head was lost" in s["reason"], s
    assert server.ssh(name, "cat a").out == b"0\n"


def test_retention_and_reindex_agree_on_parents(name):
    with running("gc_age = 0s\ngc_interval = 0s\n") as server:
        for i in range(5):
            server.ssh(name, f"echo {i} > f{i}")
            server.verb("pause", name)
        server.verb("set", name, "retention", "last=2")
        ref = server.state / "store/refs" / f"session-{server.session(name)['id']}.json"
        wait_until("its ref to tell of that", lambda: "last=2" in ref.read_text())
        server.verb("gc")
        before = told(server)
        assert server.stop() == 0
        assert reindex(server).returncode == 0
        server.start()
        assert told(server) == before


@pytest.mark.skipif(not shutil.which("skopeo"), reason="skopeo is missing: apt-get install skopeo")
def test_skopeo_reads_a_snapshot_from_the_store(name):
    with running("gc_age = 0s\ngc_interval = 0s\n") as server:
        for i in range(2):
            server.ssh(name, f"echo {i} > a")
            server.verb("pause", name)
        rows = server.json("snapshots", name)
        for row in rows:
            tag = f"{name}+{row['snapshot'][7:19]}"
            done = subprocess.run(["skopeo", "inspect", f"oci:{server.state}/store:{tag}"], capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, done
            seen = json.loads(done.stdout)
            assert seen["Digest"] == row["snapshot"]
        copied = server.base / "copy"
        done = subprocess.run(["skopeo", "copy", "--insecure-policy", f"oci:{server.state}/store:{tag}", f"dir:{copied}"],
                              capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done
        manifest = json.loads((copied / "manifest.json").read_text())
        layer = copied / manifest["layers"][-1]["digest"][7:]
        listed = subprocess.run(["tar", "--zstd", "-tf", layer], capture_output=True, text=True, check=True).stdout
        assert "workspace/a" in listed
        server.verb("set", name, "retention", "last=1")
        server.verb("gc")
        index = json.loads((server.state / "store/index.json").read_text())
        assert [m["digest"] for m in index["manifests"]] == [rows[1]["snapshot"]], "it follows the refs"
