"""The cost of journal and audit log on an exec, function by function. See tests/bench/cost.

A function's time is from its entry to its return, by two uprobes; what the probes themselves take is measured on
one that does nothing but look at two numbers (journal_is_full), and subtracted. Nested ones are listed apart and
counted once, in the outermost. `us an exec` is the median of a call times how many an exec makes; the mean has in it
what else ran on these cores."""
import asyncio
import collections
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "e2e"))
import asyncssh  # noqa: E402
import conftest  # noqa: E402

BUILD = Path(os.environ["BERTH_BUILD"]).resolve()
NOTHING = "journal_is_full"

# when: before the answer; while the command starts; after the answer; in the manager, beside all that
FUNCTIONS = [
    ("berth-keeper", "record_reserve", "before", "room in the spool for its end"),
    ("berth-keeper", "journal_create", "spool", "the journal's file, of the next call"),
    ("berth-keeper", "journal_open", "before", "its header"),
    ("berth-keeper", "journal_start", "before", "its START frame"),
    ("berth-keeper", "journal_open_reader", "before", "conn's fd of it"),
    ("berth-keeper", "keeper_record", "spool", "start and end into the spool, sent to the manager"),
    ("berth-keeper", "journal_append", "before", "output (none, of true)"),
    ("berth-keeper", "journal_finish", "before", "sums and the END frame"),
    ("berth-conn", "journal_next", "before", "what conn reads of it"),
    ("berth-keeper", "journal_close", "after", "its end"),
    ("berth-keeper", "record_ack", "after", "the manager has it"),
    ("berthd", "records_add", "manager", "a record from the keeper"),
    ("berthd", "records_flush", "manager", "the index's transaction, and in it:"),
    ("berthd", "audit_call", "manager", "  the lines of the audit log"),
    ("berthd", "audit_sync", "manager", "  their sync, once a second"),
]


def quantile(values, q):
    return sorted(values)[min(len(values) - 1, int(q * len(values)))]


async def latencies(server, n):
    times = []
    async with asyncssh.connect("127.0.0.1", server.port, username="bench", known_hosts=None, config=None, agent_path=None,
                                client_keys=[str(server.key)]) as c:
        for i in range(n + 50):
            began = time.perf_counter()
            r = await c.run("true")
            assert r.exit_status == 0, r
            if i >= 50:
                times.append(1e6 * (time.perf_counter() - began))
    return times


def perf(*argv, **kw):
    return subprocess.run(("perf", *argv), capture_output=True, text=True, **kw)


class Probes:
    def __enter__(self):
        perf("probe", "-q", "-d", "probe_berth*:*")
        self.events = []
        for binary, function in sorted({(b, f) for b, f, _, _ in FUNCTIONS} | {("berth-keeper", NOTHING)}):
            for kind, suffix in (("e", ""), ("r", "%return")):
                event = f"{kind}_{function}"
                r = perf("probe", "-x", BUILD / binary, "--add", f"{event}={function}{suffix}")
                assert r.returncode == 0, r.stderr
                self.events.append(re.search(r"(probe_\w+:%s\w*)" % event, r.stdout + r.stderr).group(1))
        return self

    def __exit__(self, *_):
        for event in self.events:
            perf("probe", "-q", "-d", event)


def durations(script):
    """function: its times in us, by pairing each entry with the next return in the same thread."""
    open_calls, times = {}, collections.defaultdict(list)
    for line in script.splitlines():
        m = re.match(r"\s*(\d+)\s+(\d+\.\d+):\s+probe_\w+:([er])_([a-z_]+?)(?:__return)?:", line)
        if not m:
            continue
        tid, at, kind, function = m[1], float(m[2]), m[3], m[4]
        if kind == "e":
            open_calls[tid, function] = at
        elif (tid, function) in open_calls:
            times[function].append(1e6 * (at - open_calls.pop((tid, function))))
    return times


def measure(server, n):
    plain = asyncio.run(latencies(server, n))
    with Probes() as probes, tempfile.TemporaryDirectory() as d:
        data = os.path.join(d, "perf.data")
        recorder = subprocess.Popen(["perf", "record", "-q", "-a", "-o", data, *(w for e in probes.events for w in ("-e", e))],
                                    stderr=subprocess.DEVNULL)
        try:
            conftest.wait_until("perf to write", lambda: os.path.exists(data) and os.path.getsize(data) > 0)
            probed = asyncio.run(latencies(server, n))
        finally:
            recorder.terminate()
            recorder.wait()
        script = perf("script", "-i", data, "--ns", "-F", "tid,time,event").stdout
    plain += asyncio.run(latencies(server, n))
    return plain, probed, durations(script)


def main():
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    with conftest.running() as server:
        server.ssh("bench", "true")
        plain, probed, times = measure(server, n)
    probe_us = quantile(times[NOTHING], .5) if times[NOTHING] else 0.0
    p50 = quantile(plain, .5)
    sums = collections.Counter()
    print(f"exec of true, asyncssh, {2 * n} of them: p50 {p50:.0f} us, p99 {quantile(plain, .99):.0f} us; under probes p50 "
          f"{quantile(probed, .5):.0f} us; a probed call costs {probe_us:.1f} us itself, subtracted below")
    print("| function | when | us an exec | of p50 | calls an exec | mean us | |")
    print("|---|---|---|---|---|---|---|")
    for binary, function, when, what in FUNCTIONS:
        each = len(times[function]) / (n + 50)
        one = quantile(times[function], .5) if times[function] else 0.0
        us = each * max(0.0, one - probe_us)
        mean = max(0.0, sum(times[function]) - probe_us * len(times[function])) / (n + 50)
        if not what.startswith("  "):
            sums[when] += us
        print(f"| {binary} {function} | {when} | {us:.1f} | {100 * us / p50:.1f} % | {each:.2f} | {mean:.1f} | {what} |")
    for when, words in (("before", "before the answer"), ("spool", "while the command starts, and after the answer"),
                        ("after", "after the answer"), ("manager", "in the manager, beside it")):
        print(f"{words}: {sums[when]:.0f} us, {100 * sums[when] / p50:.1f} % of p50")


main()
