"""sftp in any image, and what stands on it: scp, rsync, sshfs, lftp, library clients; the whole and exact file; the record."""
import asyncio
import contextlib
import hashlib
import json
import os
import pathlib
import re
import signal
import stat
import subprocess
import tempfile
import warnings

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import asyncssh
    import paramiko

from conftest import SSH_OPTIONS, at_most, running, wait_until
from test_images import tar_of, write_layout

MIB = 1 << 20


@pytest.fixture
def here():
    with tempfile.TemporaryDirectory(prefix="btf.") as d:
        os.chmod(d, 0o755)  # a server of another user imports from it
        yield pathlib.Path(d)


def sftp_argv(server, name, *options, key=None):
    return ["sftp", *SSH_OPTIONS, "-P", str(server.port), "-i", str(key or server.key), *options, "-b", "-", f"{name}@127.0.0.1"]


def sftp(server, name, batch, *options, ok=True, key=None, timeout=120):
    done = subprocess.run(sftp_argv(server, name, *options, key=key), input=batch.encode(), capture_output=True, timeout=timeout)
    assert not ok or done.returncode == 0, done
    return done


def scp(server, *words, ok=True):
    done = subprocess.run(["scp", "-q", *SSH_OPTIONS, "-P", str(server.port), "-i", str(server.key), *words], capture_output=True, timeout=120)
    assert not ok or (done.returncode == 0 and done.stderr == b""), done
    return done


def rsync(server, *words):
    ssh = " ".join(["ssh", *SSH_OPTIONS, "-p", str(server.port), "-i", str(server.key)])
    done = subprocess.run(["rsync", "-e", ssh, *words], capture_output=True, timeout=120)
    assert done.returncode == 0, done
    return done.stdout.decode()


def run(server, name, command, stdin=b""):
    r = server.ssh(name, command, stdin=stdin)
    assert r.status == 0, r
    return r.stdout


def sha(path):
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


def random_file(path, size):
    with open(path, "wb") as f:
        for _ in range(0, size, MIB):
            f.write(os.urandom(min(MIB, size)))
    return path


def sftp_calls(server, name):
    """Calls of the subsystem, the oldest first."""
    return [c for c in reversed(server.json("calls", name)) if c["kind"] == "sftp"]


def ended_sftp(server, name, n=0):
    return wait_until("its record", lambda: [c for c in sftp_calls(server, name) if not c["live"]][n:])[0]


def audit_lines(server):
    lines = []
    for path in sorted((server.state / "audit").glob("*.jsonl")):
        lines += [json.loads(line) for line in path.read_text().splitlines()]
    return lines


def file_lines(server, call):
    """What the audit log tells of a call's files; whole when its end is there, for that line comes last."""
    wait_until("its end in the audit log", lambda: any(x["kind"] == "call_end" and x["call"] == call for x in audit_lines(server)))
    return [x for x in audit_lines(server) if x["kind"] == "file" and x["call"] == call]


def told(line):
    return {k: v for k, v in line.items() if k in ("op", "path", "to", "more", "status", "read", "written")}


def connect(server, name):
    return asyncssh.connect("127.0.0.1", server.port, username=name, known_hosts=None, client_keys=[str(server.key)], config=None,
                            agent_path=None)


@contextlib.contextmanager
def paramiko_sftp(server, name):
    c = paramiko.SSHClient()
    c.set_missing_host_key_policy(paramiko.AutoAddPolicy())
    c.connect("127.0.0.1", server.port, name, key_filename=str(server.key), look_for_keys=False, allow_agent=False)
    try:
        yield c.open_sftp()
    finally:
        c.close()


# ---- any image ----

def empty_image(server, here, name):
    (here / "root").mkdir()
    (here / "root/mark").write_text("only this\n")
    assert server.verb("image", "import", name, str(here / "root")).status == 0
    assert server.verb("new", name, "--image", name).status == 0


def names_in_archives(server):
    names = []
    for blob in (server.state / "store/blobs/sha256").iterdir():
        if blob.read_bytes()[:4] == b"\x28\xb5\x2f\xfd":
            out = subprocess.run(f"zstd -dcq {blob} | tar -t", shell=True, capture_output=True, check=True).stdout
            names += out.decode().splitlines()
    return names


def test_sftp_works_in_an_image_that_has_nothing_at_all_before_and_after_a_pause(own_server, here, name):
    server = own_server
    empty_image(server, here, name)
    assert server.ssh(name, "true").status == 127, "there is no shell"
    sftp(server, name, f"get /mark {here}/mark\nput {here}/mark /put\nls -la /\n")
    assert (here / "mark").read_text() == "only this\n"
    assert server.verb("pause", name).status == 0
    got = sftp(server, name, f"get /put {here}/again\nls -1 /\n").stdout.decode()
    assert (here / "again").read_text() == "only this\n"
    assert server.verb("pause", name).status == 0
    kept = names_in_archives(server)
    assert any(n.endswith("put") for n in kept), kept
    listed = [n for n in got.splitlines() if not n.startswith("sftp> ")]
    assert not [n for n in kept + listed if re.search(r"sftp|ld\.so|ld-linux|libc", n)], "nothing of ours is in the session"


def test_a_user_without_a_name_and_with_a_loader_s_variables_gets_sftp(server, here, name):
    layout = write_layout(here / "oci", [tar_of([("home", None), ("home/f", b"file\n")])], User="4321:4321", WorkingDir="/home",
                          Env=["LD_PRELOAD=/nowhere.so", "LD_LIBRARY_PATH=/home", "LD_DEBUG=all", "GLIBC_TUNABLES=x"])
    assert server.verb("image", "import", name, str(layout)).status == 0
    assert server.verb("new", name, "--image", name).status == 0
    done = sftp(server, name, f"pwd\nget f {here}/f\nls -ln\n")
    assert b"Remote working directory: /home" in done.stdout and done.stderr == b""
    assert (here / "f").read_bytes() == b"file\n"
    refused = sftp(server, name, f"put {here}/f /home/g\n", ok=False)
    assert refused.returncode == 1 and b"Permission denied" in refused.stderr, "it has that user's rights"


def test_what_the_session_says_of_names_cannot_make_it_wait_or_fail(server, here, name):
    """nsswitch.conf that asks for a library, a passwd that is a fifo, libraries for every program that there are not."""
    run(server, name, "echo /nowhere.so > /etc/ld.so.preload; echo 'passwd: nosuch sss' > /etc/nsswitch.conf; rm /etc/passwd; mkfifo /etc/passwd; echo x > /workspace/x")
    with at_most(20):
        assert b"/workspace/x" in sftp(server, name, "ls -l /workspace/x\n").stdout


@pytest.mark.parametrize("rung", ["rootless", "process", "process-user"])
def test_every_rung_has_sftp(here, rung):
    random_file(here / "f", 3 * MIB)
    with running(rung=rung) as server:
        sftp(server, "one", f"put {here}/f\nget f {here}/g\nrename f h\n")
        assert sha(here / "f") == sha(here / "g")
        assert server.verb("pause", "one").status == 0
        sftp(server, "one", f"get h {here}/i\n")
        assert sha(here / "f") == sha(here / "i")
        ops = [x["op"] for x in file_lines(server, ended_sftp(server, "one")["call"])]
        assert ops == ["open", "close", "open", "close", "rename"]


TAKE = r"""
import ctypes, os, sys
pid = next(p for p in os.listdir("/proc") if p.isdigit() and open(f"/proc/{p}/cmdline").read().startswith("sftp-server\0"))
def refused(what, *args, **kw):
    try:
        what(*args, **kw)
    except OSError:
        return
    print("not refused:", what.__name__, args)
for fd in (2, 3, 4, 5):
    refused(os.open, f"/proc/{pid}/fd/{fd}", os.O_RDONLY)
    refused(os.open, f"/proc/{pid}/fd/{fd}", os.O_WRONLY)
    refused(os.chmod, f"/proc/{pid}/fd/{fd}", 0)
refused(os.open, f"/proc/{pid}/mem", os.O_RDWR)
if ctypes.CDLL(None).ptrace(16, int(pid), 0, 0) == 0:
    print("traced")
print("tried")
"""


def test_root_of_the_session_can_neither_take_nor_change_what_sftp_runs_from(server, here, name):
    random_file(here / "a", 8 * MIB)
    p = begin_slow(server, name, f"put {here}/a\n")
    wait_until("it to run", lambda: size_in(server, name, "a") > 0)
    assert run(server, name, "cat > /tmp/take.py; python3 /tmp/take.py", TAKE.encode()) == "tried\n"
    kill_all_of(p)


# ---- what is transferred arrives, exactly ----

def test_200_megabytes_are_the_same_there_and_back_and_counted(server, here, name):
    size = 200 * MIB
    random_file(here / "a", size)
    sftp(server, name, f"put {here}/a\nget a {here}/b\n")
    assert sha(here / "a") == sha(here / "b")
    assert run(server, name, "sha256sum < a").split()[0] == sha(here / "a")
    call = ended_sftp(server, name)
    assert (call["command"], call["exit_status"], call["ended_by"]) == ("sftp", 0, "itself")
    assert size < call["stdout_bytes"] < size * 1.01, "what went to the client"
    closes = [told(x) for x in file_lines(server, call["call"]) if x["op"] == "close"]
    assert closes == [{"op": "close", "path": "/workspace/a", "read": 0, "written": size},
                      {"op": "close", "path": "/workspace/a", "read": size, "written": 0}]
    journal = server.state / "sessions" / server.json("show", name)["id"] / "calls" / f"{call['call']}.j"
    assert journal.stat().st_size < MIB, "no journal keeps a protocol's bytes"
    shown = server.verb("call", "output", call["call"])
    assert shown.out == b"" and b'open "/workspace/a"' in shown.err, "but the log of sftp-server"


def test_10_000_small_files_arrive_and_each_is_in_the_audit_log(server, here, name):
    (here / "small").mkdir()
    for i in range(10_000):
        (here / f"small/{i}").write_text(f"{i}\n" * (i % 40))
    sftp(server, name, f"put -r {here}/small\n", timeout=300)
    count = "cd small && find . -type f | wc -l && find . -type f -print0 | sort -z | xargs -0 cat | sha256sum"
    assert run(server, name, count) == subprocess.run(count, shell=True, cwd=here, capture_output=True, text=True, check=True).stdout
    lines = file_lines(server, ended_sftp(server, name)["call"])
    closes = {x["path"]: x["written"] for x in lines if x["op"] == "close"}
    assert closes == {f"/workspace/small/{p.name}": p.stat().st_size for p in (here / "small").iterdir()}
    assert not [x for x in lines if x["op"] == "untold"]


NAMES = [b"with space", b"new\nline", b"tab\t", b"\xff\xfe not utf-8", "übergröße".encode(), b"-rf", b'"quoted"', b"back\\slash", b"*?[x]",
         b"x" * 255, b"a\rb", b"\x01\x7f", b"' ; $(id)"]


def test_names_may_hold_any_byte(server, name):
    async def go():
        async with connect(server, name) as c, c.start_sftp_client() as s:
            for i, n in enumerate(NAMES):
                async with s.open(b"/workspace/" + n, "wb") as f:
                    await f.write(b"%d" % i)
            listed = {n async for n in names(s)}
            assert listed == set(NAMES)
            for i, n in enumerate(NAMES):
                async with s.open(b"/workspace/" + n, "rb") as f:
                    assert await f.read() == b"%d" % i

    async def names(s):
        for e in await s.readdir(b"/workspace"):
            if e.filename not in (b".", b".."):
                yield e.filename
    asyncio.run(go())
    assert int(run(server, name, "find /workspace -type f -printf x | wc -c")) == len(NAMES)
    opened = [x["path"] for x in file_lines(server, ended_sftp(server, name)["call"]) if x["op"] == "open" and "WRITE" in x["more"]]
    assert len(opened) == len(NAMES)
    assert all(0x20 <= ord(c) < 0x7f for p in opened for c in p), "control characters are escaped"


def test_a_name_cannot_forge_a_line_of_the_record(server, name):
    evil = [b'/workspace/x" flags READ mode 0644\r\nremove name "/etc/shadow"\r\n', b'/workspace/y\nclose "z" bytes read 1 written 2\n']

    async def go():
        async with connect(server, name) as c, c.start_sftp_client() as s:
            for n in evil:
                with contextlib.suppress(asyncssh.SFTPError):
                    await s.mkdir(n)
            with contextlib.suppress(asyncssh.SFTPError):
                await s.remove(evil[1])
    asyncio.run(go())
    lines = [told(x) for x in file_lines(server, ended_sftp(server, name)["call"])]
    assert [x["op"] for x in lines] == ["mkdir", "mkdir", "remove"], lines
    assert all(r"\012" in x["path"] for x in lines)


def test_scp_keeps_modes_and_times_in_both_protocols(server, here, name):
    for protocol in ("-s", "-O"):
        tree = here / f"t{protocol}"
        (tree / "sub dir").mkdir(parents=True)
        (tree / "run").write_text("#!/bin/sh\n")
        (tree / "run").chmod(0o750)
        (tree / "sub dir/secret").write_text("s")
        (tree / "sub dir/secret").chmod(0o600)
        for p in (tree / "run", tree / "sub dir/secret"):
            os.utime(p, (1_000_000_000, 1_234_567_890))
        scp(server, protocol, "-rp", str(tree), f"{name}@127.0.0.1:/workspace/up{protocol}")
        assert run(server, name, f"stat -c '%a %Y %n' 'up{protocol}/run' 'up{protocol}/sub dir/secret'") == (
            f"750 1234567890 up{protocol}/run\n600 1234567890 up{protocol}/sub dir/secret\n")
        scp(server, protocol, "-rp", f"{name}@127.0.0.1:/workspace/up{protocol}", str(here / f"down{protocol}"))
        for p in ("run", "sub dir/secret"):
            was, now = (tree / p).stat(), (here / f"down{protocol}" / p).stat()
            assert (was.st_mode, was.st_mtime, was.st_size) == (now.st_mode, now.st_mtime, now.st_size)


def test_links_modes_times_and_sizes_by_a_library_client(server, name):
    with paramiko_sftp(server, name) as s:
        with s.open("/workspace/f", "w") as f:
            f.write(b"0123456789" * 1000)
        s.symlink("f", "/workspace/l")
        assert s.readlink("/workspace/l") == "f" and stat.S_ISLNK(s.lstat("/workspace/l").st_mode)
        s.chmod("/workspace/f", 0o640)
        s.utime("/workspace/f", (11, 22))
        s.truncate("/workspace/f", 5)
        st = s.stat("/workspace/f")
        assert (st.st_mode & 0o7777, st.st_size) == (0o640, 5)
        s.utime("/workspace/f", (11, 22))
        assert (s.stat("/workspace/f").st_atime, s.stat("/workspace/f").st_mtime) == (11, 22)
        s.posix_rename("/workspace/f", "/workspace/g")
        s.mkdir("/workspace/d", 0o700)
        assert sorted(s.listdir("/workspace")) == ["d", "g", "l"]
        with pytest.raises(FileNotFoundError):
            s.stat("/workspace/f")
        with pytest.raises(OSError):
            s.open("/proc/sys/kernel/hostname", "w")  # read-only
        with s.open("/workspace/g", "r+") as f:
            f.seek(3 * MIB)
            f.write(b"end")
        s.rmdir("/workspace/d")
    assert run(server, name, "stat -c '%s' g; test $(stat -c %b g) -lt 100 && echo sparse") == f"{3 * MIB + 3}\nsparse\n"
    ops = [x["op"] for x in file_lines(server, ended_sftp(server, name)["call"])]
    assert ops == ["open", "close", "symlink", "set", "set", "rename", "mkdir", "open", "open", "close", "rmdir"]


def tree_of(path):
    """Everything of a tree that rsync -aHAX keeps."""
    out = subprocess.run("find . -mindepth 1 -printf '%p %y %m %s %T@ %l\\n' | sort; getfattr -Rhd -m - . 2>/dev/null; getfacl -Rn . ;"
                         "find . -type f -links +1 -printf '%p\\n' | sort", shell=True, cwd=path, capture_output=True, text=True)
    return re.sub(r"(?m)^(\S+ d \d+) \d+", r"\1", out.stdout)


def test_rsync_keeps_everything_both_ways_and_deletes(server, here, name):
    src = here / "src"
    (src / "d").mkdir(parents=True)
    (src / "d/a").write_text("a" * 70000)
    os.link(src / "d/a", src / "hard")
    os.symlink("d/a", src / "soft")
    os.symlink("/nowhere", src / "dangling")
    (src / "x").write_text("x")
    os.setxattr(src / "x", "user.note", b"kept")
    subprocess.run(["setfacl", "-m", "u:7:rw", src / "x"], check=True)
    (src / "x").chmod(0o604)
    (src / "new\nline").write_text("n")
    with open(src / "sparse", "wb") as f:
        f.truncate(50 * MIB)
        f.seek(20 * MIB)
        f.write(b"here")
    for p in ("d/a", "x", "sparse", "soft", "dangling", "new\nline", "d"):
        os.utime(src / p, (1, 1_111_111_111), follow_symlinks=False)
    run(server, name, "mkdir copy && echo old > copy/old && mkdir copy/x")
    rsync(server, "-aHAXS", "--delete", f"{src}/", f"{name}@127.0.0.1:/workspace/copy/")
    assert run(server, name, "ls copy | wc -l; stat -c %h copy/hard; test $(stat -c %b copy/sparse) -lt 1000 && echo sparse") == "8\n2\nsparse\n"
    (here / "back").mkdir()
    (here / "back/extra").write_text("goes")
    rsync(server, "-aHAXS", "--delete", f"{name}@127.0.0.1:/workspace/copy/", f"{here}/back/")
    assert tree_of(here / "back") == tree_of(src)
    assert (here / "back/sparse").stat().st_blocks < 1000
    assert sha(here / "back/sparse") == sha(src / "sparse")
    again = rsync(server, "-aHAXSi", "--delete", f"{src}/", f"{name}@127.0.0.1:/workspace/copy/")
    assert again == "", "nothing is left to do"


def test_a_build_runs_on_sshfs(server, here, name):
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("no /dev/fuse")
    mount = here / "mount"
    mount.mkdir()
    options = [x for o in SSH_OPTIONS if "=" in o for x in ("-o", o)]
    subprocess.run(["sshfs", f"{name}@127.0.0.1:/workspace", mount, "-p", str(server.port), "-o", f"IdentityFile={server.key}", *options],
                   check=True, timeout=30)
    try:
        (mount / "a.h").write_text("int f(int);\n")
        (mount / "a.c").write_text('#include "a.h"\nint f(int x) { return x * 2; }\n')
        (mount / "m.c").write_text('#include <stdio.h>\n#include "a.h"\nint main(void) { printf("%d\\n", f(21)); }\n')
        subprocess.run("cc -c a.c && cc -c m.c && ar rc lib.a a.o && cc -o prog m.o lib.a && ./prog > out && mv out result && ln -s result l "
                       "&& chmod 600 m.c && rm a.o", shell=True, cwd=mount, check=True, timeout=120)
        assert (mount / "l").read_text() == "42\n"
        assert os.statvfs(mount).f_blocks > 0
    finally:
        subprocess.run(["fusermount", "-u", mount], check=True)
    assert run(server, name, "./prog; ls") == "42\na.c\na.h\nl\nlib.a\nm.c\nm.o\nprog\nresult\n"
    wait_until("its sftp to end", lambda: not any(c["live"] for c in sftp_calls(server, name)))


def test_lftp_mirrors_both_ways(server, here, name):
    src = here / "src"
    for d in ("", "a", "a/b c", "d"):
        (src / d).mkdir(exist_ok=True)
        for i in range(20):
            (src / d / f"f{i}").write_text(f"{d}{i}\n" * i)
    connect_with = " ".join(["ssh", "-a", "-x", *SSH_OPTIONS, "-i", str(server.key)])
    lftp = (f'set sftp:connect-program "{connect_with}"; set sftp:auto-confirm yes; set net:max-retries 1; set cmd:fail-exit yes; '
            f"open -u {name}, sftp://127.0.0.1:{server.port}; ")
    for command in (f"mirror -R -P 4 {src} /workspace/m", f"mirror -P 4 /workspace/m {here}/back"):
        done = subprocess.run(["lftp", "-c", lftp + command], capture_output=True, timeout=120, env={**os.environ, "HOME": str(here)})
        assert done.returncode == 0, done
    subprocess.run(["diff", "-r", src, here / "back"], check=True)
    (src / "d/f3").unlink()
    done = subprocess.run(["lftp", "-c", lftp + f"mirror -R --delete {src} /workspace/m"], capture_output=True, timeout=120,
                          env={**os.environ, "HOME": str(here)})
    assert done.returncode == 0 and run(server, name, "ls m/d | wc -l; find m -type f | wc -l") == "19\n79\n", done


# ---- broken, ended, refused ----

def begin_slow(server, name, batch):
    """An sftp of at most 8 MB/s that goes on by itself."""
    run(server, name, "true")  # its session is there: who looks for the call finds its list
    p = subprocess.Popen(sftp_argv(server, name, "-l", "64000"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                         start_new_session=True)
    p.stdin.write(batch.encode())
    p.stdin.flush()
    return p


def kill_all_of(p):
    os.killpg(p.pid, signal.SIGKILL)
    p.communicate()


def size_in(server, name, path):
    r = server.ssh(name, f"stat -c %s {path}")
    return int(r.out) if r.status == 0 else 0


def sftp_processes(server, name):
    return run(server, name, "for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline; echo; done 2>/dev/null | grep -c '^sftp-server' || true").strip()


def test_a_client_killed_in_the_middle_leaves_nothing_and_can_go_on(server, here, name):
    random_file(here / "a", 48 * MIB)
    p = begin_slow(server, name, f"put {here}/a\n")
    wait_until("some of it to be there", lambda: size_in(server, name, "a") > MIB)
    assert sftp_processes(server, name) == "1"
    kill_all_of(p)
    wait_until("its process to end", lambda: sftp_processes(server, name) == "0")
    call = ended_sftp(server, name)
    assert call["left_running"] == []
    closed = [x for x in file_lines(server, call["call"]) if x["op"] == "open"]
    assert closed[0]["path"] == "/workspace/a"
    part = size_in(server, name, "a")
    assert 0 < part < 48 * MIB
    sftp(server, name, f"reput {here}/a a\n")
    assert run(server, name, "sha256sum < a").split()[0] == sha(here / "a")
    p = begin_slow(server, name, f"get a {here}/b\n")
    wait_until("some of it to be here", lambda: (here / "b").exists() and (here / "b").stat().st_size > MIB)
    kill_all_of(p)
    part = (here / "b").stat().st_size
    assert part < 48 * MIB
    sftp(server, name, f"reget a {here}/b\n")
    assert sha(here / "b") == sha(here / "a")
    resumed = ended_sftp(server, name, 3)
    assert resumed["stdout_bytes"] < 48 * MIB - part + MIB, "only what was missing"


def test_call_kill_ends_it(server, here, name):
    random_file(here / "a", 48 * MIB)
    p = begin_slow(server, name, f"put {here}/a\n")
    wait_until("some of it", lambda: size_in(server, name, "a") > 0)  # makes the session, where that has not
    live = wait_until("it to be there", lambda: [c for c in sftp_calls(server, name) if c["live"]])[0]
    assert server.verb("call", "kill", live["call"]).status == 0
    p.stdin.close()
    assert p.wait(30) != 0
    call = ended_sftp(server, name)
    assert (call["call"], call["signal"], call["ended_by"]) == (live["call"], signal.SIGTERM, "signal")
    p.stdout.close()
    p.stderr.close()


def test_nobody_else_speaks_into_it(server, here, name):
    random_file(here / "a", 8 * MIB)
    p = begin_slow(server, name, f"put {here}/a\n")
    live = wait_until("it to begin", lambda: [c for c in sftp_calls(server, name) if c["live"]])[0]
    r = server.ssh("berth", f"call input {live['call']}", stdin=b"bytes")
    assert r.status == 69 and "its stdin is its client's alone" in r.stderr, r
    kill_all_of(p)


def test_a_pause_ends_it_and_says_so(server, here, name):
    random_file(here / "a", 48 * MIB)
    p = begin_slow(server, name, f"put {here}/a\n")
    wait_until("some of it", lambda: size_in(server, name, "a") > MIB)
    with at_most(30):
        assert server.verb("pause", name).status == 0
    p.stdin.close()
    assert p.wait(30) != 0
    assert ended_sftp(server, name)["ended_by"] == "pause"
    sftp(server, name, f"reput {here}/a a\n")
    assert run(server, name, "sha256sum < a").split()[0] == sha(here / "a")
    p.stdout.close()
    p.stderr.close()


def test_a_timeout_ends_it(server, here, name):
    random_file(here / "a", 48 * MIB)
    with at_most(30):
        done = sftp(server, name, f"put {here}/a\n", "-l", "8000", "-o", "SetEnv=BERTH_TIMEOUT=1s", ok=False)
    assert done.returncode != 0 and b"timed out after 1s" in done.stderr, done
    assert ended_sftp(server, name)["ended_by"] == "timeout"


def test_a_transfer_outlives_the_manager_and_its_record_is_whole(own_server, here, name):
    server = own_server
    random_file(here / "a", 16 * MIB)
    p = begin_slow(server, name, f"put {here}/a\nmkdir after\n")
    wait_until("some of it", lambda: size_in(server, name, "a") > MIB)
    server.kill()
    p.stdin.close()
    assert p.wait(60) == 0, p.stderr.read()
    p.stdout.close()
    p.stderr.close()
    server.start()
    call = ended_sftp(server, name)
    assert call["exit_status"] == 0 and call["ended_by"] == "itself"
    assert [(x["op"], x.get("written")) for x in file_lines(server, call["call"])] == [("open", None), ("close", 16 * MIB), ("mkdir", None)]
    assert run(server, name, "sha256sum < a").split()[0] == sha(here / "a")


def test_a_full_disk_is_said_clearly(server, here, name):
    random_file(here / "a", 60 * MIB)
    assert server.verb("new", name, "--disk", "20M").status == 0
    run(server, name, "true")
    if server.json("show", name)["limits"]["disk"]["means"] == "watch":
        pytest.skip("neither quota nor disk images here: the watcher freezes the session instead")
    done = sftp(server, name, f"put {here}/a\n", ok=False)
    assert done.returncode != 0
    assert re.search(rb"disk full: the limit of 20M was hit \(raise it: ssh berth@HOST set \S+ disk 40M\)", done.stderr), done
    call = ended_sftp(server, name)
    assert call.get("limit") == "disk"
    failed = [told(x) for x in file_lines(server, call["call"]) if x["op"] == "write"]
    assert failed and failed[0] == {"op": "write", "path": "/workspace/a", "status": "No space left on device"}
    assert server.verb("set", name, "disk", "1G").status == 0
    sftp(server, name, f"put {here}/a\n")


def test_an_unknown_subsystem_and_one_on_the_control_interface_are_refused(server, name):
    for user, word in ((name, "nosuch"), (name, "mcp"), ("berth", "sftp")):
        with at_most(20):
            r = server.ssh(user, word, options=("-s",))
        assert r.status == 255 and b"subsystem request failed" in r.err, r
    assert run(server, name, "echo goes on") == "goes on\n"


@pytest.mark.parametrize("option", ["BERTH_CALL=k1", "BERTH_SHELL=main", "BERTH_MAX_OUTPUT=64K", "BERTH_DETACH=1", "BERTH_STDIN=keep"])
def test_options_that_make_no_sense_for_it_are_refused_with_words(server, name, option):
    done = sftp(server, name, "pwd\n", "-o", f"SetEnv={option}", ok=False)
    assert done.returncode != 0 and b"berth: call: sftp: not with BERTH_CALL" in done.stderr, done


def test_it_starts_where_it_is_told(server, name):
    assert b"Remote working directory: /tmp" in sftp(server, name, "pwd\n", "-o", "SetEnv=BERTH_CWD=/tmp BERTH_WAIT=all").stdout


def test_who_may_run_commands_may_transfer_files_and_nobody_else(own_server, here):
    server = own_server
    (here / "f").write_text("f")
    run(server, "in-a", "true")
    run(server, "out-a", "true")
    for role in ("developer", "orchestrator"):
        key = server.add_key(role, f'role="{role}",sessions="in-*"')
        sftp(server, "in-a", f"put {here}/f {role}\nls\n", key=key)
        refused = sftp(server, "out-a", "ls\n", ok=False, key=key)
        assert refused.returncode == 255, refused
    assert run(server, "in-a", "ls") == "developer\norchestrator\n"
    assert run(server, "out-a", "ls") == ""


def test_a_server_without_sftp_says_so(name):
    with running("sftp_server = none\n") as server:
        r = sftp(server, name, "ls\n", ok=False)
        assert r.returncode != 0 and b"berth: call: sftp: this server has none" in r.stderr, r
        assert "sessions have no sftp: sftp_server is none" in server.log()
        assert run(server, name, "echo fine") == "fine\n"
    with running("sftp_server = /nowhere/sftp-server\n") as server:
        assert "/nowhere/sftp-server is not there (apt-get install openssh-sftp-server" in server.log()


def test_its_log_is_not_its_client_s(server, here, name):
    (here / "f").write_text("f")
    assert sftp(server, name, f"put {here}/f\nls\nrm f\n").stderr == b""


def test_many_at_once_on_one_connection(server, name):
    async def one(c, i):
        async with c.start_sftp_client() as s:
            async with s.open(f"/workspace/{i}", "wb") as f:
                await f.write(bytes([i]) * 300_000)
            async with s.open(f"/workspace/{i}", "rb") as f:
                assert await f.read() == bytes([i]) * 300_000

    async def go():
        async with connect(server, name) as c:
            await asyncio.gather(*(one(c, i) for i in range(32)))
    asyncio.run(go())
    wait_until("all records", lambda: len([c for c in sftp_calls(server, name) if not c["live"]]) == 32)
    assert sftp_processes(server, name) == "0"
