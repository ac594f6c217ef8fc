"""BERTH_MAX_OUTPUT=SIZE: head and tail of each stream travel, a line between them tells of the rest, which is a file in the session."""
import os
import re

import pytest
from conftest import RUNG, at_most, running


if RUNG.startswith("process"):
    pytest.skip("isolation `process` has no /run/berth/out, and refuses the option", allow_module_level=True)


def call(server, session, command, size, *options, stdin=b"", extra=()):
    return server.ssh(session, command, stdin=stdin, options=("-o", " ".join([f"SetEnv=BERTH_MAX_OUTPUT={size}", *options]), *extra))


def text(n):
    """n bytes, each line different."""
    return b"".join(b"%09d\n" % i for i in range(n // 10 + 1))[:n]


def expected(whole, most, path):
    if len(whole) <= most:
        return whole
    head, tail = most - most // 2, most // 2
    newline = b"" if whole[head - 1:head] == b"\n" else b"\n"
    line = b"berth: call: %d bytes are missing here (all of it: %s)\n" % (len(whole) - most, path)
    return whole[:head] + newline + line + whole[len(whole) - tail:]


def last(server, session):
    return server.json("calls", session)[0]["call"]


@pytest.mark.parametrize("most", [1, 2, 99, 100, 1 << 20])
def test_what_travels_is_exact_around_the_boundary(server, name, most):
    near = {0, 1, most // 2, most - most // 2 - 1, most - most // 2, most - most // 2 + 1, most - 1, most, most + 1, most + 2, 2 * most, 3 * most + 7}
    for n in sorted(near):
        r = call(server, name, "cat", most, stdin=text(n))
        path = f"/run/berth/out/{last(server, name)}.out".encode()
        assert r.status == 0 and r.err == b"", (n, r)
        assert r.out == expected(text(n), most, path), n
        assert server.ssh(name, f"cat {path.decode()}").out == text(n)


def test_a_replay_by_key_is_cut_too_and_names_what_is_there(server, name):
    """Whoever was first may have asked for no files."""
    command = "seq 1000"
    whole = server.ssh(name, command, options=("-o", "SetEnv=BERTH_CALL=k")).out
    id = last(server, name)
    r = call(server, name, command, 100, "BERTH_CALL=k")
    assert r.status == 0
    line = f"berth: call: {len(whole) - 100} bytes are missing here (ssh berth@HOST call output {id})\n".encode()
    assert line in r.out and r.out.startswith(whole[:50]) and r.out.endswith(whole[-50:]), r
    assert server.verb(f"call output {id}").out == whole


def test_the_streams_are_apart(server, name):
    server.ssh(name, "cat > big", stdin=text(5_000_000))
    r = call(server, name, "cat big & cat big >&2; wait; exit 5", "64K")
    path = f"/run/berth/out/{last(server, name)}"
    assert r.status == 5
    assert r.out == expected(text(5_000_000), 65536, path.encode() + b".out")
    assert r.err == expected(text(5_000_000), 65536, path.encode() + b".err")
    r = call(server, name, "echo short >&2; cat big", "1000")
    assert r.err == b"short\n" and len(r.out) < 1200, "one may be cut and the other whole"
    assert server.ssh(name, f"cmp big {path}.out && cmp big {path}.err && echo same").out == b"same\n"


def test_a_replay_is_whole(server, name):
    assert len(call(server, name, "cat", "100", stdin=text(200_000)).out) < 250
    assert server.verb(f"call output {last(server, name)}").out == text(200_000)


def test_the_head_comes_at_once(server, name):
    server.ssh(name, "mkfifo go")
    p = server.popen(name, "echo first; cat go; echo last", options=("-o", "SetEnv=BERTH_MAX_OUTPUT=12"))
    with at_most(20):
        assert p.stdout.readline() == b"first\n"
        server.ssh(name, "echo > go")
        assert p.stdout.read() == b"\nlast\n" and p.wait() == 0
    p.stdin.close()


def test_the_files_are_the_sessions_to_read_and_no_more(server, name):
    call(server, name, "cat", "10", stdin=text(100))
    path = f"/run/berth/out/{last(server, name)}.out"
    r = server.ssh(name, f"stat -c %a {path}; echo x >> {path}; rm -f {path}; touch /run/berth/out/new; wc -c < {path}")
    assert r.out == b"640\n100\n" and len(re.findall("Read-only|Permission denied", r.stderr)) == 3, r
    assert server.verb(f"pause {name}").status == 0
    assert server.ssh(name, f"wc -c < {path}").out == b"100\n", "still there"


def test_the_oldest_files_go_when_there_are_too_many(server, name):
    call(server, name, "cat", "10", stdin=text(100))
    first = last(server, name)
    call(server, name, "cat", "10", stdin=text(100))
    second = last(server, name)
    old, = server.state.glob(f"sessions/*/spill/{first}.out")
    with open(old, "r+b") as f:  # as a call would have left it that wrote so much
        os.posix_fallocate(f.fileno(), 0, (4 << 30) + 8192)
    os.utime(old, (1, 1))
    call(server, name, "cat", "10", stdin=text(100))
    third = last(server, name)
    kept = server.ssh(name, "ls /run/berth/out").stdout.split()
    assert f"{first}.out" not in kept and {f"{second}.out", f"{third}.out"} <= set(kept)


def test_calls_that_did_not_ask_leave_no_file(server, name):
    server.ssh(name, "seq 100000")
    assert server.ssh(name, "ls /run/berth/out").out == b""


@pytest.mark.parametrize("value", ["0", "-1", "x", "", "2M", "1025K"])
def test_a_size_that_is_none_is_refused(server, name, value):
    r = server.ssh(name, "echo ran", options=("-o", f'SetEnv="BERTH_MAX_OUTPUT={value}"'))
    assert r.status == 64 and r.out == b"" and "BERTH_MAX_OUTPUT" in r.stderr, r


def test_a_terminal_is_refused(server, name):
    r = server.ssh(name, "echo ran", options=("-tt", "-o", "SetEnv=BERTH_MAX_OUTPUT=100"))
    assert r.status == 64 and "BERTH_MAX_OUTPUT" in r.stdout + r.stderr and "ran" not in r.stdout


def test_a_detached_call_is_kept_too(server, name):
    server.ssh(name, "mkfifo go")
    r = call(server, name, "cat go; seq 1000", "100", "BERTH_DETACH=1")
    ident = r.stdout.strip()
    assert re.fullmatch(r"c_[a-z0-9]+", ident), r
    server.ssh(name, "echo > go")
    with at_most(20):
        whole = server.verb(f"call output {ident} --follow").out
    assert whole.startswith(b"\n1\n2\n") and whole.endswith(b"\n1000\n")
    assert server.ssh(name, f"cat /run/berth/out/{ident}.out").out == whole


def test_without_its_directory_it_is_refused():
    with running(rung="process") as server:
        r = call(server, "demo", "echo ran", "100")
        assert r.status == 69 and r.out == b"" and "no /run/berth/out" in r.stderr, r
