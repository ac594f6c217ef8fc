"""Dropbear's dbclient; PuTTY's plink, psftp, pscp: SSH stacks of their own."""
import fcntl
import os
import pty
import socket
import struct
import subprocess
import termios
import threading

import pytest

from conftest_e2e import at_most
from hosts import free_port
from inside import all_of, dial, echo_inside

MIB = 1 << 20
BLOB = os.urandom(8 * MIB)


def case(client, feature, **kw):
    return pytest.mark.case(client, feature, **kw)


class Client:
    """One of them, with its own form of the key and of its options."""

    def __init__(self, host, here, key="ed25519"):
        self.host, self.here = host, here
        self.env = {**os.environ, "HOME": str(here)}

    def popen(self, *words, options=()):
        return subprocess.Popen(self.argv(*words, options=options), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                env=self.env)

    def run(self, *words, options=(), stdin=b""):
        return subprocess.run(self.argv(*words, options=options), input=stdin, capture_output=True, timeout=120, env=self.env)


class Dropbear(Client):
    def __init__(self, host, here, key="ed25519"):
        super().__init__(host, here)
        subprocess.run(["dropbearconvert", "openssh", "dropbear", host.keys / (key if key == "ed25519" else key + ".pem"), here / "key"],
                       check=True, capture_output=True)

    def argv(self, *words, options=()):
        return ["dbclient", "-y", "-y", "-q", "-i", str(self.here / "key"), "-p", str(self.host.port), *options, self.host.to, *words]


class Plink(Client):
    tool = "plink"

    def __init__(self, host, here, key="ed25519"):
        super().__init__(host, here)
        subprocess.run(["puttygen", host.keys / key, "-O", "private", "-o", here / "key.ppk"], check=True, env=self.env)

    def argv(self, *words, options=()):
        known = subprocess.run(["ssh-keygen", "-lf", self.host.host_key], capture_output=True, text=True, check=True).stdout.split()[1]
        kind = [self.tool, "-ssh"] if self.tool == "plink" else [self.tool]
        return [*kind, "-batch", "-noagent", "-hostkey", known, "-i", str(self.here / "key.ppk"), "-P", str(self.host.port), *options,
                self.host.to, *words]


CLIENTS = {"dbclient": Dropbear, "plink": Plink}


def both(feature, **kw):
    """A test of each; the client is its row."""
    def wrap(test):
        return pytest.mark.parametrize("client", CLIENTS)(pytest.mark.case("dbclient and plink", "{client}: " + feature, **kw)(test))
    return wrap


@both("key {key}")
@pytest.mark.parametrize("key", ["ed25519", "ecdsa-256", "ecdsa-384", "ecdsa-521", "rsa-2048", "rsa-4096"])
def test_key(host, here, client, key):
    r = CLIENTS[client](host, here, key).run("echo in")
    assert r.stdout == b"in\n", r


@both("exit status")
def test_exit_status(host, here, client):
    c = CLIENTS[client](host, here)
    assert [c.run(f"exit {n}").returncode for n in (0, 7, 255)] == [0, 7, 255]


@case("dbclient and plink", "plink: exit by a signal is not 0 (dbclient knows of none)")
def test_exit_signal(host, here):
    assert Plink(host, here).run("kill -TERM $$").returncode not in (0, None)


@both("stdout and stderr apart, 8 MiB of random each")
def test_streams(host, here, client):
    host.sh("cat > blob", stdin=BLOB)
    r = CLIENTS[client](host, here).run("cat blob & cat blob >&2; wait")
    assert (r.returncode, r.stdout == BLOB, r.stderr.endswith(BLOB)) == (0, True, True)  # dbclient has words of its own before


@both("8 MiB there and back")
def test_cat(host, here, client):
    r = CLIENTS[client](host, here).run("cat", stdin=BLOB)
    assert (r.returncode, r.stdout == BLOB) == (0, True)


@both("output after stdin's end")
def test_half_close(host, here, client):
    assert CLIENTS[client](host, here).run("cat > /dev/null; seq 100000", stdin=BLOB).stdout.endswith(b"\n100000\n")


@both("a terminal: TERM and stty")
def test_terminal(host, here, client):
    c = CLIENTS[client](host, here)
    c.env["TERM"] = "vt220"
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 99, 0, 0))
    r = subprocess.run(c.argv("tty; echo $TERM; stty size", options=("-t",)), stdin=slave, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                       timeout=60, env=c.env)
    os.close(master)
    os.close(slave)
    assert r.stdout.startswith(b"/dev/pts/"), r
    assert client == "plink" or r.stdout.endswith(b"vt220\r\n33 99\r\n"), r


@both("a shell without a terminal, its script on stdin")
def test_shell(host, here, client):
    r = CLIENTS[client](host, here).run(options=("-T",), stdin=b"echo one; cd /; pwd\nexit 5\n")
    assert (r.stdout, r.returncode) == (b"one\n/\n", 5)


@both("subsystem sftp")
def test_subsystem(host, here, client):
    p = CLIENTS[client](host, here).popen("sftp", options=("-s",))
    p.stdin.write(b"\0\0\0\5\1\0\0\0\3")
    p.stdin.flush()
    assert p.stdout.read(9)[4:] == b"\2\0\0\0\3"
    p.kill()
    p.communicate()


@both("OpenSSH's sftp over it (-S)")
def test_sftp_over(host, here, client):
    c = CLIENTS[client](host, here)
    words = c.argv()
    (here / "over").write_text(f"#!/bin/sh\nexec {' '.join(words[:-1])} {host.to} -s sftp\n" if client == "dbclient" else
                               f"#!/bin/sh\nexec {' '.join(words[:-1])} -s {host.to} sftp\n")
    (here / "over").chmod(0o755)
    (here / "f").write_bytes(BLOB)
    if client == "dbclient":
        (here / "over").write_text(f"#!/bin/sh\nexec {' '.join(words[:-1])} -s {host.to} sftp\n")
    r = subprocess.run(["sftp", "-S", here / "over", "-b", "-", host.to], input=f"put {here}/f\nget f {here}/g\n".encode(), env=c.env,
                       capture_output=True, timeout=60)
    assert r.returncode == 0 and (here / "g").read_bytes() == BLOB, r


@both("-L: 8 MiB there and back")
def test_local(host, here, client):
    with echo_inside(host) as inside:
        port = free_port()
        p = CLIENTS[client](host, here).popen(options=("-N", "-L", f"{port}:127.0.0.1:{inside}"))
        with dial(port) as s, at_most(60):
            sender = threading.Thread(target=lambda: (s.sendall(BLOB), s.shutdown(socket.SHUT_WR)))
            sender.start()
            assert all_of(s) == BLOB
            sender.join()
        p.kill()
        p.communicate()


@both("-R: bytes both ways")
def test_remote(host, here, client):
    outside = socket.create_server(("127.0.0.1", 0))
    inside = free_port()
    p = CLIENTS[client](host, here).popen("echo up; cat", options=("-R", f"{inside}:127.0.0.1:{outside.getsockname()[1]}"))
    assert p.stdout.readline() == b"up\n"
    asker = host.popen(f"python3 -c 'import socket; s = socket.create_connection((\"127.0.0.1\", {inside})); s.sendall(b\"hello\"); "
                       "s.shutdown(1); print(s.recv(100).decode())'")
    outside.settimeout(30)
    s, _ = outside.accept()
    assert all_of(s) == b"hello"
    s.sendall(b"answer")
    s.close()
    assert asker.communicate(timeout=30)[0] == b"answer\n"
    p.kill()
    p.communicate()


@both("a tunnel on stdio (-B, -nc)")
def test_stdio(host, here, client):
    with echo_inside(host) as inside:
        words = ("-B" if client == "dbclient" else "-nc", f"127.0.0.1:{inside}")
        p = CLIENTS[client](host, here).popen(options=words)
        p.stdin.write(b"through")
        p.stdin.flush()
        assert p.stdout.read(7) == b"through"
        p.kill()
        p.communicate()


@case("dbclient and plink", "dbclient: keepalive -K 1, nothing said for 20 s")
def test_keepalive(host, here):
    assert Dropbear(host, here).run("sleep 20; echo awake", options=("-K", "1")).stdout == b"awake\n"


@case("dbclient and plink", "dbclient: IPv6")
def test_ipv6(host6, here):
    assert Dropbear(host6, here).run("echo in").stdout == b"in\n"


@case("dbclient and plink", "plink: compression")
def test_compression(host, here):
    assert Plink(host, here).run("cat", options=("-C",), stdin=BLOB).stdout == BLOB


@case("dbclient and plink", "plink: rekeying each MiB, 32 MiB there and back")
def test_rekey(host, here):
    (here / ".putty/sessions").mkdir(parents=True)
    (here / ".putty/sessions/often").write_text("RekeyBytes=1M\nProtocol=ssh\n")
    assert Plink(host, here).run("cat", options=("-load", "often"), stdin=BLOB * 4).stdout == BLOB * 4


@case("psftp and pscp", "psftp: put, get, reget, mkdir, mv, ls")
def test_psftp(host, here):
    c = Plink(host, here)
    c.tool = "psftp"
    (here / "f").write_bytes(BLOB)
    (here / "half").write_bytes(BLOB[:MIB])
    (here / "batch").write_text(f"put {here}/f f\nget f {here}/g\nreget f {here}/half\nmkdir d\nmv f d/f\nls d\nchmod 600 d/f\n")
    r = c.run(options=("-b", str(here / "batch")))
    assert r.returncode == 0, r
    assert (here / "g").read_bytes() == (here / "half").read_bytes() == BLOB
    assert host.sh("stat -c %a d/f") == b"600\n"


@case("psftp and pscp", "pscp by {protocol}: a file there and back")
@pytest.mark.parametrize("protocol", ["-sftp", "-scp"])
def test_pscp(host, here, protocol):
    c = Plink(host, here)
    c.tool = "pscp"
    (here / "f").write_bytes(BLOB)
    base = c.argv(options=(protocol, "-q"))[:-1]
    for words in ([here / "f", host.to + ":there"], [host.to + ":there", here / "g"]):
        r = subprocess.run([*base, *words], env=c.env, capture_output=True, timeout=60)
        assert r.returncode == 0, r
    assert (here / "g").read_bytes() == BLOB
