"""Snapshots beside what users would take instead. See tests/bench/snapshot."""
import argparse
import contextlib
import json
import os
import pathlib
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ARCHIVE = str(pathlib.Path(os.environ.get("BERTH_BUILD", "build/release")).resolve() / "berth-archive")


class Cost:
    """One run of a command: seconds, processors' seconds, and the most memory that one of its processes had."""

    def __init__(self, seconds, cpu, rss=0):
        self.seconds, self.cpu, self.rss = seconds, cpu, rss


def run(argv, cwd=None, keep=False):
    os.sync()  # what the command before left to be written is not this one's to wait for
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    p = subprocess.Popen(argv, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = p.communicate()
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    assert p.returncode == 0, (argv, p.returncode, err[-2000:])
    cost = Cost(seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return (cost, out) if keep else cost


def sh(command, cwd=None):
    return run(["bash", "-c", "set -eo pipefail; " + command], cwd)


def size_of(path):
    if path.is_file():
        return path.stat().st_size
    return sum(p.lstat().st_size for p in path.rglob("*") if p.is_file())


class Tool:
    """What a tool can do with a tree. `room` is its own directory, emptied before each round."""

    def __init__(self, room, tree):
        self.room, self.tree = room / self.name, tree

    def reset(self):
        shutil.rmtree(self.room, ignore_errors=True)
        self.room.mkdir(parents=True)
        (self.room / "cache").mkdir()
        # Making files where others were just deleted costs ext4 up to a millisecond each: what is restored gets a region of its own.
        subprocess.run(["chattr", "+T", self.room], stderr=subprocess.DEVNULL, check=False)

    def restore(self):
        out = self.room / f"out-{time.time_ns()}"
        out.mkdir()
        cost = self.restore_to(out)
        shutil.rmtree(out)
        return cost


class Berth(Tool):
    name = "berth"

    def __init__(self, room, tree):
        super().__init__(room, tree)
        self.rss = 0

    def archive(self, *words):
        os.sync()
        began = time.perf_counter()
        p = subprocess.Popen([ARCHIVE, *map(str, words), "--json"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        out = p.stdout.read()
        p.stdout.close()
        _, status, usage = os.wait4(p.pid, 0)
        p.returncode = status
        seconds = time.perf_counter() - began
        assert status == 0, words
        self.rss = max(self.rss, usage.ru_maxrss)
        return Cost(seconds, usage.ru_utime + usage.ru_stime), json.loads(out)

    def full(self):
        cost, self.first = self.archive("capture", self.tree, self.room / "store")
        self.size = self.first["bytes"]
        return cost

    def pause(self, changed):
        """What a pause captures after pause and resume: a fresh upper, with what has changed."""
        upper = self.room / "upper"
        target = upper / changed.relative_to(self.tree)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(changed, target)
        cost, answer = self.archive("capture", upper, self.room / "store", "--parent", self.first["snapshot"])
        assert answer["files"] == 1
        shutil.rmtree(upper)
        return cost

    def running(self, change):
        """A session that runs on: the walk of the whole upper, which compares with what it saw before."""
        store = self.room / "again"
        p = subprocess.Popen([ARCHIVE, "capture", self.tree, store, "--again", "--json"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        json.loads(p.stdout.readline())
        change()
        os.sync()
        began = time.perf_counter()
        p.stdin.write(b"\n")
        p.stdin.flush()
        answer = json.loads(p.stdout.readline())
        seconds = time.perf_counter() - began
        assert answer["files"] == 1, answer
        p.stdin.close()
        p.stdout.close()
        _, status, usage = os.wait4(p.pid, 0)
        p.returncode = status
        assert status == 0
        self.rss = max(self.rss, usage.ru_maxrss)
        shutil.rmtree(store)
        return Cost(seconds, 0)

    def restore(self):
        out = self.room / f"out-{time.time_ns()}"
        cost, _ = self.archive("unpack", self.room / "store", self.first["snapshot"], out)
        shutil.rmtree(out)
        return cost


class Tar(Tool):
    name = "tar + zstd"

    def full(self):
        cost = sh(f"tar -C '{self.tree}' -c . | zstd -1 -T0 -q -f -o a.tar.zst; sync -d a.tar.zst", self.room)
        self.size = size_of(self.room / "a.tar.zst")
        return cost

    def again(self):
        return self.full()

    def restore_to(self, out):
        return sh(f"zstd -dc -q a.tar.zst | tar -C '{out}' -x", self.room)


class Restic(Tool):
    name = "restic"

    def restic(self, *words):
        return run(["env", "RESTIC_PASSWORD=x", f"RESTIC_CACHE_DIR={self.room}/cache", "restic", "-q", "-r", f"{self.room}/repository", *words])

    def full(self):
        self.restic("init")
        cost = self.again()
        self.size = size_of(self.room / "repository")
        return cost

    def again(self):
        return self.restic("backup", str(self.tree))

    def restore_to(self, out):
        return self.restic("restore", "latest", "--target", str(out))


class Borg(Tool):
    name = "borg"
    n = 0

    def borg(self, *words, cwd=None):
        return run(["env", f"BORG_BASE_DIR={self.room}/cache", "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=yes", "borg", *words], cwd)

    def full(self):
        self.borg("init", "-e", "none", f"{self.room}/repository")
        cost = self.again()
        self.size = size_of(self.room / "repository")
        return cost

    def again(self):
        self.n += 1
        return self.borg("create", "--compression", "zstd,1", f"{self.room}/repository::{self.n}", ".", cwd=self.tree)

    def restore_to(self, out):
        return self.borg("extract", f"{self.room}/repository::{self.n}", cwd=out)


class Casync(Tool):
    name = "casync"

    def full(self):
        cost = self.again()
        self.size = size_of(self.room / "store")
        return cost

    def again(self):
        return run(["casync", "make", f"--store={self.room}/store", f"{self.room}/a.caidx", str(self.tree)])

    def restore_to(self, out):
        return run(["casync", "extract", f"--store={self.room}/store", f"{self.room}/a.caidx", str(out)])


def median(costs):
    return statistics.median(c.seconds for c in costs)


def spread(costs):
    text = " ".join(f"{c.seconds:.2f}" for c in costs)
    cpu = statistics.median(c.cpu for c in costs)
    return f"{text}; cpu {cpu:.1f}" if cpu else text


def row(what, who, value, unit, ratio="", goal=None, note=""):
    verdict = "" if goal is None else f"<= {goal}: {'met' if float(ratio) <= goal else 'MISSED'}"
    print(f"| {what} | {who} | {value} | {unit} | {ratio} | {verdict} | {note} |", flush=True)


def compare(what, table, ours, goals, unit="s"):
    """One act: ours, then each of the others with ours as a ratio to it."""
    row(what, "berth", f"{median(ours):.3f}", unit, note=spread(ours))
    for name, costs in table.items():
        row(what, name, f"{median(costs):.3f}", unit, f"{median(ours) / median(costs):.3f}", goals.get(name), spread(costs))


def change_one(tree, n):
    files = [p for p in sorted(tree.iterdir()) for p in sorted(p.rglob("*.c"))[:1]]
    changed = files[n % len(files)]
    with open(changed, "ab") as f:
        f.write(f"changed {n} {time.time_ns()}\n".encode())
    return changed


def measure(title, tree, room, rounds, slow_rounds):
    berth, others = Berth(room, tree), [Tar(room, tree), Restic(room, tree), Borg(room, tree), Casync(room, tree)]
    full, again, restore, pause, running = ({t.name: [] for t in [berth, *others]} for _ in range(5))
    for n in range(rounds):
        tools = [berth, *others] if n < slow_rounds else [berth, others[0]]
        for t in tools:
            t.reset()
            full[t.name].append(t.full())
        changed = change_one(tree, n)
        pause["berth"].append(berth.pause(changed))
        for t in tools[1:]:
            again[t.name].append(t.again())
        running["berth"].append(berth.running(lambda n=n: change_one(tree, n + 1)))
        for t in tools:
            restore[t.name].append(t.restore())
        for t in tools:
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(t.room)
    theirs = [{t.name: x[t.name] for t in others} for x in (full, again, restore)]
    compare(f"{title}: full capture", theirs[0], full["berth"], {Tar.name: .7, Restic.name: .25})
    compare(f"{title}: one file changed, fresh upper", theirs[1], pause["berth"], {Restic.name: .1})
    compare(f"{title}: one file changed, session runs on", theirs[1], running["berth"], {})
    compare(f"{title}: restore", theirs[2], restore["berth"], {Tar.name: .65})
    row(f"{title}: size", "berth", f"{berth.size / 2**20:.1f}", "MiB")
    for t in others:
        row(f"{title}: size", t.name, f"{t.size / 2**20:.1f}", "MiB", f"{berth.size / t.size:.3f}", 1.02 if t.name == Tar.name else None)
    row(f"{title}: memory", "berth", f"{berth.rss / 1024:.1f}", "MiB", f"{berth.rss / 1024 / 64:.2f}", 1, "of 64 MiB; most of all its runs")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--slow-rounds", type=int, default=None, help="rounds with restic, borg and casync")
    parser.add_argument("--dir", default="/tmp")
    parser.add_argument("trees", nargs="*")
    a = parser.parse_args()
    rounds = 1 if a.quick else a.rounds
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    print(f"commit {commit}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, kernel {platform.release()}; medians of {rounds}, in turns; "
          "ratio: berth to the other\n")
    with tempfile.TemporaryDirectory(prefix="berth-bench.", dir=a.dir) as d:
        print("| what | who | value | unit | ratio | goal | each, and the processors' seconds |\n|---|---|---|---|---|---|---|")
        for title, files, mean, seed in (("large", 84000, 16000, 1), ("small", 20000, 24000, 2)):
            if a.trees and title not in a.trees:
                continue
            tree, room = pathlib.Path(d) / title, pathlib.Path(d) / f"{title}.rooms"
            # in a process of its own: what this one holds would count as memory of what it starts
            subprocess.run([sys.executable, "-c", f"import snapshot_trees as t, pathlib; t.make(pathlib.Path({str(tree)!r}), "
                            f"{files // 20 if a.quick else files}, {mean}, t.corpus(), {seed})"], check=True, cwd=pathlib.Path(__file__).parent)
            sh(f"tar -C '{tree}' -c . | cat > /dev/null")  # warm for all
            measure(title, tree, room, rounds, min(rounds, a.slow_rounds or rounds))
            shutil.rmtree(tree)
            shutil.rmtree(room, ignore_errors=True)
    print(f"\nload at the end {os.getloadavg()[0]:.1f}")


main()
