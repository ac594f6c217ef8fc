"""How far a long verb is, and Ctrl-C: a bar on a terminal, events with --progress, and all as it was."""
import json
import os
import pty
import re
import select
import subprocess
import time

import pytest

from conftest import running, wait_until
from test_pause import restart_cold

BIG = "head -c 48M /dev/urandom | base64 > big"  # 64 MiB that level 12 takes seconds for, on any machine


@pytest.fixture(scope="module")
def server():
    with running("compression = 12\nthreads = 1\n") as s:
        yield s


@pytest.fixture
def big(server, name):
    assert server.ssh(name, f"{BIG}; sleep 1000 >/dev/null 2>&1 & echo live").out == b"live\n"
    return name


class Terminal:
    """`ssh -tt berth@HOST …` at a terminal of 100 columns: what it shows, and keys."""

    def __init__(self, server, *words):
        self.master, slave = pty.openpty()
        subprocess.run(["stty", "cols", "100", "rows", "30"], stdin=slave, check=True)
        self.ssh = subprocess.Popen(server.ssh_argv("berth", " ".join(words), options=("-tt",)),
                                    stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
        os.close(slave)
        self.seen = b""

    def read_until(self, pattern, seconds=60):
        end = time.monotonic() + seconds
        while not re.search(pattern, self.seen):
            assert time.monotonic() < end, self.seen
            if not select.select([self.master], [], [], 1)[0]:
                continue
            try:
                got = os.read(self.master, 65536)
            except OSError:
                got = b""
            assert got or re.search(pattern, self.seen), self.seen
            self.seen += got
        return self.seen

    def press(self, key):
        os.write(self.master, key)

    def wait(self):
        end = time.monotonic() + 60
        while self.ssh.poll() is None and time.monotonic() < end:
            if select.select([self.master], [], [], 0.2)[0]:
                try:
                    self.seen += os.read(self.master, 65536)
                except OSError:
                    break
        status = self.ssh.wait(30)
        os.close(self.master)
        return status


def test_a_bar_is_shown_and_taken_off_again(server, big):
    t = Terminal(server, "pause", big)
    t.read_until(rb"MiB.* files  .*/s")
    assert t.wait() == 0, t.seen
    bars = [line for line in re.split(rb"\r", t.seen) if b" files" in line]
    assert all(len(re.sub(rb"\x1b\[K", b"", bar)) <= 100 for bar in bars), bars
    assert re.search(rb"\r\x1b\[K" + big.encode() + rb": paused, snapshot [0-9a-f]{12}\r\n", t.seen), t.seen


def test_events_are_lines_of_json_on_stderr_and_the_answer_stays_alone(server, big):
    done = server.verb("pause", big, "--json", "--progress")
    assert done.status == 0 and json.loads(done.out)["state"] == "paused", done
    events = [json.loads(line) for line in done.err.decode().splitlines()]
    assert events and all(e["event"] == "progress" for e in events), done
    assert [e["bytes"] for e in events] == sorted(e["bytes"] for e in events)
    assert events[-1]["bytes"] > 1 << 20 and events[-1]["bytes_per_second"] > 0 and "files" in events[-1]


@pytest.mark.parametrize("how", ["a key", "a signal"])
def test_an_interrupted_pause_leaves_all_as_it_was(server, big, how):
    before = server.json("snapshots", big)
    if how == "a key":
        t = Terminal(server, "pause", big)
        t.read_until(rb" files")
        t.press(b"\x03")
        assert t.wait() == 130, t.seen
        assert b"interrupted: all is as it was" in t.seen
    else:
        import asyncio
        import asyncssh

        async def go():
            async with asyncssh.connect("127.0.0.1", server.port, username="berth", known_hosts=None,
                                        client_keys=[str(server.key)]) as c:
                p = await c.create_process(f"pause {big} --progress")
                await p.stderr.readline()
                p.send_signal("INT")
                return await p.wait()
        r = asyncio.run(asyncio.wait_for(go(), 60))
        assert r.exit_status == 130 and "interrupted" in r.stderr, r
    assert server.session(big)["state"] == "running"
    assert server.json("snapshots", big) == before
    assert server.ssh(big, "pgrep -c sleep; ls -s big").out.startswith(b"1\n")
    server.verb("pause", big, "--force")
    assert server.session(big)["state"] == "paused"


def test_an_interrupted_resume_leaves_it_paused(own_server, name):
    assert own_server.ssh(name, "head -c 600M /dev/zero > big; sync").status == 0  # small to archive, long to write
    restart_cold(own_server)
    t = Terminal(own_server, "resume", name)
    t.read_until(rb"unpacked.*#.* files")
    t.press(b"\x03")
    assert t.wait() == 130, t.seen
    assert own_server.session(name)["state"] == "paused"
    assert own_server.ssh(name, "stat -c %s big").out == b"%d\n" % (600 << 20)


def test_an_interrupted_import_leaves_nothing(server, tmp_path):
    (tmp_path / "big").write_bytes(os.urandom(48 << 20))
    os.truncate(tmp_path / "big", 2 << 30)  # it is read as it is, and takes its time
    t = Terminal(server, "image", "import", "huge", str(tmp_path))
    t.read_until(rb"reading the source.*files")
    t.press(b"\x03")
    assert t.wait() == 130, t.seen
    assert all(i["name"] != "huge" for i in server.json("image", "ls"))
    wait_until("the worker to remove what it has made", lambda: not [
        p for p in (server.state / "cache" / "images").iterdir() if p.name.startswith(".tmp")])


def test_interrupting_what_only_shows_ends_it(server, name):
    server.ssh(name, "true")
    t = Terminal(server, "audit", "--follow")
    t.read_until(rb"verb")
    t.press(b"\x03")
    assert t.wait() == 130, t.seen
    wait_until("the server to answer as before", lambda: server.verb("ls").status == 0)
