"""Disk: a session above its limit is frozen and told so; none fills the store for the others."""
import os
import subprocess

import pytest

from conftest import Server, at_most, wait_until


def frozen(server, session):
    """Whether it is frozen, by what `show` says."""
    return bool(server.session(session)) and server.json("show", session)["limits"]["disk"].get("suspended", False)


def test_a_session_above_its_limit_is_frozen_and_told_how_to_go_on(server, name):
    assert server.verb("new", name, "--disk", "20M").status == 0
    assert server.ssh(name, "head -c 5000000 /dev/zero > /workspace/a; sync").status == 0
    filler = server.popen(name, "while head -c 1000000 /dev/zero >> /workspace/b; do sleep 0.02; done")
    wait_until("the freeze", lambda: frozen(server, name))
    with at_most(10):
        r = server.ssh(name, "true")
    assert r.status == 73, r
    assert f"disk full: the limit of 20M was hit; the session is frozen (raise it: ssh berth@HOST set {name} disk 40M)" in r.stderr, r
    shown = server.json("show", name)
    assert "disk full" in shown["reason"] and shown["limits"]["disk"]["used"] > 20 << 20, shown
    assert "watcher" in shown["limits"]["disk"]["by"]
    upper = next((server.state / "sessions" / shown["id"]).glob("upper.*/fs/workspace/b"))
    size = upper.stat().st_size
    other = name + "x"
    assert server.ssh(other, "head -c 30000000 /dev/zero > /workspace/c; echo fine").out == b"fine\n"
    assert upper.stat().st_size == size, "it wrote though it was frozen"
    assert server.verb("set", name, "disk", "1G").status == 0
    wait_until("it to go on", lambda: upper.stat().st_size > size)
    assert server.ssh(name, "echo again").out == b"again\n"
    assert server.json("show", name)["reason"] == ""
    filler.kill()
    filler.communicate()


def test_a_frozen_session_can_be_paused_and_resumed(server, name):
    assert server.verb("new", name, "--disk", "4M").status == 0
    filler = server.popen(name, "head -c 8000000 /dev/zero > /workspace/a; sleep 600")  # stands still when frozen
    wait_until("the freeze", lambda: frozen(server, name))
    with at_most(20):
        assert server.verb("pause", name).status == 0
    filler.communicate(timeout=20)
    assert int(server.ssh(name, "wc -c < /workspace/a").out) > 4 << 20  # its layers are not its upper's


def test_a_new_manager_freezes_what_is_above_its_limit(own_server, name):
    server = own_server
    assert server.verb("new", name, "--disk", "4M").status == 0
    filler = server.popen(name, "head -c 8000000 /dev/zero > /workspace/a; sleep 600")  # stands still when frozen
    wait_until("the freeze", lambda: frozen(server, name))
    server.kill()
    server.start()
    wait_until("the freeze", lambda: frozen(server, name))
    assert server.ssh(name, "true").status == 73
    filler.kill()
    filler.communicate()


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


def test_no_session_fills_the_store_for_the_others(small_store, name):
    base = small_store / "berth"
    base.mkdir()
    server = Server(base, "store_reserve = 40M\n")
    try:
        server.start()
        bad, good = name, name + "x"
        server.ssh(good, "echo here")
        filler = server.popen(bad, "while head -c 500000 /dev/zero >> /workspace/b; do sleep 0.01; done")
        wait_until("the freeze", lambda: frozen(server, bad))
        st = os.statvfs(small_store)
        assert st.f_bavail * st.f_frsize > 5 << 20, "it went too far"
        r = server.ssh(bad, "true")
        assert r.status == 73 and "store is nearly full" in r.stderr, r
        assert server.ssh(good, "head -c 1000000 /dev/zero > /workspace/ok; wc -c < /workspace/ok").out == b"1000000\n"
        assert not frozen(server, good)
        filler.kill()
        filler.communicate()
        assert server.verb("rm", bad, "--force").status == 0
        server.remove()
    finally:
        server.discard()
