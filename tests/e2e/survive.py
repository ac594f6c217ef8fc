"""Calls that print on while their links are cut, the manager is killed and readers stop. What each reader got in all,
coming back to where it was, beside the journal, the command's own record and what it must have printed."""
import asyncio
import contextlib
import copy
import hashlib
import os
import re
import signal
import socket
import struct

import asyncssh
from conftest import wait_until

AWAY = (None, 69, 75)  # the link is gone, or the server: come back


def line(number):
    return b"%d %s\n" % (number, b"0" * (1 + number % 300))


# A line each 10 ms on stdout, each 7th on stderr too, each into a file of its own, until `stop` is there.
COMMAND = """i=0; while [ ! -e stop ]; do i=$((i+1)); printf '%d %0*d\\n' $i $((1 + i % 300)) 0 | tee -a {0}
[ $((i % 7)) = 0 ] && echo $i >&2; sleep 0.01; done; exit {1}"""


class Relay:
    """Between the clients and the server; cuts all its links at once, by a TCP reset in the middle of a piece."""

    def __init__(self, to):
        self.to, self.links, self.armed, self.cuts = to, set(), None, 0
        self.up_limits = []  # after so many bytes to the server a link is cut, one after the other

    async def __aenter__(self):
        self.listener = await asyncio.start_server(self._link, "127.0.0.1", 0)
        self.port = self.listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self.listener.close()
        for link in self.links:
            for end in link:
                end.transport.abort()

    async def _link(self, reader, writer):
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.to)
        except OSError:
            writer.transport.abort()
            return
        link = (writer, up_writer)
        self.links.add(link)
        with contextlib.suppress(OSError):
            await asyncio.gather(self._carry(reader, up_writer, False), self._carry(up_reader, writer, True))
        self.links.discard(link)
        for end in link:
            end.transport.abort()

    async def _carry(self, reader, writer, down):
        carried = 0
        while piece := await reader.read(65536):
            carried += len(piece)
            if self.armed if down else self.up_limits and carried > self.up_limits[0]:
                writer.write(piece[:len(piece) // 2])
                if not down:
                    self.up_limits.pop(0)
                self._reset()
                return
            writer.write(piece)
            await writer.drain()
        with contextlib.suppress(OSError, RuntimeError):
            writer.write_eof()

    def _reset(self):
        for link in self.links:
            for end in link:
                end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.transport.abort()
        self.cuts += len(self.links)
        self.links.clear()
        if self.armed:
            self.armed.set()
            self.armed = None

    async def cut(self):
        self.armed = done = asyncio.Event()
        await asyncio.wait_for(done.wait(), 60)


class Reader:
    """Wants all of a stream of a call, and comes back as often as it must: `words(got)` asks for what it has not got
    yet. A replay begins at the first byte; each time that was cut short stays in `cut`."""

    def __init__(self, server, user, words, env=None, replays=False, by_asyncssh=False, stream="stdout"):
        self.server, self.user, self.words, self.env, self.replays = server, user, words, env or {}, replays
        self.once = self._asyncssh if by_asyncssh else self._ssh
        self.streams = (stream, "stderr" if stream == "stdout" else "stdout")  # what it wants, and what is said besides
        self.got, self.said, self.cut, self.fresh, self.times = b"", b"", [], False, 0
        self.process, self.news, self.may_read = None, asyncio.Event(), asyncio.Event()
        self.may_read.set()

    def _take(self, piece):
        self.got += piece
        self.fresh = True
        self.news.set()

    async def _ssh(self):
        words = self.words(len(self.got))
        options = ["-q"]  # nothing of its own on stderr
        if self.env:
            options += ["-o", "SetEnv=" + " ".join(f"{k}={v}" for k, v in self.env.items())]
        p = self.process = await asyncio.create_subprocess_exec(
            *self.server.ssh_argv(self.user, words, options=options), stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
        stream, other = (getattr(p, name) for name in self.streams)
        said = asyncio.create_task(other.read())
        try:
            while piece := await stream.read(65536):
                self._take(piece)
            status = await p.wait()
        finally:
            if p.returncode is None:
                p.kill()
                await p.wait()
        self.said = await said
        return None if status == 255 else status

    async def _asyncssh(self):
        try:
            async with asyncssh.connect("127.0.0.1", self.server.port, username=self.user, known_hosts=None, config=None,
                                        client_keys=[str(self.server.key)], agent_path=None) as link:
                p = await link.create_process(self.words(len(self.got)), env=self.env, encoding=None, stdin=asyncssh.DEVNULL)
                while piece := await getattr(p, self.streams[0]).read(65536):
                    self._take(piece)
                    await self.may_read.wait()
                r = await p.wait()
                self.said = getattr(r, self.streams[1])
                return r.exit_status
        except (OSError, asyncssh.Error):
            return None

    async def run(self):
        while (status := await self.once()) in AWAY:
            self.times += 1
            self.got = re.sub(rb"berth: [^\n]*\n$", b"", self.got)  # why it was sent away: on stderr, as its bytes may be
            if self.replays:
                self.cut.append(self.got)
                self.got = b""
            await asyncio.sleep(0.05)  # the server may be away
        return status

    async def lines(self, n):
        while self.got.count(b"\n") < n:
            self.news.clear()
            await asyncio.wait_for(self.news.wait(), 60)

    async def is_fresh(self):
        """Something came since the flag was taken down."""
        while not self.fresh:
            self.news.clear()
            await asyncio.wait_for(self.news.wait(), 60)

    def stop(self):
        self.may_read.clear()
        if self.once == self._ssh:
            self.process.send_signal(signal.SIGSTOP)

    def go_on(self):
        self.may_read.set()
        if self.once == self._ssh:
            self.process.send_signal(signal.SIGCONT)


async def all_fresh(readers):
    for r in readers:
        r.fresh = False
    await asyncio.gather(*(r.is_fresh() for r in readers))


async def troubles(server, relay, readers, free, cuts, stopped_lines):
    """Half of the cuts, the manager's death, the readers but `free` stopped, the other half."""
    for i in range(cuts):
        if i == cuts // 2:
            await all_fresh(readers)
            server.kill()
            await asyncio.to_thread(server.start)
            await all_fresh(readers)
            for r in readers:
                if r is not free:
                    r.stop()
            await free.lines(free.got.count(b"\n") + stopped_lines)
            for r in readers:
                r.go_on()
        await all_fresh(readers)
        await relay.cut()
    await all_fresh(readers)


def wrong_of(server, session, call, record, status, outs, errs):
    """What is not as it must be, of one call and its readers."""
    journal = server.verb("call output", call)
    row = server.json("call", "show", call)
    recorded = server.ssh(session, f"cat {record}").out
    count = recorded.count(b"\n")
    printed = b"".join(line(i) for i in range(1, count + 1))
    errors = b"".join(b"%d\n" % i for i in range(7, count + 1, 7))
    claims = {
        "the command's own record": recorded == printed,
        "journal": (journal.status, journal.out, journal.err) == (0, printed, errors),
        "exit": (row["exit_status"], row["ended_by"]) == (status, "itself"),
        "sums": (row["stdout_bytes"], row["stdout_sha256"]) == (len(printed), hashlib.sha256(printed).hexdigest()),
        "sums of stderr": (row["stderr_bytes"], row["stderr_sha256"]) == (len(errors), hashlib.sha256(errors).hexdigest()),
    }
    for what, want, readers in (("stdout", printed, outs), ("stderr", errors, errs)):
        for i, (r, _) in enumerate(readers):
            claims[f"reader {i} of {what}"] = r.got == want and all(want.startswith(cut) for cut in r.cut)
    for i, (r, ended) in enumerate(outs + errs):
        claims[f"exit of reader {i}"] = ended == (status if r.replays else 0)
        if r.replays:
            claims[f"stderr of reader {i}"] = r.said == errors
    return [what for what, holds in claims.items() if not holds], count


async def run(server, session, cuts=20, stopped_lines=1000):
    """What was wrong, and how much there was of everything."""
    keyed, detached = COMMAND.format("keyed", 7), COMMAND.format("detached", 9)
    call = server.ssh(session, detached, options=("-o", "SetEnv=BERTH_DETACH=1")).stdout.strip()
    kept = server.ssh(session, keyed, options=("-o", "SetEnv=BERTH_DETACH=1 BERTH_CALL=survive")).stdout.strip()
    async with Relay(server.port) as relay:
        via = copy.copy(server)
        via.port = relay.port

        def follow(ident, which, **kw):
            return Reader(via, "berth", lambda n: f"call output {ident} --stream {which} --from {n} --follow", **kw)

        def rejoin(**kw):
            return Reader(via, session, lambda _: keyed, {"BERTH_CALL": "survive"}, replays=True, **kw)

        both = ({}, {"by_asyncssh": True})
        outs = {kept: [rejoin(**kw) for kw in both] + [follow(kept, "out", **kw) for kw in both],
                call: [follow(call, "out", **kw) for kw in both]}
        errs = {kept: [], call: [follow(call, "err", stream="stderr", **kw) for kw in both]}
        readers = [r for of in (outs, errs) for some in of.values() for r in some]
        tasks = {r: asyncio.create_task(r.run()) for r in readers}
        try:
            await troubles(server, relay, readers, outs[call][1], cuts, stopped_lines)
            await asyncio.to_thread(server.ssh, session, "touch stop")
            for t in tasks.values():
                await asyncio.wait_for(t, 60)
        finally:
            for t in tasks.values():
                t.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)
    wrong, counts = [], []
    for ident, record, status in ((kept, "keyed", 7), (call, "detached", 9)):
        bad, count = wrong_of(server, session, ident, record, status, [(r, tasks[r].result()) for r in outs[ident]],
                              [(r, tasks[r].result()) for r in errs[ident]])
        wrong += [f"{record}: {what}" for what in bad]
        counts.append(count)
    return wrong, f"{counts[0]} and {counts[1]} lines, {relay.cuts} links cut, {sum(r.times for r in readers)} times come back"


UPLOADED = "echo begun >> begun; sha256sum; exit 3"
UPLOAD = ("-q", "-o", "SetEnv=BERTH_CALL=upload")


async def upload(server, session, path, cuts):
    """A file as stdin of a call with a key, over links that are cut in the middle of it, each a piece later than the one
    before: what the call read, and how often it was begun."""
    size = os.path.getsize(path)
    async with Relay(server.port) as relay:
        via = copy.copy(server)
        via.port = relay.port
        relay.up_limits = [size * (i + 1) // (cuts + 1) for i in range(cuts)]
        status = 255
        while status == 255:
            with open(path, "rb") as f:
                p = await asyncio.create_subprocess_exec(
                    *via.ssh_argv(session, UPLOADED, options=UPLOAD), stdin=f, stdout=asyncio.subprocess.PIPE)
            out, _ = await asyncio.wait_for(p.communicate(), 120)
            status = p.returncode
        assert relay.cuts == cuts, relay.cuts
    return status, out.split()[:1], server.ssh(session, "cat begun").out


async def upload_past(server, session, data, cut, keeper):
    """The same, one cut, while the keeper stands still: what was written to the call it hears of later."""
    async with Relay(server.port) as relay:
        via = copy.copy(server)
        via.port = relay.port
        client = via.popen(session, UPLOADED, options=UPLOAD, bufsize=0)
        await asyncio.to_thread(client.stdin.write, data[:1])
        await asyncio.to_thread(wait_until, "it to begin", lambda: server.ssh(session, "cat begun").out)
        os.kill(keeper, signal.SIGSTOP)
        try:
            relay.up_limits = [cut]
            with contextlib.suppress(BrokenPipeError):
                await asyncio.to_thread(client.communicate, data[1:])
            assert client.returncode == 255 and relay.cuts == 1
            await asyncio.to_thread(wait_until, "its conn to see it", lambda: "the client is gone" in server.log())
        finally:
            os.kill(keeper, signal.SIGCONT)
    r = await asyncio.to_thread(server.ssh, session, UPLOADED, stdin=data, options=UPLOAD)
    return r.status, r.out.split()[:1], server.ssh(session, "cat begun").out
