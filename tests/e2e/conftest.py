"""A real berthd for each test module, driven by real clients; what it leaves behind is a failure."""
import atexit
import contextlib
import fcntl
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


class Account:
    """An ordinary user of this machine for the time of the tests, with subordinate ids as useradd gives them."""

    made = None

    def __init__(self):
        self.name = f"berth-t{os.getpid()}"
        with open("/run/lock/berth-tests", "w") as lock:  # useradd does not wait for another one
            fcntl.flock(lock, fcntl.LOCK_EX)
            subprocess.run(["useradd", "-m", "-s", "/bin/sh", self.name], check=True)
        self.uid = int(subprocess.check_output(["id", "-u", self.name]))
        atexit.register(self.remove)

    def remove(self):
        with open("/run/lock/berth-tests", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            subprocess.run(["userdel", "-r", self.name], check=False, stderr=subprocess.DEVNULL)

    @classmethod
    def get(cls):
        cls.made = cls.made or cls()
        return cls.made


# Rungs of isolation, and who runs the server there. BERTH_RUNG chooses one for all tests.
RUNGS = {"root": ("root", False), "rootless": ("rootless", True), "process": ("process", False),
         "process-user": ("process", True)}
RUNG = os.environ.get("BERTH_RUNG", "root")
EXECUTABLES = ["berthd", "berth-conn", "berth-keeper", "berth-worker", "berth-init", "berth-sftp-preload.so"]


def conn_or_zygote(proc):
    """One executable is both: a zygote is the manager's child, its name is right a moment after it was started or forked."""
    with contextlib.suppress(OSError):
        ppid = re.search(r"^PPid:\s(\d+)", (proc / "status").read_text(), re.M).group(1)
        parent = os.readlink(f"/proc/{ppid}/exe")
        if os.path.basename(parent).startswith(("berthd", "berth-conn")):
            return "berth-zygote" if "berthd" in parent else "berth-conn"
        return (proc / "comm").read_text().strip()
    return "berth-conn"


class Server:
    """One berthd on its own state directory."""

    host = "127.0.0.1"  # where it listens

    def __init__(self, base, config="", rung=None):
        self.base = pathlib.Path(base)
        self.state, self.run = self.base / "state", self.base / "run"
        self.log_path = self.base / "log"
        self.config = self.base / "berthd.conf"
        if "spares" not in config and SPARES != "default":
            config = f"spares = {SPARES}\n{config}"
        self.rung = rung or RUNG
        isolation, by_user = RUNGS[self.rung]
        if self.rung != "root" and "isolation" not in config:
            config += f"\nisolation = {isolation}\n"
        self.config.write_text(config)
        self.build, self.account = BUILD, None
        if by_user:
            self.account = Account.get()
            self.build = self.base / "bin"  # where that user can reach it
            self.build.mkdir()
            for name in EXECUTABLES:
                shutil.copy(BUILD / name, self.build / name)
            self.base.chmod(0o755)
        if self.rung != "root":
            self.base.chmod(0o755)
            for path in (self.state, self.run):
                path.mkdir(mode=0o700)
                if by_user:
                    os.chown(path, self.account.uid, self.account.uid)

    process = None
    port = 0

    def as_user(self):
        """What puts a command into the hands of who runs the server."""
        if not self.account:
            return []
        return ["setpriv", "--reuid", self.account.name, "--regid", self.account.name, "--init-groups", "--"]

    def start(self, wait=True, env=None):
        log = open(self.log_path, "ab")
        self.process = subprocess.Popen(
            [*self.as_user(), self.build / "berthd", "--state", self.state, "--run", self.run,
             "--listen", f"{self.host}:{self.port}", "--config", self.config],
            stdout=subprocess.PIPE, stderr=log, stdin=subprocess.DEVNULL, env={**os.environ, **(env or {})})
        log.close()
        if wait:
            self.await_ready()
        return self

    def await_ready(self, seconds=60):
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        line = self.process.stdout.readline().decode() if ready else ""
        match = re.match(rf"berthd: listening on {re.escape(self.host)}:(\d+)\n", line)
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

    def popen(self, user, *command, options=(), key=None, **kw):
        kw.setdefault("stdin", subprocess.PIPE)
        kw.setdefault("stdout", subprocess.PIPE)
        kw.setdefault("stderr", subprocess.PIPE)
        return subprocess.Popen(self.ssh_argv(user, *command, options=options, key=key), **kw)

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
        with contextlib.suppress(OSError):  # it may have ended since it was listed: then it holds nothing
            for fd in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    if re.fullmatch(rf"{self.state}/sessions/s_[a-z0-9]+/lock", os.readlink(f"/proc/{pid}/fd/{fd}")):
                        return True
        return False

    def all_pids(self):
        """Keepers, conns, workers and the zygote of this server: whoever holds its log."""
        pids = []
        for proc in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                exe = os.readlink(proc / "exe")
                stderr = os.readlink(proc / "fd" / "2")
            except OSError:
                continue
            if os.path.basename(exe).startswith("berth-") and stderr == str(self.log_path):
                what = os.path.basename(exe).split(" ")[0]
                pids.append((int(proc.name), conn_or_zygote(proc) if what == "berth-conn" else what))
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

    def loop_devices(self):
        """Disk images beneath its directory that a loop device holds, once for each device. By inode: the path that
        the kernel tells of a file is not whole when the mount it was opened by is gone."""
        done = subprocess.run(["losetup", "-n", "-O", "BACK-INO"], capture_output=True, text=True)
        held = done.stdout.split()
        images = {str(path.stat().st_ino): str(path) for path in self.state.glob("sessions/*/upper.*/image")}
        return sorted(images[ino] for ino in held if ino in images)

    def remove(self):
        """Ends all that is left, by pid, and fails when something should not have been."""
        mine = self.cgroup()
        self.stop()
        wait_until("conns and workers to end", lambda: not self.all_pids(), 20)
        assert not any(mine and mine in p for p in self.cgroups_left()), f"left behind: {mine}"
        with open("/proc/self/mounts") as mounts:
            left = [line for line in mounts if str(self.base) in line]
        assert not left, f"mounts left behind: {left}"
        wait_until("its loop devices to be let go", lambda: not self.loop_devices(), 20)
        shutil.rmtree(self.base)

    def discard(self):
        """After a failed test: no claims, just an end."""
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for pid, _ in self.all_pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def make_server(config="", rung=None):
    return Server(tempfile.mkdtemp(prefix="bt."), config, rung)


@contextlib.contextmanager
def running(config="", rung=None):
    server = make_server(config, rung)
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
