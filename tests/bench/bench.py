"""Times berth beside OpenSSH's sshd (a fresh account, /bin/sh, the same key exchange and cipher) and tar|zstd."""
import asyncio
import contextlib
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "e2e"))
import asyncssh  # noqa: E402
import conftest  # noqa: E402

QUICK = "--quick" in sys.argv
ONLY = [w for w in sys.argv[1:] if not w.startswith("--")]  # sftp: that table alone
KEX, CIPHER = "curve25519-sha256", "aes256-gcm@openssh.com"
SAME = ["-o", f"KexAlgorithms={KEX}", "-c", CIPHER]
USER = "berth-bench"


def quantile(values, q):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * q))]


class Sshd:
    """A private sshd on loopback with an account that has no start-up files."""

    def __enter__(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="berth-bench."))
        os.chmod(self.dir, 0o755)
        subprocess.run(["useradd", "-M", "-s", "/bin/sh", "-d", str(self.dir / "home"), USER], check=True)
        subprocess.run(["usermod", "-p", "*", USER], check=True)
        (self.dir / "home").mkdir()
        shutil.chown(self.dir / "home", USER, USER)
        for name in ("host", "key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.dir / name], check=True)
        shutil.copy(self.dir / "key.pub", self.dir / "authorized")
        os.chmod(self.dir / "authorized", 0o644)
        os.makedirs("/run/sshd", exist_ok=True)
        with contextlib.closing(__import__("socket").socket()) as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        (self.dir / "config").write_text(
            f"ListenAddress 127.0.0.1:{self.port}\nHostKey {self.dir}/host\nAuthorizedKeysFile {self.dir}/authorized\n"
            "UsePAM no\nPidFile none\nStrictModes no\nMaxSessions 1000\nMaxStartups 1000\nPrintMotd no\n"
            f"KexAlgorithms {KEX}\nLogLevel ERROR\nSubsystem sftp /usr/lib/openssh/sftp-server\n")
        self.process = subprocess.Popen(["/usr/sbin/sshd", "-D", "-e", "-f", self.dir / "config"],
                                        stderr=subprocess.DEVNULL)
        conftest.wait_until("sshd", lambda: self._up())
        self.key = self.dir / "key"
        return self

    def _up(self):
        with contextlib.closing(__import__("socket").socket()) as s:
            return s.connect_ex(("127.0.0.1", self.port)) == 0

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        subprocess.run(["userdel", USER], check=False, stderr=subprocess.DEVNULL)
        shutil.rmtree(self.dir)

    def argv(self, *command, options=()):
        return ["ssh", *conftest.SSH_OPTIONS, *SAME, *options, "-p", str(self.port), "-i", str(self.key), f"{USER}@127.0.0.1", *command]


def connect(port, user, key):
    return asyncssh.connect("127.0.0.1", port, username=user, known_hosts=None, client_keys=[str(key)], kex_algs=[KEX],
                            encryption_algs=[CIPHER], config=None, agent_path=None)


async def exec_latency(target, n):
    times = []
    async with connect(*target) as c:
        for i in range(n + 20):
            began = time.perf_counter()
            r = await c.run("true")
            assert r.exit_status == 0, r
            if i >= 20:
                times.append(time.perf_counter() - began)
    return times


async def connect_latency(target, n):
    times = []
    for _ in range(n):
        began = time.perf_counter()
        async with connect(*target):
            times.append(time.perf_counter() - began)
    return times


def cold(argv, n):
    times = []
    for _ in range(n):
        began = time.perf_counter()
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - began)
    return times


def out_rate(argv, megabytes):
    began = time.perf_counter()
    p = subprocess.Popen(argv, stdout=subprocess.PIPE)
    got = 0
    while chunk := os.read(p.stdout.fileno(), 1 << 20):
        got += len(chunk)
    assert p.wait() == 0 and got == megabytes << 20, got
    return megabytes / (time.perf_counter() - began)


def in_rate(argv, megabytes):
    began = time.perf_counter()
    p = subprocess.Popen(argv, stdin=subprocess.PIPE)
    block = b"\0" * (1 << 20)
    for _ in range(megabytes):
        p.stdin.write(block)
    p.stdin.close()
    assert p.wait() == 0
    return megabytes / (time.perf_counter() - began)


def row(what, ours, theirs, unit, note=""):
    ratio = f"{ours / theirs:.2f}x" if theirs else ""
    print(f"| {what} | {ours:.2f} | {f'{theirs:.2f}' if theirs else '-'} | {unit} | {ratio} | {note} |", flush=True)


async def parallel(target, n):
    async with connect(*target) as c:
        began = time.perf_counter()
        rs = await asyncio.gather(*(c.run("sleep 0.3; echo done") for _ in range(n)))
        assert all(r.stdout == "done\n" and r.exit_status == 0 for r in rs)
        return time.perf_counter() - began


def ssh_table(server, sshd):
    ours, theirs = (server.port, "bench", server.key), (sshd.port, USER, sshd.key)
    server.ssh("bench", "true")
    n = 100 if QUICK else 500
    mine, his = [], []
    for _ in range(4):  # alternating, so that a slow minute hits both
        mine += asyncio.run(exec_latency(ours, n // 4))
        his += asyncio.run(exec_latency(theirs, n // 4))
    row("exec `true`, open connection, p50", 1e3 * quantile(mine, .5), 1e3 * quantile(his, .5), "ms", "asyncssh")
    row("the same, p95", 1e3 * quantile(mine, .95), 1e3 * quantile(his, .95), "ms")
    row("the same, p99", 1e3 * quantile(mine, .99), 1e3 * quantile(his, .99), "ms")
    n = 10 if QUICK else 40
    mine, his = asyncio.run(connect_latency(ours, n)), asyncio.run(connect_latency(theirs, n))
    row("connect + auth, p50", 1e3 * quantile(mine, .5), 1e3 * quantile(his, .5), "ms", "asyncssh")
    mine = cold(server.ssh_argv("bench", "true", options=SAME), n)
    his = cold(sshd.argv("true"), n)
    row("cold `ssh host true`, p50", 1e3 * quantile(mine, .5), 1e3 * quantile(his, .5), "ms", "OpenSSH client")
    size = 256 if QUICK else 1024
    rounds = 1 if QUICK else 3
    command = f"head -c {size}M /dev/zero"
    mine = [out_rate(server.ssh_argv("bench", command, options=SAME), size) for _ in range(rounds)]
    his = [out_rate(sshd.argv(command), size) for _ in range(rounds)]
    row(f"stdout, {size} MiB, median", quantile(mine, .5), quantile(his, .5), "MiB/s", "journalled in full or punched past its bound")
    mine = [in_rate(server.ssh_argv("bench", "cat > /dev/null", options=SAME), size) for _ in range(rounds)]
    his = [in_rate(sshd.argv("cat > /dev/null"), size) for _ in range(rounds)]
    row(f"stdin, {size} MiB, median", quantile(mine, .5), quantile(his, .5), "MiB/s")
    row("256 parallel calls of 0.3 s", asyncio.run(parallel(ours, 256)), 0, "s", "one connection")


def sftp(port, user, key, command):
    """OpenSSH's sftp, a batch of commands: the seconds it took."""
    began = time.perf_counter()
    done = subprocess.run(["sftp", "-q", *conftest.SSH_OPTIONS, *SAME, "-P", str(port), "-i", str(key), "-b", "-", f"{user}@127.0.0.1"],
                          input=command.encode(), capture_output=True)
    assert done.returncode == 0, done
    return time.perf_counter() - began


def sftp_table(server, sshd):
    """Get and put of one large file, in memory at both ends, and of many small ones, in turns."""
    assert server.verb("new", "bench-sftp", "--tmp", "3G").status == 0
    sides = [(server.port, "bench-sftp", server.key), (sshd.port, USER, sshd.key)]
    size, rounds, files = (256, 2, 500) if QUICK else (1024, 9, 5000)
    get, put, small = ([], []), ([], []), ([], [])
    with tempfile.TemporaryDirectory(prefix="berth-bench.", dir="/dev/shm") as d:
        subprocess.run(["sh", "-c", f"head -c {size}M /dev/urandom > {d}/big && mkdir {d}/small && cd {d}/small && "
                        f"for i in $(seq {files}); do echo $i > $i; done"], check=True)
        for _ in range(rounds):
            for i, side in enumerate(sides):
                there = f"/dev/shm/{USER}"
                put[i].append(size / sftp(*side, f"put {d}/big {there}"))
                get[i].append(size / sftp(*side, f"get {there} /dev/null"))
                if len(get[i]) == 1:
                    sftp(*side, f"get {there} {d}/got")
                    subprocess.run(["cmp", f"{d}/big", f"{d}/got"], check=True)
                    os.unlink(f"{d}/got")
                sftp(*side, f"rm {there}")
        for _ in range(2):
            for i, side in enumerate(sides):
                small[i].append(sftp(*side, f"put -r {d}/small"))
                sftp(*side, "rm small/*\nrmdir small")
    for what, of in ((f"sftp get of {size} MiB, median", get), (f"sftp put of {size} MiB, median", put)):
        row(what, quantile(of[0], .5), quantile(of[1], .5), "MiB/s", "OpenSSH's client, in turns; /dev/shm there")
        row("the same, best", max(of[0]), max(of[1]), "MiB/s")
    row(f"sftp put of {files} small files, median", quantile(small[0], .5), quantile(small[1], .5), "s")


async def new_workspaces(server, n):
    times = []
    for i in range(n):
        async with connect(server.port, f"new-{i}", server.key) as c:
            began = time.perf_counter()
            r = await c.run("true")
            times.append(time.perf_counter() - began)
            assert r.exit_status == 0
    return times


def sh(command):
    began = time.perf_counter()
    subprocess.run(["bash", "-c", "set -o pipefail; " + command], check=True)
    return time.perf_counter() - began


def verb_time(server, *words):
    began = time.perf_counter()
    r = server.verb(*words)
    assert r.status == 0, r
    return time.perf_counter() - began


def snapshot_table(server):
    times = asyncio.run(new_workspaces(server, 10 if QUICK else 50))
    row("new workspace to first command, p50", 1e3 * quantile(times, .5), 0, "ms", "authenticated connection, first channel")
    row("the same, p95", 1e3 * quantile(times, .95), 0, "ms")
    with tempfile.TemporaryDirectory(prefix="berth-bench.") as d:
        tree = pathlib.Path(d) / "tree"
        source = "/usr/include" if QUICK else "/usr/share"
        subprocess.run(["cp", "-a", source, tree], check=True)
        sh(f"tar -C {tree} -c . > /dev/null")  # warm
        server.ssh("bench", "true")
        sh(f"tar -C {tree} -c . | {' '.join(server.ssh_argv('bench', 'tar', '-x', '-C', '/workspace', options=SAME))}")
        files = sum(len(f) for _, _, f in os.walk(tree))
        megabytes = sum(p.lstat().st_size for p in tree.rglob("*") if p.is_file() and not p.is_symlink()) >> 20
        note = f"{source}: {files} files, {megabytes} MiB"
        theirs = sh(f"tar -C {tree} -c . | zstd -1 -T0 -q -o {d}/a.tar.zst && sync -d {d}/a.tar.zst")
        ours = verb_time(server, "pause", "bench")
        row("pause, first", ours, theirs, "s", note + "; beside tar | zstd -1 -T0 and its fsync")
        warm = verb_time(server, "resume", "bench")
        row("resume, warm", 1e3 * warm, 0, "ms", "with the client's start")
        server.ssh("bench", "echo changed > one-file")
        row("pause, one file changed", 1e3 * verb_time(server, "pause", "bench"), 0, "ms", "with the client's start")
        server.stop()
        shutil.rmtree(server.state / "cache" / "layers", ignore_errors=True)
        for upper in (server.state / "sessions").glob("s_*/upper.*"):
            shutil.rmtree(upper)
        (pathlib.Path(d) / "out").mkdir()
        theirs = sh(f"zstd -dc -q {d}/a.tar.zst | tar -C {d}/out -x")
        server.start()
        row("resume, cold", verb_time(server, "resume", "bench"), theirs, "s", "beside zstd -d | tar -x")
        head = next(s for s in server.json("snapshots", "bench") if s["head"])
        row("size of the archives", head["total_bytes"] / 2**20, os.path.getsize(f"{d}/a.tar.zst") / 2**20, "MiB")


INSIDE = """
import os, time
def fsyncs():
    fd, times = os.open("f", os.O_RDWR | os.O_CREAT | os.O_TRUNC), []
    for i in range(300):
        began = time.perf_counter()
        os.pwrite(fd, b"x" * 4096, 4096 * i)
        os.fsync(fd)
        times.append(time.perf_counter() - began)
    return sorted(times)[150]
def rate(megabytes):
    fd, block, began = os.open("g", os.O_RDWR | os.O_CREAT | os.O_TRUNC), b"x" * (1 << 20), time.perf_counter()
    for _ in range(megabytes):
        os.write(fd, block)
    os.fsync(fd)
    return megabytes / (time.perf_counter() - began)
def files(n):
    began = time.perf_counter()
    for i in range(n):
        with open(f"n{i}", "wb") as f:
            f.write(b"x" * 3000)
    os.sync()
    return time.perf_counter() - began
print(fsyncs(), rate(256), files(5000))
os.system("rm -f f g n*")
"""


def disk_table(server):
    """Sessions with a disk limit beside sessions without, in turns."""
    starts, inside, turns = {True: [], False: []}, {True: [], False: []}, 5 if QUICK else 20
    for i in range(turns):
        for limited in (True, False):
            name = f"disk-{i}-{limited}".lower()
            asked = ["new", name] + (["--disk", "8G"] if limited else [])
            assert server.verb(*asked).status == 0
            assert server.verb("pause", name).status == 0  # what follows is a start alone
            starts[limited].append(verb_time(server, "resume", name))
            if i < 5:
                r = server.ssh(name, "cat > /tmp/b.py; exec python3 /tmp/b.py", stdin=INSIDE.encode())
                inside[limited].append([float(x) for x in r.out.split()])
            by = server.json("show", name)["limits"]["disk"].get("means")
            assert server.verb("rm", name).status == 0
            if limited:
                means = by
    row("start of a session with a disk limit, p50", 1e3 * quantile(starts[True], .5), 1e3 * quantile(starts[False], .5), "ms",
        f"means {means}; beside one without, client and all")
    for at, what, scale, unit in ((0, "fsync of 4 KiB inside it, p50", 1e3, "ms"), (1, "256 MiB written and synced", 1, "MiB/s"),
                                  (2, "5,000 files of 3,000 bytes and sync", 1, "s")):
        ours, theirs = (quantile([t[at] for t in inside[k]], .5) * scale for k in (True, False))
        row(what, ours, theirs, unit, "median of 5, in turns")


def main():
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    print(f"commit {commit}, {os.cpu_count()} cores, kernel {platform.release()}, kex {KEX}, cipher {CIPHER}\n")
    print("| measure | berth | beside | unit | ratio | how |\n|---|---|---|---|---|---|")
    with conftest.running() as server:
        with Sshd() as sshd:
            if not ONLY or "sftp" in ONLY:
                sftp_table(server, sshd)
            if not ONLY:
                ssh_table(server, sshd)
        if ONLY:
            return
        snapshot_table(server)
        disk_table(server)


main()
