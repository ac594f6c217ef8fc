"""OpenSSH's ssh: forwards of ports, sockets and the agent; jumps."""
import os
import socket
import subprocess
import threading

import pytest

from conftest_e2e import at_most, wait_until
from hosts import free_port
from inside import all_of, dial, echo_inside

CLIENT = "ssh"


def case(feature, **kw):
    return pytest.mark.case(CLIENT, feature, **kw)


BLOB = os.urandom(8 << 20)


def exchange(port, text=BLOB):
    """All of it there and back, with an end of each half."""
    with dial(port) as s, at_most(120):
        sender = threading.Thread(target=lambda: (s.sendall(text), s.shutdown(socket.SHUT_WR)))
        sender.start()
        assert all_of(s) == text
        sender.join()


@case("-L: 8 MiB there and back, halves closed apart")
def test_local(host):
    with echo_inside(host) as inside:
        port = free_port()
        p = host.popen(options=("-N", "-L", f"{port}:127.0.0.1:{inside}"))
        for _ in range(2):
            exchange(port)
        p.terminate()
        p.wait(20)


@case("-L: 100 connections at once")
def test_many_local(host):
    with echo_inside(host) as inside:
        port = free_port()
        p = host.popen(options=("-N", "-L", f"{port}:localhost:{inside}"))
        dial(port).close()
        with at_most(60):
            socks = [dial(port) for _ in range(100)]
            for i, s in enumerate(socks):
                s.sendall(b"%d" % i)
                s.shutdown(socket.SHUT_WR)
            assert [all_of(s) for s in socks] == [b"%d" % i for i in range(100)]
        p.terminate()
        p.wait(20)


@case("-L to a port where nobody listens: closed, and the connection goes on")
def test_local_to_nobody(host):
    with echo_inside(host) as inside:
        port, wrong = free_port(), free_port()
        p = host.popen(options=("-N", "-L", f"{wrong}:127.0.0.1:1", "-L", f"{port}:127.0.0.1:{inside}"))
        with dial(wrong) as s:
            assert s.recv(1) == b""
        exchange(port, b"still here")
        p.terminate()
        p.wait(20)


@case("-D: SOCKS5 by address and by name, SOCKS4")
def test_socks(host):
    with echo_inside(host) as inside:
        port = free_port()
        p = host.popen(options=("-N", "-D", str(port)))
        for target in (b"\1\x7f\0\0\1", b"\3\x09localhost"):
            with dial(port) as s:
                s.sendall(b"\5\1\0")
                assert s.recv(2) == b"\5\0"
                s.sendall(b"\5\1\0" + target + inside.to_bytes(2, "big"))
                assert s.recv(10)[:2] == b"\5\0"
                s.sendall(b"through")
                assert s.recv(100) == b"through"
        with dial(port) as s:
            s.sendall(b"\4\1" + inside.to_bytes(2, "big") + b"\x7f\0\0\1me\0")
            assert s.recv(8)[1] == 90
        p.terminate()
        p.wait(20)


@case("-R: 8 MiB there and back")
def test_remote(host, here):
    outside = socket.create_server(("127.0.0.1", 0))
    inside = free_port()
    p = host.popen("echo up; cat", options=("-R", f"127.0.0.1:{inside}:127.0.0.1:{outside.getsockname()[1]}"))
    assert p.stdout.readline() == b"up\n"

    def serve():
        s, _ = outside.accept()
        with s:
            s.sendall(all_of(s))
    threading.Thread(target=serve, daemon=True).start()
    code = (f"import socket, sys, threading; s = socket.create_connection(('127.0.0.1', {inside})); d = sys.stdin.buffer.read(); "
            "threading.Thread(target=lambda: (s.sendall(d), s.shutdown(1))).start(); "
            "sys.stdout.buffer.write(b''.join(iter(lambda: s.recv(65536), b'')))")
    assert host.sh(f'python3 -c "{code}"', stdin=BLOB) == BLOB
    p.stdin.close()
    assert p.wait(20) == 0


@case("-R 0: a port of the server's choice is told")
def test_remote_any(host):
    p = host.popen(options=("-N", "-R", "0:127.0.0.1:1", "-v"))
    line = p.stderr.readline()
    while line and b"Allocated port" not in line:
        line = p.stderr.readline()
    port = int(line.split()[line.split().index(b"port") + 1])
    assert host.sh(f"grep -c ':{port:04X} .* 0A ' /proc/net/tcp").strip() == b"1"
    p.terminate()
    p.wait(20)


@case("-R twice on one port: the second fails (ExitOnForwardFailure)")
def test_remote_taken(host):
    port = free_port()
    p = host.popen("echo up; cat", options=("-R", f"127.0.0.1:{port}:127.0.0.1:1"))
    assert p.stdout.readline() == b"up\n"
    r = host.ssh("true", options=("-o", "ExitOnForwardFailure=yes", "-R", f"127.0.0.1:{port}:127.0.0.1:1"))
    assert r.status == 255 and b"remote port forwarding failed" in r.err
    p.stdin.close()
    assert p.wait(20) == 0


@case("-O forward and -O cancel on a master")
def test_forward_later(host, here):
    control = str(here / "c")
    with echo_inside(host) as inside:
        p = host.popen(options=("-N", "-M", "-S", control))
        wait_until("it to be there", (here / "c").exists)
        port, remote = free_port(), free_port()
        assert host.ssh(options=("-S", control, "-O", "forward", "-L", f"{port}:127.0.0.1:{inside}")).status == 0
        exchange(port, b"later")
        spec = f"127.0.0.1:{remote}:127.0.0.1:1"
        assert host.ssh(options=("-S", control, "-O", "forward", "-R", spec)).status == 0
        assert host.ssh(f"grep -q ':{remote:04X} .* 0A ' /proc/net/tcp").status == 0
        assert host.ssh(options=("-S", control, "-O", "cancel", "-R", spec)).status == 0
        wait_until("it to be gone", lambda: host.ssh(f"grep -q ':{remote:04X} .* 0A ' /proc/net/tcp").status == 1)
        p.terminate()
        p.wait(20)


@case("-W: bytes and end both ways")
def test_stdio(host):
    with echo_inside(host) as inside:
        p = host.popen(options=("-W", f"127.0.0.1:{inside}"))
        out, _ = p.communicate(BLOB, timeout=60)
        assert (out == BLOB, p.returncode) == (True, 0)


@case("-W to a port where nobody listens: its words, and not 0")
def test_stdio_to_nobody(host):
    r = host.ssh(options=("-W", "127.0.0.1:1"))
    assert r.status == 255 and b"forwarding failed" in r.err, r


INNER = """
set -e
mkdir -p j; cd j; here=$(pwd)
ssh-keygen -q -t ed25519 -N '' -f host
cat > authorized
if [ "$(id -u)" = 0 ]; then
  mkdir -p /run/sshd
  echo 'root:*:19000::::::' > /etc/shadow  # there is none in a session of the node's own image, and sshd takes that for locked
fi
printf '%s\\n' "ListenAddress 127.0.0.1:PORT" "HostKey $here/host" "AuthorizedKeysFile $here/authorized" "UsePAM no" \
  "PidFile none" "StrictModes no" "PermitRootLogin yes" "LogLevel ERROR" > config
exec /usr/sbin/sshd -D -e -f config 2>log
"""


@case("-J through it to an sshd that runs inside")
def test_jump(host):
    port = free_port()
    p = host.popen(INNER.replace("PORT", str(port)))
    p.stdin.write((host.keys / "ed25519.pub").read_bytes())
    p.stdin.close()
    wait_until("sshd inside", lambda: host.ssh(f"grep -q ':{port:04X} .* 0A ' /proc/net/tcp").status == 0)
    who = host.sh("id -un").decode().strip()
    proxy = " ".join(host.argv(options=("-W", f"127.0.0.1:{port}")))
    argv = ["ssh", *host.options(), "-o", f"ProxyCommand={proxy}", f"{who}@inner", "cat; echo inner >&2; exit 4"]
    r = subprocess.run(argv, input=BLOB, capture_output=True, timeout=60)
    assert (r.returncode, r.stdout == BLOB, r.stderr) == (4, True, b"inner\n"), r.stderr
    p.terminate()
    p.wait(20)


@case("-A: the agent's keys are seen inside (with berth where option `agent_roles` says so: for nobody by default)")
def test_agent(host, here):
    agent = subprocess.run(["ssh-agent", "-s", "-a", here / "agent"], capture_output=True, check=True, text=True).stdout
    pid = int(agent.split("SSH_AGENT_PID=")[1].split(";")[0])
    env = {**os.environ, "SSH_AUTH_SOCK": str(here / "agent")}
    try:
        subprocess.run(["ssh-add", "-q", host.key], env=env, check=True)
        r = subprocess.run(host.argv("ssh-add -l", options=("-A",)), env=env, capture_output=True, timeout=60)
        assert b"ED25519" in r.stdout, r
    finally:
        os.kill(pid, 15)


@case("-L to a Unix socket inside", berth="refused: libssh 0.10 has no such channel; the connection ends with a reason")
def test_unix_socket(host):
    port = free_port()
    server = host.popen("exec python3 -c 'import socket; s = socket.socket(socket.AF_UNIX); s.bind(\"u\"); s.listen(); print(flush=True); "
                        "c, _ = s.accept(); c.sendall(c.recv(100))'")
    assert server.stdout.readline() == b"\n"
    where = host.sh("pwd").decode().strip()
    p = host.popen(options=("-N", "-L", f"{port}:{where}/u"))
    with dial(port) as s:
        if host.is_berth:
            assert s.recv(1) == b"" and p.wait(30) == 255
        else:
            s.sendall(b"through")
            assert s.recv(100) == b"through"
            p.terminate()
            p.wait(20)
    server.kill()
    server.wait()
