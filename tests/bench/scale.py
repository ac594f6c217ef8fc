"""Snapshots of trees that are large in one way each. See tests/bench/scale."""
import argparse
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import time
import traceback

ARCHIVE = str(pathlib.Path(os.environ.get("BERTH_BUILD", "build/release")).resolve() / "berth-archive")
MEMORY_MAX_MIB = 64


def many_entries(top, n):
    for d in range(n // 1000):
        where = f"{top}/{d % 32}/directory-{d}"
        os.makedirs(where)
        for i in range(999):
            with open(f"{where}/some-file-{i}", "w") as f:
                f.write(f"{d} {i}\n")


def one_directory(top, n):
    for i in range(n // 5):
        with open(f"{top}/a-name-of-thirty-bytes-{i:07}", "w") as f:
            f.write(str(i))


def two_names(top, n):
    os.mkdir(f"{top}/first")
    os.mkdir(f"{top}/second")
    for i in range(n // 10):
        with open(f"{top}/first/file-{i}", "w") as f:
            f.write(str(i))
        os.link(f"{top}/first/file-{i}", f"{top}/second/file-{i}")


def one_inode(top, n):
    with open(f"{top}/0", "w") as f:
        f.write("one\n")
    for i in range(1, 3 * n // 50):  # ext4 allows 65,000
        os.link(f"{top}/0", f"{top}/{i}")


def holes(top, _):
    with open(f"{top}/disk", "wb") as f:
        for at in (0, 9 << 30, (20 << 30) - 6):
            f.seek(at)
            f.write(b"bytes\n")
    with open(f"{top}/many-holes", "wb") as f:
        for i in range(20000):
            f.seek(i * 1 << 20)
            f.write(b"x" * 4096)


def apart(act, *args):
    """In a process of its own: the memory of this one counts as that of each program that it starts."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            act(*args)
            status = 0
        except Exception:  # noqa: BLE001
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0, act.__name__


def run(*words):
    began = time.perf_counter()
    p = subprocess.Popen([ARCHIVE, *map(str, words), "--json"], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    out = p.stdout.read()
    p.stdout.close()
    _, status, usage = os.wait4(p.pid, 0)
    p.returncode = status
    assert status == 0, words
    return time.perf_counter() - began, usage.ru_maxrss / 1024, json.loads(out)


def again(tree, store):
    """A first capture and a second one that finds one new file: seconds of the second, memory of both."""
    p = subprocess.Popen([ARCHIVE, "capture", tree, store, "--again", "--json"], stdout=subprocess.PIPE, stdin=subprocess.PIPE)
    json.loads(p.stdout.readline())
    (tree / "zz-new").write_text("new")
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
    (tree / "zz-new").unlink()
    return seconds, usage.ru_maxrss / 1024


def listing(tree):
    """What two equal trees have in common, by find: inodes as the number of the first name that has one."""
    form = r"%y %m %s %n %T@ %U %G %i %p\n"
    out = subprocess.run(["find", ".", "-mindepth", "1", "(", "-type", "d", "-printf", r"%y %m 0 0 %T@ %U %G %i %p\n", ")", "-o", "-printf", form],
                         cwd=tree, stdout=subprocess.PIPE, check=True).stdout
    lines, first = sorted(out.split(b"\n"), key=lambda line: line.split(b" ", 8)[-1]), {}
    for line in lines:
        words = line.split(b" ", 8)
        if len(words) == 9:
            words[7] = b"%d" % first.setdefault(words[7], len(first))
            yield b" ".join(words)


def compare(a, b):
    for n, (x, y) in enumerate(zip(listing(a), listing(b), strict=True)):
        assert x == y, (n, x, y)
    subprocess.run(["diff", "-r", "-q", "--no-dereference", a, b], check=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--dir", default="/tmp")
    parser.add_argument("trees", nargs="*", help="these alone")
    a = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n\n| tree | entries | capture s | again s | verify s | unpack s | most memory MiB: "
          "capture, again, verify, unpack |\n|---|---|---|---|---|---|---|")
    missed = []
    with tempfile.TemporaryDirectory(prefix="berth-scale.", dir=a.dir) as d:
        for make in (many_entries, one_directory, two_names, one_inode, holes):
            if a.trees and make.__name__ not in a.trees:
                continue
            top = pathlib.Path(d) / make.__name__
            tree, store = top / "tree", top / "store"
            tree.mkdir(parents=True)
            apart(make, tree, a.entries)
            captured, m1, made = run("capture", tree, store)
            second, m2 = again(tree, top / "again")
            verified, m3, _ = run("verify", store)
            unpacked, m4, _ = run("unpack", store, made["snapshot"], top / "out")
            if make is holes:  # 20 GiB of zeros need not be compared
                assert os.path.getsize(top / "out/disk") == 20 << 30 and os.stat(top / "out/disk").st_blocks < 1000
                with open(top / "out/disk", "rb") as f:
                    f.seek(9 << 30)
                    assert f.read(7) == b"bytes\n\0"
                subprocess.run(["cmp", tree / "many-holes", top / "out/many-holes"], check=True)
            else:
                apart(compare, tree, top / "out")
            most = max(m1, m2, m3, m4)
            if most > MEMORY_MAX_MIB:
                missed.append((make.__name__, most))
            print(f"| {make.__name__} | {made['entries']} | {captured:.1f} | {second:.2f} | {verified:.1f} | {unpacked:.1f} | {m1:.1f}, {m2:.1f}, {m3:.1f}, "
                  f"{m4:.1f}{'' if most <= MEMORY_MAX_MIB else ' MISSED'} |", flush=True)
            apart(shutil.rmtree, top)
    assert not missed, missed


main()
