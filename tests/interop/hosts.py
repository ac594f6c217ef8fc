"""The two servers that every client is tried against, each behind the same face: where to connect, as whom, with which key."""
import contextlib
import os
import pathlib
import shutil
import socket
import subprocess
import tempfile

from conftest_e2e import SSH_OPTIONS, Result, wait_until

KEYS = {"ed25519": [], "ecdsa-256": ["-b", "256"], "ecdsa-384": ["-b", "384"], "ecdsa-521": ["-b", "521"], "rsa-2048": ["-b", "2048"],
        "rsa-4096": ["-b", "4096"]}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def make_keys(folder):
    """One of each type, as PEM too where old libraries want that; their public halves are what authorizes."""
    for name, options in KEYS.items():
        for suffix, form in (("", []), (".pem", ["-m", "PEM"])):
            if suffix and name == "ed25519":
                continue  # has no such form
            subprocess.run(["ssh-keygen", "-q", "-t", name.split("-")[0], *options, *form, "-N", "", "-C", name + suffix,
                            "-f", folder / (name + suffix)], check=True)
    return [p.read_text() for p in sorted(folder.glob("*.pub"))]


class Host:
    """One place to log in to: a session of berth, or an account of sshd's, empty when a test begins."""

    address = "127.0.0.1"

    def __init__(self, kind, port, user, keys, host_key):
        self.kind, self.port, self.user, self.keys, self.host_key = kind, port, user, keys, host_key
        self.key = keys / "ed25519"

    def __repr__(self):
        return self.kind

    @property
    def is_berth(self):
        return self.kind == "berth"

    def options(self, key=None, port="-p"):
        return [*SSH_OPTIONS, port, str(self.port), "-i", str(key or self.key)]

    def argv(self, *command, options=(), key=None):
        return ["ssh", *self.options(key), *options, f"{self.user}@{self.address}", *command]

    def ssh(self, *command, stdin=b"", options=(), key=None, timeout=120):
        done = subprocess.run(self.argv(*command, options=options, key=key), input=stdin, capture_output=True, timeout=timeout)
        return Result(done.returncode, done.stdout, done.stderr)

    def sh(self, command, stdin=b""):
        """The bytes that a command says, which must succeed."""
        r = self.ssh(command, stdin=stdin)
        assert r.status == 0, r
        return r.out

    def popen(self, *command, options=(), key=None, **kw):
        for stream in ("stdin", "stdout", "stderr"):
            kw.setdefault(stream, subprocess.PIPE)
        return subprocess.Popen(self.argv(*command, options=options, key=key), **kw)

    @property
    def to(self):
        return f"{self.user}@{self.address}"


class Sshd:
    """OpenSSH's sshd on loopback, IPv6 too, with an account that has /bin/sh and no start-up files."""

    def __init__(self, keys, public):
        self.keys, self.public = keys, public
        self.user = f"berth-i{os.getpid()}"

    def __enter__(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="berth-interop."))
        self.dir.chmod(0o755)
        self.home = self.dir / "home"
        subprocess.run(["useradd", "-M", "-s", "/bin/sh", "-d", str(self.home), "-p", "*", self.user], check=True)
        self.empty()
        for kind in ("ed25519", "ecdsa", "rsa"):
            subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", self.dir / f"host_{kind}"], check=True)
        (self.dir / "authorized").write_text("".join(self.public))
        os.makedirs("/run/sshd", exist_ok=True)
        self.port = free_port()
        (self.dir / "config").write_text(
            f"ListenAddress 127.0.0.1:{self.port}\nListenAddress [::1]:{self.port}\n"
            f"HostKey {self.dir}/host_ed25519\nHostKey {self.dir}/host_ecdsa\nHostKey {self.dir}/host_rsa\n"
            f"AuthorizedKeysFile {self.dir}/authorized\nUsePAM no\nPidFile none\nStrictModes no\nMaxSessions 1000\n"
            "MaxStartups 1000\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPrintMotd no\nPrintLastLog no\nLogLevel ERROR\nAcceptEnv LANG LC_* COLORTERM\n"
            "Subsystem sftp /usr/lib/openssh/sftp-server\n")
        self.process = subprocess.Popen(["/usr/sbin/sshd", "-D", "-e", "-f", self.dir / "config"], stderr=subprocess.DEVNULL)
        wait_until("sshd", self.is_up)
        return self

    def is_up(self):
        with contextlib.closing(socket.socket()) as s:
            return s.connect_ex(("127.0.0.1", self.port)) == 0

    def processes(self):
        uid = int(subprocess.check_output(["id", "-u", self.user]))
        for proc in pathlib.Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if proc.stat().st_uid == uid:
                    yield int(proc.name)

    def end_processes(self):
        """What a test has left in the account; a session of berth ends with its server."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        wait_until("the account's processes to end", lambda: not list(self.processes()))

    def empty(self):
        if self.home.exists():
            self.end_processes()
            shutil.rmtree(self.home)
        self.home.mkdir()
        shutil.chown(self.home, self.user, self.user)

    def host(self):
        self.empty()
        return Host("sshd", self.port, self.user, self.keys, self.dir / "host_ed25519.pub")

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        self.end_processes()
        subprocess.run(["userdel", self.user], check=False, stderr=subprocess.DEVNULL)
        shutil.rmtree(self.dir)
