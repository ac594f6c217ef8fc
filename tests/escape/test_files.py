"""Files: everything destroyed, traps laid where the server mounts and writes, overlay marks set by hand. The session
may die; it is paused, resumed and restored, and the node's files are what they were."""
import json
import os
import pathlib
import shutil
import subprocess

import pytest

from attack import state_dir


def drop(server):
    """All that an archive can bring back."""
    shutil.rmtree(server.state / "cache" / "layers", ignore_errors=True)
    for upper in (server.state / "sessions").glob("s_*/upper.*"):
        shutil.rmtree(upper)


def cold(server):
    assert server.stop() == 0
    drop(server)
    server.start()


def paused(server, session):
    r = server.verb("pause", session, "--force")
    assert r.status == 0 or server.session(session)["state"] == "paused", r
    assert server.session(session)["state"] == "paused"


def newest(server, session):
    return server.json("snapshots", session)[-1]["snapshot"]


# ---- everything destroyed ----

DESTROY = {
    "deleted": "rm -rf --no-preserve-root / 2>/dev/null",
    "renamed": "for d in bin sbin lib lib32 lib64 etc root var tmp home workspace usr dev proc sys run; do mv /$d /gone-$d 2>/dev/null; done",
    "closed": "chmod 0 /workspace /etc /root /tmp /var; chmod 0 /",
    "given away": "chown -Rh 65534:65534 / 2>/dev/null; chmod 000 /",
    "without a shell": "rm -f /bin /sbin /lib64 /lib",
    "filled with files for directories": "cd /; rm -rf workspace root tmp var; for f in workspace root tmp var; do echo x > $f; done",
}


@pytest.mark.parametrize("how", DESTROY)
def test_a_destroyed_root_is_paused_resumed_and_restored(server, name, how):
    server.ssh(name, "echo kept > /workspace/f; mkdir /workspace/d")
    paused(server, name)
    before = newest(server, name)
    server.ssh(name, DESTROY[how] + "; true")
    server.ssh(name, "echo may or may not run")
    paused(server, name)
    server.ssh(name, "echo may or may not run", timeout=60)
    assert server.session(name)["state"] in ("running", "paused", "failed"), server.session(name)
    r = server.verb("restore", name, before, "--force")
    assert r.status == 0, r
    assert server.ssh(name, "cat /workspace/f && ls -d /workspace/d && stat -c %a /").out == b"kept\n/workspace/d\n755\n"


# ---- traps where the server mounts and writes ----

TRAPS = {
    "links to the node's root": "cd /; for d in proc dev sys run usr; do mv $d /x-$d 2>/dev/null; rmdir $d 2>/dev/null; ln -sfn / $d 2>/dev/null; done; true",
    "workspace and home are links": "cd /; rm -rf /workspace /root; ln -s /proc/1/root /workspace; ln -s /proc/self/cwd /root",
    "out of the root": "cd /; rm -rf /workspace /root; ln -s ../../../../../../../../etc /workspace; ln -s /../../../.. /root",
    "etc": "cd /etc; for f in hostname hosts resolv.conf passwd group shadow mtab environment; do rm -rf $f; ln -s /../../../../../../tmp/berth-planted $f; done",
    "fifos": "cd /; rm -rf /workspace /root /etc/hostname /etc/hosts /etc/resolv.conf; mkfifo /workspace /root /etc/hostname /etc/hosts /etc/resolv.conf",
    "run": "mkdir -p /run/berth; rm -rf /run/berth/out/*; mv /run/berth/out /run/berth/x; ln -s /etc /run/berth/y; mount --move /run/berth /mnt; true",
}


def look_at_node():
    """What of the node a trap leads to; without the accounts that other tests make and remove meanwhile."""
    seen = {}
    for path in map(pathlib.Path, ["/etc/passwd", "/etc/hostname", "/etc/shadow", "/root", "/proc", "/usr", "/etc"]):
        st = path.stat()
        lines = path.read_bytes().splitlines() if path.is_file() else [st.st_ino]
        seen[path] = st.st_mode, st.st_uid, [x for x in lines if path.is_dir() or not x.startswith(b"berth-")]
    return seen


@pytest.mark.parametrize("trap", TRAPS)
def test_a_trap_is_not_stepped_into_by_pause_resume_and_restore(own_server, name, trap):
    server = own_server
    was = look_at_node()
    server.ssh(name, "echo kept > /var/f")
    paused(server, name)
    before = newest(server, name)
    server.ssh(name, TRAPS[trap])
    paused(server, name)
    assert server.ssh(name, "cat /var/f; readlink /proc/self/cwd").out.startswith(b"kept\n/"), "warm"
    paused(server, name)
    cold(server)
    r = server.ssh(name, "cat /var/f; stat -f -c %T /proc /dev /sys /run; cat /etc/shadow | grep -c '^root:[$]'; ls / > /dev/null")
    assert r.stdout.split()[:5] == ["kept", "proc", "tmpfs", "sysfs", "tmpfs"], r
    assert server.verb("restore", name, before, "--force").status == 0
    assert server.ssh(name, "cat /var/f; [ ! -L /workspace ] && [ -d /workspace ] && echo real").out == b"kept\nreal\n"
    assert look_at_node() == was
    assert not os.path.lexists("/tmp/berth-planted")


def test_mount_points_replaced_beneath_are_mounted_again_without_following(own_server, name):
    """As an imported or edited layer would bring it: links lie in the upper itself where /proc, /dev, /sys and /run belong."""
    server = own_server
    server.ssh(name, "echo kept > /var/f")
    paused(server, name)
    [fs] = state_dir(server, name).glob("upper.*/fs")
    for mount_point in ("proc", "dev", "sys", "run", "usr"):
        subprocess.run(["rm", "-rf", "--one-file-system", fs / mount_point], check=True)
        os.symlink("/", fs / mount_point)
    r = server.ssh(name, "cat /var/f; stat -f -c %T /proc /dev /sys /run; ls -d /usr/bin; cat /etc/shadow | grep -c '^root:[$]'")
    assert r.stdout.split() == ["kept", "proc", "tmpfs", "sysfs", "tmpfs", "/usr/bin", "0"], r


# ---- marks of the overlay, and names that archives use ----

MARKS = r"""
import os, errno
os.makedirs("/workspace/m/full", exist_ok=True)
open("/workspace/m/full/a", "w").write("a")
os.makedirs("/workspace/m/etc", exist_ok=True)
said = []
for target in ("/workspace/m", "/workspace/m/full", "/workspace/m/full/a", "/etc", "/etc/debian_version", "/", "/workspace"):
    for name in ("opaque", "whiteout", "redirect", "metacopy", "origin", "impure", "nlink", "upper", "protattr", "xwhiteouts",
                 "overlay.opaque", "overlay.overlay.opaque"):
        for value in (b"y", b"x", b"/etc", b"\x00\xfb\x1d\x00\x01" + b"A" * 24):
            try:
                os.setxattr(target, "user.overlay." + name, value)
            except OSError as e:
                if e.errno not in (errno.EOPNOTSUPP, errno.EPERM, errno.ENOTSUP):
                    said.append((target, name, e.errno))
print(said)
"""
SHOW = r"""
import os, json
out = {}
for top in ("/workspace", "/etc"):
    for d, dirs, files in os.walk(top):
        for n in [""] + files + dirs:
            p = os.path.join(d, n) if n else d
            try:
                out[p] = [oct(os.lstat(p).st_mode), {x: os.getxattr(p, x, follow_symlinks=False).hex() for x in sorted(os.listxattr(p, follow_symlinks=False))}]
            except OSError as e:
                out[p] = e.errno
print(json.dumps(out, sort_keys=True))
"""


def show(server, name):
    r = server.ssh(name, "python3 -", stdin=SHOW.encode())
    assert r.status == 0, r
    return json.loads(r.out)


def test_overlay_marks_set_by_hand_change_nothing_and_come_back_as_they_were(own_server, name):
    server = own_server
    server.ssh(name, "mkdir -p base/dir; echo 1 > base/dir/lower")
    paused(server, name)
    r = server.ssh(name, "python3 -", stdin=MARKS.encode())
    assert r.out == b"[]\n", r
    before = show(server, name)
    assert "/workspace/base/dir/lower" in before and "/etc/debian_version" in before
    paused(server, name)
    assert show(server, name) == before, "warm"
    paused(server, name)
    marked = newest(server, name)
    cold(server)
    assert show(server, name) == before, "cold"
    server.ssh(name, "rm -rf /workspace/m /workspace/base; setfattr -x user.overlay.opaque /etc; true")
    assert server.verb("restore", name, marked, "--force").status == 0
    assert show(server, name) == before, "restored"


WHITEOUT_NAMES = [".wh.a", ".wh.", ".wh..wh..opq", ".wh..wh.x", ".wh..wh..esc.y", ".wh..opq", ".wh..wh.plnk", ".wh..wh.aufs"]


def test_names_that_archives_use_for_deletions_are_ordinary_names(own_server, name):
    server = own_server
    server.ssh(name, "mkdir -p d; echo 1 > d/a; echo 2 > d/x; echo 3 > d/y")
    paused(server, name)
    server.ssh(name, "; ".join(f"echo '{n}' > 'd/{n}'; mkdir -p 'dirs/{n}'; echo in > 'dirs/{n}/f'" for n in WHITEOUT_NAMES))
    before = server.ssh(name, "find . | sort; find . -type f | sort | xargs cat").out
    paused(server, name)
    assert server.ssh(name, "find . | sort; find . -type f | sort | xargs cat").out == before, "warm"
    server.ssh(name, "rm d/a 'd/.wh.a'")
    after = server.ssh(name, "find . | sort; find . -type f | sort | xargs cat").out
    paused(server, name)
    cold(server)
    assert server.ssh(name, "find . | sort; find . -type f | sort | xargs cat").out == after, "cold"


def test_device_nodes_are_refused_in_every_writable_place(server, name):
    r = server.ssh(name, "for d in / /workspace /tmp /run /dev/shm /dev /var/tmp; do for n in 'b 8 0' 'c 1 1' 'c 10 229'; do "
                         "mknod $d/n $n 2>/dev/null && echo MADE $d $n; rm -f $d/n; done; done; echo end")
    assert r.out == b"end\n", r


def test_a_whiteout_made_by_hand_does_not_come_into_the_workspace(server, name):
    """The kernel lets anybody make one on a tmpfs; the overlay takes none."""
    r = server.ssh(name, "mknod /dev/shm/w c 0 0; for d in / /workspace /tmp /etc /var/tmp; do mknod $d/w c 0 0 2>/dev/null && echo MADE $d; "
                         "cp -a /dev/shm/w $d/w 2>/dev/null && echo COPIED $d; mv /dev/shm/w $d/w 2>/dev/null && echo MOVED $d; "
                         "ln /dev/shm/w $d/w 2>/dev/null && echo LINKED $d; done; cat /dev/shm/w; echo end")
    assert r.out == b"end\n", r


def test_writes_to_what_is_shared_by_all_sessions_are_refused(server, name):
    r = server.ssh(name, "for p in /usr /usr/bin /usr/bin/id /usr/lib; do touch $p/x 2>/dev/null && echo WROTE $p; chmod 777 $p 2>/dev/null && echo CHANGED $p; "
                         "rm -f $p 2>/dev/null && [ -f $p ] && echo REMOVED $p; done; python3 -c 'open(\"/usr/bin/id\",\"r+b\")' 2>&1 | tail -1; echo end")
    assert r.stdout.split("\n")[-2] == "end" and ("Read-only" in r.stdout or "Permission denied" in r.stdout) and not set(r.stdout.split()) & {"WROTE", "CHANGED", "REMOVED"}, r
    assert os.path.exists("/usr/bin/id")


def test_a_session_that_reuses_the_image_cannot_change_it_for_others(server, name):
    server.ssh(name, "echo poisoned > /etc/debian_version; rm /etc/passwd; mv /etc/group /etc/gone")
    r = server.ssh("bystander", "cat /etc/debian_version; ls /etc/passwd /etc/group")
    assert "poisoned" not in r.stdout and r.status == 0, r
