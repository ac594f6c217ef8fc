"""Deterministic trees of source text for tests/bench/snapshot: what an agent's workspace is made of, without a network."""
import os
import pathlib
import random

SOURCES = ["/usr/include", "/usr/share/doc", "/usr/share/perl", "/usr/share/cmake-3.25", "/usr/lib/python3", "/usr/lib/python3.11", "/usr/share/nodejs",
           "/usr/lib/gcc", "/usr/share/vim", "/usr/share/info", "/usr/share/man", "/usr/share"]
CORPUS_BYTES = 160 << 20
WORDS = "core util net driver test main parse table index queue cache proto init sched crypto block char page lock".split()
ENDINGS = [".c"] * 8 + [".h"] * 6 + [".py"] * 2 + [".txt", ".rst", ".json", ".md", ".sh", "", ".S", ".yaml"]


def corpus():
    """Source text found on this machine, in the order of its names, each file once."""
    text, total, seen = [], 0, set()
    for top in SOURCES:
        for where, dirs, files in os.walk(top):
            dirs.sort()
            for name in sorted(files):
                path = os.path.join(where, name)
                if path in seen or os.path.islink(path) or not 200 < os.path.getsize(path) < 2 << 20:
                    continue
                seen.add(path)
                data = pathlib.Path(path).read_bytes()
                if b"\0" in data[:4096] or name.endswith((".gz", ".svg", ".po")):
                    continue
                text.append(data)
                total += len(data)
                if total >= CORPUS_BYTES:
                    return b"".join(text)
    return b"".join(text)


def make(root, files, mean, text, seed):
    """`files` files of `mean` bytes on average: sizes spread as in a source tree (most are small, a few large)."""
    rng = random.Random(seed)
    root.mkdir()
    dirs, total, last = [str(root)], 0, None
    for i in range(files):
        if i % 18 == 0:
            parent = rng.choice(dirs[-400:])
            if parent.count("/") > str(root).count("/") + 7:
                parent = dirs[rng.randrange(len(dirs)) // 8]
            dirs.append(f"{parent}/{rng.choice(WORDS)}-{len(dirs)}")
            os.mkdir(dirs[-1])
        path = f"{dirs[-1]}/{rng.choice(WORDS)}_{rng.choice(WORDS)}_{i}{rng.choice(ENDINGS)}"
        size = min(int(rng.lognormvariate(0, 1.35) * mean / 2.49), 4 << 20)
        with open(path, "wb") as f:
            left = size
            while left > 0:  # a file is made of a few places of the corpus, so that none is there twice
                n = min(left, rng.randrange(500, 60000))
                at = rng.randrange(len(text) - n)
                f.write(text[at:at + n])
                left -= n
        total += size
        os.chmod(path, 0o755 if rng.random() < .02 else 0o644)
        when = 1_600_000_000_000_000_000 + i * 977_000_001
        os.utime(path, ns=(when, when))
        if last and rng.random() < .001:
            os.symlink(os.path.basename(last), path + ".link")
        last = path
    return total
