import asyncio
import pathlib
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "e2e"))
import conftest  # noqa: E402
import execs  # noqa: E402

n = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
with tempfile.TemporaryDirectory(prefix="berth-bench.") as base:
    server = conftest.Server(base)
    server.start()
    try:
        server.ssh("bench", "true")
        began = time.perf_counter()
        wrong = asyncio.run(execs.run(server.port, "bench", server.key, n))
        took = time.perf_counter() - began
        want = (n, 0, sum(number % 251 for number in range(n)))
        conftest.wait_until("the index", lambda: execs.in_index(server.state, server.session("bench")["id"])[0] >= n)
        has = execs.in_index(server.state, server.session("bench")["id"])
    finally:
        server.stop()
    audit = b"".join(f.read_bytes() for f in sorted((server.state / "audit").glob("*.jsonl")))
    lines = [audit.count(b'"kind":"call_%s"' % what) for what in (b"start", b"end")]
    log = subprocess.run([conftest.BUILD / "berth-verify-audit", server.state / "audit"], capture_output=True, text=True)
print(f"{n} execs over 8 connections in {took:.0f} s ({n / took:.0f} a second): {len(wrong)} lost, mixed or with a wrong exit; "
      f"index: {has}, to be {want}; lines of starts and ends in the audit log: {lines}, one more than that each")
print(log.stdout + log.stderr, end="")
for number, came in wrong[:10]:
    print(f"  {number}: {came!r}")
sys.exit(bool(wrong) or has != want or lines != [n + 1] * 2 or log.returncode != 0)
