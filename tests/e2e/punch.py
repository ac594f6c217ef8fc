"""Calls that write more than their journal keeps. What is written is the key stream of AES-128-CTR, of which every byte
can be told again, so that what came is checked byte by byte, and what did not come by what was said of it."""
import hashlib
import os
import re
import select
import signal
import subprocess

from conftest import wait_until
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

KEY, MIB = bytes(range(16)), 1 << 20
DETACHED = ("-o", "SetEnv=BERTH_DETACH=1")
GAP = re.compile(rb"berth: call output: (\d+) bytes of (stdout|stderr) from byte (\d+) on are no longer kept here\n")


def written(at, n):
    """Bytes `at` to `at` + n of what `writes` writes."""
    stream = Cipher(algorithms.AES(KEY), modes.CTR((at // 16).to_bytes(16, "big"))).encryptor()
    return stream.update(bytes(at % 16 + n))[at % 16:]


def writes(at, n):
    """A command for it; `at` is a whole number of blocks."""
    return f"openssl enc -aes-128-ctr -K {KEY.hex()} -iv {at // 16:032x} -in /dev/zero 2>/dev/null | head -c {n}"


def sum_of(n):
    total = hashlib.sha256()
    for at in range(0, n, 16 * MIB):
        total.update(written(at, min(16 * MIB, n - at)))
    return total.hexdigest()


def holds(out, gaps, start, end):
    """Whether these are the bytes from start to end, but for those that the gaps name."""
    at, begin = start, 0
    for start_of_gap, end_of_gap in [*gaps, (end, end)]:
        n = start_of_gap - at
        if n < 0 or out[begin:begin + n] != written(at, n):
            return False
        at, begin = end_of_gap, begin + n
    return at == end and begin == len(out)


def gaps_of(err, which=b"stdout"):
    return [(int(at), int(at) + int(n)) for n, stream, at in GAP.findall(err) if stream == which]


def detach(server, session, command):
    return server.ssh(session, command, options=DETACHED).stdout.strip()


def journal_of(server, session, call):
    return server.state / "sessions" / server.session(session)["id"] / "calls" / f"{call}.j"


def disk(path):
    return path.stat().st_blocks * 512


def blocks_until_it_ends(server, session, call):
    """The most that its journal took of the disk, seen again and again while it ran, and afterwards."""
    path, most = journal_of(server, session, call), 0
    with server.popen("berth", f"call wait {call}", stdin=subprocess.DEVNULL) as waits:
        while True:
            most = max(most, disk(path))
            try:
                waits.communicate(timeout=0.02)
                return max(most, disk(path))
            except subprocess.TimeoutExpired:
                pass


class Claims(dict):
    def wrong(self):
        return [what for what, holds in self.items() if not holds]


def detached(server, session, total, bound):
    """Nobody owns it: its middle goes. stderr is said in the head and in the middle, and never again."""
    half = total // 32 * 16
    call = detach(server, session, f"echo head >&2; {writes(0, half)}; echo middle >&2; {writes(half, total - half)}; exit 5")
    most = blocks_until_it_ends(server, session, call)
    row, whole = server.json("call", "show", call), server.verb("call output", call)
    gaps, claims = gaps_of(whole.err), Claims()
    claims["a gap, and one"] = len(gaps) == 1
    if not claims["a gap, and one"]:
        return claims, f"{whole}"
    [(head, tail)] = gaps
    claims["exit and bytes"] = (row["exit_status"], row["stdout_bytes"], row["stderr_bytes"]) == (5, total, 12)
    claims["sha256 of all"] = row["stdout_sha256"] == sum_of(total)
    claims["sha256 of stderr"] = row["stderr_sha256"] == hashlib.sha256(b"head\nmiddle\n").hexdigest()
    claims["head, gap and tail"] = whole.status == 74 and holds(whole.out, gaps, 0, total)
    claims["head + gap + tail = all"] = len(whole.out) + tail - head == total
    claims["most of the bound is kept"] = len(whole.out) > bound * 3 // 4
    alone = server.verb("call output", call, "--stream err")
    for what, r in (("stderr", whole), ("stderr alone", alone)):
        claims[what] = r.status == 74 and GAP.sub(b"", r.err) == b"head\n" and gaps_of(r.err, b"stderr") == [(5, 12)]
    claims["the disk"] = most <= bound + 4 * MIB
    for where, start in (("head", 0), ("head", head - 1), ("gap", head), ("gap", (head + tail) // 2 + 7), ("gap", tail - 1),
                         ("tail", tail), ("tail", total - 100001), ("end", total)):
        r = server.verb("call output", call, f"--stream out --from {start}")
        left = [(max(start, head), tail)] if start < tail else []
        claims[f"from {start} in the {where}"] = (r.status == (74 if left else 0) and gaps_of(r.err) == left
                                                 and holds(r.out, left, start, total))
    return claims, f"{total} bytes: kept {head} and {total - tail}, {most / MIB:.1f} MiB of disk at most"


def stands_at(output):
    """How far a call is."""
    return len(output.out) + sum(end - start for start, end in gaps_of(output.err))


def read_some(process, n):
    got = b""
    while len(got) < n:
        piece = os.read(process.stdout.fileno(), n - len(got))
        assert piece, f"it has ended behind {len(got)} bytes"
        got += piece
    return got


def read_till_told(process):
    got, said, ends = b"", b"", [process.stdout, process.stderr]
    while not said.endswith(b"\n"):
        ready, _, _ = select.select(ends, [], [], 60)
        assert ready, f"nothing more came behind {len(got)} bytes and {said}"
        for end in ready:
            piece = os.read(end.fileno(), MIB)
            assert piece, f"it has ended behind {len(got)} bytes and {said}"
            got, said = (got + piece, said) if end is process.stdout else (got, said + piece)
    return got, said


def slow_follower(server, session, total):
    """A follower that is not the owner stops, and meets a gap while the call runs."""
    half = total // 32 * 16
    server.ssh(session, "mkfifo go more")
    call = detach(server, session, f"{writes(0, MIB)}; read x < go; {writes(MIB, half - MIB)}; read x < more; "
                                   f"{writes(half, total - half)}")
    follower = server.popen("berth", f"call output {call} --follow", bufsize=0, stdin=subprocess.DEVNULL)
    first = read_some(follower, MIB)
    follower.send_signal(signal.SIGSTOP)
    server.ssh(session, "echo > go")
    wait_until("half of it", lambda: stands_at(server.verb("call output", call)) == half, 300)
    follower.send_signal(signal.SIGCONT)
    some, said = read_till_told(follower)  # the call waits for `more`
    live = server.json("call", "show", call)["live"]
    server.ssh(session, "echo > more")
    rest, err = follower.communicate(timeout=300)
    got, err, claims = first + some + rest, said + err, Claims()
    gaps = gaps_of(err)
    claims["told of a gap while it runs"] = live and gaps_of(said) != []
    claims["told of nothing else"] = GAP.sub(b"", err) == b"" and follower.returncode == 74
    claims["all but the gaps"] = holds(got, gaps, 0, total)
    claims["the sum"] = server.json("call", "show", call)["stdout_sha256"] == sum_of(total)
    return claims, f"{total} bytes, to a follower that stopped: {len(got)} came, the rest in {len(gaps)} gaps"


def slow_owner(server, session, total, bound):
    """Stops again and again, each time until the journal is full, or all is in it; misses nothing."""
    owner = server.popen(session, writes(0, total), bufsize=0, stdin=subprocess.DEVNULL)
    total_sum, got, most = hashlib.sha256(), 0, 0
    piece = read_some(owner, 1)
    call = server.json("calls", session)[0]["call"]
    path = journal_of(server, session, call)
    while piece:
        total_sum.update(piece)
        got += len(piece)
        if got // (total // 16) != (got - len(piece)) // (total // 16):
            owner.send_signal(signal.SIGSTOP)
            wait_until("a full journal", lambda: disk(path) >= bound - MIB or path.stat().st_size >= total)
            most = max(most, disk(path))
            owner.send_signal(signal.SIGCONT)
        piece = os.read(owner.stdout.fileno(), MIB)
    err, status, row = owner.stderr.read(), owner.wait(), server.json("call", "wait", call)
    claims = Claims()
    claims["every byte"] = (got, total_sum.hexdigest()) == (total, sum_of(total)) == (row["stdout_bytes"], row["stdout_sha256"])
    claims["no gap"] = (status, err) == (0, b"")
    claims["the disk"] = most <= bound + 4 * MIB
    return claims, f"{got} bytes to an owner that stopped 16 times, {most / MIB:.1f} MiB of disk at most"


def run(server, session, total, bound, owned):
    """What was wrong of the three, and what there was."""
    wrong, what = [], []
    for act, args in ((detached, (total, bound)), (slow_follower, (total,)), (slow_owner, (owned, bound))):
        server.ssh(session, "true")
        claims, text = act(server, session, *args)
        wrong += [f"{act.__name__}: {claim}" for claim in claims.wrong()]
        what.append(text)
    return wrong, what
