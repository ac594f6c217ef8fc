"""New workspace to first command done: 100 one after another, 100 at once; then many idle sessions on one machine.

A connection is authenticated as the new name beforehand; what is timed is its first channel, from opening to exit status.
"""
import argparse
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "e2e"))
import conftest  # noqa: E402

MANAGER, KEEPER, INIT = "berthd", "berth-keeper", "berth-init"


def quantile(values, q):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * q))]


def row(what, value, unit, goal="", note=""):
    print(f"| {what} | {value:.2f} | {unit} | {goal} | {note} |", flush=True)


def drive(server, prefix, first, n, how):
    """Milliseconds of each; a call that failed is a failure of the whole."""
    done = subprocess.run([os.environ["BERTH_START_DRIVER"], str(server.port), str(server.key), prefix, str(first),
                           str(n), how], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [float(line) for line in done.stdout.split()]


def pss_kib(pid):
    with open(f"/proc/{pid}/smaps_rollup") as rollup:
        return next(int(line.split()[1]) for line in rollup if line.startswith("Pss:"))


def settle(server):
    """Waits for what follows a start but nobody waits for: conns end, refs are written, calls are recorded."""
    conftest.wait_until("conns and workers to end", lambda: not any(
        what in ("berth-conn", "berth-worker") for _, what in server.keeper_pids()), 120)


def burst_table(server, n, rounds):
    """The middle and the last of a burst, each as the median of so many bursts."""
    all_of = []
    for i in range(rounds):
        all_of.append(drive(server, f"burst{i}-", 0, n, "burst"))
        settle(server)
    middle, last = [quantile(ms, .5) for ms in all_of], [max(ms) for ms in all_of]
    row(f"burst of {n}, p50", statistics.median(middle), "ms", "200", " ".join(f"{v:.0f}" for v in middle))
    row(f"burst of {n}, the last", statistics.median(last), "ms", "600", " ".join(f"{v:.0f}" for v in last))


def start_table(server, n, rounds):
    drive(server, "warm-", 0, 5, "seq")
    times = drive(server, "seq-", 0, n, "seq")
    row(f"new workspace to first command, {n} in a row, p50", quantile(times, .5), "ms", "12",
        f"least {min(times):.1f}, most {max(times):.1f}")
    row("the same, p95", quantile(times, .95), "ms", "30")
    settle(server)
    burst_table(server, n, rounds)


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as f:
        return [int(p) for p in f.read().split()]


def idle_table(server, n):
    """Sessions that live and run nothing: what each holds in memory, and whether the next starts as fast as the first."""
    first = drive(server, "first-", 0, 20, "seq")
    before = pss_kib(server.process.pid)
    began = time.monotonic()
    for at in range(20, n, 70):
        drive(server, "idle-", at, min(70, n - at), "burst")
    took = time.monotonic() - began
    row(f"{n} sessions started by bursts of 70, with their logins", took, "s", "", f"{(n - 20) / took:.0f} a second")
    settle(server)
    then = drive(server, "then-", 0, 20, "seq")
    settle(server)
    keepers = [pid for pid, what in server.keeper_pids() if what == KEEPER]
    inits = [c for k in keepers for c in children(k)]
    live = len(inits)
    assert live >= n + 20, (len(keepers), live)
    row("the first 20 sessions, p50", quantile(first, .5), "ms")
    row(f"the 20 after {n}, p50", quantile(then, .5), "ms", "as the first")
    keeper, init = sum(map(pss_kib, keepers)) / live, sum(map(pss_kib, inits)) / live
    manager = pss_kib(server.process.pid)
    row("PSS a session: keeper + init + share of the manager", keeper + init + manager / live, "KiB", "512",
        f"keeper {keeper:.0f}, init {init:.0f}, manager {manager / live:.1f} (all of it {manager}, {before} at 20)")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("start", "idle"))
    parser.add_argument("--quick", action="store_true", help="fewer of each")
    parser.add_argument("--isolation", help="the rung, for the server's configuration")
    parser.add_argument("--config", action="append", default=[], help="a further line of the configuration")
    args = parser.parse_args()
    config = "\n".join(([f"isolation = {args.isolation}"] if args.isolation else []) + args.config) + "\n"
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    print(f"commit {commit}, {os.cpu_count()} cores, kernel {platform.release()}, load {os.getloadavg()[0]:.1f}, "
          f"isolation {args.isolation or 'as it comes'}\n")
    print("| measure | value | unit | goal | note |\n|---|---|---|---|---|")
    with conftest.running(config) as server:
        if args.what == "start":
            start_table(server, 30 if args.quick else 100, 1 if args.quick else 5)
        else:
            idle_table(server, 100 if args.quick else 1000)


main()
