"""berth-init and the runtime: not read, not replaced, not killed from inside; nothing of it leaks into calls."""
import asyncio

import asyncssh
import pytest

from attack import keeper_of
from berth_e2e import BUILD


# the directory that is listed is itself one: what is gone afterwards was that
LIST = "import os\nfor n in sorted(os.listdir(\"/proc/self/fd\")):\n try: print(n, os.readlink(\"/proc/self/fd/\" + n), sep=\"=\")\n except OSError: pass"


def test_a_call_holds_its_three_streams_and_no_other_descriptor(server, name):
    r = server.ssh(name, "python3 -c 'import os; print(sorted(int(n) for n in os.listdir(\"/proc/%d/fd\" % os.getppid())))'; true")
    assert r.out == b"[0, 1, 2]\n", r
    assert server.ssh(name, "ls /proc/self/fd").out.split() == [b"0", b"1", b"2", b"3"]


def test_a_shell_on_a_terminal_holds_its_terminal_and_no_other_descriptor(server, name):
    server.ssh(name, "true")

    async def run():
        async with asyncssh.connect("127.0.0.1", server.port, username=name, known_hosts=None,
                                    client_keys=[str(server.key)]) as c:
            return (await c.run("exec python3 -c '%s'" % LIST, term_type="xterm")).stdout

    assert asyncio.run(run()).split() == ["0=/dev/pts/0", "1=/dev/pts/0", "2=/dev/pts/0"]


def test_kill_of_everything_by_root_ends_the_calls_and_nothing_else(server, name):
    server.ssh(name, "true")
    other = server.popen(name, "echo up; exec sleep 1000")
    assert other.stdout.readline() == b"up\n"
    r = server.ssh(name, "kill -9 -1; echo alive")
    assert r.out == b"alive\n", r
    assert other.wait(30) != 0
    assert server.ssh(name, "kill -STOP 1; kill -9 1; kill -SEGV 1; echo alive").out == b"alive\n"
    assert server.session(name)["state"] == "running"


def test_every_signal_at_pid_1_leaves_it_there(server, name):
    r = server.ssh(name, "for s in $(seq 1 64); do kill -$s 1; done 2>/dev/null; echo alive")
    assert r.out == b"alive\n", r
    assert server.ssh(name, "echo again").out == b"again\n"


@pytest.mark.parametrize("limit", ["--cpu=0:0", "--nofile=0:0", "--nproc=1:1", "--fsize=0:0", "--as=0:0", "--stack=0:0"])
def test_limits_put_on_pid_1_end_the_session_at_most_and_it_comes_back(server, name, limit):
    server.ssh(name, "echo kept > /workspace/f")
    server.ssh(name, f"prlimit --pid 1 {limit}; for i in 1 2 3; do true & done; wait; true", timeout=60)
    server.ssh(name, "true")  # may be the one in which pid 1 dies; what it starts has its limits too
    assert server.verb("pause", name, "--force").status == 0 or server.session(name)["state"] == "paused"
    assert server.ssh(name, "cat /workspace/f").out == b"kept\n"


def test_pid_1_scheduled_away_still_serves(server, name):
    r = server.ssh(name, "renice 19 1; chrt --idle -p 0 1; taskset -p 1 1; ionice -c3 -p 1; echo done")
    assert r.out.endswith(b"done\n"), r
    assert server.ssh(name, "echo again").out == b"again\n"


OVERWRITE = r"""
import errno, os, time
done = 0
end = time.monotonic() + 4
while time.monotonic() < end:
    for p in filter(str.isdigit, os.listdir("/proc")):
        try:
            comm = open(f"/proc/{p}/comm").read().strip()
        except OSError:
            continue
        if comm != "berth-init":
            continue
        done += 1
        for what in ("exe", "fd/3", "fd/0", "root", "cwd", "mem", "map_files"):
            for flags in (os.O_RDONLY, os.O_RDWR, *([os.O_PATH] if what not in ("mem", "map_files") else [])):
                try:
                    if what == "map_files":  # whoever owns it may open it; the names in it are the secret
                        os.listdir(f"/proc/{p}/{what}")
                    else:
                        os.close(os.open(f"/proc/{p}/{what}", flags | os.O_NONBLOCK))
                except OSError:
                    continue
                try:  # it has executed its command meanwhile, or it is still the runtime
                    runtime = "berth-init" in os.readlink(f"/proc/{p}/exe")
                except OSError as e:
                    runtime = e.errno in (errno.EACCES, errno.EPERM)
                if runtime:
                    print("OPENED", p, what, flags)
print("looked", done > 3)
"""


def test_the_runtime_cannot_be_overwritten_while_its_children_start(server, name):
    """The class of CVE-2019-5736: every child of init is looked at between its fork and its exec."""
    server.ssh(name, "cat > /workspace/watch.py", stdin=OVERWRITE.encode())
    watcher = server.popen(name, "python3 /workspace/watch.py")

    async def many():
        async with asyncssh.connect("127.0.0.1", server.port, username=name, known_hosts=None,
                                    client_keys=[str(server.key)]) as c:
            while watcher.poll() is None:
                await asyncio.gather(*(c.run("true") for _ in range(8)))

    asyncio.run(many())
    out = watcher.stdout.read()
    assert out == b"looked True\n", out


def test_a_shell_replaced_by_the_runtime_itself_gains_nothing(server, name):
    """/bin/sh is a link to /proc/self/exe, then a script of it: init executes itself, unreadable as before."""
    server.ssh(name, "cp /bin/true /workspace/t; rm /bin && mkdir /bin && cp -a /usr/bin/. /bin/ 2>/dev/null; rm -f /bin/sh /bin/bash; "
                     "ln -s /proc/self/exe /bin/sh; ln -s /proc/self/exe /bin/bash")
    r = server.ssh(name, "echo never")
    assert r.status != 0 and b"never" not in r.out, r
    assert server.verb("pause", name, "--force").status == 0
    snapshot = server.json("snapshots", name)[0]
    assert snapshot["snapshot"].startswith("sha256:")
    r = server.ssh(name, "echo never")
    assert r.status != 0 and b"never" not in r.out, r


def test_the_binary_on_the_node_is_not_what_it_was_made_of_by_a_session(server, armed):
    """After all attempts at it, init is still executed from the file that the server opened, byte by byte."""
    _, pid1 = keeper_of(server, armed)
    with open(f"/proc/{pid1}/exe", "rb") as f:
        running = f.read()
    installed = next(p for p in BUILD.rglob("berth-init") if p.is_file())
    assert running == installed.read_bytes()
