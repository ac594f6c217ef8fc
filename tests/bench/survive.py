import asyncio
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "e2e"))
import conftest  # noqa: E402
import punch  # noqa: E402
import survive  # noqa: E402

UP = 200 * punch.MIB
cuts, stopped = (int(sys.argv[i]) if len(sys.argv) > i else default for i, default in ((1, 20), (2, 1000)))
with conftest.running() as server:
    server.ssh("bench", "true")
    began = time.perf_counter()
    wrong, what = asyncio.run(survive.run(server, "bench", cuts, stopped))
    took = time.perf_counter() - began
    sent = server.base / "sent"
    sent.write_bytes(punch.written(0, UP))
    if asyncio.run(survive.upload(server, "bench", sent, cuts)) != (3, [punch.sum_of(UP).encode()], b"begun\n"):
        wrong.append("stdin")
print(f"{what}, one manager killed, in {took:.0f} s; {UP >> 20} MiB of stdin through {cuts} cuts: {len(wrong)} wrong of what "
      "8 readers and one command got, of the journals, exits and sums")
for claim in wrong:
    print(f"  {claim}")
sys.exit(bool(wrong))
