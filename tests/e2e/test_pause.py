"""Pause, resume and restore: nothing is lost, whatever is left on the node."""
import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import pytest

from conftest import at_most, wait_until
import trees


def drop_uppers_and_caches(server):
    """All that an archive can bring back: what a power cut or another node would lack."""
    shutil.rmtree(server.state / "cache" / "layers", ignore_errors=True)
    for upper in (server.state / "sessions").glob("s_*/upper.*"):
        shutil.rmtree(upper)


def restart_cold(server):
    assert server.stop() == 0
    drop_uppers_and_caches(server)
    server.start()


def test_every_kind_of_entry_survives_a_warm_and_a_cold_resume(own_server, name):
    server = own_server
    server.ssh(name, "true")
    trees.make(server, name)
    before = trees.read(server, name)
    assert len(before) > 60
    assert server.verb("pause", name).status == 0
    assert trees.differences(before, trees.read(server, name)) == {}, "warm"
    assert server.verb("pause", name).status == 0
    restart_cold(server)
    assert trees.differences(before, trees.read(server, name)) == {}, "cold"


def test_archives_are_plain_tar_and_zstd(own_server, name):
    server = own_server
    server.ssh(name, "echo hi > a; mkdir d; echo x > d/b; rm /etc/debian_version")
    server.verb("pause", name)
    manifest = server.json("snapshots", name)[0]["snapshot"].split(":")[1]
    blobs = server.state / "store" / "blobs" / "sha256"
    layer = json.loads((blobs / manifest).read_text())["layers"][0]
    path = blobs / layer["digest"].split(":")[1]
    assert layer["size"] == path.stat().st_size
    listed = subprocess.run(["tar", "--zstd", "-tf", path], capture_output=True, check=True).stdout.decode().split()
    names = {n.removeprefix("./").rstrip("/") for n in listed}
    assert {"workspace/a", "workspace/d/b", "etc/.wh.debian_version"} <= names, names
    digest = subprocess.run(["sha256sum", path], capture_output=True, check=True).stdout.split()[0].decode()
    assert digest == path.name


def test_the_second_pause_stores_only_what_changed(server, name):
    server.ssh(name, "head -c 8000000 /dev/urandom > big; echo 1 > small")
    server.verb("pause", name)
    server.ssh(name, "echo 2 > small")
    server.verb("pause", name)
    first, second = server.json("snapshots", name)
    assert first["bytes"] > 8_000_000 and second["bytes"] < 10_000, (first, second)
    assert second["total_bytes"] == first["bytes"] + second["bytes"]
    assert second["parent"] == first["snapshot"] and second["head"]


def test_a_pause_without_a_change_makes_no_snapshot(server, name):
    server.ssh(name, "echo 1 > a")
    server.verb("pause", name)
    server.ssh(name, "cat a")
    assert server.verb("pause", name).status == 0
    assert len(server.json("snapshots", name)) == 1


def test_what_a_command_writes_on_sigterm_is_there_after_a_cold_resume(own_server, name):
    server = own_server
    script = "trap 'echo saved > /workspace/on-term; exit 0' TERM; echo ready; while :; do sleep 0.1; done"
    call = server.popen(name, script)
    assert call.stdout.readline() == b"ready\n"
    r = server.verb("pause", name)
    assert r.status == 0, r
    call.communicate(timeout=30)
    row = server.json("calls", name)[0]
    assert (row["ended_by"], row["exit_status"]) == ("pause", 0), row
    restart_cold(server)
    assert server.ssh(name, "cat on-term").out == b"saved\n"


def test_a_call_that_ignores_sigterm_is_ended_by_the_pause_and_says_so(server, name):
    call = server.popen(name, "trap '' TERM; echo ready; while :; do sleep 0.1; done")
    assert call.stdout.readline() == b"ready\n"
    assert server.verb("pause", name, "--grace 300ms").status == 0
    _, err = call.communicate(timeout=30)
    assert call.returncode != 0, err
    assert server.json("calls", name)[0]["ended_by"] == "pause"


def test_twenty_six_pauses_resume_as_one(own_server, name):
    """Over 24 layers a worker merges them into one directory."""
    server = own_server
    for i in range(26):
        r = server.ssh(name, f"echo {i} > f{i}; echo {i} > same; rm -f f{i - 3}; test {i} != 5 || rm /etc/inputrc; cat same")
        assert r.out == f"{i}\n".encode(), r
        assert server.verb("pause", name).status == 0
    assert len(server.json("snapshots", name)) == 26
    restart_cold(server)
    r = server.ssh(name, "ls /workspace | wc -l; cat same f25; test -e /etc/inputrc; echo $?; ls -d f22 2>&1 | head -1")
    assert r.out.split()[:4] == [b"4", b"25", b"25", b"1"], r
    under = [p for p in (server.state / "cache" / "layers").iterdir() if p.is_dir()]
    assert len(under) < 26, "the merged ones are not unpacked one by one"


def test_restore_goes_back_and_keeps_what_it_replaces(server, name):
    server.ssh(name, "echo one > a; echo keep > b")
    server.verb("pause", name)
    first = server.json("snapshots", name)[0]["snapshot"]
    server.ssh(name, "echo two > a; rm b; echo new > c")
    r = server.verb("restore", name, first[7:19])
    assert r.status == 0, r
    assert server.ssh(name, "cat a b; ls").out == b"one\nkeep\na\nb\n"
    second = [s for s in server.json("snapshots", name) if s["snapshot"] != first]
    assert len(second) == 1 and second[0]["made_by"] == "restore"
    assert server.verb("restore", name, second[0]["snapshot"]).status == 0
    assert server.ssh(name, "cat a; ls").out == b"two\na\nc\n"


def test_rm_leaves_a_tombstone(server, name):
    server.ssh(name, "echo x > a")
    assert server.verb("rm", name).status == 0
    assert server.session(name) is None
    r = server.ssh(name, "true")
    assert r.status == 66 and "was deleted" in r.stderr, r
    assert server.verb("new", name).status == 0
    assert server.ssh(name, "ls").out == b""


def test_a_channel_that_comes_during_a_pause_waits_and_resumes(server, name):
    call = server.popen(name, "trap '' TERM; echo ready; while :; do sleep 0.1; done")
    assert call.stdout.readline() == b"ready\n"
    pause = server.popen("berth", f"pause {name} --grace 1s")
    wait_until("the pause to begin", lambda: server.session(name)["state"] == "pausing")
    r = server.ssh(name, "echo back")
    assert (r.out, r.status) == (b"back\n", 0), r
    assert pause.wait(30) == 0
    call.communicate(timeout=30)


def test_live_calls_of_others_are_not_ended_without_force(server, name):
    key = server.add_key("agent-" + name, 'role="orchestrator"')
    call = subprocess.Popen(server.ssh_argv(name, "echo ready; exec sleep 300", key=key), stdout=subprocess.PIPE)
    assert call.stdout.readline() == b"ready\n"
    r = server.verb("pause", name)
    assert r.status == 75 and "sleep 300" in r.stderr and "--force" in r.stderr, r
    assert call.poll() is None
    assert server.verb("pause", name, "--force").status == 0
    call.communicate(timeout=30)


@pytest.mark.parametrize("moment", range(6))
def test_sigkill_of_the_manager_at_a_moment_of_a_pause_loses_nothing(own_server, name, moment):
    """The moment is a delay after the pause was asked for: spread over its steps, whatever they are."""
    server = own_server
    server.ssh(name, "head -c 30000000 /dev/urandom > big; sha256sum big > sum; (sleep 1000 &) ; echo $$ > pid")
    pause = server.popen("berth", f"pause {name}")
    wait_until("the pause to begin", lambda: f"session {name}: pause" in server.log() or server.session(name)["state"] != "running", 5)
    import select
    select.select([], [], [], 0.03 * moment)
    server.kill()
    pause.communicate(timeout=30)
    server.start()
    r = server.ssh(name, "sha256sum -c sum")
    assert r.status == 0, r
    assert server.verb("pause", name).status == 0
    restart_cold(server)
    assert server.ssh(name, "sha256sum -c sum").status == 0


@pytest.mark.parametrize("moment", range(3))
def test_sigkill_of_the_worker_during_a_pause_leaves_the_session_running(own_server, name, moment):
    server = own_server
    server.ssh(name, "head -c 60000000 /dev/urandom > big; sha256sum big > sum")
    holder = server.popen(name, "echo ready; cat")
    assert holder.stdout.readline() == b"ready\n"
    pause = server.popen("berth", f"pause {name}")
    pid = wait_until("a worker", lambda: next((p for p, n in server.keeper_pids() if n == "berth-worker"), None))
    with contextlib.suppress(ProcessLookupError):  # it had just ended
        os.kill(pid, signal.SIGKILL)
    _, err = pause.communicate(timeout=30)
    if pause.returncode != 0:  # else it had already ended its work
        assert err.startswith(b"berth: pause "), err
        out, _ = holder.communicate(b"still here\n", timeout=30)
        assert out == b"still here\n"
        assert server.session(name)["state"] == "running"
    assert server.ssh(name, "sha256sum -c sum").status == 0
    assert server.verb("pause", name).status == 0
    restart_cold(server)
    assert server.ssh(name, "sha256sum -c sum").status == 0


def test_a_corrupt_or_missing_archive_is_said_and_the_session_waits(own_server, name):
    server = own_server
    server.ssh(name, "head -c 3000000 /dev/urandom > big; sha256sum big > sum")
    server.verb("pause", name)
    assert server.stop() == 0
    drop_uppers_and_caches(server)
    manifest = json.loads((server.state / "store/blobs/sha256" / sqlite_head(server, name)).read_text())
    blob = server.state / "store/blobs/sha256" / manifest["layers"][0]["digest"].split(":")[1]
    whole = blob.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    blob.write_bytes(flipped)
    server.start()
    r = server.ssh(name, "cat sum")
    assert r.status == 65 and r.stderr.startswith("berth: "), r
    blob.unlink()
    r = server.ssh(name, "cat sum")
    assert r.status in (65, 66) and r.stderr.startswith("berth: "), r
    assert server.session(name)["state"] == "failed"
    blob.write_bytes(whole)
    assert server.ssh(name, "sha256sum -c sum").status == 0


def sqlite_head(server, name):
    out = subprocess.run([sys.executable, "-c", "import sqlite3,sys; print(sqlite3.connect(sys.argv[1]).execute("
                          "'SELECT hex(head) FROM sessions WHERE name=?', (sys.argv[2],)).fetchone()[0].lower())",
                          server.state / "index.db", name], capture_output=True, check=True, text=True).stdout
    return out.strip()


@pytest.fixture
def small_disk(tmp_path):
    """A filesystem of 96 MiB, in a mount namespace of its own process? No: a loop image that the test unmounts."""
    image = tmp_path / "disk"
    with open(image, "wb") as f:
        f.truncate(160 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)
    where = tmp_path / "mnt"
    where.mkdir()
    done = subprocess.run(["mount", "-o", "loop", image, where], capture_output=True)
    if done.returncode:
        pytest.skip("no loop mount here: " + done.stderr.decode().strip())
    yield pathlib.Path(where)
    subprocess.run(["umount", where], check=True)


def test_a_full_disk_while_capturing_is_73_and_the_session_goes_on(small_disk, name):
    from conftest import Server
    base = small_disk / "berth"
    base.mkdir()
    server = Server(base)
    try:
        server.start()
        server.ssh(name, "head -c 60000000 /dev/urandom > big; sha256sum big > sum")
        holder = server.popen(name, "echo ready; cat")
        assert holder.stdout.readline() == b"ready\n"
        filler = small_disk / "filler"
        with open(filler, "wb") as f:
            st = os.statvfs(small_disk)
            free = st.f_bavail * st.f_frsize
            os.posix_fallocate(f.fileno(), 0, free - (20 << 20))
        r = server.verb("pause", name)
        assert r.status == 73 and r.stderr.startswith("berth: pause "), r
        out, _ = holder.communicate(b"still here\n", timeout=30)
        assert out == b"still here\n"
        left = [p for p in (base / "state/store/blobs/sha256").iterdir()]
        assert left == [], "nothing half-written stays"
        filler.unlink()
        assert server.verb("pause", name).status == 0
        assert server.ssh(name, "sha256sum -c sum").status == 0
        server.remove()
    finally:
        server.discard()


def test_after_a_power_cut_only_what_was_synced_or_archived_is_trusted(own_server, name):
    """Acted out: another boot id stands in the index and in the cache's marks, and the bytes under them are lost."""
    server = own_server
    server.ssh(name, "echo whole > a")
    server.verb("pause", name)
    assert server.stop() == 0
    drop = server.state / "cache" / "layers"
    shutil.rmtree(drop, ignore_errors=True)
    server.start()
    # unpack once into the cache, so that both kinds of copies are there
    sid = server.session(name)["id"]
    assert server.stop() == 0
    upper = next((server.state / "sessions" / sid).glob("upper.1/fs/workspace/a"))
    upper.write_bytes(b"")  # renamed, but its data never reached the disk
    import sqlite3
    c = sqlite3.connect(server.state / "index.db")
    c.execute("UPDATE uppers SET boot='another boot', synced=0")
    c.commit()
    c.close()
    server.start()
    assert server.ssh(name, "cat a").out == b"whole\n", "the archive, not the upper"
    assert server.stop() == 0
    layers = [p for p in (server.state / "cache/layers").iterdir() if p.is_dir()]
    assert len(layers) == 1
    (layers[0] / "workspace/a").write_bytes(b"")
    mark = layers[0].with_name(layers[0].name + ".json")
    told = json.loads(mark.read_text())
    told.update({k: ("00000000-0000-0000-0000-000000000000" if isinstance(v, str) else False) for k, v in told.items()})
    mark.write_text(json.dumps(told))
    server.start()
    assert server.ssh(name, "cat a").out == b"whole\n", "unpacked again"


def test_a_session_that_was_never_paused_has_a_ref(server, name):
    server.ssh(name, "true")
    sid = server.session(name)["id"]
    ref = server.state / "store" / "refs" / f"session-{sid}.json"
    wait_until("its ref", ref.exists)
    assert json.loads(ref.read_text())["name"] == name
    server.ssh(name, "echo x > a")
    server.verb("pause", name)
    assert json.loads(ref.read_text())["head"] == server.json("snapshots", name)[0]["snapshot"]
