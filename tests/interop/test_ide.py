"""What IDEs do over SSH, step by step, with stand-ins for their servers: VS Code's Remote-SSH, JetBrains' Gateway; and mosh."""
import io
import os
import re
import subprocess
import tarfile

import pytest

from conftest_e2e import wait_until
from hosts import free_port
from inside import dial
from test_libraries import connected


def case(client, feature, **kw):
    return pytest.mark.case(client, feature, **kw)


SERVER = b"""#!/bin/sh
exec python3 -c '
import os, socket, sys, threading
s = socket.create_server(("127.0.0.1", 0), backlog=50)
print("Extension host agent listening on %d" % s.getsockname()[1], flush=True)
token = sys.argv[1].encode()
def serve(c):
    f = c.makefile("rwb")
    if f.readline().strip() != token:
        return c.close()
    for line in f:
        f.write(b"pid %d: %s" % (os.getpid(), line))
        f.flush()
while True:
    threading.Thread(target=serve, args=(s.accept()[0],), daemon=True).start()
' "$2"
"""

# as Remote-SSH's install script goes: what is there, a lock, the archive, the server on its own, where it listens
INSTALL = r"""
ID={id}; COMMIT=0123abc; TOKEN={token}
DIR="$HOME/.vscode-server"; BIN="$DIR/bin/$COMMIT"; LOG="$DIR/.$COMMIT.log"; PID="$DIR/.$COMMIT.pid"
mkdir -p "$DIR/bin"
case "$(uname -s)-$(uname -m)" in Linux-x86_64|Linux-aarch64) ;; *) echo "$ID: unsupported"; exit 1 ;; esac
if [ ! -f "$BIN/server.sh" ]; then
  if [ ! -f "$DIR/vscode-server.tar.gz" ]; then echo "$ID:trigger_server_download"; exit 0; fi
  mkdir -p "$BIN" && tar -xzf "$DIR/vscode-server.tar.gz" -C "$BIN" --strip-components 1 && rm "$DIR/vscode-server.tar.gz"
fi
if [ -f "$PID" ] && kill -0 "$(cat "$PID")" 2>/dev/null; then echo "Found running server"; else
  nohup "$BIN/server.sh" --token "$TOKEN" > "$LOG" 2>&1 < /dev/null &
  echo $! > "$PID"
  echo "Started"
fi
n=0; while ! grep -q listening "$LOG" && [ $n -lt 100 ]; do sleep 0.1; n=$((n + 1)); done
echo "$ID: start"
echo "listeningOn==$(sed -n 's/.*listening on //p' "$LOG")=="
echo "osReleaseId==$(. /etc/os-release && echo $ID)=="
echo "SSH_CONNECTION==$SSH_CONNECTION=="
echo "$ID: end"
cat > /dev/null
"""


def archive():
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, content, mode in (("vscode-server/server.sh", SERVER, 0o755), ("vscode-server/node", os.urandom(20 << 20), 0o755)):
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), mode
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


class RemoteSsh:
    """`ssh -T -D PORT HOST sh`, the script on stdin; the connection is kept for the tunnels."""

    def __init__(self, host):
        self.socks = free_port()
        self.process = host.popen("sh", options=("-T", "-D", str(self.socks)))
        self.said = b""

    def install(self, ident):
        self.process.stdin.write(INSTALL.format(id=ident, token="secret").encode())
        self.process.stdin.flush()
        ends = (f"{ident}: end\n".encode(), b"trigger_server_download\n")
        while not any(end in self.said for end in ends):
            piece = self.process.stdout.read1(65536)
            assert piece, (self.said, self.process.stderr.read())
            self.said += piece
        return self.said

    def talk(self, port, text):
        """One exchange with the server, through SOCKS."""
        with dial(self.socks) as s:
            s.sendall(b"\5\1\0")
            assert s.recv(2) == b"\5\0"
            s.sendall(b"\5\1\0\1\x7f\0\0\1" + port.to_bytes(2, "big"))
            assert s.recv(10)[:2] == b"\5\0"
            f = s.makefile("rwb")
            f.write(b"secret\n" + text + b"\n")
            f.flush()
            return f.readline()

    def close(self):
        self.process.stdin.close()
        status = self.process.wait(30)
        self.process.stdout.close()
        self.process.stderr.close()
        return status


def told_port(said):
    return int(re.search(rb"listeningOn==(\d+)==", said).group(1))


@case("VS Code Remote-SSH (replayed)", "probe, archive by scp, server that outlives its connection, SOCKS to it, reconnect")
def test_vscode(host, here):
    first = RemoteSsh(host)
    assert b"trigger_server_download" in first.install("a1")
    assert first.close() == 0
    (here / "vscode-server.tar.gz").write_bytes(archive())
    done = subprocess.run(["scp", "-q", *host.options(port="-P"), here / "vscode-server.tar.gz", host.to + ":" + host.sh("echo $HOME").decode().strip()
                           + "/.vscode-server/"], capture_output=True)
    assert done.returncode == 0, done
    second = RemoteSsh(host)
    said = second.install("b2")
    assert b"Started" in said and b"osReleaseId==debian==" in said and b"SSH_CONNECTION==127.0.0.1 " in said, said
    port = told_port(said)
    one = second.talk(port, b"hello")
    assert one.endswith(b": hello\n")
    second.process.kill()  # the link is lost: the server lives on
    second.process.wait()
    third = RemoteSsh(host)
    said = third.install("c3")
    assert b"Found running server" in said and told_port(said) == port
    assert third.talk(port, b"again") == one.replace(b"hello", b"again")
    assert third.close() == 0


@case("VS Code Remote-SSH (replayed)", "-L to its port, 20 tunnels at once, with a terminal beside on the same connection")
def test_vscode_tunnels(host, here):
    host.sh("mkdir -p .v; cat > .v/server.sh; chmod +x .v/server.sh", stdin=SERVER)
    host.sh(".v/server.sh --token secret > .v/log 2>&1 < /dev/null & until grep -q listening .v/log; do sleep 0.1; done")
    port, local = int(host.sh("sed 's/.* //' .v/log")), free_port()
    control = here / "c"
    master = host.popen(options=("-N", "-M", "-S", str(control), "-L", f"{local}:127.0.0.1:{port}"))
    wait_until("it to be there", control.exists)
    socks = [dial(local) for _ in range(20)]
    for i, s in enumerate(socks):
        s.sendall(b"secret\n%d\n" % i)
    assert host.ssh("tty", options=("-tt", "-S", str(control))).out.startswith(b"/dev/pts/")
    assert [s.makefile("rb").readline().split(b": ")[1] for s in socks] == [b"%d\n" % i for i in range(20)]
    for s in socks:
        s.close()
    master.terminate()
    master.wait(20)


@case("JetBrains Gateway (replayed)", "probe, sftp of the worker and its archive, start of the worker, direct-tcpip to it, reconnect")
def test_jetbrains(host):
    with connected(host) as c:
        assert c.exec_command("uname -sm; getconf LONG_BIT; echo $HOME; df -Pk . | tail -1")[1].read().split()[0] == b"Linux"
        home = c.exec_command("echo $HOME")[1].read().decode().strip()
        c.exec_command(f"mkdir -p {home}/.cache/JetBrains/RemoteDev/dist")[1].read()
        with c.open_sftp() as sftp:
            with sftp.open(f"{home}/.cache/JetBrains/RemoteDev/dist/backend.tar.gz", "wb") as f:
                f.set_pipelined(True)
                f.write(archive())
            with sftp.open(f"{home}/.cache/JetBrains/RemoteDev/worker", "wb") as f:
                f.write(b"#!/bin/sh\ncd $(dirname $0)/dist && tar -xzf backend.tar.gz && "
                        b"{ setsid vscode-server/server.sh --token secret > log 2>&1 < /dev/null & } && "
                        b"until grep -q listening log; do sleep 0.1; done; cat log\n")
            sftp.chmod(f"{home}/.cache/JetBrains/RemoteDev/worker", 0o755)
        said = c.exec_command(f"{home}/.cache/JetBrains/RemoteDev/worker start")[1].read()
        port = int(said.split()[-1])
        one = talk(c, port)
    with connected(host) as c:
        assert talk(c, port) == one, "the same server, by another connection"


def talk(c, port):
    with c.get_transport().open_channel("direct-tcpip", ("127.0.0.1", port), ("127.0.0.1", 1)) as ch:
        ch.sendall(b"secret\nhello\n")
        return ch.makefile("rb").readline()


@case("mosh", "mosh-server starts over SSH and names its port and key; UDP then reaches it",
      berth="a session's loopback is its own and SSH carries no UDP: with `--network none` nothing outside reaches it")
def test_mosh(host):
    r = host.ssh("LC_ALL=C.UTF-8 mosh-server new -i 127.0.0.1 -- sleep 60", options=("-tt",))
    told = re.search(rb"MOSH CONNECT (\d+) ([A-Za-z0-9/+]{22})", r.out)
    assert told, r
    listens = ":%04X " % int(told.group(1))
    with open("/proc/net/udp") as outside:
        assert any(listens in line for line in outside) is not host.is_berth
    assert host.ssh(f"grep -q '{listens}' /proc/net/udp").status == 0, "it listens there, inside"
    host.ssh("pkill mosh-server")
