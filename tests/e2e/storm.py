"""A random sequence of all that can be done to sessions and snapshots, beside a model of what must be there then.

Each act is drawn from the seed alone; what kills fall into is not, so a seed finds its way again, not its every moment."""
import contextlib
import json
import os
import random
import select
import signal
import sqlite3
import subprocess
import time

from conftest import Server, wait_until
import storm_acts
import storm_tree

CONFIGS = [  # each storm has one
    "",
    "chain_max = 2\n",
    "chain_max = 3\ncache_max = 1M\nwarm_keep = 0s\n",
    "cache_max = 0\nwarm_keep = 0s\n",
    "fork_ready = yes\nchain_max = 5\n",
]


class Storm(storm_acts.Acts):
    def __init__(self, base, seed, say=print):
        self.rnd, self.say, self.seed = random.Random(seed), say, seed
        self.config = CONFIGS[seed % len(CONFIGS)]
        self.server = Server(base, "gc_age = 0s\ngc_interval = 0s\ntombstone = 1h\n" + self.config)
        self.sessions, self.removed = [], []
        self.all = {}  # every snapshot that was ever seen
        self.marks = {}  # mark of a call → the tree after it
        self.acts, self.count, self.background = 0, 0, []

    # ---- what is there ----

    def ask(self, sql, *values):
        """Of the index: a verb for each question would be most of a storm."""
        with contextlib.closing(sqlite3.connect(f"file:{self.server.state}/index.db?mode=ro", uri=True, timeout=30)) as db:
            return [tuple("sha256:" + v.hex() if isinstance(v, bytes) else v for v in row) for row in db.execute(sql, values)]

    def row(self, s):
        [row] = self.ask("SELECT state, unclean, head FROM sessions WHERE id=?", s.id)
        return dict(zip(("state", "unclean", "head"), row))

    def redo_of(self, s):
        return [d for (d,) in self.ask("SELECT snapshot FROM redo WHERE session=? ORDER BY position", s.id)]

    def list(self, s):
        """As the verb has it, at times by the verb."""
        if self.rnd.random() < 0.1:
            return self.server.json("snapshots", s.name)
        rows = self.ask("SELECT digest, parent, made_by, calls FROM snapshots WHERE session=? ORDER BY created_ns", s.id)
        return [{"snapshot": d, **({"parent": p} if p else {}), "made_by": m,
                 "calls": [{"command": c} for one in calls.split() for (c,) in self.ask("SELECT command FROM calls WHERE id=?", one)]}
                for d, p, m, calls in rows]

    def settled(self, s):
        return wait_until(f"{s.name} to rest", lambda: (lambda r: r if r["state"] in ("running", "paused", "failed")
                                                        else None)(self.row(s)), 60)

    def claim(self, true, what, *more):
        assert true, " ".join(map(str, (what, *more)))

    # ---- what is expected ----

    def learn(self, s, digest, tree, parent):
        if digest in s.snapshots:
            return
        self.all[digest] = s.snapshots[digest] = storm_acts.Snapshot(tree.copy(), parent, s)

    def absorb(self, s, gone_may=False, tree=None, strays=False):
        """All that is listed is known, or is what the session is now (or was after a call); nothing else is missing."""
        rows = self.list(s)
        listed = {r["snapshot"]: r for r in rows}
        for r in rows:
            digest = r["snapshot"]
            if digest in s.snapshots or digest in s.strays:
                continue
            if strays:  # of an act that was cut short after its ref: the model does not know which
                s.strays.add(digest)
                continue
            marks = [int(c["command"].split("#")[1]) for c in r["calls"] if "#" in c["command"]]
            known = self.marks.get(max(marks)) if marks else None
            self.learn(s, digest, known or tree or s.tree, r.get("parent"))
            s.snapshots[digest].by = r["made_by"]
        for digest in set(s.snapshots) - set(listed):
            self.claim(gone_may, "snapshot", digest, "of", s.name, "is not listed any more")
            self.claim(digest not in (s.head, *s.redo) and digest not in s.kept, "what must be kept is gone:", digest)
            del s.snapshots[digest]
        for digest, snap in s.snapshots.items():
            parent = listed[digest].get("parent")
            if gone_may and parent != snap.parent:  # the nearest that was kept
                snap.parent, snap.linked_anew = parent, True
            if strays and snap.linked_anew:  # the manifest names one that is gone: which is nearest is guessed by layers
                snap.parent = parent
            self.claim(parent == snap.parent, "the parent of", digest, "is", parent, "not", snap.parent)
        return listed

    def sync_head(self, s):
        """Of a session that rests: head and the way forward."""
        row = self.settled(s)
        head = row.get("head")
        self.claim(head == s.head, f"{s.name}: head {head}, not {s.head}")
        redo = self.redo_of(s)
        self.claim(redo == s.redo, f"{s.name}: redo {redo}, not {s.redo}")
        return row

    def follow(self, s):
        """Snapshots that were made by themselves, after calls: each is the new head."""
        if s.mode == "pause":
            return
        if self.settled(s)["state"] == "running":
            self.server.json("snapshot", s.name)  # else it is not known whether one is still to come
        self.absorb(s)
        head = self.settled(s).get("head")
        if head != s.head:
            self.claim(head in s.snapshots, f"{s.name}: head {head}")
            s.head, s.redo = head, []

    # ---- in a session ----

    def run(self, s, ops=()):
        self.count += 1
        r = self.server.ssh(s.name, f"python3 - #{self.count}", stdin=storm_tree.program(ops), timeout=90)
        self.claim(r.status == 0, "run in", s.name, ops, r)
        self.marks[self.count] = s.tree
        return json.loads(r.out)

    def check(self, s, trees=None):
        shown = self.run(s)
        for tree in trees or [s.tree]:
            differences = tree.differences(shown)
            if not differences:
                if tree is not s.tree:
                    s.renewed(tree)
                break
        else:
            raise AssertionError(f"{s.name}: " + json.dumps(differences, indent=1))
        self.marks[self.count] = s.tree.copy()
        self.follow(s)

    def change(self, s, how=None):
        ops = []
        tree = s.tree.copy()  # marks may have the old one
        s.tree = tree
        for _ in range(1 if how else self.rnd.choice([1, 1, 2, 3, 5, 12])):
            one = how(tree) if how else tree.change(self.rnd)
            ops += one or []
        self.say(f"  {ops}" if len(str(ops)) < 2000 else f"  {len(ops)} ops")
        shown = self.run(s, ops)
        differences = tree.differences(shown, times=False)
        self.claim(not differences, f"{s.name}, after its own changes:", json.dumps(differences, indent=1))
        tree.take_times(shown)
        self.marks[self.count] = tree.copy()
        self.follow(s)

    # ---- the server stops, in each way ----

    def drop_all(self):
        for tree in [*self.server.state.glob("cache/layers/*"), *self.server.state.glob("sessions/s_*/upper.*")]:
            subprocess.run(["rm", "-rf", tree], check=True)

    def act_cold(self):
        self.finish_background()
        unclean = [s for s in self.sessions if (lambda r: r["state"] == "paused" and r["unclean"])(self.row(s))]
        for s in unclean:
            self.server.json("pause", s.name)
        self.claim(self.server.stop() == 0, "stop")
        self.drop_all()
        self.server.start()
        for s in self.sessions:
            self.after_any(s, s.tree)

    def act_reindex(self):
        """Of a server that has paused all, or left all running, or was killed."""
        self.finish_background()
        how = self.rnd.choice(["int", "term", "kill"])
        self.say(f"  {how}")
        imported = {"value": "pause", "set": False}
        for s in self.sessions:
            ref = self.server.state / "store/refs" / f"session-{s.id}.json"
            wait_until("what was chosen to be in the ref", lambda: (lambda r: r and r.get("snapshot", imported) == {
                "value": s.mode, "set": s.mode_set} and ("retention" in r) == s.retention)(
                    json.loads(ref.read_text()) if ref.exists() else None))
        if how == "kill":
            self.server.kill()
        else:
            self.server.stop(signal.SIGINT if how == "int" else signal.SIGTERM)
        r = subprocess.run([self.server.build / "berthd", "--reindex", "--state", self.server.state, "--run", self.server.run,
                            "--config", self.server.config], capture_output=True, text=True, timeout=120)
        self.claim(r.returncode == 0, r)
        if how == "int":  # what that saved is no stray
            with contextlib.closing(sqlite3.connect(next(self.server.state.glob("index.db.old-*")))) as db:
                saved = dict(db.execute("SELECT id, head FROM sessions"))
            for s in self.sessions:
                if saved[s.id] and "sha256:" + saved[s.id].hex() != s.head:
                    self.learn(s, "sha256:" + saved[s.id].hex(), s.tree, s.head)
                    s.head, s.redo = "sha256:" + saved[s.id].hex(), []
        for old in self.server.state.glob("index.db.old-*"):
            old.unlink()
        self.server.start()
        for s in self.sessions:
            self.after_any(s, s.tree, strays=True)

    def act_restart(self):
        self.finish_background()
        self.server.stop(self.rnd.choice([signal.SIGINT, signal.SIGTERM]))
        self.server.start()
        for s in self.sessions:
            self.after_any(s, s.tree)

    def after_any(self, s, tree, target=False, gone_may=False, strays=False):
        """After what may or may not have happened: what is listed is known, or the tree; the session is that, or the target."""
        row = self.settled(s)
        self.absorb(s, gone_may, tree, strays)
        head = row.get("head")
        redo = self.redo_of(s)
        trees = [tree]
        if target is not False and head == target:
            there = self.all[target].tree if target else s.first
            trees = [there, tree] if target == s.head else [there]
        else:
            self.claim(head == s.head or head in s.snapshots, f"{s.name}: head {head}, was {s.head}")
            if head != s.head and head in s.snapshots:
                self.claim(not s.snapshots[head].tree.differences(tree.shown()), "the new head", head, "is another state")
        s.head, s.redo = head, redo
        s.renewed(tree)
        if len(trees) > 1 or trees[0] is not tree:
            self.check(s, [t.copy() for t in trees])

    def victim(self, s):
        what = self.rnd.choice(["manager", "worker", "keeper"])
        if what == "manager":
            self.server.kill()
            return what
        if what == "worker":
            end = time.monotonic() + 0.3
            while time.monotonic() < end:
                for pid, name in self.server.all_pids():
                    if name == "berth-worker":
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGKILL)
                        return what
            return "nobody"
        for pid, name in self.server.keeper_pids():
            if name == "berth-keeper" and any(f"/{s.id}/lock" in p for p in open_files(pid)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                return what
        return "nobody"

    def act_kill(self):
        """Amid a verb."""
        s, target = self.some(), False
        words = self.rnd.choice(["snapshot", "snapshot", "pause", "pause", "restore", "undo", "redo", "resume", "gc", "restore_path"])
        argv = f"{words} {s.name}"
        if words == "gc":
            argv = "gc"
        elif words.startswith("restore"):
            if not s.snapshots:
                return
            target = self.rnd.choice(sorted(s.snapshots))
            argv = f"restore {s.name} {target}"
        elif words == "undo":
            target = "undo"
        elif words == "redo":
            target = s.redo[-1] if s.redo else False
        if words == "restore_path":
            argv, target = f"restore {s.name} {target} --path /nowhere/there", False
        self.follow(s)
        verb = self.server.popen("berth", argv)
        select.select([], [], [], self.rnd.choice([0.02, 0.05, 0.08, 0.1, 0.13, 0.2]))
        who = self.victim(s)
        out, err = verb.communicate(timeout=90)
        self.say(f"  {argv}: {who} killed; {verb.returncode} {out.decode().strip()[:90]} {err.decode().strip()[:150]}")
        if who == "manager":
            self.finish_background()
            self.server.start()
        if target == "undo":
            head = self.settled(s).get("head")
            self.absorb(s, tree=s.tree)
            target = s.snapshots[s.head].parent if s.head in s.snapshots and head != s.head and head not in (
                d for d, n in s.snapshots.items() if n.parent == s.head) else s.head
        for one in self.sessions:
            self.after_any(one, one.tree, target if one is s else False, gone_may=words == "gc")

    # ---- all of it ----

    WEIGHTS = {"write": 26, "hold": 8, "snapshot": 12, "pause": 10, "pauses": 3, "resume": 2, "mode": 2, "undo": 7, "redo": 5, "restore": 5,
               "restore_path": 5, "fork": 4, "rm": 2, "undelete": 3, "rename": 1, "label": 2, "retention": 1, "gc": 4,
               "gc_beside": 3, "verify": 1, "files": 5, "export": 2, "cold": 2, "reindex": 1, "restart": 1, "kill": 7}

    def finish_background(self):
        for one in self.background:
            one.communicate(timeout=120)
        if self.background:
            self.background = []
            if self.server.process.poll() is None:
                for s in self.sessions:
                    self.absorb(s, gone_may=True)

    def new(self, name):
        self.server.json("new", name)
        s = storm_acts.Session(name, self.server.session(name)["id"], None)
        s.tree = storm_tree.Tree(json.loads(self.server.ssh(name, "python3 -", stdin=storm_tree.program()).out))
        s.first = s.tree.copy()
        self.sessions.append(s)

    def step(self):
        self.acts += 1
        what = self.rnd.choices(list(self.WEIGHTS), list(self.WEIGHTS.values()))[0]
        if self.background and what not in ("write", "snapshot", "pause", "resume", "fork", "files"):
            self.finish_background()
        self.say(f"{self.acts} {what}")
        getattr(self, "act_" + what)()
        if self.rnd.random() < 0.5:
            s = self.some()
            self.say(f"  check {s.name}")
            if not self.background:
                self.sync_head(s)
            self.check(s)

    def storm(self, seconds=None, acts=None):
        self.server.start()
        for name in ("a", "b"):
            self.new(name)
        end = time.monotonic() + (seconds or 1e9)
        while time.monotonic() < end and self.acts < (acts or 1e9):
            self.step()
        self.last()

    def last(self, restores=3):
        """Everything, once more: each snapshot is what it was, and nothing is left that nobody needs."""
        self.say("last")
        self.finish_background()
        self.server.json("gc")
        for s in self.sessions:
            self.absorb(s, gone_may=True)
            self.check(s)
        r = self.server.verb("verify", "--all")
        self.claim(r.status == 0, r)
        for s in self.sessions:
            for target in sorted(s.snapshots)[-restores:]:
                before = s.tree
                r = self.server.json("restore", s.name, target)
                made = self.took(s, r)
                if made:
                    s.snapshots[made].tree = before.copy()
                s.redo = []
                self.went(s, target)
                self.check(s)
        self.server.json("gc")
        self.claim(self.server.json("gc", "--dry-run").get("orphans", 0) == 0, "gc leaves orphans")


def open_files(pid):
    with contextlib.suppress(OSError):
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                yield os.readlink(f"/proc/{pid}/fd/{fd}")


def run(base, seed, seconds=None, acts=None, say=print):
    """One storm; what it leaves behind fails too. On failure its directory stays for who looks."""
    storm = Storm(base, seed, say)
    try:
        storm.storm(seconds, acts)
        storm.server.remove()
    except BaseException:
        say(f"seed {seed}, act {storm.acts}: state in {storm.server.base}")
        raise
    finally:
        storm.server.discard()
        for one in storm.background:
            one.kill()
            one.communicate()
    return storm.acts
