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
ONLY = [w for w in sys.argv[1:] if not w.startswith("--")]  # sftp, ssh: these tables alone
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


async def idle_memory(target, processes, n):
    """MiB of PSS that each of n idle connections adds."""
    async def pss():
        return sum(pss_of(pid) for pid in processes())

    before = await pss()
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(n):
            await stack.enter_async_context(connect(*target))
        return (await pss() - before) / n / 1024


def pss_of(pid):
    with contextlib.suppress(OSError), open(f"/proc/{pid}/smaps_rollup") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("Pss:"))
    return 0


def descendants(pid):
    with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{pid}/children") as f:
        for child in map(int, f.read().split()):
            yield child
            yield from descendants(child)


def master_exec(argv, n):
    """`true` by ssh over a ControlMaster, its client's start included."""
    with tempfile.TemporaryDirectory(prefix="berth-bench.") as d:
        mux = ["-o", f"ControlPath={d}/mux"]
        master = subprocess.Popen(argv("", options=[*mux, "-M", "-N"])[:-1], stdin=subprocess.DEVNULL)
        conftest.wait_until("the master", lambda: os.path.exists(f"{d}/mux"))
        times = cold(argv("true", options=mux), n)
        master.kill()  # it does not always heed SIGTERM
        master.wait()
    return times


def in_turns(rounds, *measures):
    """What each measure gave, in turns, so that a slow minute hits all."""
    results = [[] for _ in measures]
    for _ in range(rounds):
        for into, measure in zip(results, measures):
            got = measure()
            into.extend(got if isinstance(got, list) else [got])
    return results


def ssh_table(server, sshd):
    ours, theirs = (server.port, "bench", server.key), (sshd.port, USER, sshd.key)
    server.ssh("bench", "true")
    argv = [lambda *c, options=(): server.ssh_argv("bench", *c, options=[*SAME, *options]), sshd.argv]
    n = 25 if QUICK else 50
    mine, his = in_turns(4 if QUICK else 10, lambda: asyncio.run(exec_latency(ours, n)), lambda: asyncio.run(exec_latency(theirs, n)))
    for q, what in ((.5, "exec `true`, open connection, p50"), (.95, "the same, p95"), (.99, "the same, p99")):
        row(what, 1e3 * quantile(mine, q), 1e3 * quantile(his, q), "ms", "asyncssh")
    n = 5 if QUICK else 20
    mine, his = in_turns(2, lambda: master_exec(argv[0], n), lambda: master_exec(argv[1], n))
    row("exec `true` by ssh over a ControlMaster, p50", 1e3 * quantile(mine, .5), 1e3 * quantile(his, .5), "ms", "with the client's start")
    mine, his = in_turns(2, lambda: asyncio.run(connect_latency(ours, n)), lambda: asyncio.run(connect_latency(theirs, n)))
    row("connect + auth, p50", 1e3 * quantile(mine, .5), 1e3 * quantile(his, .5), "ms", "asyncssh")
    mine, his = in_turns(2, lambda: cold(argv[0]("true"), n), lambda: cold(argv[1]("true"), n))
    row("cold `ssh host true`, p50", 1e3 * quantile(mine, .5), 1e3 * quantile(his, .5), "ms", "OpenSSH client")
    size, rounds = (256, 2) if QUICK else (1024, 5)
    command = f"head -c {size}M /dev/zero"
    mine, his = in_turns(rounds, lambda: out_rate(argv[0](command), size), lambda: out_rate(argv[1](command), size))
    row(f"stdout, {size} MiB, median", quantile(mine, .5), quantile(his, .5), "MiB/s", f"best {max(mine):.0f} and {max(his):.0f}; journalled, punched past its bound")
    mine, his = in_turns(rounds, lambda: in_rate(argv[0]("cat > /dev/null"), size), lambda: in_rate(argv[1]("cat > /dev/null"), size))
    row(f"stdin, {size} MiB, median", quantile(mine, .5), quantile(his, .5), "MiB/s", f"best {max(mine):.0f} and {max(his):.0f}")
    runs = [asyncio.run(parallel(ours, 256)) for _ in range(3 if QUICK else 50)]
    row("256 parallel calls of 0.3 s, median", quantile(runs, .5), 0, "s", f"one connection, {len(runs)} runs, all complete, most {max(runs):.2f}")
    n = 5 if QUICK else 20
    mine = asyncio.run(idle_memory(ours, lambda: [p for p, what in server.all_pids() if what in ("berth-conn", "berth-zygote")], n))
    his = asyncio.run(idle_memory(theirs, lambda: descendants(sshd.process.pid), n))
    row("memory of an idle connection (PSS)", mine, his, "MiB", f"{n} of them")


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
                get[i].append(size / sftp(*side, f"get {there} {d}/got"))
                subprocess.run(["cmp", f"{d}/big", f"{d}/got"], check=True)
                os.unlink(f"{d}/got")
                sftp(*side, f"rm {there}")
        for _ in range(2):
            for i, side in enumerate(sides):
                small[i].append(sftp(*side, f"put -r {d}/small"))
                sftp(*side, "rm small/*\nrmdir small")
    for what, of in ((f"sftp get of {size} MiB, median", get), (f"sftp put of {size} MiB, median", put)):
        row(what, quantile(of[0], .5), quantile(of[1], .5), "MiB/s", "OpenSSH's client; what came back is compared")
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
            if not ONLY or "ssh" in ONLY:
                ssh_table(server, sshd)
        if ONLY:
            return
        snapshot_table(server)
        disk_table(server)


main()
