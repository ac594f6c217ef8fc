"""What a storm does to sessions and snapshots while the server goes on, and what must be so afterwards."""
import json

import storm_tree


class Snapshot:
    def __init__(self, tree, parent, session):
        self.tree, self.parent, self.session = tree, parent, session
        self.linked_anew = False


class Session:
    def __init__(self, name, sid, tree):
        self.name, self.id, self.tree = name, sid, tree
        self.head, self.redo, self.snapshots = None, [], {}  # digest → Snapshot of its own
        self.mode, self.mode_set, self.retention, self.kept = "pause", False, False, set()
        self.strays = set()  # snapshots of which only the store has known
        self.held = None  # a file that a process has mapped, while that lives

    def renewed(self, tree=None):
        """It stands on another upper from here on, or may."""
        self.tree = (tree or self.tree).copy()
        self.tree.since += 1
        self.held = None


class Acts:
    """Of a Storm, which has the rest."""

    def some(self):
        return self.rnd.choice(self.sessions)

    def took(self, s, answer):
        """A snapshot that an answer names, if it made one, is the session as it was."""
        digest = answer.get("snapshot")
        if digest and digest not in s.snapshots:
            self.learn(s, digest, s.tree, s.head)
            return digest
        return None

    def act_write(self):
        self.change(self.some())

    def act_hold(self):
        """A process that has a file mapped and outlives its call; it writes on as long as it lives."""
        s = self.some()
        if s.held:
            self.change(s, lambda tree: tree.poke(self.rnd, s.held))
        else:
            self.change(s, lambda tree: tree.hold(self.rnd, self.acts))
            s.held = self.acts

    def act_snapshot(self):
        s = self.some()
        if self.row(s)["state"] != "running":
            return
        name = f"--name n{self.acts}" if self.rnd.random() < 0.2 else ""
        r = self.server.json("snapshot", s.name, name)
        made = self.took(s, r)
        self.claim(bool(made) == r["changed"], r)
        if made:
            s.head, s.redo = made, []
        else:
            self.claim(not s.snapshots.get(r["snapshot"]) or not s.snapshots[r["snapshot"]].tree.differences(s.tree.shown()),
                       s.name, "has changed, but its snapshot says no", r)
        if name and made:
            s.kept.add(made)

    def act_pause(self):
        s = self.some()
        r = self.server.json("pause", s.name)
        made = self.took(s, r)
        if made:
            s.head, s.redo = made, []
        elif s.head in self.all:
            self.claim(not self.all[s.head].tree.differences(s.tree.shown()), s.name, "was not saved", r)
        s.renewed()

    def act_pauses(self):
        """A chain."""
        s = self.some()
        for _ in range(self.rnd.choice([9, 12, 26]) if self.rnd.random() < 0.3 else 4):
            self.change(s)
            live = self.rnd.random() < 0.4
            r = self.server.json("snapshot" if live else "pause", s.name)
            made = self.took(s, r)
            if made:
                s.head, s.redo = made, []
            if not live:
                s.renewed()

    def act_resume(self):
        self.server.json("resume", self.some().name)

    def act_mode(self):
        s = self.some()
        s.mode = self.rnd.choice(["pause", "call"])
        s.mode_set = True
        self.server.json("set", s.name, "snapshot", s.mode)

    def went(self, s, target):
        s.head = target
        if target:
            self.claim(target in self.all, target)
            s.renewed(self.all[target].tree)
        else:
            s.renewed(s.first)

    def chain(self, s, unsaved):
        """From the newest state back: digests; None is as it was made."""
        way = [unsaved] if unsaved else []
        at = s.head
        while at in s.snapshots:
            way.append(at)
            at = s.snapshots[at].parent
        return [*way, at]

    def act_undo(self):
        s, n = self.some(), self.rnd.choice([1, 1, 2, 3])
        r = self.server.verb("undo", s.name, str(n), "--json")
        if r.status == 66:
            way = len(self.chain(s, None))
            self.claim(way <= n + 1 or s.retention or self.any_gone(s), "undo refused:", r, way)
            return
        self.claim(r.status == 0, r)
        r = json.loads(r.out)
        made = self.took(s, r)
        way = self.chain(s, made)
        self.claim(len(way) > n and r["head"] == way[n], "undo", n, "of", way, "went to", r)
        s.redo = ([] if made else s.redo) + way[:n]
        self.went(s, way[n])

    def any_gone(self, s):
        return s.head not in s.snapshots

    def act_redo(self):
        s, n = self.some(), self.rnd.choice([1, 1, 2])
        r = self.server.verb("redo", s.name, str(n), "--json")
        if len(s.redo) < n:
            self.claim(r.status == 66, r)
            return
        self.claim(r.status == 0, r)
        r = json.loads(r.out)
        self.took(s, r)
        target = s.redo[-n]
        self.claim(r["head"] == target, "redo went to", r, "of", s.redo)
        s.redo = s.redo[:-n]
        self.went(s, target)

    def act_restore(self):
        s = self.some()
        if not s.snapshots:
            return
        target = self.rnd.choice(sorted(s.snapshots))
        r = self.server.json("restore", s.name, target)
        self.took(s, r)
        s.redo = []
        self.went(s, target)

    def act_restore_path(self):
        s = self.some()
        if not s.snapshots:
            return
        target = self.rnd.choice(sorted(s.snapshots))
        old = s.snapshots[target].tree
        path = self.rnd.choice(sorted(p for p in old.at if p not in storm_tree.ROOTS) or ["/workspace"])
        parent = path.rsplit("/", 1)[0]
        if not s.tree.is_dir(parent) and path != "/workspace":
            return
        self.say(f"  {path} of {target[7:19]}")
        if self.row(s)["state"] != "running":
            s.renewed()
        r = self.server.json("restore", s.name, target, "--path", path)
        self.took(s, r)
        s.tree = s.tree.copy()
        s.tree.take_path(old, path)
        s.held = None  # the file may be another one now
        shown = self.run(s)
        s.tree.regroup(shown)
        differences = s.tree.differences(shown, times=False)
        self.claim(not differences, s.name, "after restore --path:", json.dumps(differences, indent=1))
        s.tree.take_times(shown)
        self.marks[self.count] = s.tree.copy()
        self.follow(s)

    def act_fork(self):
        s = self.some()
        if len(self.sessions) > 5:
            return
        name = f"f{self.acts}"
        if s.snapshots and self.rnd.random() < 0.4:
            target = self.rnd.choice(sorted(s.snapshots))
            r = self.server.json("fork", target, name)
            tree = s.snapshots[target].tree
        else:
            r = self.server.verb("fork", s.name, name, "--json")
            if r.status == 66 and not s.head:
                return
            self.claim(r.status == 0, r)
            r = json.loads(r.out)
            made = self.took(s, r)
            if made:
                s.head, s.redo = made, []
            tree, target = s.tree, r["snapshot"]
        fork = Session(name, r["id"], tree)
        fork.head, fork.first, fork.mode, fork.mode_set = target, s.first, s.mode, s.mode_set
        fork.renewed()
        self.sessions.append(fork)

    def act_rm(self):
        if len(self.sessions) < 3:
            return
        s = self.some()
        unsaved = s.tree
        self.server.json("rm", s.name)
        self.sessions.remove(s)
        s.renewed(unsaved)
        self.removed.append(s)

    def act_undelete(self):
        if not self.removed:
            return
        s = self.removed.pop(self.rnd.randrange(len(self.removed)))
        self.server.json("undelete", s.id)
        self.sessions.append(s)
        self.after_any(s, s.tree)

    def act_rename(self):
        s = self.some()
        name = f"r{self.acts}"
        self.server.json("rename", s.name, name)
        s.name = name

    def act_label(self):
        s = self.some()
        if not s.snapshots:
            return
        target = self.rnd.choice(sorted(s.snapshots))
        self.server.json("label", target, f"k={self.acts}", "--pin", "yes")
        s.kept.add(target)

    def act_retention(self):
        s = self.some()
        self.server.json("set", s.name, "retention", "last=3")
        s.retention = True

    def act_gc(self):
        self.server.json("gc")
        for s in self.sessions:
            self.absorb(s, gone_may=True)

    def act_gc_beside(self):
        self.background.append(self.server.popen("berth", "gc --json"))

    def act_verify(self):
        r = self.server.verb("verify", "--all")
        self.claim(r.status == 0, r)

    def act_files(self):
        s = self.some()
        if not s.snapshots:
            return
        target = self.rnd.choice(sorted(s.snapshots))
        tree = s.snapshots[target].tree
        want = {p[1:]: e for p, e in tree.shown().items() if p.startswith("/workspace/")}
        r = self.server.verb("files", target, "--recursive", "--json")
        self.claim(r.status == 0, r)
        told = {f["path"]: f for f in json.loads(r.out) if f["path"].startswith("workspace/")}
        self.claim(set(want) == set(told), target, "lists", sorted(set(want) ^ set(told)), "otherwise")
        for path, e in want.items():
            t = told[path]
            kind = {"directory": "d", "symlink": "l", "file": "f"}.get(t["type"], t["type"])
            got = [kind, t["target"]] if kind == "l" else [kind, int(t["mode"], 8)] + ([t["size"]] if kind == "f" else [])
            self.claim(got == e[:len(got)], target, path, got, e)
        for path in self.rnd.sample(sorted(p for p, e in want.items() if e[0] == "f"), min(3, sum(e[0] == "f" for e in want.values()))):
            r = self.server.verb("cat", target, "/" + path)
            f = tree.at["/" + path]
            self.claim(r.status == 0 and (f.content is None or r.out == f.content), "cat", target, path, r)

    def act_export(self):
        s = self.some()
        if len(self.sessions) > 5 or not s.snapshots:
            return
        target = self.rnd.choice(sorted(s.snapshots))
        out = self.server.verb("export", target)
        self.claim(out.status == 0, out)
        name = f"i{self.acts}"
        r = self.server.ssh("berth", f"import {name} --json", stdin=out.out)
        self.claim(r.status == 0, r)
        row = next(r for r in self.server.json("ls") if r["name"] == name)
        made = Session(name, row["id"], s.snapshots[target].tree)
        made.first, made.head = s.first, row["head"]
        self.learn(made, row["head"], made.tree, None)
        made.renewed()
        self.sessions.append(made)
