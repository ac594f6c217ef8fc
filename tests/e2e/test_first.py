"""The main job: calls with their streams, exits and terminals, as each real client sees them."""
import asyncio
import hashlib
import subprocess

import asyncssh
import pytest


def test_a_first_channel_makes_the_session_and_its_exit_status_arrives(server, name):
    r = server.ssh(name, "uname -s; echo hi > /workspace/a; exit 7")
    assert (r.stdout, r.status) == ("Linux\n", 7), r
    assert server.ssh(name, "cat /workspace/a").out == b"hi\n"
    assert server.session(name)["state"] == "running"


def test_stdout_and_stderr_come_apart(server, name):
    r = server.ssh(name, "echo out; echo err >&2")
    assert (r.out, r.err, r.status) == (b"out\n", b"err\n", 0), r


def test_stdin_half_close_ends_the_reader_and_its_answer_still_comes(server, name):
    r = server.ssh(name, "sort; echo done", stdin=b"b\na\n")
    assert (r.out, r.status) == (b"a\nb\ndone\n", 0), r


def test_a_command_that_is_missing_is_127_and_says_so(server, name):
    r = server.ssh(name, "no-such-command-here")
    assert r.status == 127 and "not found" in r.stderr, r


def test_a_session_is_a_machine_of_its_own(server, name):
    r = server.ssh(name, "id -u; hostname; pwd; echo $HOME; umask; ps -e -o pid= | wc -l; ls /workspace | wc -l")
    uid, hostname, cwd, home, umask, processes, files = r.stdout.split()
    assert (uid, hostname, cwd, home, umask, files) == ("0", name, "/workspace", "/root", "0022", "0"), r
    assert int(processes) < 8, r


def test_the_host_is_not_reached_from_inside(server, name):
    r = server.ssh(name, "cat /etc/shadow; ls /home; ls %s; cat /proc/1/environ; echo end" % server.state)
    assert r.out == b"end\n", r
    assert server.ssh(name, "mount -t tmpfs none /mnt").status != 0
    assert server.ssh(name, "mknod /tmp/sda b 8 0").status != 0
    assert server.ssh(name, "echo 1 > /proc/sys/kernel/core_pattern").status != 0
    assert server.ssh(name, "touch /usr/bin/planted").status != 0
    assert server.ssh(name, "kill -9 1; echo alive").out == b"alive\n"


def test_the_network_of_a_session_is_loopback_alone(server, name):
    r = server.ssh(name, "cat /proc/net/dev | grep : | wc -l; exec 3<>/dev/tcp/127.0.0.1/%d" % server.port)
    assert r.out.split()[0] == b"1" and r.status != 0, r


def test_a_terminal_is_one_and_carries_size_and_exit(server, name):
    server.ssh(name, "true")

    async def run():
        async with asyncssh.connect("127.0.0.1", server.port, username=name, known_hosts=None,
                                    client_keys=[str(server.key)]) as c:
            p = await c.create_process("tty; stty size; read x; stty size; exit 3", term_type="xterm-256color",
                                       term_size=(91, 33), encoding="latin-1")
            first = await p.stdout.readuntil("33 91\r\n")
            p.change_terminal_size(120, 40)
            p.stdin.write("go\n")
            rest = await p.stdout.read()
            await p.wait_closed()
            return first, rest, p.exit_status

    first, rest, status = asyncio.run(run())
    assert first.startswith("/dev/pts/") and "40 120" in rest and status == 3, (first, rest, status)


def test_a_login_shell_runs_on_a_terminal(server, name):
    p = server.popen(name, options=["-tt"])
    out, _ = p.communicate(b"echo $((40+2))-$TERM; shopt -q login_shell && echo login-$BASH; exit 5\n", timeout=30)
    assert b"42-" in out and b"login-/bin/bash" in out and p.returncode == 5, out
    assert server.json("calls", name)[0]["command"] == "/bin/bash"


def test_signals_end_a_call_with_exit_signal(server, name):
    async def run():
        async with asyncssh.connect("127.0.0.1", server.port, username=name, known_hosts=None,
                                    client_keys=[str(server.key)]) as c:
            p = await c.create_process("echo ready; exec sleep 100")
            await p.stdout.readline()
            p.send_signal("TERM")
            await p.wait()
            return p.exit_signal, p.exit_status

    signal, _ = asyncio.run(run())
    assert signal and signal[0] == "TERM", signal


def test_environment_is_let_in_by_name(server, name):
    r = server.ssh(name, "echo $LC_TEST-$SECRET_TEST", options=["-o", "SetEnv=LC_TEST=yes SECRET_TEST=no"])
    assert r.out == b"yes-\n", r


def test_an_unknown_berth_option_is_an_error(server, name):
    r = server.ssh(name, "true", options=["-o", "SetEnv=BERTH_NO_SUCH=1"])
    assert r.status == 64 and r.stderr.startswith("berth: "), r


def test_an_exec_ends_with_its_command_though_a_child_holds_stdout(server, name):
    server.ssh(name, "true")
    done = subprocess.run(server.ssh_argv(name, "sleep 600 & echo done"), capture_output=True, timeout=20)
    assert (done.stdout, done.returncode) == (b"done\n", 0)
    calls = server.json("calls", name)
    assert any("sleep 600" in line for line in calls[0]["left_running"]), calls[0]


def test_a_thousand_fast_calls_on_one_connection_are_none_lost_none_mixed(server, name):
    async def run():
        async with asyncssh.connect("127.0.0.1", server.port, username=name, known_hosts=None,
                                    client_keys=[str(server.key)]) as c:
            for i in range(1000):
                r = await c.run(f"echo {i}-$(({i}*7)); echo e{i} >&2; exit {i % 200}")
                assert (r.stdout, r.stderr, r.exit_status) == (f"{i}-{i * 7}\n", f"e{i}\n", i % 200), (i, r)

    asyncio.run(run())
    assert len(server.json("calls", name, "--limit", "5000")) == 1000


def test_64_calls_at_once_on_one_connection(server, name):
    async def run():
        async with asyncssh.connect("127.0.0.1", server.port, username=name, known_hosts=None,
                                    client_keys=[str(server.key)]) as c:
            async def one(i):
                return i, await c.run(f"read x; echo $x-{i}; sleep 0.2; exit {i}", input=f"in{i}\n")
            for i, r in await asyncio.gather(*(one(i) for i in range(64))):
                assert (r.stdout, r.exit_status) == (f"in{i}-{i}\n", i), (i, r)

    asyncio.run(run())


SIZE = 200 << 20


@pytest.fixture(scope="module")
def big_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("big") / "data"
    subprocess.run(["openssl", "enc", "-aes-128-ctr", "-K", "0" * 32, "-iv", "0" * 32, "-in", "/dev/zero", "-out", path],
                   stderr=subprocess.DEVNULL, preexec_fn=lambda: __import__("resource").setrlimit(1, (SIZE, SIZE)))
    assert path.stat().st_size == SIZE
    return path


def test_200_mb_travel_both_ways_unchanged(server, name, big_file):
    with open(big_file, "rb") as f:
        digest = hashlib.file_digest(f, "sha256").hexdigest()
    with open(big_file, "rb") as f:
        up = subprocess.run(server.ssh_argv(name, "tee /workspace/data | sha256sum"), stdin=f, capture_output=True, timeout=120)
    assert up.stdout.split()[0].decode() == digest, up
    down = subprocess.Popen(server.ssh_argv(name, "cat /workspace/data"), stdout=subprocess.PIPE)
    assert hashlib.file_digest(down.stdout, "sha256").hexdigest() == digest
    assert down.wait(60) == 0


def test_a_reader_that_stops_neither_blocks_others_nor_grows_memory(server, name):
    """One channel produces without end and is not read; another on the same connection stays quick."""
    async def run():
        async with asyncssh.connect("127.0.0.1", server.port, username=name, known_hosts=None,
                                    client_keys=[str(server.key)]) as c:
            stuck = await c.create_process("yes", encoding=None)
            await stuck.stdout.readexactly(1 << 16)
            stuck.stdout.channel.pause_reading()
            for i in range(50):
                r = await asyncio.wait_for(c.run(f"echo {i}"), 10)
                assert r.stdout == f"{i}\n"
            pids = [p for p, n in server.keeper_pids() if n in ("berth-conn", "berth-keeper")]
            rss = []
            for pid in pids:
                with open(f"/proc/{pid}/status") as f:
                    rss += [int(line.split()[1]) for line in f if line.startswith("VmRSS")]
            stuck.kill()
            stuck.stdout.channel.resume_reading()
            return rss

    rss = asyncio.run(run())
    assert max(rss) < 200_000, rss  # kB; under ASan too


def test_streams_can_be_opened_again_by_name(server, name):
    r = server.ssh(name, "echo out > /dev/stdout; echo err > /dev/stderr; echo in | cat /dev/stdin")
    assert (r.out, r.err, r.status) == (b"out\nin\n", b"err\n", 0), r
