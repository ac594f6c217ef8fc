"""paramiko and asyncssh: what agent loops in Python stand on."""
import asyncio
import contextlib
import os
import socket
import threading
import warnings

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import asyncssh
    import paramiko

from conftest_e2e import wait_until
from inside import echo_inside

MIB = 1 << 20
BLOB = os.urandom(8 * MIB)


def case(client, feature, **kw):
    return pytest.mark.case(client, feature, **kw)


# ---- paramiko ----

@contextlib.contextmanager
def connected(host, key="ed25519", **options):
    c = paramiko.SSHClient()
    c.set_missing_host_key_policy(paramiko.AutoAddPolicy())
    c.connect(host.address, host.port, host.user, key_filename=str(host.keys / key), look_for_keys=False, allow_agent=False, **options)
    try:
        yield c
    finally:
        c.close()


@case("paramiko", "key {key}")
@pytest.mark.parametrize("key", ["ed25519", "ecdsa-256", "ecdsa-384", "ecdsa-521", "rsa-2048", "rsa-4096"])
def test_paramiko_key(host, key):
    with connected(host, key) as c:
        assert c.exec_command("echo in")[1].read() == b"in\n"


@case("paramiko", "streams apart, stdin, exit status, 8 MiB each")
def test_paramiko_streams(host):
    with connected(host) as c:
        stdin, stdout, stderr = c.exec_command("tee copy; cat copy >&2; exit 5")
        errors = []
        reader = threading.Thread(target=lambda: errors.append(stderr.read()))
        reader.start()
        feeder = threading.Thread(target=lambda: (stdin.write(BLOB), stdin.channel.shutdown_write()))
        feeder.start()
        assert stdout.read() == BLOB
        reader.join()
        feeder.join()
        assert errors[0] == BLOB and stdout.channel.recv_exit_status() == 5


@case("paramiko", "100 channels at once")
def test_paramiko_channels(host):
    with connected(host) as c:
        mine = [c.exec_command(f"read x; echo $x-{i}") for i in range(100)]
        for i, (stdin, _, _) in enumerate(mine):
            stdin.write(f"{i}\n")
            stdin.flush()
        assert [out.read() for _, out, _ in mine] == [b"%d-%d\n" % (i, i) for i in range(100)]


@case("paramiko", "a terminal, 300 changes of its size; environment")
def test_paramiko_terminal(host):
    with connected(host) as c:
        ch = c.get_transport().open_session()
        ch.set_environment_variable("LC_X", "value")
        ch.get_pty("vt100", 77, 33)
        ch.exec_command("stty -echo; stty size; echo $TERM $LC_X; while read x; do stty size; done")
        out = ch.makefile("rb")
        assert [out.readline() for _ in range(2)] == [b"33 77\r\n", b"vt100 value\r\n"]
        for i in range(300):
            ch.resize_pty(50 + i % 50, 20 + i % 30)
        ch.resize_pty(111, 55)
        ch.sendall(b"\n")
        assert out.readline() == b"55 111\r\n"


@case("paramiko", "rekeying 10 times between answers of 1 MiB on one channel (where one closes meanwhile it hangs by itself)")
def test_paramiko_rekey(host):
    host.sh("cat > f", stdin=BLOB[:MIB])
    with connected(host) as c:
        stdin, out, _ = c.exec_command("while read x; do cat f; done")
        for _ in range(10):
            stdin.write("go\n")
            stdin.flush()
            assert out.read(MIB) == BLOB[:MIB]
            c.get_transport().renegotiate_keys()


@case("paramiko", "keepalives each second, nothing said for 5 s; compression")
def test_paramiko_keepalive(host):
    with connected(host, compress=True) as c:
        c.get_transport().set_keepalive(1)
        assert c.exec_command("sleep 5; echo awake")[1].read() == b"awake\n"


@case("paramiko", "sftp: put, get, prefetch, rename, stat, listdir, seek")
def test_paramiko_sftp(host, here):
    (here / "f").write_bytes(BLOB)
    with connected(host) as c, c.open_sftp() as s:
        s.put(str(here / "f"), "there")
        s.get("there", str(here / "g"))
        s.posix_rename("there", "moved")
        assert (here / "g").read_bytes() == BLOB and s.listdir() == ["moved"] and s.stat("moved").st_size == len(BLOB)
        with s.open("moved", "r+") as f:
            f.seek(MIB)
            assert f.read(1000) == BLOB[MIB:MIB + 1000]
            f.seek(2 * MIB)
            f.write(b"changed")
    assert host.sh("cat moved")[2 * MIB:2 * MIB + 7] == b"changed"


@case("paramiko", "direct-tcpip, and a forward from inside")
def test_paramiko_forwards(host):
    with echo_inside(host) as inside, connected(host) as c:
        t = c.get_transport()
        ch = t.open_channel("direct-tcpip", ("127.0.0.1", inside), ("127.0.0.1", 1))
        ch.sendall(b"there")
        ch.shutdown_write()
        assert ch.makefile("rb").read() == b"there"
        with pytest.raises(paramiko.ChannelException):
            t.open_channel("direct-tcpip", ("127.0.0.1", 1), ("127.0.0.1", 1))
        port = t.request_port_forward("127.0.0.1", 0)
        asker = host.popen(f"python3 -c 'import socket; s = socket.create_connection((\"127.0.0.1\", {port})); s.sendall(b\"hello\"); "
                           "s.shutdown(1); print(s.recv(100).decode())'")
        ch = t.accept(30)
        assert ch.makefile("rb").read() == b"hello"
        ch.sendall(b"answer")
        ch.close()
        assert asker.communicate(timeout=30)[0] == b"answer\n"
        t.cancel_port_forward("127.0.0.1", port)


# ---- asyncssh ----

def go(host, body, key="ed25519", **options):
    async def whole():
        async with asyncssh.connect(host.address, host.port, username=host.user, known_hosts=None, client_keys=[str(host.keys / key)],
                                    config=None, agent_path=None, **options) as c:
            return await body(c)
    return asyncio.run(asyncio.wait_for(whole(), 120))


@case("asyncssh", "key {key}")
@pytest.mark.parametrize("key", ["ed25519", "ecdsa-256", "ecdsa-384", "ecdsa-521", "rsa-2048", "rsa-4096"])
def test_asyncssh_key(host, key):
    async def body(c):
        return (await c.run("echo in")).stdout
    assert go(host, body, key) == "in\n"


@case("asyncssh", "200 channels at once")
def test_asyncssh_channels(host):
    async def body(c):
        async def one(i):
            async with c.create_process(f"read x; echo $x-{i}; exit {i % 100}") as p:
                ready.append(i)
                await enough.wait()
                p.stdin.write(f"{i}\n")
                r = await p.wait()
                return r.stdout, r.exit_status
        ready, enough = [], asyncio.Event()
        tasks = [asyncio.create_task(one(i)) for i in range(200)]
        while len(ready) < 200:
            await asyncio.sleep(0.01)
        enough.set()
        return await asyncio.gather(*tasks)
    assert go(host, body) == [(f"{i}-{i}\n", i % 100) for i in range(200)]


@case("asyncssh", "streams apart and exact, stdin, exit status")
def test_asyncssh_streams(host):
    async def body(c):
        r = await c.run("tee copy; cat copy >&2; exit 3", input=BLOB, encoding=None)
        return r.stdout == BLOB, r.stderr == BLOB, r.exit_status
    assert go(host, body) == (True, True, 3)


@case("asyncssh", "exit by a signal: its name")
def test_asyncssh_exit_signal(host):
    async def body(c):
        return [(await c.run(f"kill -{s} $$")).exit_signal[0] for s in ("TERM", "KILL", "USR1", "SEGV", "INT")]
    assert go(host, body) == ["TERM", "KILL", "USR1", "SEGV", "INT"]


@case("asyncssh", "signals {signal} to a command")
@pytest.mark.parametrize("signal", ["TERM", "INT", "HUP", "USR1", "QUIT"])
def test_asyncssh_signal(host, signal):
    async def body(c):
        async with c.create_process(f"trap 'echo got; exit 9' {signal}; echo ready; while :; do sleep 0.1; done") as p:
            assert await p.stdout.readline() == "ready\n"
            p.send_signal(signal)
            return await p.stdout.readline(), (await p.wait()).exit_status
    assert go(host, body) == ("got\n", 9)


@case("asyncssh", "a signal of whose name nothing is known is ignored")
def test_asyncssh_no_signal(host):
    async def body(c):
        async with c.create_process("read x; echo $x") as p:
            p.send_signal("NOSUCH")
            p.stdin.write("still\n")
            return await p.stdout.readline()
    assert go(host, body) == "still\n"


@case("asyncssh", "a terminal: size, TERM, 300 changes, a break is no end")
def test_asyncssh_terminal(host):
    async def body(c):
        async with c.create_process("stty -echo; stty size; echo $TERM; while read x; do stty size; done", term_type="xterm", term_size=(81, 43)) as p:
            first = await p.stdout.readline(), await p.stdout.readline()
            for i in range(300):
                p.change_terminal_size(60 + i % 40, 20 + i % 40)
            p.channel.send_break(500)
            p.change_terminal_size(99, 66)
            p.stdin.write("\n")
            return first, await p.stdout.readline()
    assert go(host, body) == (("43 81\r\n", "xterm\r\n"), "66 99\r\n")


async def there_and_back(c):
    return (await c.run("cat", input=BLOB * 4, encoding=None)).stdout == BLOB * 4


@case("asyncssh", "rekeying each MiB, 32 MiB there and back",
      berth="asyncssh as Debian 12 has it sends data after its KEXINIT, against RFC 4253, 7.1; libssh ends the connection then, sshd does not. "
            "It rekeys each hour and each GiB: say rekey_seconds and rekey_bytes larger than what a connection lives and sends")
def test_asyncssh_rekey(host):
    assert go(host, there_and_back, rekey_bytes=MIB) is not host.is_berth


@case("asyncssh", "compression, 32 MiB there and back; no rekeying (rekey_bytes, rekey_seconds)")
def test_asyncssh_compression(host):
    assert go(host, there_and_back, compression_algs=["zlib@openssh.com"], rekey_bytes=1 << 50, rekey_seconds=10**9)


@case("asyncssh", "keepalive_interval=1, nothing said for 5 s")
def test_asyncssh_keepalive(host):
    async def body(c):
        return (await c.run("sleep 5; echo awake")).stdout
    assert go(host, body, keepalive_interval=1, keepalive_count_max=1) == "awake\n"


@case("asyncssh", "stdout's end comes before the command's, when it closes it")
def test_asyncssh_early_end(host):
    async def body(c):
        async with c.create_process("echo one; exec >&- 2>&-; read x; exit 6") as p:
            first = await p.stdout.read()
            p.stdin.write("go\n")
            return first, (await p.wait()).exit_status
    assert go(host, body) == ("one\n", 6)


@case("asyncssh", "sftp: put and get of a tree, glob, statvfs, rename, append; scp")
def test_asyncssh_files(host, here):
    (here / "t/d").mkdir(parents=True)
    (here / "t/blob").write_bytes(BLOB)
    for i in range(20):
        (here / f"t/d/{i}").write_text(str(i))

    async def body(c):
        async with c.start_sftp_client() as s:
            await s.put(str(here / "t"), "there", recurse=True)
            await s.get("there", str(here / "back"), recurse=True)
            assert len(await s.glob("there/d/*")) == 20
            assert (await s.statvfs(".")).bsize > 0
            await s.posix_rename("there/blob", "moved")
            async with s.open("moved", "ab") as f:
                await f.write(b"more")
        await asyncssh.scp(str(here / "t/blob"), (c, "by-scp"))
        await asyncssh.scp((c, "by-scp"), str(here / "scp"))
    go(host, body)
    assert (here / "back/blob").read_bytes() == (here / "scp").read_bytes() == BLOB
    assert host.sh("cat moved") == BLOB + b"more"


@case("asyncssh", "-L, -R and a SOCKS listener of its own")
def test_asyncssh_forwards(host):
    async def outside(reader, writer):
        writer.write(await reader.read())
        writer.write_eof()

    async def body(c, inside):
        listener = await c.forward_local_port("127.0.0.1", 0, "127.0.0.1", inside)
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.get_port())
        writer.write(BLOB[:MIB])
        writer.write_eof()
        assert await reader.read() == BLOB[:MIB]
        writer.close()
        socks = await c.forward_socks("127.0.0.1", 0)
        assert socks.get_port()
        server = await asyncio.start_server(outside, "127.0.0.1", 0)
        remote = await c.forward_remote_port("127.0.0.1", 0, "127.0.0.1", server.sockets[0].getsockname()[1])
        code = (f"import socket; s = socket.create_connection((\"127.0.0.1\", {remote.get_port()})); s.sendall(b\"hello\"); s.shutdown(1); "
                "print(s.recv(100).decode())")
        return (await c.run(f"python3 -c '{code}'")).stdout
    with echo_inside(host) as inside:
        assert go(host, lambda c: body(c, inside)) == "hello\n"


@case("asyncssh", "the link is cut: the command ends, by HUP or closed stdin")
def test_asyncssh_cut(host):
    async def body(c):
        p = await c.create_process("echo $$; exec cat")
        pid = await p.stdout.readline()
        c.abort()
        return int(pid)
    pid = go(host, body)
    wait_until("its end", lambda: host.ssh(f"kill -0 {pid}").status != 0)


@case("a socket", "SSH-2.0 is said first, junk is cut, silence is cut at last")
def test_banner(host):
    with socket.create_connection((host.address, host.port), timeout=20) as s:
        assert s.recv(8) == b"SSH-2.0-"
    with socket.create_connection((host.address, host.port), timeout=20) as s:
        s.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            while s.recv(4096):
                pass
