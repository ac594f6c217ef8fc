"""To the first exec done: of a paused session (warm), of a fork, of eight forks at once; small and large in turns.

Connections are authenticated beforehand. A warm resume is timed from the opening of its first channel, a fork from the
opening of the verb's channel, both to the exit status of `true`.
"""
import asyncio
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "e2e"))
import asyncssh  # noqa: E402
import conftest  # noqa: E402

SIZES = {"10 MB": (20, 500_000), "1 GB": (2000, 500_000)}
FORKS_AT_ONCE = 8


def connect(server, user):
    return asyncssh.connect("127.0.0.1", server.port, username=user, client_keys=[str(server.key)], known_hosts=None,
                            agent_path=None, config=None)


def make(server, name, files, size):
    """A session with so many files, paused, its layer unpacked behind that."""
    fill = f"i=0; while [ $i -lt {files} ]; do head -c {size} /dev/urandom > f$i; i=$((i + 1)); done"
    done = server.ssh(name, fill, timeout=500)
    assert done.status == 0, done
    done = server.verb("pause", name, timeout=500)
    assert done.status == 0, done
    head = server.session(name)["head"].removeprefix("sha256:")[:12]
    conftest.wait_until("its layer to be unpacked", lambda: f"the layers of {head} are unpacked" in server.log(), 500)


async def run(connection, command, wanted=0):
    done = await connection.run(command)
    assert done.exit_status == wanted, (command, done.exit_status, done.stderr)


async def warm(server, control, name):
    async with connect(server, name) as c:
        began = time.monotonic()
        await run(c, "true")
        took = time.monotonic() - began
    await run(control, f"pause {name} --force")
    return took * 1000


async def new(server, control, name, made):
    """What any start takes that no spare serves: the machine's own pace, for comparison."""
    async with connect(server, made) as c:
        began = time.monotonic()
        await run(control, f"new {made} --pids 4000")
        await run(c, "true")
        took = time.monotonic() - began
    await run(control, f"rm {made} --force")
    return took * 1000


async def fork(server, control, name, made):
    async with connect(server, made) as c:
        began = time.monotonic()
        await run(control, f"fork {name} {made}")
        await run(c, "true")
        took = time.monotonic() - began
    await run(control, f"rm {made} --force")
    return took * 1000


async def forks(server, control, name, made):
    """Until each of them has run its first command."""
    names = [f"{made}-{i + 1}" for i in range(FORKS_AT_ONCE)]
    connections = [await connect(server, n) for n in names]
    began = time.monotonic()
    await run(control, f"fork {name} {made} --count {FORKS_AT_ONCE}")
    await asyncio.gather(*(run(c, "true") for c in connections))
    took = time.monotonic() - began
    for c in connections:
        c.close()
    for n in names:
        await run(control, f"rm {n} --force")
    return took * 1000


def row(what, times, goal):
    times = sorted(times)
    print(f"| {what} | {statistics.median(times):.1f} | {times[int(len(times) * .95)]:.1f} | {times[0]:.1f} to {times[-1]:.1f} | {goal} |",
          flush=True)


async def measure(server, rounds):
    kinds = {"new, without a spare": (new, ""), "warm resume": (warm, "50"), "fork": (fork, "50"), f"{FORKS_AT_ONCE} forks at once, all": (forks, "")}
    times = {(kind, size): [] for kind in kinds for size in SIZES}
    async with connect(server, "berth") as control:
        for i in range(rounds + 2):  # the first two warm up
            for n, size in enumerate(SIZES):
                name = f"origin{n}"
                for k, (kind, (measured, _)) in enumerate(kinds.items()):
                    extra = () if measured is warm else (f"f{n}-{k}-{i}",)
                    took = await measured(server, control, name, *extra)
                    if i >= 2:
                        times[kind, size].append(took)
    for kind, (_, goal) in kinds.items():
        for size in SIZES:
            row(f"{kind}, {size}", times[kind, size], goal)
        if kind.startswith("new"):
            continue
        small, large = (statistics.median(times[kind, size]) for size in SIZES)
        print(f"| {kind}: 1 GB against 10 MB | {large / small:.2f} | | | 1 |")
    base = statistics.median(t for size in SIZES for t in times["new, without a spare", size])
    for kind in ("warm resume", "fork"):
        print(f"| {kind}, 1 GB, against new | {statistics.median(times[kind, '1 GB']) / base:.2f} | | | |")


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 30
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    with conftest.running("fork_ready = yes\n") as server:
        for n, (files, size) in enumerate(SIZES.values()):
            make(server, f"origin{n}", files, size)
        print(f"commit {commit}, {os.cpu_count()} cores, kernel {platform.release()}, load {os.getloadavg()[0]:.1f}, {rounds} rounds\n")
        print("| to the first exec done | median ms | p95 ms | range | goal ms |\n|---|---|---|---|---|")
        asyncio.run(measure(server, rounds))


main()
