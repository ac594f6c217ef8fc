import asyncio
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "e2e"))
import conftest  # noqa: E402
import survive  # noqa: E402

cuts, stopped = (int(sys.argv[i]) if len(sys.argv) > i else default for i, default in ((1, 20), (2, 1000)))
with conftest.running() as server:
    server.ssh("bench", "true")
    began = time.perf_counter()
    wrong, what = asyncio.run(survive.run(server, "bench", cuts, stopped))
print(f"{what}, one manager killed, in {time.perf_counter() - began:.0f} s: {len(wrong)} wrong of what 8 readers got, "
      "of the journals, exits and sums")
for claim in wrong:
    print(f"  {claim}")
sys.exit(bool(wrong))
