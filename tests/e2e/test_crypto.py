"""What a connection is made of: ssh-audit, the clients there are, narrowed lists, kinds of keys and of signatures."""
import asyncio
import base64
import glob
import json
import os
import re
import socket
import struct
import subprocess
import threading

import asyncssh
import paramiko
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from conftest import BUILD, running


def allow(server, line, options=""):
    with open(server.state / "keys" / "authorized_keys", "a") as f:
        f.write(options + (" " if options else "") + line.strip() + "\n")


def make_key(server, name, *words):
    path = server.base / name
    subprocess.run(["ssh-keygen", "-q", *words, "-N", "", "-f", path], check=True, stdin=subprocess.DEVNULL, capture_output=True)
    return path


def is_refused(done):
    return done.status == 255 and "Permission denied" in done.stderr


# ---- ssh-audit ----

def test_ssh_audit_finds_no_fault_that_can_be_avoided(server):
    done = subprocess.run(["ssh-audit", "-j", "-p", str(server.port), "127.0.0.1"], capture_output=True, text=True, timeout=120)
    told = json.loads(done.stdout)
    assert [k["algorithm"] for k in told["kex"]][-1] == "kex-strict-s-v00@openssh.com"
    done = subprocess.run(["ssh-audit", "-n", "-l", "warn", "-p", str(server.port), "127.0.0.1"],
                          capture_output=True, text=True, timeout=120)
    faults = re.findall(r"^\((?:kex|key|enc|mac)\) (\S+) +-- \[(\w+)\] (.*)$", done.stdout, re.M)
    # strict kex: unknown to this ssh-audit, wanted all the same. The MAC: for libssh2 1.10, see test below.
    assert sorted(faults) == [("hmac-sha2-256", "warn", "using encrypt-and-MAC mode"),
                              ("kex-strict-s-v00@openssh.com", "warn", "unknown algorithm")], done.stdout


# ---- clients ----

def test_openssh_comes_in_with_each_cipher_and_key_exchange(server, name):
    for option, names in {"Ciphers": ["chacha20-poly1305@openssh.com", "aes256-gcm@openssh.com", "aes128-gcm@openssh.com",
                                      "aes256-ctr", "aes192-ctr", "aes128-ctr"],
                          "KexAlgorithms": ["curve25519-sha256", "curve25519-sha256@libssh.org", "diffie-hellman-group16-sha512"]}.items():
        for one in names:
            assert server.ssh(name, "echo in", options=["-o", f"{option}={one}"]).stdout == "in\n", one
    for mac in ["hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com", "hmac-sha2-256"]:
        assert server.ssh(name, "echo in", options=["-o", f"MACs={mac}", "-o", "Ciphers=aes256-ctr"]).stdout == "in\n", mac
    for weak in ["Ciphers=aes128-cbc", "KexAlgorithms=diffie-hellman-group14-sha1", "HostKeyAlgorithms=ssh-rsa"]:
        done = server.ssh(name, "echo in", options=["-o", weak])
        assert done.status == 255, done


def test_strict_key_exchange_is_offered(server):
    assert b"kex-strict-s-v00@openssh.com" in first_packet(server)


def first_packet(server):
    with socket.create_connection(("127.0.0.1", server.port), 30) as s:
        s.sendall(b"SSH-2.0-x\r\n")
        data = b""
        while b"kex-strict" not in data and len(data) < 100000:
            got = s.recv(4096)
            if not got:
                break
            data += got
        return data


def test_paramiko_and_asyncssh_come_in(server, name):
    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
    client.connect("127.0.0.1", server.port, name, key_filename=str(server.key), allow_agent=False, look_for_keys=False)
    assert client.exec_command("echo in")[1].read() == b"in\n"
    client.close()

    async def run():
        async with asyncssh.connect("127.0.0.1", server.port, username=name, known_hosts=None, client_keys=[str(server.key)]) as c:
            assert (await c.run("echo in")).stdout == "in\n"

    asyncio.run(run())


def test_putty_and_dropbear_come_in(server, name):
    ppk, db = server.base / "k.ppk", server.base / "k.db"
    subprocess.run(["puttygen", server.key, "-O", "private", "-o", ppk], check=True, capture_output=True)
    host = subprocess.check_output(["ssh-keygen", "-lf", server.state / "keys" / "host_ed25519.pub"], text=True).split()[1]
    done = subprocess.run(["plink", "-batch", "-P", str(server.port), "-i", ppk, "-hostkey", host, f"{name}@127.0.0.1", "echo in"],
                          capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, env={**os.environ, "HOME": str(server.base)})
    assert done.stdout == "in\n", done
    subprocess.run(["dropbearconvert", "openssh", "dropbear", server.key, db], check=True, capture_output=True)
    done = subprocess.run(["dbclient", "-y", "-y", "-i", db, "-p", str(server.port), f"{name}@127.0.0.1", "echo in"],
                          capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, env={**os.environ, "HOME": str(server.base)})
    assert done.stdout == "in\n", done


def by_libssh2(server, name):
    """How far libssh2 (within curl) comes; there need be no SFTP for it to log in."""
    subprocess.run(["curl", "-sk", "--key", server.key, "--pubkey", f"{server.key}.pub", f"sftp://{name}@127.0.0.1:{server.port}/"],
                   capture_output=True, timeout=60)
    return f": {name} is operator" in server.log()


def test_libssh2_comes_in_and_needs_its_mac(server, name):
    assert by_libssh2(server, name)
    version = subprocess.check_output(["curl", "-V"], text=True).split("libssh2/")[1].split()[0]
    if tuple(map(int, version.split("."))) < (1, 11, 0):
        with running("macs = -hmac-sha2-256\n") as narrow:
            assert not by_libssh2(narrow, name)
            assert narrow.ssh(name, "echo in", options=["-o", "Ciphers=aes256-ctr"]).stdout == "in\n"


# ---- lists ----

def test_lists_are_narrowed(name):
    with running("kex = curve25519-sha256\nciphers = -chacha*,aes*ctr\nmacs = hmac-sha2-512-etm@openssh.com\n") as server:
        assert server.ssh(name, "echo in").stdout == "in\n"
        assert server.ssh(name, "true", options=["-o", "Ciphers=aes256-ctr"]).status == 255
        assert server.ssh(name, "true", options=["-o", "KexAlgorithms=diffie-hellman-group16-sha512"]).status == 255
        assert server.ssh(name, "echo in", options=["-o", "Ciphers=aes256-gcm@openssh.com"]).stdout == "in\n"


@pytest.mark.parametrize("line", ["kex = curve25519", "ciphers = +aes128-cbc", "macs = hmac-md5", "kex = -*"])
def test_a_name_that_is_not_known_is_a_mistake_of_the_configuration(tmp_path, line):
    (tmp_path / "c").write_text(line + "\n")
    done = subprocess.run([BUILD / "berthd", "--state", tmp_path / "s", "--run", tmp_path / "r", "--listen", "127.0.0.1:0",
                           "--config", tmp_path / "c"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 78 and line.split()[0] in done.stderr, done


def test_check_names_the_package_of_libssh(tmp_path):
    done = subprocess.run([BUILD / "berthd", "--check", "--state", tmp_path / "s", "--run", tmp_path / "r"],
                          capture_output=True, text=True, timeout=120)
    version = subprocess.run(["dpkg-query", "-W", "-f", "${Version}", "libssh-4"], capture_output=True, text=True).stdout
    assert re.search(rf"^libssh +{re.escape(version) if version else 'of a version that is not known'}", done.stdout, re.M), done


# ---- kinds of keys ----

@pytest.mark.parametrize("words", [("-t", "ed25519"), ("-t", "ecdsa", "-b", "256"), ("-t", "ecdsa", "-b", "384"),
                                   ("-t", "ecdsa", "-b", "521"), ("-t", "rsa", "-b", "3072")])
def test_each_kind_of_key_comes_in(server, name, words):
    key = make_key(server, "-".join(words).strip("-"), *words)
    allow(server, key.with_suffix(".pub").read_text())
    assert server.ssh(name, "echo in", key=key).stdout == "in\n"


def test_rsa_signs_with_sha2_alone(server, name):
    key = make_key(server, "rsa-only", "-t", "rsa", "-b", "2048")
    allow(server, key.with_suffix(".pub").read_text())
    for good in ("rsa-sha2-256", "rsa-sha2-512"):
        assert server.ssh(name, "echo in", key=key, options=["-o", f"PubkeyAcceptedAlgorithms={good}"]).stdout == "in\n"

    def by_sha1():
        pkey = paramiko.RSAKey.from_private_key_file(str(key))
        transport = paramiko.Transport(("127.0.0.1", server.port),
                                       disabled_algorithms={"pubkeys": ["rsa-sha2-256", "rsa-sha2-512"]})
        try:
            transport.start_client(timeout=30)
            transport.auth_timeout = 8
            transport.auth_publickey(name, pkey)
            return transport.is_authenticated()
        except paramiko.SSHException:
            return False
        finally:
            transport.close()

    assert not by_sha1()
    # libssh2 before 1.11, which signs by SHA-1 alone, and does so whatever the server says that it takes
    pem = make_key(server, "rsa-pem", "-t", "rsa", "-b", "3072", "-m", "PEM")
    allow(server, pem.with_suffix(".pub").read_text())
    server.ssh(name, "echo in > /workspace/f")
    got = subprocess.run(["curl", "-sS", "-k", "-m", "8", "--key", pem, "--pubkey", str(pem) + ".pub", "-u", f"{name}:",
                          f"sftp://127.0.0.1:{server.port}/workspace/f"], capture_output=True, timeout=60)
    if b"rsa-sha2" not in subprocess.run(["grep", "-ao", "rsa-sha2", *glob.glob("/usr/lib/*/libssh2.so.1")], capture_output=True).stdout:
        assert got.stdout != b"in\n" and got.returncode != 0, got
    done = server.ssh(name, "true", key=key, options=["-o", "PubkeyAcceptedAlgorithms=ssh-rsa"])
    assert done.status == 255, done


def test_dsa_and_small_rsa_never_come_in(server, name):
    dsa = make_key(server, "dsa", "-t", "dsa")
    small = make_key(server, "small", "-t", "rsa", "-b", "1024")
    for key in (dsa, small):
        allow(server, key.with_suffix(".pub").read_text())
        done = server.ssh(name, "true", key=key, options=["-o", "PubkeyAcceptedAlgorithms=+ssh-dss", "-o", "RequiredRSASize=1024"])
        assert is_refused(done), done
    assert "ssh-dss" in server.log() and "1024 bits" in server.log()


# ---- keys in hardware: an agent that signs as an authenticator does ----

def text(b):
    return struct.pack(">I", len(b)) + b


class Agent(threading.Thread):
    """An ssh-agent with one sk- key that is in memory. flags: 1 its user has touched it."""

    APPLICATION = b"ssh:"

    def __init__(self, path, kind, flags=1):
        super().__init__(daemon=True)
        self.path, self.flags, self.kind = str(path), flags, kind
        if kind == "sk-ssh-ed25519@openssh.com":
            self.key = ed25519.Ed25519PrivateKey.generate()
            public = text(self.key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw))
        else:
            self.key = ec.generate_private_key(ec.SECP256R1())
            point = self.key.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
            public = text(b"nistp256") + text(point)
        self.blob = text(kind.encode()) + public + text(self.APPLICATION)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen()
        self.start()

    def line(self):
        return f"{self.kind} {base64.b64encode(self.blob).decode()}"

    @staticmethod
    def digest(data):
        h = hashes.Hash(hashes.SHA256())
        h.update(data)
        return h.finalize()

    @staticmethod
    def integer(n):
        return text(n.to_bytes(n.bit_length() // 8 + 1, "big"))

    def sign(self, data):
        tail = struct.pack(">BI", self.flags, 7)
        message = self.digest(self.APPLICATION) + tail + self.digest(data)
        if self.kind == "sk-ssh-ed25519@openssh.com":
            signature = self.key.sign(message)
        else:
            from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
            r, s = decode_dss_signature(self.key.sign(message, ec.ECDSA(hashes.SHA256())))
            signature = self.integer(r) + self.integer(s)
        return text(self.kind.encode()) + text(signature) + tail

    def answer(self, request):
        if request[0] == 11:  # identities
            return b"\x0c" + struct.pack(">I", 1) + text(self.blob) + text(b"sk")
        if request[0] == 13:  # sign
            n = struct.unpack(">I", request[1:5])[0]
            m = struct.unpack(">I", request[5 + n:9 + n])[0]
            return b"\x0e" + text(self.sign(request[9 + n:9 + n + m]))
        return b"\x05"

    def run(self):
        while True:
            try:
                s, _ = self.listener.accept()
            except OSError:
                return
            with s:
                while head := s.recv(4, socket.MSG_WAITALL):
                    request = s.recv(struct.unpack(">I", head)[0], socket.MSG_WAITALL)
                    s.sendall(text(self.answer(request)))


def come_by_agent(server, user, agent):
    public = server.base / (os.path.basename(agent.path) + ".pub")
    public.write_text(agent.line() + "\n")
    argv = server.ssh_argv(user, "echo in", key=public)
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL,
                          env={**os.environ, "SSH_AUTH_SOCK": agent.path})
    return done.stdout == "in\n"


@pytest.mark.parametrize("kind", ["sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com"])
def test_a_key_in_hardware_comes_in(server, name, kind):
    agent = Agent(server.base / f"agent-{kind[:6]}", kind)
    assert not come_by_agent(server, name, agent)
    allow(server, agent.line())
    assert not come_by_agent(server, name, agent)  # libssh does not tell whether it was touched
    assert "that it was touched cannot be seen here" in server.log()
    allow(server, agent.line(), "no-touch-required")
    assert come_by_agent(server, name, agent)
    agent.listener.close()


def test_a_certificate_of_a_key_in_hardware_comes_in(server, name):
    authority = make_key(server, "ca-sk", "-t", "ed25519")
    allow(server, authority.with_suffix(".pub").read_text(), "cert-authority,no-touch-required")
    for touch in ([], ["-O", "no-touch-required"]):
        agent = Agent(server.base / f"agent-cert{len(touch)}", "sk-ssh-ed25519@openssh.com")
        public = server.base / f"skc{len(touch)}.pub"
        public.write_text(agent.line() + "\n")
        subprocess.run(["ssh-keygen", "-q", "-s", authority, "-I", "sk", "-n", name, *touch, public], check=True, capture_output=True)
        argv = server.ssh_argv(name, "echo in", key=public, options=["-o", f"CertificateFile={str(public)[:-4]}-cert.pub"])
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL,
                              env={**os.environ, "SSH_AUTH_SOCK": agent.path})
        assert (done.stdout == "in\n") == bool(touch), done
        agent.listener.close()
