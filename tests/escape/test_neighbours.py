"""Two sessions and the node: neither sees the other's processes, files, network, sockets, keys or ids."""
import os
import pathlib
import re
import socket
import stat
import subprocess

import pytest

from attack import id_map, keeper_of, mounts_of, own_ids, state_dir, status

A, B = "left", "right"


@pytest.fixture(scope="module")
def pair(server):
    for session in (A, B):
        assert server.ssh(session, f"echo secret-{session} > /workspace/secret; bash -c 'exec -a marker-{session} sleep 10000' "
                          "> /dev/null 2>&1 < /dev/null &").status == 0
    return A, B


def test_processes_of_another_session_are_not_seen(server, pair):
    r = server.ssh(A, "ps -ef; ls /proc | grep -c '^[0-9]'")
    assert "marker-left" in r.stdout and "marker-right" not in r.stdout and "berthd" not in r.stdout, r
    assert int(r.stdout.split()[-1]) < 10, r


def test_files_of_another_session_are_not_seen(server, pair):
    r = server.ssh(A, f"cat /workspace/secret; find / -xdev -name secret 2>/dev/null; ls {server.state} {server.run}; cat /proc/*/root/workspace/secret")
    assert "secret-right" not in r.stdout and "secret-left" in r.stdout, r


@own_ids
def test_uid_ranges_are_disjoint_and_what_the_kernel_uses(server, pair):
    ranges = []
    for session in pair:
        keeper, pid1 = keeper_of(server, session)
        for which in ("uid_map", "gid_map"):
            [(inside, outside, count)] = id_map(pid1, which)
            assert (inside, count) == (0, 65536)
        uids = {int(u) for u in status(pid1)["Uid"].split()}
        assert uids == {outside}, "its root is the first id of its range"
        keeper_uids = {int(u) for u in status(keeper)["Uid"].split()}
        ranges.append((outside, outside + count))
        assert all(u != 0 for u in keeper_uids), keeper_uids
        assert not any(a <= u < b for u in keeper_uids for a, b in ranges if (a, b) != ranges[-1]), keeper_uids
    (a, b), (c, d) = sorted(ranges)
    assert b <= c and min(a, c) >= 400000


@own_ids
def test_an_upper_is_closed_to_every_id_of_another_session_even_without_walls(server, pair):
    """A root of LEFT that stands in the node's own mount namespace, with its host ids and its capabilities gone."""
    keeper, pid1 = keeper_of(server, A)
    upper = state_dir(server, B)
    secret = next(upper.glob("upper.*/fs/workspace/secret"))
    assert secret.read_text() == "secret-right\n" and secret.stat().st_uid == 0, "on disk ids are native"
    uid = id_map(pid1)[0][1]
    for who in (uid, uid + 1000, int(status(keeper)["Uid"].split()[0]), 65534):
        for path in (secret, secret.parent, upper / "calls", server.state / "keys" / "operator", server.state / "index.db"):
            done = subprocess.run(["setpriv", f"--reuid={who}", f"--regid={who}", "--clear-groups", "cat" if path.is_file() else "ls", path],
                                  capture_output=True)
            assert done.returncode != 0 and b"ermission denied" in done.stderr, (who, path, done)


@own_ids
def test_a_setuid_file_made_inside_is_nothing_on_the_node(server, pair):
    assert server.ssh(A, "cp /bin/id /workspace/suid; chown 0:0 /workspace/suid; chmod 6755 /workspace/suid").status == 0
    path = next(state_dir(server, A).glob("upper.*/fs/workspace/suid"))
    assert path.stat().st_mode & stat.S_ISUID and path.stat().st_uid == 0
    closed = [p for p in path.parents if str(p).startswith(str(server.state)) and not p.stat().st_mode & 0o077]
    assert closed, "no directory above it is closed to the node's users"
    state_mounts = [m for m in mounts_of(server.process.pid) if m[4] == str(server.state)]
    assert state_mounts and {"nosuid", "nodev"} <= set(state_mounts[-1][5].split(",")), state_mounts
    # setpriv opens the file while it still may look into closed directories: only nosuid is left to stop it
    run = ["setpriv", "--reuid=65534", "--clear-groups", path]
    seen = subprocess.run(["nsenter", f"--mount=/proc/{server.process.pid}/ns/mnt", *run], capture_output=True)
    assert seen.stdout.startswith(b"uid=65534") and b"euid" not in seen.stdout, seen
    plain = subprocess.run(["setpriv", "--reuid=65534", "--clear-groups", "sh", "-c", f"exec {path}"], capture_output=True)
    assert plain.returncode == 126 and not plain.stdout, plain


def test_mounts_inside_tell_of_nothing_but_this(server, pair):
    """The whole of what /proc/self/mountinfo gives away: the node's device of /usr, the place of STATE and the id of
    the session (both in the row of /run/berth/out, which is a directory of STATE)."""
    rows = [line.split(" ") for line in server.ssh(A, "cat /proc/self/mountinfo").stdout.splitlines()]
    on_disk = {row[4]: row[3] for row in rows if row[3] not in ("/", "/null", "/zero", "/full", "/random", "/urandom", "/tty")}
    spill = on_disk.pop("/run/berth/out", "")
    assert spill.endswith("/spill") and state_dir(server, A).name in spill
    assert on_disk.pop("/usr") == "/usr"
    assert set(on_disk) <= {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}, on_disk
    assert all(path == "/proc" + root for path, root in on_disk.items()), on_disk
    overlay = next(row for row in rows if row[4] == "/")
    options = overlay[-1].split(",")
    assert "upperdir=u/fs" in options and not any("/" in o and o != "upperdir=u/fs" and o != "workdir=u/work" for o in options), options
    assert str(server.state) not in server.ssh(A, "cat /proc/self/mounts /proc/mounts").stdout


def test_no_mount_of_a_session_reaches_the_node(server, pair):
    for pid in ("self", server.process.pid):
        assert not [m for m in mounts_of(pid) if "overlay" in m and "berth" in m]


def test_what_is_read_only_inside_is_read_only(server, pair):
    rows = [line.split(" ") for line in server.ssh(A, "cat /proc/self/mountinfo").stdout.splitlines()]
    options = {row[4]: set(row[5].split(",")) for row in rows}
    for path in ("/proc/sys", "/proc/irq", "/proc/bus", "/sys", "/sys/fs/cgroup", "/sys/firmware", "/run/berth/out"):
        if path in options:
            assert {"ro", "nosuid", "nodev", "noexec"} <= options[path], (path, options[path])
    assert "ro" in options["/usr"] and "nodev" in options["/"]


@pytest.mark.parametrize("path", ["/proc/kcore", "/proc/keys", "/proc/key-users", "/proc/interrupts", "/proc/timer_list", "/proc/cmdline",
                                  "/sys/firmware", "/sys/fs/cgroup", "/sys/block", "/sys/class/block", "/sys/dev/block", "/proc/acpi"])
def test_facts_of_the_node_are_masked(server, pair, path):
    r = server.ssh(A, f"if [ -d {path} ]; then ls -A {path}; else head -c 100 {path} 2>/dev/null; fi; echo end")
    assert r.out == b"end\n", r


def test_namespaces_are_its_own(server, pair):
    _, a = keeper_of(server, A)
    _, b = keeper_of(server, B)
    for kind in ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup"):
        ids = {os.stat(f"/proc/{p}/ns/{kind}").st_ino for p in (a, b, "self")}
        assert len(ids) == 3, kind


def test_abstract_sockets_are_a_sessions_own(server, pair):
    own = socket.socket(socket.AF_UNIX)
    own.bind("\0berth-test-of-node")
    own.listen()
    p = server.popen(B, "python3 -c 'import socket,sys; s=socket.socket(socket.AF_UNIX); s.bind(\"\\0of-right\"); s.listen(); print(1, flush=True); sys.stdin.read()'")
    assert p.stdout.readline() == b"1\n"
    r = server.ssh(A, "cat /proc/net/unix; for n in berth-test-of-node of-right; do python3 -c \"import socket; "
                   "socket.socket(socket.AF_UNIX).connect('\\0$n')\" 2>&1 | tail -1; done")
    assert r.stdout.count("ConnectionRefusedError") == 2 and "berth-test-of-node" not in r.stdout, r
    p.stdin.close()
    assert p.wait(20) == 0
    own.close()


def test_ipc_objects_are_a_sessions_own(server, pair):
    made = server.ssh(B, "ipcmk -M 4096 -p 0666; ipcmk -Q -p 0666; ipcmk -S 1 -p 0666; echo x > /dev/shm/of-right; "
                      "python3 -c 'import ctypes; print(ctypes.CDLL(None).mq_open(b\"/of-right\", 0o102, 0o666, None) >= 0)'; ipcs -a")
    assert made.status == 0 and made.stdout.count("0x") >= 3, made
    seen = server.ssh(A, "ipcs -m -q -s | grep -c '^0x'; ls /dev/shm /dev/mqueue; cat /proc/sysvipc/shm | wc -l")
    assert seen.stdout.split()[0] == "0" and "of-right" not in seen.stdout, seen


def test_keys_are_out_of_reach(server, pair):
    r = server.ssh(A, "keyctl show @s; keyctl add user k v @u; keyctl link @u @s; cat /proc/keys; echo end")
    assert r.stdout.strip().endswith("end") and "keyring" not in r.stdout, r


def test_the_server_and_the_node_are_not_reached_by_network(server, pair):
    node = subprocess.run(["hostname", "-I"], capture_output=True).stdout.decode().split()
    targets = " ".join(f"{a}:{server.port}" for a in ["127.0.0.1", "::1", "0.0.0.0", *node])
    script = ("import socket\nfor t in '%s'.split():\n h,p=t.rsplit(':',1)\n try:\n  socket.create_connection((h,int(p)),3); print('REACHED',t)\n"
              " except OSError as e: pass\nprint('end')" % targets)
    r = server.ssh(A, "python3 -", stdin=script.encode())
    assert r.out == b"end\n", r
    seen = server.ssh(A, "cat /proc/net/tcp /proc/net/tcp6; cat /proc/net/dev | grep -c :; ip addr | grep -c 'state'")
    assert f":{server.port:04X}" not in seen.stdout, seen


def test_two_sessions_listen_on_the_same_port_and_neither_hears_the_other(server, pair):
    listener = "import socket,sys; s=socket.socket(); s.bind(('127.0.0.1',7777)); s.listen(); print(1,flush=True); sys.stdin.read()"
    p = server.popen(B, f'python3 -c "{listener}"')
    assert p.stdout.readline() == b"1\n"
    r = server.ssh(A, "exec 3<>/dev/tcp/127.0.0.1/7777 && echo REACHED; exit 0")
    assert b"REACHED" not in r.out, r
    p.stdin.close()
    assert p.wait(20) == 0


def test_sockets_of_the_server_are_not_reached_by_path(server, pair):
    sockets = [p for p in pathlib.Path(server.run).rglob("*") if p.is_socket()]
    assert sockets
    r = server.ssh(A, "; ".join(f"ls -d {s}" for s in sockets[:3]) + "; ls -d %s %s" % (server.run, server.base))
    assert r.out == b"", r
    assert re.match(r"drwx--[x-]---", stat.filemode(server.run.stat().st_mode)) or not server.run.stat().st_mode & 0o004, oct(server.run.stat().st_mode)
