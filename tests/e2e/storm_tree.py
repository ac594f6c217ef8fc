"""What a workspace should hold: a model of its files, random changes that both it and a session make, and how each is read."""
import copy
import hashlib
import json

ROOTS = ("/workspace", "/etc/profile.d", "/etc/skel")  # the last two: what the image has can be removed and come back

# Runs inside the session: changes as a list of words, then what there is then.
INSIDE = r'''
import hashlib, json, mmap, os, shutil, stat, subprocess, sys
def write(p, text):
    with open(p, "wb") as f: f.write(text)
def act(what, p, *a):
    if what == "write": write(p, a[0].encode() * a[1])
    elif what == "replace": write(p + "~", a[0].encode() * a[1]); os.replace(p + "~", p)
    elif what == "append":
        with open(p, "ab") as f: f.write(a[0].encode())
    elif what == "cut": os.truncate(p, a[0])
    elif what == "map":
        with open(p, "r+b") as f:
            m = mmap.mmap(f.fileno(), 0); m[a[0]] = a[1]; m.close()
    elif what == "chmod": os.chmod(p, a[0])
    elif what == "mkdir": os.mkdir(p)
    elif what == "rmtree": shutil.rmtree(p)
    elif what == "unlink": os.unlink(p)
    elif what == "symlink": os.symlink(a[0], p)
    elif what == "link": os.link(p, a[0])
    elif what == "rename":
        try: os.rename(p, a[0])
        except OSError as e: # a directory of a lower layer
            assert e.errno == 18, e
            subprocess.run(["mv", "-T", p, a[0]], check=True)
    elif what == "hold": # goes on beyond this call, and writes through memory when it is told to
        if os.fork() == 0:
            os.setsid()
            for fd in (0, 1, 2): os.dup2(os.open("/dev/null", os.O_RDWR), fd)
            f = open(p, "r+b"); m = mmap.mmap(f.fileno(), 0)
            os.mkfifo("/run/hold~"); os.rename("/run/hold~", "/run/hold%d" % a[0])
            while True:
                for line in open("/run/hold%d" % a[0]):
                    m[int(line.split()[0])] = int(line.split()[1])
                    os.close(os.open("/run/held", os.O_CREAT | os.O_WRONLY))
        while not os.path.exists("/run/hold%d" % a[0]): pass
    elif what == "poke":
        with open("/run/hold%d" % a[0], "w") as f: f.write("%d %d\n" % (a[1], a[2]))
        while not os.path.exists("/run/held"): pass
        os.unlink("/run/held")
    else: raise ValueError(what)
out, groups = {}, {}
def look(p):
    try: st = os.lstat(p)
    except OSError: return
    mode = stat.S_IMODE(st.st_mode)
    if stat.S_ISDIR(st.st_mode):
        out[p] = ["d", mode]
        for n in sorted(os.listdir(p)): look(p + "/" + n)
    elif stat.S_ISLNK(st.st_mode): out[p] = ["l", os.readlink(p)]
    elif stat.S_ISREG(st.st_mode):
        groups.setdefault((st.st_dev, st.st_ino), []).append(p)
        with open(p, "rb") as f: out[p] = ["f", mode, st.st_size, hashlib.sha256(f.read()).hexdigest(), p, st.st_mtime_ns]
    else: out[p] = ["?", st.st_mode]
for one in OPS: act(*one)
for root in ROOTS: look(root)
for names in groups.values():
    for p in names: out[p][4] = min(names)
json.dump(out, sys.stdout)
'''


def program(ops=()):
    return f"OPS = {list(ops)!r}\nROOTS = {ROOTS!r}\n{INSIDE}".encode()


class File:
    """What the names of one file share. `seen` is its state as a session showed it, where the model knows no bytes."""

    def __init__(self, content, mode=0o644, since=0, seen=None):
        self.content, self.mode, self.since, self.seen = content, mode, since, seen
        self.held = 0  # a process of that number has it mapped

    def told(self):
        if self.content is None:
            return list(self.seen)
        return [len(self.content), hashlib.sha256(self.content).hexdigest()]


class Tree:
    """path → ("d", mode), ("l", target) or a File. `since` counts the uppers: a file with two names that an older one
    has is two as soon as it is written to, as overlayfs does it, so none is."""

    def __init__(self, shown):
        self.at, self.times, self.since = {}, {}, 0
        for path, e in shown.items():
            if e[0] == "d":
                self.at[path] = ("d", e[1])
            elif e[0] == "l":
                self.at[path] = ("l", e[1])
            else:
                self.at[path] = File(None, e[1], 0, tuple(e[2:4]))
        self.take_times(shown)

    def copy(self):
        return copy.deepcopy(self)

    def take_times(self, shown):
        self.times = {path: e[5] for path, e in shown.items() if e[0] == "f"}

    def shown(self, times=True):
        out, first = {}, {}
        for path, e in sorted(self.at.items()):
            if isinstance(e, File):
                same = first.setdefault(id(e), path)
                out[path] = ["f", e.mode, *e.told(), same, self.times.get(path) if times else None]
            else:
                out[path] = list(e)
        return out

    def differences(self, shown, times=True):
        mine = self.shown()
        diff = {}
        for path in sorted(set(mine) | set(shown)):
            a, b = mine.get(path), shown.get(path)
            if not times and a and b and a[0] == b[0] == "f":
                a, b = a[:5], b[:5]
            if a != b:
                diff[path] = {"model": a, "session": b}
        return diff

    def regroup(self, shown):
        """What restore --path leaves alone, since it is equal, keeps its other names: whichever these are."""
        files = {}
        for path, e in shown.items():
            mine = self.at.get(path)
            if e[0] == "f" and isinstance(mine, File):
                one = files.setdefault(e[4], mine)
                if one.told() == mine.told() and one.mode == mine.mode:
                    self.at[path] = one
        for path, e in list(self.at.items()):
            if isinstance(e, File) and path in shown and files.get(shown[path][4]) is not e:
                self.at[path] = copy.copy(e)
        for f in files.values():
            if f.since != self.since or len(self.names(f)) > 1:
                f.since = -1  # of which upper is not known

    # ---- changes ----

    def dirs(self):
        return [p for p, e in self.at.items() if e[0] == "d"] if self.at else []

    def is_dir(self, path):
        e = self.at.get(path)
        return isinstance(e, tuple) and e[0] == "d"

    def below(self, path):
        return [p for p in self.at if p == path or p.startswith(path + "/")]

    def names(self, file):
        return [p for p, e in self.at.items() if e is file]

    def lone(self, file):
        """May be written to in place."""
        return file.since == self.since or len(self.names(file)) == 1

    def pick(self, rnd, kind):
        found = [p for p, e in sorted(self.at.items()) if kind(e)]
        return rnd.choice(found) if found else None

    def free(self, rnd):
        """A name that nobody has, in a directory that is there."""
        where = self.pick(rnd, lambda e: isinstance(e, tuple) and e[0] == "d")
        if where is None:
            return next((r for r in ROOTS[1:] if r not in self.at), None)
        name = f"{where}/{rnd.choice('abcdefgh')}{rnd.randrange(4)}"
        return None if name in self.at or name.count("/") > 7 else name

    def change(self, rnd):
        """One change: made here, and returned as the words for INSIDE; None: it does not fit."""
        how = rnd.choice([self._write, self._write, self._write, self._replace, self._append, self._cut, self._map, self._chmod,
                          self._mkdir, self._rmtree, self._unlink, self._unlink, self._symlink, self._link, self._rename,
                          self._rename, self._swap, self._root])
        return how(rnd)

    @staticmethod
    def text(rnd):
        size = rnd.choice([1, 1, 1, 1, 40, 40, 3000, 60000])
        return "%08x" % rnd.getrandbits(32), size

    def file(self, rnd):
        path = self.pick(rnd, lambda e: isinstance(e, File) and self.lone(e))
        return path, self.at.get(path)

    def _write(self, rnd):
        path = self.free(rnd) if rnd.random() < 0.6 else self.file(rnd)[0]
        if not path:
            return None
        word, n = self.text(rnd)
        if path in self.at:
            self.at[path].content = word.encode() * n
        else:
            self.at[path] = File(word.encode() * n, since=self.since)
        return [["write", path, word, n]]

    def _replace(self, rnd):
        path = self.pick(rnd, lambda e: isinstance(e, File))
        if not path:
            return None
        word, n = self.text(rnd)
        self.at[path] = File(word.encode() * n, since=self.since)
        return [["replace", path, word, n]]

    def _append(self, rnd):
        path, f = self.file(rnd)
        if not path or f.content is None:
            return None
        word, _ = self.text(rnd)
        f.content += word.encode()
        return [["append", path, word]]

    def _cut(self, rnd):
        path, f = self.file(rnd)
        if not path or f.content is None:
            return None
        n = rnd.randrange(len(f.content) + 20)
        f.content = f.content[:n] + b"\0" * (n - len(f.content))
        return [["cut", path, n]]

    def _map(self, rnd):
        path, f = self.file(rnd)
        if not path or not f.content:
            return None
        at, value = rnd.randrange(len(f.content)), rnd.randrange(256)
        f.content = f.content[:at] + bytes([value]) + f.content[at + 1:]
        return [["map", path, at, value]]

    def _chmod(self, rnd):
        path = self.pick(rnd, lambda e: self.lone(e) if isinstance(e, File) else e[0] == "d")
        if not path:
            return None
        e, mode = self.at[path], rnd.choice([0o755, 0o700, 0o711, 0o644, 0o600])
        if isinstance(e, File):
            e.mode = mode
        else:
            self.at[path] = ("d", mode)
        return [["chmod", path, mode]]

    def _mkdir(self, rnd):
        path = self.free(rnd)
        if not path:
            return None
        self.at[path] = ("d", 0o755)
        return [["mkdir", path]]

    def _drop(self, path):
        for p in self.below(path):
            del self.at[p]

    def _rmtree(self, rnd):
        path = self.pick(rnd, lambda e: isinstance(e, tuple) and e[0] == "d")
        if not path or path == "/workspace":
            return None
        self._drop(path)
        return [["rmtree", path]]

    def _unlink(self, rnd):
        path = self.pick(rnd, lambda e: isinstance(e, File) or e[0] == "l")
        if not path:
            return None
        del self.at[path]
        return [["unlink", path]]

    def _symlink(self, rnd):
        path = self.free(rnd)
        if not path:
            return None
        target = rnd.choice(["a0", "../b1", "/workspace/c2", "/nowhere"])
        self.at[path] = ("l", target)
        return [["symlink", path, target]]

    def _link(self, rnd):
        (path, f), to = self.file(rnd), self.free(rnd)
        if not path or not to:
            return None
        f.since = self.since
        self.at[to] = f
        return [["link", path, to]]

    def _rename(self, rnd):
        path = self.pick(rnd, lambda e: not isinstance(e, File) or self.lone(e))
        to = self.free(rnd)
        if not path or not to or path in ROOTS or to in self.below(path) or to.startswith(path + "/"):
            return None
        below = self.below(path)
        files = [self.at[p] for p in below if isinstance(self.at[p], File)]
        if self.is_dir(path) and any(set(self.names(f)) - set(below) or not self.lone(f) or f.held for f in files):
            return None  # mv may have to copy it
        for p in below:
            self.at[to + p[len(path):]] = self.at.pop(p)
            if p in self.times:
                self.times[to + p[len(path):]] = self.times.pop(p)
        return [["rename", path, to]]

    def _swap(self, rnd):
        """A directory becomes a file, a file a directory, each at once what it was not."""
        path = self.pick(rnd, lambda e: True)
        if not path or path == "/workspace":
            return None
        was_dir = self.is_dir(path)
        self._drop(path)
        if was_dir and rnd.random() < 0.6:
            word, n = self.text(rnd)
            self.at[path] = File(word.encode() * n, since=self.since)
            return [["rmtree", path], ["write", path, word, n]]
        self.at[path] = ("d", 0o755)
        made = [["rmtree" if was_dir else "unlink", path], ["mkdir", path]]
        if rnd.random() < 0.7:
            word, n = self.text(rnd)
            self.at[path + "/z"] = File(word.encode() * n, since=self.since)
            made.append(["write", path + "/z", word, n])
        return made

    def _root(self, rnd):
        """What the image has goes, and comes back otherwise."""
        path = rnd.choice(ROOTS[1:])
        if path in self.at and rnd.random() < 0.5:
            if not self.is_dir(path):
                del self.at[path]
                return [["unlink", path]]
            self._drop(path)
            return [["rmtree", path]]
        if path not in self.at:
            self.at[path] = ("d", 0o755)
            return [["mkdir", path]]
        return None

    # ---- a process that has a file mapped, and goes on ----

    def hold(self, rnd, number):
        path, f = self.file(rnd)
        if not path or not f.content:
            return None
        f.held, f.bytes = number, len(f.content)
        return [["hold", path, number]]

    def poke(self, rnd, number):
        for f in self.at.values():
            if isinstance(f, File) and f.held == number and f.content:
                at, value = rnd.randrange(min(f.bytes, len(f.content))), rnd.randrange(256)
                f.content = f.content[:at] + bytes([value]) + f.content[at + 1:]
                return [["poke", "", number, at, value]]
        return None

    # ---- one path out of another state ----

    def take_path(self, other, path):
        """As restore --path does: what lies there becomes what lay there in the other one."""
        self._drop(path)
        copies = {}
        for p in other.below(path):
            e = other.at[p]
            if isinstance(e, File):
                e = copies.setdefault(id(e), copy.copy(e))
                e.since = self.since
            self.at[p] = e
