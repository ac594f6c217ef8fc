"""Disk: the limit holds by the means that the store offers, says so, and no session fills the store for the others."""
import contextlib
import os
import re
import shutil
import signal
import subprocess

import pytest

from conftest import Server, at_most, make_server, running, wait_until

FULL = "No space left on device"


def disk(server, session):
    return server.json("show", session)["limits"]["disk"]


def frozen(server, session):
    """Whether it is frozen, by what `show` says."""
    return bool(server.session(session)) and disk(server, session).get("suspended", False)


def upper(server, session, n="*"):
    """Directories upper.N of a session."""
    return sorted((server.state / "sessions" / server.json("show", session)["id"]).glob(f"upper.{n}"))


# ---- the watcher ----

@pytest.fixture(scope="module")
def watched():
    with running("disk_means = watch\n") as s:
        yield s


@pytest.fixture
def own_watched():
    with running("disk_means = watch\n") as s:
        yield s


def test_a_session_above_its_limit_is_frozen_and_told_how_to_go_on(watched, name):
    server = watched
    assert server.verb("new", name, "--disk", "20M").status == 0
    assert server.ssh(name, "head -c 5000000 /dev/zero > /workspace/a; sync").status == 0
    filler = server.popen(name, "while head -c 1000000 /dev/zero >> /workspace/b; do sleep 0.02; done")
    wait_until("the freeze", lambda: frozen(server, name))
    words = f"disk full: the limit of 20M was hit; the session is frozen (raise it: ssh berth@HOST set {name} disk 40M)"
    assert filler.stderr.readline().decode() == f"berth: call: {words}\n", "who sits before it is told"
    with at_most(10):
        r = server.ssh(name, "true")
    assert r.status == 73, r
    assert words in r.stderr, r
    shown = server.json("show", name)
    assert "disk full" in shown["reason"] and shown["limits"]["disk"]["used"] > 20 << 20, shown
    assert "watcher" in shown["limits"]["disk"]["by"] and shown["limits"]["disk"]["means"] == "watch"
    assert "disk_means = watch" in shown["limits"]["disk"]["why"], "why nothing better"
    b = upper(server, name)[0] / "fs/workspace/b"
    size = b.stat().st_size
    other = name + "x"
    assert server.ssh(other, "head -c 30000000 /dev/zero > /workspace/c; echo fine").out == b"fine\n"
    assert b.stat().st_size == size, "it wrote though it was frozen"
    assert server.verb("set", name, "disk", "1G").status == 0
    assert filler.stderr.readline() == b"berth: call: the session goes on\n"
    wait_until("it to go on", lambda: b.stat().st_size > size)
    assert server.ssh(name, "echo again").out == b"again\n"
    assert server.json("show", name)["reason"] == ""
    filler.kill()
    filler.communicate()


def test_an_act_that_fails_leaves_a_frozen_session_its_reason(name, tmp_path):
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    with running(f"disk_means = watch\nblob_mirror = {mirror}\n") as server:
        assert server.verb("new", name, "--disk", "2M").status == 0
        assert server.ssh(name, "head -c 5000000 /dev/zero > a; sleep 1000", options=("-oSetEnv=BERTH_DETACH=1",)).status == 0
        wait_until("the freeze", lambda: frozen(server, name))
        mirror.rename(tmp_path / "away")
        for verb in (["snapshot", name], ["pause", name, "--force"], ["undo", name, "--force"]):
            assert server.verb(*verb).status == 69, verb
            assert "disk full: the limit of 2M was hit" in server.json("show", name)["reason"], verb
            assert f"{name} stands still: disk full" in server.verb("why", name).stdout, verb
        (tmp_path / "away").rename(mirror)
        assert server.verb("pause", name, "--force").status == 0


def test_a_terminal_is_told_that_its_session_stands_still(watched, name):
    server = watched
    assert server.verb("new", name, "--disk", "4M").status == 0
    terminal = server.popen(name, "head -c 8000000 /dev/zero > /workspace/a; sleep 600", options=("-tt",))
    wait_until("the freeze", lambda: frozen(server, name))
    assert b"the session is frozen (raise it: " in terminal.stderr.readline()
    terminal.kill()
    terminal.communicate()


def test_a_frozen_session_can_be_paused_and_resumed(watched, name):
    server = watched
    assert server.verb("new", name, "--disk", "4M").status == 0
    filler = server.popen(name, "head -c 8000000 /dev/zero > /workspace/a; sleep 600")  # stands still when frozen
    wait_until("the freeze", lambda: frozen(server, name))
    with at_most(20):
        assert server.verb("pause", name).status == 0
    filler.communicate(timeout=20)
    assert int(server.ssh(name, "wc -c < /workspace/a").out) > 4 << 20  # its layers are not its upper's


def test_a_new_manager_freezes_what_is_above_its_limit(own_watched, name):
    server = own_watched
    assert server.verb("new", name, "--disk", "4M").status == 0
    filler = server.popen(name, "head -c 8000000 /dev/zero > /workspace/a; sleep 600")  # stands still when frozen
    wait_until("the freeze", lambda: frozen(server, name))
    server.kill()
    server.start()
    wait_until("the freeze", lambda: frozen(server, name))
    assert server.ssh(name, "true").status == 73
    filler.kill()
    filler.communicate()


# ---- project quotas and disk images: the filesystem refuses what passes the limit ----

def serve(means):
    """A server that holds limits by these means, or a skip that says why there is none."""
    server = make_server(f"disk_means = {means}\n").start(wait=False)
    try:
        server.await_ready()
        return server
    except AssertionError:
        server.process.wait(20)
        server.process.stdout.close()
    why = server.log().strip().splitlines()[-1]
    shutil.rmtree(server.base)
    assert f"disk_means = {means}: " in why, why
    pytest.skip(why)


@contextlib.contextmanager
def serving(means):
    server = serve(means)
    try:
        yield server
        server.remove()
    finally:
        server.discard()


@pytest.fixture(scope="module", params=["quota", "loop"])
def held(request):
    with serving(request.param) as s:
        s.means = request.param
        yield s


@pytest.fixture(params=["quota", "loop"])
def own_held(request):
    with serving(request.param) as s:
        s.means = request.param
        yield s


@pytest.fixture(scope="module")
def images():
    with serving("loop") as s:
        yield s


@pytest.fixture
def own_images():
    with serving("loop") as s:
        yield s


def says_full(text):
    return FULL in text or "Disk quota exceeded" in text


def test_a_write_beyond_the_limit_fails_and_is_told(held, name):
    server = held
    assert server.verb("new", name, "--disk", "20M").status == 0
    r = server.ssh(name, "head -c 40000000 /dev/zero > /workspace/a")
    assert r.status == 1 and says_full(r.stderr), r
    assert f"berth: call: disk full: the limit of 20M was hit (raise it: ssh berth@HOST set {name} disk 40M)" in r.stderr, r
    call = server.json("calls", name)[0]
    shown = server.json("call", "show", call["call"])
    assert (shown["limit"], shown["ended_by"]) == ("disk", "limit"), shown
    limit = disk(server, name)
    assert 17 << 20 < limit["used"] <= 20 << 20 and not limit["suspended"], limit
    by = {"loop": "a disk image of its own (no project quota: disk_means = loop)", "quota": "a project quota of the store"}[server.means]
    assert (limit["means"], limit["by"]) == (server.means, by), limit
    assert re.search(rf"disk 20M, by {re.escape(by)}; uses (1\d|20)M\n", server.verb("show", name).stdout)


def test_a_call_that_fails_by_itself_on_a_full_disk_is_not_blamed_on_it(held, name):
    server = held
    assert server.verb("new", name, "--disk", "8M").status == 0
    server.ssh(name, "head -c 10000000 /dev/zero > /workspace/a")
    r = server.ssh(name, "exit 3")
    assert (r.status, r.stderr) == (3, ""), r
    r = server.ssh(name, "head -c 3000000 /dev/zero > /workspace/b")
    assert r.status == 1 and "disk full: the limit of 8M was hit" in r.stderr, r
    r = server.ssh(name, "rm /workspace/a; head -c 3000000 /dev/zero > /workspace/b || rm /workspace/b; echo on")
    assert (r.out, r.status) == (b"on\n", 0), r


def test_the_words_are_enough_though_the_file_is_gone(held, name):
    server = held
    assert server.verb("new", name, "--disk", "8M").status == 0
    r = server.ssh(name, "head -c 10000000 /dev/zero > /workspace/a; sleep 0.3; rm /workspace/a; exit 1")
    assert r.status == 1 and "disk full: the limit of 8M was hit" in r.stderr, r


def test_the_limit_is_raised_and_lowered_while_it_runs(held, name):
    server = held
    assert server.verb("new", name, "--disk", "8M").status == 0
    assert server.ssh(name, "head -c 20000000 /dev/zero > /workspace/a").status == 1
    assert server.verb("set", name, "disk", "100M").status == 0
    assert server.ssh(name, "head -c 80000000 /dev/zero > /workspace/a").status == 0
    assert server.verb("set", name, "disk", "90M").status == 0
    assert says_full(server.ssh(name, "head -c 20000000 /dev/zero > /workspace/b").stderr)
    assert server.verb("set", name, "disk", "10M").status == 0
    r = server.ssh(name, "head -c 9000 /dev/zero > /workspace/c; sync -f /workspace/a && wc -c < /workspace/a")
    assert r.out == b"80000000\n" and says_full(r.stderr), "what is there stays; nothing is added"
    assert server.verb("set", name, "disk", "100M").status == 0
    assert server.ssh(name, "echo more > /workspace/c && cat /workspace/c").out == b"more\n"


def test_a_session_in_an_image_is_paused_resumed_warm_and_restored(images, name):
    server = images
    assert server.verb("new", name, "--disk", "30M").status == 0
    assert server.ssh(name, "echo one > a; mkdir d; echo x > d/x; chown 5:6 d/x; rm -rf /var/tmp").status == 0
    assert server.verb("pause", name).status == 0
    first = server.json("snapshots", name)[0]["snapshot"]
    r = server.ssh(name, "cat a; stat -c %u:%g d/x; ls /var/tmp; echo two >> a; rm d/x; stat -c %d / a d /etc | sort -u | wc -l")
    assert r.out == b"one\n5:6\n1\n", r
    assert not (server.state / "cache/layers").exists() or not any((server.state / "cache/layers").iterdir()), "warm"
    assert len(list((server.state / "sessions").glob(f"{server.json('show', name)['id']}/upper.*/image"))) == 2
    assert server.verb("pause", name).status == 0
    assert server.ssh(name, "cat a; ls d").out == b"one\ntwo\n"
    assert server.verb("restore", name, first).status == 0
    assert server.ssh(name, "cat a; ls d").out == b"one\nx\n"
    for i in range(6):  # more images than are mounted under one workspace
        assert server.ssh(name, f"echo {i} > n{i}").status == 0
        assert server.verb("pause", name).status == 0
    assert server.ssh(name, "cat n?").out == b"0\n1\n2\n3\n4\n5\n"
    assert server.verb("pause", name).status == 0
    wait_until("its devices to be let go", lambda: not [d for d in server.loop_devices() if server.json("show", name)["id"] in d])


def test_a_limit_that_comes_later_is_watched_until_the_next_upper(images, name):
    server = images
    assert server.ssh(name, "echo before > a").status == 0
    assert server.verb("set", name, "disk", "8M").status == 0
    limit = disk(server, name)
    assert limit["means"] == "watch" and "from its first start after a pause on" in limit["why"], limit
    assert server.verb("pause", name).status == 0
    assert server.ssh(name, "cat a").out == b"before\n"
    assert disk(server, name)["means"] == "loop"
    assert FULL in server.ssh(name, "head -c 20000000 /dev/zero > b").stderr
    assert [(u / "image").exists() for u in upper(server, name)] == [False, True]
    assert server.verb("set", name, "disk", "none").status == 0
    assert server.ssh(name, "head -c 20000000 /dev/zero > b").status == 0, "no limit, in the same image"


def test_a_new_manager_finds_the_image_and_attaches_it_once(own_images, name):
    server = own_images
    assert server.verb("new", name, "--disk", "20M").status == 0
    call = server.popen(name, "echo ready; read x; head -c 40000000 /dev/zero > b; echo $?")
    assert call.stdout.readline() == b"ready\n"
    held = server.loop_devices()
    server.kill()
    server.start()
    assert server.loop_devices() == held and len(held) == 1
    assert disk(server, name)["means"] == "loop" and disk(server, name)["used"] > 0
    out, err = call.communicate(b"\n", timeout=60)
    assert out == b"1\n" and FULL in err.decode(), err
    assert server.verb("set", name, "disk", "60M").status == 0
    assert server.ssh(name, "head -c 40000000 /dev/zero > b && echo kept > c").status == 0
    assert server.verb("pause", name).status == 0
    assert server.ssh(name, "wc -c < b; cat c").out == b"40000000\nkept\n"
    assert len(server.loop_devices()) == 2, "the kept upper and the new one"


def test_a_new_manager_moves_the_limit_of_what_runs(own_held, name):
    server = own_held
    assert server.verb("new", name, "--disk", "20M").status == 0
    assert server.ssh(name, "head -c 10000000 /dev/zero > a").status == 0
    server.kill()
    server.start()
    assert disk(server, name)["means"] == server.means and disk(server, name)["used"] > 9 << 20
    r = server.ssh(name, "head -c 20000000 /dev/zero > b")
    assert r.status == 1 and says_full(r.stderr) and "disk full: the limit of 20M was hit" in r.stderr, r
    assert server.verb("set", name, "disk", "40M").status == 0
    assert server.ssh(name, "head -c 20000000 /dev/zero > b").status == 0


def test_what_was_paused_does_not_count(held, name):
    server = held
    assert server.verb("new", name, "--disk", "20M").status == 0
    for i in range(3):
        assert server.ssh(name, f"head -c 15000000 /dev/urandom > a{i}").status == 0
        assert server.verb("pause", name).status == 0
    assert server.ssh(name, "cat a0 a1 a2 | wc -c").out == b"45000000\n"
    assert disk(server, name)["used"] < 1 << 20


def test_root_of_a_session_cannot_leave_its_limit(held, name):
    server = held
    assert server.verb("new", name, "--disk", "20M").status == 0
    r = server.ssh(name, "mkdir d e; chattr -p 0 d; chattr -P d; chattr -R -p 5 /workspace; chmod -R 777 .; mv d e/; "
                         "cp -a e f; mv f e/d; head -c 15000000 /dev/zero > e/d/f/a; head -c 15000000 /dev/zero > e/d/b; "
                         "head -c 15000000 /dev/zero > /root/c; find / -xdev -size +1M -newer /etc/hostname 2>&1; du -scb e/d/f/a e/d/b /root/c | tail -1")
    assert says_full(r.stderr), r
    assert int(r.stdout.split()[-2]) <= 20 << 20, r


def test_many_files_are_held_too(held, name):
    """Empty ones have no blocks: a quota counts them, an image has so many inodes and their names fill it."""
    server = held
    assert server.verb("new", name, "--disk", "1M").status == 0
    r = server.ssh(name, "mkdir m; i=0; while [ $i -lt 60000 ] && echo -n > m/a-name-of-some-length-$i; do i=$((i+1)); done; ls m | wc -l",
                   timeout=120)
    assert int(r.out) < 60000, r


def lose(server, session):
    """SIGKILL of its keeper: its processes die, nothing is captured."""
    keepers = [pid for pid, what in server.keeper_pids() if what == "berth-keeper"]
    assert len(keepers) == 1
    os.kill(keepers[0], signal.SIGKILL)
    wait_until("its end", lambda: server.session(session)["state"] == "paused")
    wait_until("its devices to be let go", lambda: not server.loop_devices())


def test_after_a_power_cut_the_image_has_what_was_synced(own_images, name):
    """Acted out: the image as its device had it at one moment of a session's life takes its place."""
    server = own_images
    assert server.verb("new", name, "--disk", "50M").status == 0
    r = server.ssh(name, "head -c 3000000 /dev/urandom > a; mkdir d; mv a d/b; sync -f d/b; sha256sum < d/b")
    image = upper(server, name)[0] / "image"
    writer = server.popen(name, "while :; do echo x >> later; mkdir -p e/f; rm -r e; done")
    wait_until("it to write", lambda: server.ssh(name, "wc -c < later").out.strip() not in (b"", b"0"))
    cut = server.base / "cut"
    subprocess.run(["cp", "--sparse=always", image, cut], check=True)
    lose(server, name)
    writer.communicate()
    subprocess.run(["cp", "--sparse=always", cut, image], check=True)
    cut.unlink()
    assert server.ssh(name, "sha256sum < d/b").out == r.out
    assert server.verb("pause", name).status == 0
    assert server.ssh(name, "sha256sum < d/b").out == r.out


def test_an_image_that_cannot_be_mounted_is_kept_and_named(own_images, name):
    server = own_images
    assert server.verb("new", name, "--disk", "20M").status == 0
    assert server.ssh(name, "echo kept > a; sync -f a").status == 0
    image = upper(server, name)[0] / "image"
    lose(server, name)
    with open(image, "r+b") as f:
        whole = f.read(4096)
        f.seek(0)
        f.write(b"\0" * 4096)
    r = server.ssh(name, "cat a")
    assert r.status != 0 and re.search(r"its disk: upper\.1: mount the disk image on /dev/loop\d+: .*e2fsck -f", r.stderr), r
    assert server.session(name)["state"] == "failed"
    with open(image, "r+b") as f:
        f.write(whole)
    assert server.ssh(name, "cat a").out == b"kept\n"


def test_a_manager_killed_while_it_starts_sessions_leaves_no_device(own_images, name):
    server = own_images
    for moment in range(6):
        starts = [server.popen("berth", f"new {name}-{moment}-{i} --disk 20M") for i in range(3)]
        wait_until("one to begin", lambda: any(s.poll() is not None for s in starts) or
                   len(os.listdir(server.state / "sessions")) > moment * 3)
        server.kill()
        for s in starts:
            s.communicate(timeout=60)
        server.start()
    for s in server.json("ls"):
        r = server.ssh(s["name"], "head -c 1000000 /dev/zero > a && wc -c < a")
        assert r.out == b"1000000\n", r
    assert server.stop() == 0
    wait_until("all devices to be let go", lambda: not server.loop_devices())
    server.start()


# ---- the store ----

@pytest.fixture
def small_store(tmp_path):
    """A filesystem of 256 MiB of its own."""
    image, where = tmp_path / "image", tmp_path / "disk"
    where.mkdir()
    with open(image, "wb") as f:
        f.truncate(256 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    done = subprocess.run(["mount", "-o", "loop", image, where], capture_output=True)
    if done.returncode:
        pytest.skip("no loop mount here: " + done.stderr.decode().strip())
    yield where
    subprocess.run(["umount", where], check=True)


@pytest.mark.parametrize("means", ["watch", "loop"])
def test_no_session_fills_the_store_for_the_others(small_store, name, means):
    base = small_store / "berth"
    base.mkdir()
    server = Server(base, f"store_reserve = 40M\ndisk_means = {means}\n")
    try:
        server.start()
        bad, good = name, name + "x"
        assert server.verb("new", bad, "--disk", "10G").status == 0
        assert server.verb("new", good, "--disk", "1G").status == 0
        server.ssh(good, "echo here")
        filler = server.popen(bad, "while head -c 2000000 /dev/zero >> /workspace/b; do sleep 0.04; done")
        wait_until("the freeze", lambda: frozen(server, bad), 90)  # 200 MB, on a slow machine too
        assert b"the server's store is nearly full" in filler.stderr.readline()
        subprocess.run(["sync", "-f", small_store], check=True)
        st = os.statvfs(small_store)
        assert st.f_bavail * st.f_frsize > 5 << 20, "it went too far"
        r = server.ssh(bad, "true")
        assert r.status == 73 and "store is nearly full" in r.stderr, r
        assert disk(server, bad)["means"] == means
        assert server.ssh(good, "head -c 1000000 /dev/zero > ok; sync -f ok && wc -c < ok").out == b"1000000\n"
        assert not frozen(server, good)
        filler.kill()
        filler.communicate()
        assert server.verb("rm", bad, "--force").status == 0
        server.remove()
    finally:
        server.discard()


def test_a_store_that_others_fill_takes_no_synced_byte_of_an_image(small_store, name):
    """Without a reserve: its write-back fails. What was not synced may be lost, and fsync has said so."""
    base = small_store / "berth"
    base.mkdir()
    server = Server(base, "store_reserve = 0\ndisk_means = loop\n")
    try:
        server.start()
        assert server.verb("new", name, "--disk", "1G").status == 0
        assert server.ssh(name, "echo kept > k; sync -f k; cat k").out == b"kept\n"
        call = server.popen(name, "echo ready; read x; dd if=/dev/zero of=f bs=1M count=20 conv=fsync; echo $?; cat k")
        assert call.stdout.readline() == b"ready\n"
        with open(small_store / "others", "wb") as others:
            with pytest.raises(OSError):
                for _ in range(300):
                    os.write(others.fileno(), b"x" * (1 << 20))
        out, err = call.communicate(b"\n", timeout=60)
        assert out == b"1\nkept\n" and b"fsync failed" in err, (out, err)
        (small_store / "others").unlink()
        assert server.verb("pause", name).status == 0, "read-only as it is"
        r = server.ssh(name, "cat k; echo on > l; sync -f l; cat l")
        assert r.out == b"kept\non\n", r
        assert server.verb("rm", name, "--force").status == 0
        server.remove()
    finally:
        server.discard()


def test_a_means_that_cannot_be_had_is_refused_by_name(tmp_path):
    server = Server(tmp_path, "disk_means = tape\n").start(wait=False)
    assert server.process.wait(20) == 78
    assert "disk_means: auto, quota, loop or watch" in server.log()
    server.discard()
    shutil.rmtree(server.state, ignore_errors=True)
