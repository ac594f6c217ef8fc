import importlib
import pathlib
import sys
import tempfile
import time

# this file has the driver's name: it must not find itself
sys.path[:] = [str(pathlib.Path(__file__).parents[1] / "e2e")] + [p for p in sys.path if pathlib.Path(p) != pathlib.Path(__file__).parent]
driver = importlib.import_module("storm")

ROUND = 120  # seconds of one server
seconds, seed = (int(sys.argv[i]) if len(sys.argv) > i else default for i, default in ((1, 1200), (2, 1)))
end, done, acts = time.monotonic() + seconds, 0, 0
while time.monotonic() < end:
    lines = []
    try:
        acts += driver.run(tempfile.mkdtemp(prefix="bt."), seed, min(ROUND, end - time.monotonic()), say=lines.append)
    except BaseException:
        print("\n".join(lines), flush=True)
        raise
    print(f"seed {seed}: {acts} acts in all", flush=True)
    seed, done = seed + 1, done + 1
print(f"{done} storms, {acts} acts: all was as it must be")
