"""Mounts of the node's directories: what is allowed, what is seen and kept of them, and what hostile code makes of them."""
import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import tempfile

import pytest

from conftest import make_server, running, wait_until


@contextlib.contextmanager
def place():
    """Directories of the node: rw and ro may be mounted, other may not."""
    base = pathlib.Path(tempfile.mkdtemp(prefix="btm."))
    os.chmod(base, 0o755)
    for name in ("rw", "rw/sub", "ro", "other"):
        (base / name).mkdir()
    (base / "rw/mark").write_text("rw\n")
    (base / "ro/mark").write_text("ro\n")
    (base / "other/secret").write_text("secret\n")
    os.symlink("../other", base / "rw/link")
    yield base
    shutil.rmtree(base)


def allowing(base):
    return f"mounts = {base}/rw, {base}/ro:ro\nauto_create = no\n"


@pytest.fixture(scope="module")
def shared():
    with place() as base, running(allowing(base)) as server:
        server.node = base
        yield server


@pytest.fixture
def own():
    with place() as base, running(allowing(base)) as server:
        server.node = base
        yield server


def new(server, name, *words):
    r = server.verb("new", name, *words)
    assert r.status == 0, r


def out(server, name, command):
    r = server.ssh(name, command)
    assert r.status == 0, r
    return r.stdout


def pause(server, name):
    r = server.verb("pause", name)
    assert r.status == 0, r


def drop(server):
    """All that an archive can bring back."""
    shutil.rmtree(server.state / "cache" / "layers", ignore_errors=True)
    for upper in (server.state / "sessions").glob("s_*/upper.*"):
        shutil.rmtree(upper)


def uppers(server, name):
    return (server.state / "sessions" / server.session(name)["id"]).glob("upper.*/fs")


def layers_unpacked(server):
    return list((server.state / "cache/layers").glob("[0-9a-f]*"))


def archived(server, name):
    """Every name in every layer of the session's newest snapshot."""
    blobs = server.state / "store/blobs/sha256"
    head = server.json("snapshots", name)[-1]["snapshot"].split(":")[1]
    names = []
    for layer in json.loads((blobs / head).read_text())["layers"]:
        tar = subprocess.run(["zstd", "-dcq", blobs / layer["digest"].split(":")[1]], capture_output=True, check=True).stdout
        names += subprocess.run(["tar", "t"], input=tar, capture_output=True, check=True).stdout.decode().split("\n")
    return {n.strip("./") for n in names} - {""}


# ---- what is seen ----

def test_mounts_are_there_in_the_first_call_and_after_every_resume(own, name):
    new(own, name, f"--mount {own.node}/rw:/data/in", f"--mount {own.node}/ro:/opt/tools:ro")
    look = "cat /data/in/mark /opt/tools/mark; cat /data/in/made 2>/dev/null; touch /opt/tools/x 2>&1 | grep -o Read-only"
    assert out(own, name, look) == "rw\nro\nRead-only\n"
    assert out(own, name, "echo made > /data/in/made; echo kept > /workspace/f") == ""
    assert (own.node / "rw/made").read_text() == "made\n"
    pause(own, name)
    assert out(own, name, look) == "rw\nro\nmade\nRead-only\n", "warm"
    pause(own, name)
    assert own.stop() == 0
    drop(own)
    own.start()
    assert out(own, name, look + "; cat /workspace/f") == "rw\nro\nmade\nRead-only\nkept\n", "cold, after a restart"
    own.kill()
    own.start()
    assert out(own, name, look) == "rw\nro\nmade\nRead-only\n", "taken back"


def test_show_and_the_ref_list_them(shared, name):
    new(shared, name, f"--mount {shared.node}/rw:/a", f"--mount {shared.node}/rw/sub:/b:ro", f"--mount {shared.node}/ro/:/c/")
    want = [{"source": f"{shared.node}/rw", "target": "/a", "read_only": False},
            {"source": f"{shared.node}/rw/sub", "target": "/b", "read_only": True},
            {"source": f"{shared.node}/ro", "target": "/c", "read_only": True}]
    assert shared.json("show", name)["mounts"] == want
    text = shared.verb("show", name).stdout
    assert f"mounts      {shared.node}/rw on /a\n            {shared.node}/rw/sub on /b, read-only\n" in text, text
    ref = shared.state / "store/refs" / f"session-{shared.session(name)['id']}.json"
    wait_until("its ref", ref.exists)
    assert json.loads(ref.read_text())["mounts"] == want


def test_files_keep_their_owners_on_both_sides(shared, name):
    """The node's root is root inside, its uid 1000 is 1000 inside, and the other way round."""
    os.chown(shared.node / "rw/sub", 1000, 1001)
    new(shared, name, f"--mount {shared.node}/rw:/data")
    assert out(shared, name, "stat -c %u:%g /data /data/sub") == "0:0\n1000:1001\n"
    out(shared, name, "touch /data/by-root /data/by-other; chown 1234:77 /data/by-other")
    made = [os.stat(shared.node / "rw" / n) for n in ("by-root", "by-other")]
    assert [(s.st_uid, s.st_gid) for s in made] == [(0, 0), (1234, 77)]
    assert out(shared, name, "grep -c ' /data [^ ]* rw,nosuid,nodev' /proc/self/mounts") == "1\n"


@contextlib.contextmanager
def mounted(kind, where):
    """Before the server starts: where the node's mounts are not shared, later ones do not come to it."""
    where.mkdir()
    subprocess.run(["mount", "-t", kind, "none", where], check=True)
    try:
        os.chmod(where, 0o755)
        (where / "f").write_text("read\n")
        yield where
    finally:
        subprocess.run(["umount", where], check=True)
        where.rmdir()


def test_a_filesystem_that_cannot_map_ids_is_shown_as_nobodys_and_the_log_says_so(name):
    with place() as base, mounted("ramfs", base / "rw/plain") as plain, running(allowing(base)) as server:
        new(server, name, f"--mount {plain}:/data", f"--mount {base}/rw:/mapped")
        assert out(server, name, "cat /data/f; stat -c %u /data /data/f; touch /data/x 2>&1 | grep -o denied") == "read\n65534\n65534\ndenied\n"
        assert f"session {name}: the filesystem of {plain} cannot map ids" in server.log()
        assert f"session {name}: the filesystem of {base}/rw cannot" not in server.log()


def test_other_filesystems_below_a_source_are_not_shown(name):
    with place() as base, mounted("tmpfs", base / "rw/below") as below, running(allowing(base)) as server:
        new(server, name, f"--mount {base}/rw:/data", f"--mount {below}:/itself")
        assert out(server, name, "ls -A /data/below; cat /itself/f; stat -c %u /itself/f") == "read\n0\n"


# ---- what is kept ----

def test_nothing_of_a_mount_is_in_a_snapshot(own, name):
    new(own, name, f"--mount {own.node}/rw:/data/in", f"--mount {own.node}/ro:/ro")
    out(own, name, "echo x > /data/in/inside; mkdir -p /data/in/d; echo y > /data/in/d/f; mkfifo /data/in/p; chmod 700 /data/in; "
                   "setfattr -n user.a -v b /data/in; echo mine > /data/beside; echo w > /workspace/w")
    pause(own, name)
    names = archived(own, name)
    assert {"data/beside", "workspace/w"} <= names
    assert [n for n in names if n.startswith(("data/in/", "ro/"))] == []
    assert all(not any(p.iterdir()) for fs in uppers(own, name) for p in (fs / "data/in", fs / "ro") if p.exists())


def test_what_the_session_has_at_the_destination_itself_is_hidden_and_not_lost(own, name):
    new(own, name, f"--mount {own.node}/rw:/data/in")
    out(own, name, "mv /data /moved; mkdir -p /data/in; echo own > /data/in/own; ls /moved/in/mark")
    pause(own, name)
    assert "data/in/own" in archived(own, name) and "data/in/mark" not in archived(own, name)
    assert out(own, name, "ls /data/in; ls -A /moved/in").split() == ["link", "mark", "sub"]
    out(own, name, "echo z > /data/in/z; rm -f /data/in/own")
    pause(own, name)
    assert own.stop() == 0
    drop(own)
    own.start()
    out(own, name, "true")
    assert not (own.node / "rw/own").exists() and (own.node / "rw/z").exists()
    assert [fs for fs in layers_unpacked(own) if (fs / "data/in/own").exists()], "it came out of its archive again"
    assert not any(n.endswith("/z") for n in archived(own, name))


# ---- what is refused ----

REFUSED = {
    "not in the list": ("{base}/other:/x", 77), "above the list": ("{base}:/x", 77), "by dots": ("{base}/rw/../other:/x", 64),
    "by a link": ("{base}/rw/link:/x", 69), "absent": ("{base}/rw/none:/x", 69), "a file": ("{base}/rw/mark:/x", 69),
    "begins alike": ("{base}/rw-2:/x", 77), "relative": ("rw:/x", 64), "no destination": ("{base}/rw", 64),
    "the root": ("{base}/rw:/", 64), "proc": ("{base}/rw:/proc/x", 64), "dev": ("{base}/rw:/dev", 64), "run": ("{base}/rw:/run", 64),
    "usr of the host": ("{base}/rw:/usr/local", 64), "another mode": ("{base}/rw:/x:rw", 64),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_wrong_mount_makes_no_session(shared, name, what):
    text, status = REFUSED[what]
    r = shared.verb("new", name, "--mount", text.format(base=shared.node))
    assert r.status == status and r.stderr.startswith("berth: new: --mount ") and r.stderr.count("\n") == 1, r
    assert shared.session(name) is None


def test_who_may_mount_and_how_much(shared, name):
    key = shared.add_key(name, 'role="orchestrator"')
    r = shared.verb("new", name, f"--mount {shared.node}/rw:/x", key=key)
    assert r.status == 77 and "operators" in r.stderr, r
    nine = [f"--mount {shared.node}/rw:/m{i}" for i in range(9)]
    assert shared.verb("new", name, *nine).status == 64
    assert shared.verb("new", name, f"--mount {shared.node}/rw:/x", f"--mount {shared.node}/ro:/x/y").status == 64
    new(shared, name, *nine[:8])
    assert out(shared, name, "cat /m*/mark") == "rw\n" * 8


def test_the_servers_own_directories_are_never_mounted(name):
    server = make_server()
    server.config.write_text(f"mounts = {server.base}\n")
    try:
        server.start()
        for source in (server.base, server.state, server.state / "keys", server.run):
            r = server.verb("new", name, f"--mount {source}:/x")
            assert r.status == 77 and "server's own" in r.stderr, r
        server.remove()
    finally:
        server.discard()


@pytest.mark.parametrize("value", ["relative", "/", "/a:rw", "/a,,/b", "/a, /a/b:ro"])
def test_a_wrong_list_is_told_at_the_start(value):
    server = make_server(f"mounts = {value}\n")
    try:
        server.start(wait=False)
        assert server.process.wait(30) == 78
        assert "mounts" in server.log().splitlines()[-1], server.log()
    finally:
        server.discard()
        server.process.stdout.close()
        shutil.rmtree(server.base)


# ---- what changes while a session is paused ----

def test_a_source_that_is_gone_stops_the_start_and_nothing_else(own, name):
    new(own, name, f"--mount {own.node}/rw/sub:/data")
    out(own, name, "echo kept > /workspace/f")
    pause(own, name)
    (own.node / "rw/sub").rename(own.node / "away")
    for r in (own.verb("resume", name), own.ssh(name, "true")):
        assert r.status == 69 and f"{own.node}/rw/sub" in r.stderr and "not there" in r.stderr, r
    assert own.session(name)["state"] == "failed" and "rw/sub" in own.session(name)["reason"]
    os.symlink("../other", own.node / "rw/sub")
    assert own.verb("resume", name).status == 69, "a link is no way there"
    (own.node / "rw/sub").unlink()
    (own.node / "away").rename(own.node / "rw/sub")
    assert out(own, name, "cat /workspace/f; ls /data/..") .startswith("kept\n")


def test_the_list_counts_at_each_start(own, name):
    new(own, name, f"--mount {own.node}/rw:/data")
    assert out(own, name, "touch /data/x; echo kept > /workspace/f") == ""
    assert own.stop() == 0
    own.config.write_text(f"mounts = {own.node}/rw:ro\n")
    own.start()
    assert own.json("show", name)["mounts"][0]["read_only"] is True
    assert "Read-only" in own.ssh(name, "touch /data/y").stderr
    assert own.stop() == 0
    own.config.write_text(f"mounts = {own.node}/ro\n")
    own.start()
    r = own.ssh(name, "true")
    assert r.status == 77 and "allows no mount" in r.stderr, r
    assert own.stop() == 0
    own.config.write_text(allowing(own.node))
    own.start()
    assert out(own, name, "cat /workspace/f; touch /data/y") == "kept\n"


# ---- hostile code ----

WAYS = {
    "a link to the node": "ln -s /etc", "a link up": "ln -s ../../../../../../etc", "a fifo": "mkfifo", "a file": "echo mine >",
}


@pytest.mark.parametrize("what", WAYS)
def test_what_is_put_in_place_of_a_parent_is_moved_aside(own, name, what):
    etc = sorted(set(os.listdir("/etc")) - {"netns"})
    new(own, name, f"--mount {own.node}/rw:/data/in/deep", f"--mount {own.node}/ro:/data/ro")
    out(own, name, f"mv /data/in /data/x; {WAYS[what]} /data/in; mv /data /y; {WAYS[what]} /data; true")
    pause(own, name)
    kept = out(own, name, "cat /data/in/deep/mark /data/ro/mark; stat -c %F /data /data.berth-1 /y/in")
    first, *rest = kept.splitlines()
    kind = {"ln": "symbolic link", "mk": "fifo", "ec": "regular file"}[WAYS[what][:2]]
    assert [first, *rest] == ["rw", "ro", "directory", kind, kind]
    pause(own, name)
    assert own.stop() == 0
    drop(own)
    own.start()
    assert out(own, name, "cat /data/in/deep/mark; ls -d /data.berth-*") == "rw\n/data.berth-1\n", "once is enough"
    assert sorted(set(os.listdir("/etc")) - {"netns"}) == etc


@pytest.mark.parametrize("planted", ["/etc", "/proc/1/root", "../../../../../..", "nowhere"])
def test_a_link_planted_at_the_destination_is_not_followed(own, name, planted):
    """As an edited or imported layer would bring it."""
    new(own, name, f"--mount {own.node}/rw:/data")
    out(own, name, "echo kept > /workspace/f")
    pause(own, name)
    [fs, *_] = sorted(uppers(own, name))
    (fs / "data").rmdir()
    os.symlink(planted, fs / "data")
    assert out(own, name, "cat /data/mark /workspace/f; readlink /data.berth-1") == f"rw\nkept\n{planted}\n"


def test_read_only_holds_against_root(shared, name):
    new(shared, name, f"--mount {shared.node}/ro:/data", "--nested yes --setuid yes")
    tries = ["touch /data/x", "echo x > /data/mark", "rm /data/mark", "chmod 777 /data", "mount -o remount,rw /data", "mount -o remount,rw,bind /data",
             "umount /data", "mount -t tmpfs none /data", "ln /data/mark /data/l", "mv /data /elsewhere",
             "unshare -Urm mount -o remount,rw,bind /data", "unshare -Urm umount -l /data", "unshare -Urm sh -c 'mount --bind /data /mnt && echo x > /mnt/x'",
             "unshare -Urm sh -c 'mount --bind /data /mnt && mount -o remount,rw,bind /mnt'", "nsenter -t 1 -m true", "bwrap --unshare-user --bind / / touch /data/x"]
    for command in tries:
        assert shared.ssh(name, command).status != 0, command
    assert os.listdir(shared.node / "ro") == ["mark"] and (shared.node / "ro/mark").read_text() == "ro\n"
    assert out(shared, name, "cat /data/mark") == "ro\n"


def test_the_way_up_from_a_mount_leads_into_the_workspace(own, name):
    new(own, name, f"--mount {own.node}/rw:/data/in")
    seen = out(own, name, "cd /data/in/sub; ls ../..; cat ../../../etc/hostname >/dev/null; ls ../other ../../other 2>&1 | grep -c 'No such'; "
                          "cat link/secret 2>&1 | grep -o 'No such'; ls -d /proc/self/cwd/../../in")
    assert seen.split("\n") == ["in", "2", "No such", "/proc/self/cwd/../../in", ""]
    assert "secret" not in out(own, name, "chroot /data/in /x 2>/dev/null; find /data/in -name secret; true")


def test_a_directory_moved_out_of_a_source_under_a_process_leads_nowhere(own, name):
    """On the node, the session's working directory leaves what is mounted: its `..` must not be the node's."""
    new(own, name, f"--mount {own.node}/rw:/data")
    with own.popen(name, "cd /data/sub; echo ready; read line; ls -a ..; cat ../other/secret ../../other/secret; ls /proc/self/cwd/..; echo end") as p:
        assert p.stdout.readline() == b"ready\n"
        (own.node / "rw/sub").rename(own.node / "sub")
        told, said = p.communicate(b"go\n", timeout=60)
    assert b"secret" not in told and b"rw" not in told and told.endswith(b"end\n"), (told, said)
    (own.node / "sub").rename(own.node / "rw/sub")


def test_setuid_files_and_devices_of_a_mount_are_nothing(shared, name):
    """Not even where setuid programs work."""
    tools = shared.node / "ro"
    shutil.copy("/usr/bin/id", tools / "id")
    os.chmod(tools / "id", 0o6755)
    subprocess.run(["setcap", "cap_net_raw+ep", shutil.copy("/usr/bin/cat", tools / "cat")], check=True)
    os.mknod(tools / "null", 0o666 | 0o020000, os.makedev(1, 3))
    os.chmod(tools / "null", 0o666)
    try:
        new(shared, name, f"--mount {tools}:/data", "--setuid yes")
        as_user = "setpriv --reuid 1000 --regid 1000 --clear-groups env"
        seen = out(shared, name, f"{as_user} /data/id -u; {as_user} /data/id -g; {as_user} /data/cat /proc/self/status | grep CapEff; "
                                 "echo x > /data/null 2>/dev/null || echo refused; cat /data/null 2>/dev/null || echo refused; "
                                 f"cp /data/id /workspace; chmod 4755 /workspace/id; {as_user} /workspace/id -u")
        assert seen.split() == ["1000", "1000", "CapEff:", "0000000000000000", "refused", "refused", "0"], "and the last shows that the wall is lower"
    finally:
        for n in ("id", "cat", "null"):
            (tools / n).unlink()


def test_a_node_that_leaves_setuid_on_is_told(own):
    assert f"sessions can write to {own.node}/rw, which this node has not mounted nosuid" in own.log()
    assert f"{own.node}/ro," not in own.log()
