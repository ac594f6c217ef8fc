"""For n = 1, 2, ... until an act goes through untouched: the nth call that makes something last fails, or the process
dies before it. Afterwards the session works and holds all that it held, and the snapshots from before are whole.

In tests/run a few n of each row; all of them: tests/fault/run."""
import os
import re
import shutil

import pytest

from berth_e2e import wait_until
from faults import ERRORS, faulty, revive, settled

ALL = os.environ.get("BERTH_FAULT_ALL") == "1"
ROWS = [(target, op) for target in ("berth-worker", "berthd") for op in ("open", "write", "sync", "rename", "make")]
ROWS.append(("berthd", "step"))
SHORT = (2, 9)  # which n of a row where not all are run, and of which errors
ERRORS_RUN = ERRORS if ALL else ("ENOSPC", "SIGKILL")

REASONS = {"ENOSPC": rb"no space left on device", "EIO": rb"nput/output error",
           "EMFILE": rb"oo many open files"}


class Act:
    """One act, from a state that `before` makes; `check` says what must be true whether it failed or not."""

    def __init__(self, server, name):
        self.server, self.name, self.n = server, name, 0

    def before(self):
        """The session runs, and holds something that no snapshot has."""
        self.n += 1
        r = self.server.ssh(self.name, f"echo {self.n} > n; mkdir -p d; echo {self.n} > d/f{self.n % 7}; ln -sf n l; cat n")
        assert r.out == b"%d\n" % self.n, r

    def run(self):
        return self.server.verb("pause", self.name, "--force", "--grace", "5s")

    def check(self, done):
        r = self.server.ssh(self.name, "cat n d/f%d; readlink l" % (self.n % 7))
        assert r.out == b"%d\n%d\nn\n" % (self.n, self.n), (r, done)


class Restore(Act):
    """Back to the first snapshot, and, where it went through, forward again."""

    def before(self):
        super().before()
        self.target = self.server.json("snapshots", self.name)[0]["snapshot"]

    def run(self):
        return self.server.verb("restore", self.name, self.target, "--force")

    def check(self, done):
        now = self.server.ssh(self.name, "cat n").out
        assert now in (b"first\n", b"%d\n" % self.n) and (done.status != 0 or now == b"first\n"), (now, done)
        if now == b"first\n":  # what it replaced is a snapshot now
            kept = self.server.json("snapshots", self.name)[-1]["snapshot"]
            assert self.server.verb("restore", self.name, kept, "--force").status == 0
        return super().check(done)


class Undo(Act):
    """Back over what no snapshot held, and, where it went through, forward again."""

    head = b"first\n"

    def run(self):
        return self.server.verb("undo", self.name, "--force")

    def check(self, done):
        now = self.server.ssh(self.name, "cat n").out
        assert now in (self.head, b"%d\n" % self.n) and (done.status != 0 or now == self.head), (now, done)
        if now == self.head:
            assert self.server.verb("redo", self.name, "--force").status == 0
            self.head = b"%d\n" % self.n
        return super().check(done)


class Path(Act):
    """One file of the first snapshot, and back to what it was."""

    def before(self):
        super().before()
        self.target = self.server.json("snapshots", self.name)[0]["snapshot"]

    def run(self):
        return self.server.verb("restore", self.name, self.target, "--path n")

    def check(self, done):
        now = self.server.ssh(self.name, "cat n").out
        assert now in (b"first\n", b"%d\n" % self.n) and (done.status != 0 or now == b"first\n"), (now, done)
        if now == b"first\n":
            kept = [s for s in self.server.json("snapshots", self.name) if s["made_by"] == "restore"][-1]["snapshot"]
            assert self.server.verb("restore", self.name, kept, "--path n").status == 0
        return super().check(done)


class Label(Act):
    """A label of a session, and a note of its first snapshot."""

    def before(self):
        super().before()
        self.first = self.server.json("snapshots", self.name)[0]["snapshot"]

    def run(self):
        done = self.server.verb("label", self.name, f"n={self.n}")
        return self.server.verb("label", self.first, "--note", str(self.n)) if done.status == 0 else done

    def check(self, done):
        label = self.server.session(self.name)["labels"].get("n")
        note = self.server.json("snapshots", self.name)[0]["note"]
        assert done.status != 0 or (label, note) == (str(self.n), str(self.n)), (label, note, done)
        return super().check(done)


class Live(Act):
    """A snapshot of a session that goes on: the next one is right, whatever this one came to."""

    def before(self):
        super().before()
        assert self.server.ssh(self.name, f"rm -f g*; echo > g{self.n}").status == 0

    def run(self):
        return self.server.verb("snapshot", self.name)

    def check(self, done):
        super().check(done)
        made = self.server.verb("snapshot", self.name)
        assert made.status == 0, made
        if self.n % 3 == 0:  # from the archives; in between there are several of one upper
            head = self.server.json("snapshots", self.name)[-1]["snapshot"]
            assert self.server.verb("restore", self.name, head, "--force").status == 0
            super().check(done)
            assert self.server.ssh(self.name, "ls -d g*").out == b"g%d\n" % self.n


class Cold(Act):
    """A resume from archives alone."""

    def before(self):
        super().before()
        assert self.server.verb("pause", self.name, "--force").status == 0
        session = self.server.session(self.name)["id"]
        self.server.stop()
        wait_until("workers to end", lambda: not self.server.all_pids())
        for upper in (self.server.state / "sessions" / session).glob("upper.*"):
            shutil.rmtree(upper)
        shutil.rmtree(self.server.state / "cache" / "layers")
        self.server.start()

    def run(self):
        return self.server.verb("resume", self.name)


class Gc(Act):
    """The collector, with something to take each time; what is pinned, and the head, stay."""

    def before(self):
        super().before()
        if self.n == 1:
            assert self.server.verb("set", self.name, "retention", "last=1").status == 0
            first = self.server.json("snapshots", self.name)[0]["snapshot"]
            assert self.server.verb("label", first, "--pin", "yes").status == 0
        for i in range(2):
            assert self.server.ssh(self.name, f"head -c 100000 /dev/urandom > junk{i}").status == 0
            assert self.server.verb("snapshot", self.name).status == 0

    def run(self):
        return self.server.verb("gc")

    def check(self, done):
        super().check(done)
        done = self.server.verb("verify", self.name)
        assert done.status == 0, done


class Fork(Act):
    """A fork of the session as it runs."""

    def run(self):
        return self.server.verb("fork", self.name, f"{self.name}-{self.n}")

    def check(self, done):
        super().check(done)
        fork = f"{self.name}-{self.n}"
        assert done.status != 0 or self.server.ssh(fork, "cat n").out == b"%d\n" % self.n, done
        if self.server.session(fork):
            assert self.server.verb("rm", fork, "--force").status == 0


def judge_words(done, error, met):
    """A failure says what failed and why, in one line; nothing is reported that did not happen."""
    line = done.err
    assert re.fullmatch(rb"berth: [^\n]+\n", line), (line, met)
    if error in REASONS and met[2] != "sqlite3_step":
        of_index = rb"|index\.db: disk I/O error" if "index.db" in met[3] else b""  # SQLite's word for whatever errno
        assert re.search(REASONS[error] + of_index, line), (line, met)


def drive(server, fault, act, target, op, error):
    """Returns how many calls of the row the act makes, and the n that were tried."""
    n, tried = 1 if ALL else SHORT[0], []
    while True:
        act.before()
        fault.arm(target, op, n, error)
        done = act.run()
        fault.disarm()
        met = fault.read()
        restarted = error == "SIGKILL" and target == "berthd" and met[1] and revive(server)
        settled(server, act.name)
        print(target, op, n, error, met, done)
        act.check(done)
        if not met[1]:
            assert done.status == 0, (done, met)
            return met[0], tried
        if done.status != 0 and not restarted:
            judge_words(done, error, met)
        tried.append(n)
        later = [k for k in SHORT if k > n] if not ALL else [n + 1]
        if not later:
            return met[0], tried
        n = later[0]


@pytest.fixture(scope="module")
def place():
    with faulty("gc_age = 0s\ngc_interval = 0s\ntombstone = 0s\n") as both:
        yield both


KINDS = {"pause": Act, "restore": Restore, "undo": Undo, "path": Path, "label": Label, "snapshot": Live, "fork": Fork, "gc": Gc,
         "cold resume": Cold}
# in tests/run each row of an act has one of the errors, and its neighbours the other
CASES = {f"{name}-{target}-{op}-{error}": (kind, target, op, error)
         for i, (name, kind) in enumerate(KINDS.items()) for j, (target, op) in enumerate(ROWS)
         for k, error in enumerate(ERRORS_RUN) if ALL or (i + j + k) % 2 == 0}


@pytest.mark.parametrize("kind,target,op,error", CASES.values(), ids=CASES.keys())
def test_a_fault_costs_nothing_but_the_act(place, name, kind, target, op, error):
    server, fault = place
    assert server.ssh(name, "echo first > n; echo keep > kept").status == 0
    assert server.verb("pause", name).status == 0
    first = server.json("snapshots", name)[0]["snapshot"]
    count, tried = drive(server, fault, kind(server, name), target, op, error)
    assert tried or count < (1 if ALL else SHORT[0])
    # the snapshot from before all of them is whole, from its archives alone
    assert server.verb("restore", name, first, "--force").status == 0
    assert server.ssh(name, "cat n kept").out == b"first\nkeep\n"
    done = server.verb("verify", name)
    assert done.status == 0, done
    # what was begun and not ended is found, goes, and nothing else does
    assert server.verb("gc").status == 0 and server.verb("gc").status == 0
    left = server.json("gc", "--dry-run")
    assert not left["gone"], left
    assert server.verb("verify", name).status == 0
    assert server.verb("rm", name, "--force").status == 0
