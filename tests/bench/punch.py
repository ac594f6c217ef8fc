import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "e2e"))
import conftest  # noqa: E402
import punch  # noqa: E402

total = (int(sys.argv[1]) if len(sys.argv) > 1 else 2048) * punch.MIB
with conftest.running() as server:
    began = time.perf_counter()
    wrong, what = punch.run(server, "bench", total, 64 * punch.MIB, 200 * punch.MIB)
print(f"{'; '.join(what)}; in {time.perf_counter() - began:.0f} s: {len(wrong)} claims wrong")
for claim in wrong:
    print(f"  {claim}")
sys.exit(bool(wrong))
