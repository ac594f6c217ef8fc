"""One fault at a time in a process of a server: build the preload, arm it, look what it met."""
import contextlib
import errno
import mmap
import os
import pathlib
import struct
import subprocess
import tempfile

from berth_e2e import make_server, wait_until

OPS = {"open": 1, "write": 2, "sync": 4, "rename": 8, "make": 16, "step": 32}
ERRORS = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO, "EMFILE": errno.EMFILE, "SIGKILL": -1}
FORM = struct.Struct("32sIIIiII32s256s")  # struct fault_order of fault.c
SOURCE = pathlib.Path(__file__).with_name("fault.c")


class Fault:
    """What is to fail next, and what came of it."""

    def __init__(self, base):
        self.library = base / "fault.so"
        subprocess.run(["gcc", "-std=gnu11", "-D_GNU_SOURCE", "-O1", "-Wall", "-Werror", "-fPIC", "-shared",
                        "-o", self.library, SOURCE, "-ldl"], check=True)
        path = base / "order"
        path.write_bytes(b"\0" * FORM.size)
        with open(path, "r+b") as f:
            self.map = mmap.mmap(f.fileno(), FORM.size)
        self.env = {"LD_PRELOAD": str(self.library), "BERTH_FAULT": str(path)}

    def arm(self, target, op, nth, error):
        self.map[:] = FORM.pack(target.encode(), 0, OPS[op], nth, ERRORS.get(error, 0), 0, 0, b"", b"")
        self.map[32:36] = struct.pack("I", 1)

    def disarm(self):
        self.map[32:36] = struct.pack("I", 0)

    def read(self):
        target, armed, ops, nth, error, count, hit, what, path = FORM.unpack(self.map[:])
        return count, bool(hit), what.rstrip(b"\0").decode(), path.rstrip(b"\0").decode("utf-8", "replace")


@contextlib.contextmanager
def faulty(config=""):
    """A server whose processes can be made to fail. As conftest.running."""
    with tempfile.TemporaryDirectory(prefix="bf.") as base:
        fault = Fault(pathlib.Path(base))
        server = make_server(config)
        start = server.start
        server.start = lambda wait=True, env=None: start(wait, {**fault.env, **(env or {})})
        try:
            server.start()
            yield server, fault
            fault.disarm()
            server.remove()
        except BaseException:
            print(server.log()[-6000:])
            raise
        finally:
            fault.disarm()
            server.discard()


def revive(server):
    """The manager again, if the fault has killed it."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        server.process.wait(0.2)
    if server.process.poll() is not None:
        server.process.stdout.close()
        server.start()
        return True
    return False


def settled(server, name):
    """The session is at rest: no act of it is under way."""
    return wait_until(f"{name} to rest", lambda: (lambda s: s and s["state"] in ("running", "paused", "failed") and s)(
        server.session(name)))
