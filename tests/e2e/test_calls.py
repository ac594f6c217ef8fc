"""Calls at their edges: slow, stopped, lost and killed clients, full disks, many at once; and nothing stays behind."""
import asyncio
import contextlib
import hashlib
import os
import pathlib
import re
import select
import shutil
import signal
import socket
import struct
import subprocess

import asyncssh
import execs
import pytest

from conftest import Server, at_most, running, wait_until


def connect(server, name):
    return asyncssh.connect("127.0.0.1", server.port, username=name, known_hosts=None, client_keys=[str(server.key)])


def pids_of(server, what):
    return {pid for pid, name in server.keeper_pids() if name == what}


def keeper_of(server, name):
    """The pid of the keeper that holds a session's calls/."""
    calls = f"/sessions/{server.session(name)['id']}/calls"
    for pid in pids_of(server, "berth-keeper"):
        for fd in pathlib.Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if os.readlink(fd).endswith(calls):
                    return pid
    raise AssertionError(f"no keeper of {name}")


def rest_of(server, name):
    """What a session holds at rest: its keeper's descriptors, and how many cgroups of calls (one, the next call's)."""
    sid = server.session(name)["id"]
    roots = [p for p in ("/sys/fs/cgroup/unified", "/sys/fs/cgroup") if os.path.exists(p + "/cgroup.procs")]
    cgroups = [p for root in roots for p in pathlib.Path(root).glob(f"berth-*/{sid}/box/c_*")]
    return len(os.listdir(f"/proc/{keeper_of(server, name)}/fd")), len(cgroups)


@contextlib.contextmanager
def leaves_nothing(server, name):
    """The keeper holds what it held before, once the block's connections are gone."""
    assert server.ssh(name, "true").status == 0
    wait_until("the first connection to go", lambda: not pids_of(server, "berth-conn"))
    before = rest_of(server, name)
    yield
    wait_until("connections to go", lambda: not pids_of(server, "berth-conn"), 40)
    with contextlib.suppress(AssertionError):
        wait_until("rest", lambda: rest_of(server, name) == before, 10)
    assert rest_of(server, name) == before


def start(server, user, command, **kw):
    """Unbuffered: what was not asked for yet is still in the pipe for communicate()."""
    return server.popen(user, command, bufsize=0, **kw)


def rss_kb(pid):
    with open(f"/proc/{pid}/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmRSS"))


def last_call(server, name):
    return server.json("calls", name)[0]


def ended_call(server, call):
    return wait_until("the call's end", lambda: not (row := server.json("call", "show", call))["live"] and row)


def seq(n, size):
    """What `seq 1 N | head -c SIZE` prints."""
    return subprocess.run(f"seq 1 {n} | head -c {size}", shell=True, capture_output=True).stdout


# ---- output ----

def test_call_output_is_what_was_printed_live_and_afterwards_from_any_byte(server, name):
    with leaves_nothing(server, name):
        live = start(server, name, "for i in $(seq 1 2000); do echo out$i; done; read x; for i in $(seq 2001 4000); do echo out$i; done")
        first = b"".join(live.stdout.readline() for _ in range(2000))
        call = last_call(server, name)["call"]
        followers = {n: start(server, "berth", f"call output {call} --from {n} --follow") for n in (0, 7777)}
        assert followers[0].stdout.readline() == b"out1\n"
        now = server.verb("call output", call)
        assert (now.out, now.status) == (first, 0), "without --follow: what there is"
        rest, err = live.communicate(b"\n", timeout=30)
        printed = first + rest
        assert printed.endswith(b"out4000\n") and (err, live.returncode) == (b"", 0)
        for n, f in followers.items():
            out, err = f.communicate(timeout=30)
            whole = (b"out1\n" if n == 0 else b"") + out
            assert (whole, err, f.returncode) == (printed[n:], b"", 0)
        for n in (0, 1, 12345, len(printed), 10 * len(printed)):
            r = server.verb("call output", call, "--from", str(n), "--follow")
            assert (r.out, r.err, r.status) == (printed[n:], b"", 0)


def test_call_output_keeps_the_streams_apart_and_skips_in_the_order_they_were_written(server, name):
    p = start(server, name, "echo one; read x; echo two >&2; read x; echo three")
    p.stdout.readline()
    p.stdin.write(b"\n")
    p.stdin.flush()
    p.stderr.readline()
    p.communicate(b"\n", timeout=20)
    call = last_call(server, name)["call"]
    assert (server.verb("call output", call).out, server.verb("call output", call).err) == (b"one\nthree\n", b"two\n")
    r = server.verb("call output", call, "--from 6")
    assert (r.out, r.err) == (b"three\n", b"o\n"), "4 bytes of stdout and 2 of stderr were skipped"


def test_past_the_journals_bound_a_slow_reader_gets_every_byte_and_a_replay_says_what_is_gone(name):
    expected = seq(9000000, 64 << 20)
    assert len(expected) == 64 << 20
    with running("journal_max = 4M\n") as server, leaves_nothing(server, name):
        p = start(server, name, f"seq 1 9000000 | head -c {64 << 20}; echo end >&2; exit 3")
        got = hashlib.sha256()
        at = 0
        while piece := p.stdout.read(1 << 20):
            assert piece == expected[at:at + len(piece)]
            at += len(piece)
            got.update(piece)
            select.select([], [], [], 0.002)  # slower than the call by far
        assert (at, p.stderr.read(), p.wait(20)) == (64 << 20, b"end\n", 3)
        row = ended_call(server, last_call(server, name)["call"])
        assert (row["stdout_bytes"], row["stdout_sha256"]) == (64 << 20, got.hexdigest()), row
        assert (row["stderr_bytes"], row["stderr_sha256"]) == (4, hashlib.sha256(b"end\n").hexdigest())
        journal = next((server.state / "sessions" / row["session"] / "calls").glob(row["call"] + ".j"))
        assert journal.stat().st_blocks * 512 < 8 << 20

        r = server.verb("call output", row["call"])
        assert r.status == 74, r
        match = re.fullmatch(rb"berth: call output: (\d+) bytes of stdout from byte (\d+) on are no longer kept here\nend\n", r.err)
        assert match, r.err
        lost, head = map(int, match.groups())
        assert len(r.out) + lost == 64 << 20 and len(r.out) > 3 << 20
        assert head >= 1000 << 10 and r.out == expected[:head] + expected[head + lost:]


def test_what_stderr_held_arrives_though_a_child_floods_stdout(server, name):
    async def run():
        async with connect(server, name) as c:
            for _ in range(3):
                p = await c.create_process("yes & sleep 0.3; echo important >&2; exit 3", encoding=None)
                p.stdout.channel.pause_reading()
                call = await asyncio.to_thread(lambda: last_call(server, name)["call"])
                await asyncio.to_thread(ended_call, server, call)
                p.stdout.channel.resume_reading()
                _, err = await asyncio.wait_for(asyncio.gather(p.stdout.read(), p.stderr.read()), 60)
                assert (err, (await p.wait()).exit_status) == (b"important\n", 3)
                await c.run("kill -9 -1")

    with leaves_nothing(server, name):
        asyncio.run(run())


# ---- followers ----

def test_any_number_of_followers_may_come_and_go(server, name):
    with leaves_nothing(server, name):
        live = start(server, name, "echo first; read x; echo last")
        live.stdout.readline()
        call = last_call(server, name)["call"]
        for _ in range(36):
            f = start(server, "berth", f"call output {call} --follow")
            assert f.stdout.readline() == b"first\n"
            f.kill()
            f.communicate()
        f = start(server, "berth", f"call output {call} --follow")
        assert f.stdout.readline() == b"first\n"
        live.communicate(b"\n", timeout=20)
        out, err = f.communicate(timeout=20)
        assert (out, err, f.returncode) == (b"last\n", b"", 0)


def test_a_follower_ends_when_the_keeper_dies(own_server, name):
    server = own_server
    live = start(server, name, "echo first; sleep 600")
    live.stdout.readline()
    call = last_call(server, name)["call"]
    f = start(server, "berth", f"call output {call} --follow")
    assert f.stdout.readline() == b"first\n"
    os.kill(keeper_of(server, name), signal.SIGKILL)
    out, err = f.communicate(timeout=20)
    assert (out, f.returncode) == (b"", 74) and b"without a word" in err, (out, err, f.returncode)
    live.communicate(timeout=20)
    assert live.returncode == 69
    assert server.ssh(name, "echo again").out == b"again\n"


def test_a_verb_that_is_cancelled_takes_no_other_with_it(server, name):
    server.ssh(name, "trap '' TERM; (while :; do sleep 1; done) >/dev/null 2>&1 &")
    other = start(server, name, "echo up; cat")
    other.stdout.readline()

    async def run():
        async with connect(server, "berth") as c:
            pausing = await c.create_process(f"pause {name} --grace 3s")
            await asyncio.to_thread(wait_until, "the pause to begin", lambda: server.session(name)["state"] == "pausing")
            second = await c.create_process(f"resume {name}")
            second.close()
            r = await asyncio.wait_for(pausing.wait(), 30)
            assert r.exit_status == 0, r
    asyncio.run(run())
    other.communicate(timeout=20)


def test_when_a_session_dies_no_call_is_turned_away_that_did_not_run(server, name):
    """pid 1 dies under 20 callers: what ran is lost and says so, what did not runs in the next session."""
    server.ssh(name, "true")
    seen = set()

    async def run():
        async with connect(server, name) as c:
            left = [5]

            async def caller():
                while left[0]:
                    r = await asyncio.wait_for(c.run("echo x; sleep 0.02"), 30)
                    seen.add((r.exit_status, r.exit_signal and r.exit_signal[0], (r.stderr or "").split(" (")[0]))
            callers = [asyncio.create_task(caller()) for _ in range(20)]
            while left[0]:
                init = await asyncio.to_thread(wait_until, "a pid 1", lambda: [
                    int(p) for k in pids_of(server, "berth-keeper")
                    for p in subprocess.run(["pgrep", "-P", str(k)], capture_output=True).stdout.split()])
                for pid in init:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                while (await c.run("echo alive")).stdout != "alive\n":
                    pass
                left[0] -= 1
            await asyncio.gather(*callers)
            assert (await c.run("echo alive")).stdout == "alive\n"

    asyncio.run(run())
    assert (0, None, "") in seen
    lost = {(-1, "KILL", ""), (69, None, "berth: call: lost: its session ended before it answered"),
            (69, None, "berth: call: lost: its session ended without a word")}
    assert seen - lost == {(0, None, "")}, seen


# ---- clients that go ----

def test_a_reset_link_hangs_up_its_calls_and_the_record_says_so(server, name):
    async def run():
        c = await connect(server, name)
        plain = await c.create_process("echo up; exec sleep 600")
        await plain.stdout.readline()
        call = await asyncio.to_thread(lambda: last_call(server, name)["call"])
        trap = await c.create_process("trap 'echo heard > hup; echo bye; exit 9' HUP; echo up; while :; do sleep 0.05; done")
        await trap.stdout.readline()
        trapped = await asyncio.to_thread(lambda: last_call(server, name)["call"])
        # RST instead of FIN: the other side has no chance to say anything
        c.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        c.abort()
        return call, trapped

    with leaves_nothing(server, name):
        call, trapped = asyncio.run(run())
        row = ended_call(server, call)
        assert (row["signal"], row["ended_by"]) == (signal.SIGHUP, "signal"), row
        row = ended_call(server, trapped)
        assert (row["exit_status"], row["ended_by"]) == (9, "itself"), row
        assert server.ssh(name, "cat hup").out == b"heard\n"
        assert server.verb("call output", trapped).out == b"up\nbye\n", "what it said when nobody listened is kept"


@pytest.mark.parametrize("stopped", [False, True], ids=["unread", "stopped"])
def test_a_client_that_never_reads_and_is_killed_leaves_no_conn_and_no_memory(server, name, stopped):
    with leaves_nothing(server, name):
        keeper = keeper_of(server, name)
        before = rss_kb(keeper)
        p = start(server, name, "yes", stdin=subprocess.DEVNULL)
        if stopped:
            p.stdout.read(1)
            p.send_signal(signal.SIGSTOP)
        call = wait_until("the call", lambda: next((c["call"] for c in server.json("calls", name) if c["live"]), None))
        journal = next((server.state / "sessions").glob(f"*/calls/{call}.j"))
        wait_until("the journal to be full", lambda: journal.stat().st_size >= 64 << 20)
        p.kill()
        p.communicate()
        row = ended_call(server, call)
        assert (row["signal"], row["ended_by"]) == (signal.SIGHUP, "signal"), row
        assert rss_kb(keeper) < before + 4096


def test_a_pause_does_not_wait_for_a_reader_that_stopped_and_it_loses_nothing(server, name):
    async def run():
        async with connect(server, name) as c:
            p = await c.create_process("seq 1 100000000", encoding=None)
            head = await p.stdout.readexactly(1 << 16)
            p.stdout.channel.pause_reading()
            call = await asyncio.to_thread(lambda: last_call(server, name)["call"])
            with at_most(15):
                r = await asyncio.to_thread(server.verb, "pause", name)
            assert r.status == 0, r
            row = await asyncio.to_thread(ended_call, server, call)
            p.stdout.channel.resume_reading()
            rest = await asyncio.wait_for(p.stdout.read(), 60)
            assert hashlib.sha256(head + rest).hexdigest() == row["stdout_sha256"]
            assert row["ended_by"] == "pause" and (await p.wait()).exit_signal[0] == "TERM"

    server.ssh(name, "true")
    asyncio.run(run())


def test_a_slow_reader_gets_all_though_the_server_stopped_meanwhile(own_server, name):
    """Session paused, keeper gone, manager gone: its conn still has the journal."""
    server = own_server
    p = start(server, name, "seq 1 100000000")
    head = p.stdout.read(1 << 16)
    call = last_call(server, name)["call"]
    journal = next((server.state / "sessions").glob(f"*/calls/{call}.j"))
    wait_until("the journal to be full", lambda: journal.stat().st_size >= 64 << 20)
    assert server.stop() == 0
    got = bytearray(head)
    while piece := p.stdout.read(256 << 10):
        got += piece
        select.select([], [], [], 0.008)  # 64 KiB each: over 8 s for it all
    p.wait(20)
    server.start()
    row = server.json("call", "show", call)
    assert (len(got), hashlib.sha256(got).hexdigest()) == (row["stdout_bytes"], row["stdout_sha256"])


def test_a_login_waits_for_a_manager_that_is_busy(server, name):
    """Stopped for longer than any fsync should take, in the moment when the key is shown."""
    class Client(asyncssh.SSHClient):
        def public_key_auth_requested(self):
            server.process.send_signal(signal.SIGSTOP)
            asyncio.get_running_loop().call_later(4, server.process.send_signal, signal.SIGCONT)
            return None if self.shown else self.show()

        shown = False

        def show(self):
            self.shown = True
            return asyncssh.read_private_key(str(server.key))

    async def run():
        c, _ = await asyncssh.create_connection(Client, "127.0.0.1", server.port, username=name, known_hosts=None,
                                                client_keys=None)
        async with c:
            return await c.run("echo in")

    try:
        assert asyncio.run(run()).stdout == "in\n"
    finally:
        server.process.send_signal(signal.SIGCONT)


def test_a_stopped_conn_holds_up_nobody_and_loses_nothing(server, name):
    want = seq(30000, 1 << 20).decode()

    async def run():
        async with connect(server, name) as c:
            await c.run("true")
            conn, = pids_of(server, "berth-conn")
            calls = [await c.create_process(f"seq 1 30000; echo e{i} >&2; exit {i}", stdin=asyncssh.DEVNULL) for i in range(60)]
            os.kill(conn, signal.SIGSTOP)
            try:
                with at_most(10):
                    assert (await asyncio.to_thread(server.ssh, name, "echo other")).out == b"other\n"
                    assert (await asyncio.to_thread(server.verb, "show", name)).status == 0
            finally:
                os.kill(conn, signal.SIGCONT)
            for i, p in enumerate(calls):
                r = await asyncio.wait_for(p.wait(), 30)
                assert (r.stdout, r.stderr, r.exit_status) == (want, f"e{i}\n", i), i

    with leaves_nothing(server, name):
        asyncio.run(run())


# ---- terminals, many at once, rekeys, acknowledgements ----

def test_a_terminal_lives_through_a_storm_of_window_changes(server, name):
    async def run():
        async with connect(server, name) as c:
            p = await c.create_process("for i in $(seq 1 3000); do echo line$i; done; until [ \"$(stty size)\" = '44 133' ]; do :; done;"
                                       " echo seen; exit 6", term_type="xterm", term_size=(80, 24), encoding="latin-1")

            async def storm():
                for i in range(3000):
                    p.change_terminal_size(40 + i % 100, 20 + i % 50)
                    if i % 100 == 0:
                        await asyncio.sleep(0)
                p.change_terminal_size(133, 44)

            out, _ = await asyncio.wait_for(asyncio.gather(p.stdout.read(), storm()), 60)
            assert out == "".join(f"line{i}\r\n" for i in range(1, 3001)) + "seen\r\n"
            assert (await p.wait()).exit_status == 6

    with leaves_nothing(server, name):
        asyncio.run(run())


def test_many_fast_execs_over_8_connections_lose_and_mix_nothing(server, name):
    """tests/bench/execs does 100,000."""
    n = 1500
    server.ssh(name, "true")
    assert asyncio.run(execs.run(server.port, name, server.key, n)) == []
    session = server.session(name)["id"]
    wait_until("the index", lambda: execs.in_index(server.state, session)[0] >= n)
    assert execs.in_index(server.state, session) == (n, 0, sum(i % 251 for i in range(n)))


def test_256_calls_at_once_on_one_connection_five_times(server, name):
    async def run():
        async with connect(server, name) as c:
            for n in range(5):
                async def one(i):
                    r = await c.run(f"sleep 0.3; echo {n}-{i}; exit {i % 200}")
                    return r.stdout, r.exit_status
                got = await asyncio.wait_for(asyncio.gather(*(one(i) for i in range(256))), 60)
                assert got == [(f"{n}-{i}\n", i % 200) for i in range(256)]

    with leaves_nothing(server, name):
        asyncio.run(run())


def test_rekeys_while_both_ways_are_full_change_no_byte(server, name, tmp_path):
    sent = tmp_path / "sent"
    sent.write_bytes(seq(9000000, 64 << 20))
    with leaves_nothing(server, name), open(sent, "rb") as f:
        p = start(server, name, "tee /dev/stderr | sha256sum; exec 2>&-; echo done", options=["-o", "RekeyLimit=1M"], stdin=f)
        p.stdin = None
        back = hashlib.sha256()
        while piece := p.stderr.read(1 << 20):
            back.update(piece)
        out = p.stdout.read()
        assert p.wait(60) == 0
    digest = hashlib.sha256(sent.read_bytes()).hexdigest()
    assert (back.hexdigest(), out) == (digest, f"{digest}  -\ndone\n".encode())


def test_each_turn_that_read_from_the_client_acknowledges_at_once(server, name, tmp_path):
    """TCP_QUICKACK: else clients with Nagle's algorithm wait 40 ms an exchange."""
    if not shutil.which("strace"):
        pytest.skip("strace is missing")
    trace = tmp_path / "trace"

    async def run():
        async with connect(server, name) as c:
            await c.run("true")
            conn, = pids_of(server, "berth-conn")
            strace = subprocess.Popen(["strace", "-o", trace, "-e", "trace=recvfrom,recvmsg,read,setsockopt,epoll_wait,epoll_pwait",
                                       "-p", str(conn)], stderr=subprocess.PIPE, text=True)
            if "attached" not in (said := await asyncio.to_thread(strace.stderr.readline)):
                strace.communicate()
                pytest.skip("strace may not attach here: " + said.strip())
            try:
                for i in range(20):
                    assert (await c.run(f"echo {i}")).stdout == f"{i}\n"
            finally:
                strace.terminate()
                strace.communicate()

    asyncio.run(run())
    turns = re.split(r"^epoll_p?wait.*$", trace.read_text(), flags=re.M)[1:-1]  # the ends may be cut
    reads = [t for t in turns if re.search(r"^(recvfrom|read)\(4, .* = [1-9]", t, re.M)]
    assert len(reads) >= 20
    late = [t for t in reads if "TCP_QUICKACK, [1]" not in t]
    assert late == []


# ---- a full disk ----

@pytest.fixture
def small_disk(tmp_path):
    image, where = tmp_path / "disk", tmp_path / "mnt"
    with open(image, "wb") as f:
        f.truncate(60 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)
    where.mkdir()
    done = subprocess.run(["mount", "-o", "loop", image, where], capture_output=True)
    if done.returncode:
        pytest.skip("no loop mount here: " + done.stderr.decode().strip())
    yield where
    subprocess.run(["umount", where], check=True)


def fill(where):
    with open(where / "filler", "ab", buffering=0) as f:
        for size in (1 << 20, 4096, 1):
            with contextlib.suppress(OSError):
                while True:
                    f.write(b"x" * size)


def test_on_a_full_disk_lost_output_is_told_and_no_end_is_forgotten(small_disk, name):
    base = small_disk / "berth"
    base.mkdir()
    server = Server(base)
    server.log_path = small_disk.parent / "log"
    try:
        server.start()
        long, short = (start(server, name, f"echo up; read x; {then}") for then in ("seq 1 300000", "exit 5"))
        assert long.stdout.readline() + short.stdout.readline() == b"up\nup\n"
        calls = {c["command"].split("; ")[2]: c["call"] for c in server.json("calls", name)}
        fill(small_disk)
        r = server.ssh(name, "true")
        assert r.status == 73 and r.stderr.startswith("berth: call: "), r
        out, err = long.communicate(b"\n", timeout=20)
        assert len(out) < len(seq(300000, 1 << 30)) and long.returncode == 74, (len(out), err, long.returncode)
        assert b"could not be kept" in err
        short.communicate(b"\n", timeout=20)
        assert short.returncode == 5
        (small_disk / "filler").unlink()
        assert server.ssh(name, "echo space").out == b"space\n"
        row = ended_call(server, calls["seq 1 300000"])
        assert (row["exit_status"], row["stdout_bytes"]) == (0, 3 + len(seq(300000, 1 << 30))), row
        row = ended_call(server, calls["exit 5"])
        assert (row["exit_status"], row["ended_by"]) == (5, "itself"), row
        server.remove()
    finally:
        server.discard()


def test_what_was_made_for_a_next_call_goes_with_the_session(server, name):
    assert [server.ssh(name, f"echo {i}").out for i in range(3)] == [b"0\n", b"1\n", b"2\n"]
    calls = server.state / "sessions" / server.session(name)["id"] / "calls"
    assert len(list(calls.glob("*.j"))) == 4 and sorted(p.stat().st_size > 0 for p in calls.glob("*.j")) == [False, True, True, True]
    assert server.verb("pause", name).status == 0
    assert len(list(calls.glob("*.j"))) == 3
    assert server.ssh(name, "echo 3").out == b"3\n"
    assert len(server.json("calls", name)) == 4
