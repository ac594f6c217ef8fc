"""A real berthd for each test module, driven by real clients; what it leaves behind is a failure."""
import contextlib
import hashlib
import json
import os
import pathlib
import re
import select
import shutil
import signal
import subprocess
import tempfile
import time

import pytest

BUILD = pathlib.Path(os.environ.get("BERTH_BUILD", "build/release")).resolve()
SPARES = os.environ.get("BERTH_TEST_SPARES", "2")  # few: each of a suite's many servers makes them; "default": as it comes
SSH_OPTIONS = [
    "-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
    "-o", "LogLevel=ERROR", "-o", "IdentitiesOnly=yes", "-o", "ConnectTimeout=20",
]


class Result:
    def __init__(self, status, stdout, stderr):
        self.status, self.out, self.err = status, stdout, stderr

    stdout = property(lambda self: self.out.decode("utf-8", "replace"))
    stderr = property(lambda self: self.err.decode("utf-8", "replace"))

    def __repr__(self):
        return f"<status {self.status} stdout {self.out[:400]!r} stderr {self.err[:800]!r}>"


@contextlib.contextmanager
def at_most(seconds):
    """Fails when the block takes longer: a bound on hanging, not a measurement."""
    began = time.monotonic()
    yield
    took = time.monotonic() - began
    assert took <= seconds, f"took {took:.2f} s, not at most {seconds} s"


def wait_until(what, condition, seconds=30):
    """Waits for a condition of another process that offers no event to wait for."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        select.select([], [], [], 0.02)


class Server:
    """One berthd on its own state directory."""

    def __init__(self, base, config=""):
        self.base = pathlib.Path(base)
        self.state, self.run = self.base / "state", self.base / "run"
        self.log_path = self.base / "log"
        self.config = self.base / "berthd.conf"
        self.config.write_text(config if "spares" in config or SPARES == "default" else f"spares = {SPARES}\n{config}")
        self.process = None
        self.port = 0

    def start(self, wait=True, env=None):
        log = open(self.log_path, "ab")
        self.process = subprocess.Popen(
            [BUILD / "berthd", "--state", self.state, "--run", self.run, "--listen", f"127.0.0.1:{self.port}",
             "--config", self.config],
            stdout=subprocess.PIPE, stderr=log, stdin=subprocess.DEVNULL, env={**os.environ, **(env or {})})
        log.close()
        if wait:
            self.await_ready()
        return self

    def await_ready(self, seconds=60):
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        line = self.process.stdout.readline().decode() if ready else ""
        match = re.match(r"berthd: listening on 127\.0\.0\.1:(\d+)\n", line)
        assert match, f"berthd said {line!r}; its log ends: {self.log()[-3000:]}"
        self.port = int(match.group(1))

    def log(self):
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def kill(self):
        """SIGKILL of the manager alone."""
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def stop(self, sig=signal.SIGINT, seconds=60):
        """SIGINT: all sessions are paused first."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(sig)
            self.process.wait(seconds)
            self.process.stdout.close()
        return self.process.returncode if self.process else None

    @property
    def key(self):
        return self.state / "keys" / "operator"

    def ssh_argv(self, user, *command, options=(), key=None):
        return ["ssh", *SSH_OPTIONS, "-p", str(self.port), "-i", str(key or self.key), *options,
                f"{user}@127.0.0.1", *command]

    def ssh(self, user, *command, stdin=b"", options=(), key=None, timeout=60):
        done = subprocess.run(self.ssh_argv(user, *command, options=options, key=key), input=stdin,
                              capture_output=True, timeout=timeout)
        return Result(done.returncode, done.stdout, done.stderr)

    def popen(self, user, *command, options=(), **kw):
        kw.setdefault("stdin", subprocess.PIPE)
        kw.setdefault("stdout", subprocess.PIPE)
        kw.setdefault("stderr", subprocess.PIPE)
        return subprocess.Popen(self.ssh_argv(user, *command, options=options), **kw)

    def verb(self, *words, timeout=120, key=None):
        return self.ssh("berth", " ".join(words), timeout=timeout, key=key)

    def json(self, *words, timeout=120):
        done = self.verb(*words, "--json", timeout=timeout)
        assert done.status == 0, done
        return json.loads(done.out)

    def session(self, name):
        """The session's row in `ls`, or None."""
        return next((s for s in self.json("ls") if s["name"] == name), None)

    def add_key(self, name, options=""):
        """A further key pair that may come in; returns the private key's path."""
        path = self.base / name
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path, "-C", name], check=True)
        with open(self.state / "keys" / "authorized_keys", "a") as f:
            f.write(options + (" " if options else "") + path.with_suffix(".pub").read_text())
        return path

    # ---- what it leaves behind ----

    def keeper_pids(self):
        """This server's processes but its manager and its spares: what works for a session or a connection."""
        return [(pid, what) for pid, what in self.all_pids() if what != "berth-keeper" or self.of_session(pid)]

    def of_session(self, pid):
        """Whether a keeper holds a session's lock, not a spare's (or none yet)."""
        for fd in pathlib.Path(f"/proc/{pid}/fd").glob("*"):
            with contextlib.suppress(OSError):
                if re.fullmatch(rf"{self.state}/sessions/s_[a-z0-9]+/lock", os.readlink(fd)):
                    return True
        return False

    def all_pids(self):
        """Keepers, conns and workers of this server: whoever holds its log."""
        pids = []
        for proc in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                exe = os.readlink(proc / "exe")
                stderr = os.readlink(proc / "fd" / "2")
            except OSError:
                continue
            if os.path.basename(exe).startswith("berth-") and stderr == str(self.log_path):
                pids.append((int(proc.name), os.path.basename(exe).split(" ")[0]))
        return pids

    def cgroup(self):
        """Its directory in the v2 hierarchy, as the names of its sessions' keepers tell."""
        for pid, what in self.keeper_pids():
            if what == "berth-init" or what == "berth-keeper":
                for child in pathlib.Path("/proc").glob("[0-9]*"):
                    with contextlib.suppress(OSError):
                        for line in (child / "cgroup").read_text().splitlines():
                            match = re.search(r"^0::/(berth-[0-9a-f]{8})/s_", line)
                            if match and f"PPid:\t{pid}\n" in (child / "status").read_text():
                                return match.group(1)
        return None

    @staticmethod
    def cgroups_left():
        roots = [p for p in ("/sys/fs/cgroup/unified", "/sys/fs/cgroup") if os.path.exists(p + "/cgroup.procs")]
        return {str(p) for root in roots for p in pathlib.Path(root).glob("berth-????????")}

    def remove(self):
        """Ends all that is left, by pid, and fails when something should not have been."""
        mine = self.cgroup()
        self.stop()
        wait_until("conns and workers to end", lambda: not self.all_pids(), 20)
        assert not any(mine and mine in p for p in self.cgroups_left()), f"left behind: {mine}"
        with open("/proc/self/mounts") as mounts:
            left = [line for line in mounts if str(self.base) in line]
        assert not left, f"mounts left behind: {left}"
        shutil.rmtree(self.base)

    def discard(self):
        """After a failed test: no claims, just an end."""
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for pid, _ in self.all_pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def make_server(config=""):
    return Server(tempfile.mkdtemp(prefix="bt."), config)


@contextlib.contextmanager
def running(config=""):
    server = make_server(config)
    try:
        server.start()
        yield server
        server.remove()
    except BaseException:
        print(server.log()[-6000:])
        raise
    finally:
        server.discard()


@pytest.fixture(scope="module")
def server():
    """Shared by the tests of a module; each uses sessions of its own."""
    with running() as s:
        yield s


@pytest.fixture
def own_server():
    """For tests that kill or restart it."""
    with running() as s:
        yield s


@pytest.fixture
def name(request):
    """A session name that no other test uses."""
    digest = hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:8]
    return "t-" + digest
