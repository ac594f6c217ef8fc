"""Forwards to host names: resolved inside the session, by a process of the session, whatever the answer is."""
import asyncio
import contextlib
import os
import pathlib
import shutil
import socket
import subprocess

import asyncssh
import pytest

from conftest import RUNG, at_most, running, wait_until
from test_forwards import all_of, dial, free_port

pytestmark = pytest.mark.skipif(RUNG.startswith("process"), reason="a session of the rung process may open no socket of the internet")

LAB = f"btd{os.getpid()}"

# A name server: says on stdout what it was asked for. NAME.silent: no answer; NAME.garbage: no message;
# many: forty addresses; no such name else.
DNS = r"""
import socket, struct, sys
KNOWN = {b"db.test": ["127.0.0.1", "::1"], b"four.test": ["127.0.0.1"], b"six.test": ["::1"], b"away.test": ["192.0.2.7"],
         b"many.test": ["127.0.1.%d" % i for i in range(1, 40)] + ["127.0.0.1"]}
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("127.0.0.1", 53))
print("up", flush=True)
while True:
    q, who = s.recvfrom(4096)
    at, labels = 12, []
    while q[at]:
        labels.append(q[at + 1:at + 1 + q[at]])
        at += 1 + q[at]
    name, kind = b".".join(labels), struct.unpack(">H", q[at + 1:at + 3])[0]
    print(name.decode(), flush=True)
    if name.endswith(b".silent"):
        continue
    if name.endswith(b".garbage"):
        s.sendto(q[:2] + b"\x81\x80" + b"\xff" * 400, who)
        continue
    family = {1: socket.AF_INET, 28: socket.AF_INET6}.get(kind)
    found = [a for a in KNOWN.get(name, []) if (":" in a) == (family == socket.AF_INET6)] if family else []
    head = q[:2] + struct.pack(">HHHHH", 0x8180 | (0 if name in KNOWN else 3), 1, len(found[:28]), 0, 0)
    body = b"".join(b"\xc0\x0c" + struct.pack(">HHIH", kind, 1, 5, len(r)) + r for a in found[:28] for r in [socket.inet_pton(family, a)])
    s.sendto(head + q[12:at + 5] + body, who)
"""

# Says "hello" and who it is, to each that comes at an address.
HELLO = ("import socket,sys\ns=socket.create_server((sys.argv[1],int(sys.argv[2])),family=socket.AF_INET6 if \":\" in sys.argv[1] else socket.AF_INET)\n"
         "print(\"up\",flush=True)\nwhile True:\n c,_=s.accept()\n c.sendall((\"hello from \"+sys.argv[1]).encode())\n c.close()")


@contextlib.contextmanager
def hello(server, name, address, port):
    p = server.popen(name, f"exec python3 -c '{HELLO}' {address} {port}")
    try:
        assert p.stdout.readline() == b"up\n"
        yield
    finally:
        p.kill()
        p.communicate()


def ask(server, name, target, **kw):
    with at_most(20):
        return server.ssh(name, options=("-W", target), **kw)


def told(server, words):
    """What the audit log says of the forward whose line holds these words."""
    return wait_until("its line", lambda: next((e["what"] for e in server.json("audit", "--limit 300")
                                                if e["kind"] == "forward" and words in e["what"]), None))


def hosts(server, name, *lines):
    text = "\\n".join(lines) + "\\n"
    assert server.ssh(name, f"printf '{text}' >> /etc/hosts").status == 0


# ---- /etc/hosts ----

def test_a_name_of_the_sessions_hosts_file_is_reached(server, name):
    hosts(server, name, "# 127.0.0.9 four.inside", "127.0.0.1\tfour.inside  other.Inside # more.inside", "::1 six.inside", "nonsense four.inside")
    with hello(server, name, "127.0.0.1", 7101), hello(server, name, "::1", 7102):
        assert ask(server, name, "four.inside:7101").out == b"hello from 127.0.0.1"
        assert ask(server, name, "OTHER.inside:7101").out == b"hello from 127.0.0.1"
        assert ask(server, name, "six.inside:7102").out == b"hello from ::1"
        assert ask(server, name, "six.inside:7101").out == b""
        assert ask(server, name, "more.inside:7101").out == b""
    assert told(server, "four.inside:7101").startswith("connect four.inside:7101 (127.0.0.1)")
    assert told(server, "six.inside:7102").startswith("connect six.inside:7102 (::1)")


def test_the_addresses_of_a_name_are_tried_one_after_the_other(server, name):
    hosts(server, name, "127.0.0.9 all.inside", "::1 all.inside", "127.0.0.1 all.inside")
    with hello(server, name, "127.0.0.1", 7103):
        assert ask(server, name, "all.inside:7103").out == b"hello from 127.0.0.1"
    assert "connect all.inside:7103 (127.0.0.1)" in told(server, "all.inside:7103")
    assert ask(server, name, "all.inside:7104").out == b""
    assert "connect all.inside:7104 (127.0.0.1)" in told(server, "all.inside:7104")


def test_without_a_network_an_unknown_name_fails_at_once_and_says_why(server, name):
    assert server.ssh(name, "true").status == 0
    with at_most(4):
        r = server.ssh(name, options=("-W", "nowhere.example:80"))
    assert r.status == 255 and "forwarding failed" in r.stderr, r
    assert "nowhere.example is not in the session's /etc/hosts, and no name server can be asked" in told(server, "nowhere.example")
    for target, words in (("no_name/.:80", "no_name/."), ("-x:80", "-x")):
        assert ask(server, name, target).status == 255
        assert "is neither an address nor a host name" in told(server, words)
    assert server.ssh(name, "echo on").out == b"on\n"


def test_socks_with_a_name(server, name):
    hosts(server, name, "127.0.0.1 web.inside")
    web = server.popen(name, "mkdir -p /tmp/w && cd /tmp/w && echo page > index.html && exec python3 -u -m http.server -b 127.0.0.1 7105")
    assert b"7105" in web.stdout.readline()
    port = free_port()
    p = server.popen(name, options=("-N", "-D", str(port)))
    dial(port).close()
    got = subprocess.run(["curl", "-sS", "-m", "30", "--socks5-hostname", f"127.0.0.1:{port}", "http://web.inside:7105/"],
                         capture_output=True, timeout=60, env={"PATH": os.environ["PATH"]})
    assert got.stdout == b"page\n", got
    for q in (p, web):
        q.kill()
        q.communicate()


def test_a_session_that_plays_with_its_files_gets_failures_of_its_own(server, name):
    assert server.ssh(name, "rm /etc/hosts; mkfifo /etc/hosts").status == 0
    with at_most(20):  # the child's alarm: nobody writes there
        server.ssh(name, options=("-W", "fifo.inside:80"))
    assert "nothing was said of fifo.inside inside" in told(server, "fifo.inside")
    assert server.ssh(name, "rm /etc/hosts; ln -s /dev/zero /etc/hosts").status == 0
    with at_most(20):
        server.ssh(name, options=("-W", "zero.inside:80"))
    assert "zero.inside" in told(server, "zero.inside")
    assert server.ssh(name, "rm /etc/hosts; yes '127.0.0.1 many.inside' | head -100000 > /etc/hosts").status == 0
    with hello(server, name, "127.0.0.1", 7106):
        assert ask(server, name, "many.inside:7106").out == b"hello from 127.0.0.1"


def test_what_a_key_may_reach_is_judged_by_what_it_asked_for(server, name):
    hosts(server, name, "127.0.0.1 door.inside")
    by_address = server.add_key("address-" + name, 'role="developer",permitopen="127.0.0.1:7107"')
    by_name = server.add_key("name-" + name, 'role="developer",permitopen="door.inside:7107"')
    with hello(server, name, "127.0.0.1", 7107):
        assert ask(server, name, "127.0.0.1:7107", key=by_address).out == b"hello from 127.0.0.1"
        for target in ("door.inside:7107", "localhost:7107", "127.1:7107", "0x7f000001:7107", "DOOR.inside:7107", f"{name}:7107"):
            assert ask(server, name, target, key=by_address).status == 255, target
            assert "this key may not connect to" in told(server, f"connect {target}"), target
        assert ask(server, name, "door.inside:7107", key=by_name).out == b"hello from 127.0.0.1"
        for target in ("127.0.0.1:7107", "[::1]:7107", "door.inside:7108"):
            assert ask(server, name, target, key=by_name).status == 255, target


@pytest.mark.parametrize("rung", ["rootless", "process"])
def test_names_on_the_other_rungs(name, rung):
    with running(rung=rung) as server:
        if rung == "process":  # no socket of IP there; its /etc/hosts is the node's
            assert ask(server, name, "nowhere.example:80").status == 255
            assert "nowhere.example" in told(server, "nowhere.example:80")
            return
        hosts(server, name, "127.0.0.1 four.inside")
        with hello(server, name, "127.0.0.1", 7101):
            assert ask(server, name, "four.inside:7101").out == b"hello from 127.0.0.1"
        assert ask(server, name, "nowhere.example:80").status == 255
        assert server.ssh(name, "rm /etc/hosts; mkfifo /etc/hosts").status == 0
        p = server.popen(name, options=("-W", "hangs.inside:80"))
        wait_until("it to hang", lambda: resolvers(server), 8)
        with at_most(5):
            assert server.verb("pause", "--force", name).status == 0
        p.communicate(timeout=20)
        assert not resolvers(server)


# ---- DNS ----

def ip(*words, check=True):
    subprocess.run(["ip", *words], capture_output=True, check=check)


class Dns:
    """The name server of a namespace, which sessions join; and what it was asked."""

    def __init__(self):
        argv = ["ip", "netns", "exec", LAB, "python3", "-c", DNS]
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == "up\n"

    def await_question(self, name):
        with at_most(30):
            while self.process.stdout.readline() != name + "\n":
                assert self.process.poll() is None

    def stop(self):
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def dns():
    if RUNG != "root":
        pytest.skip("only root joins sessions to a namespace")
    etc = pathlib.Path("/etc/netns") / LAB
    made = not etc.parent.exists()
    server = None
    try:
        ip("netns", "add", LAB)
        ip("-n", LAB, "link", "set", "lo", "up")
        etc.mkdir(parents=True)
        # longer than berth waits: so it is berth's deadline that ends a question
        (etc / "resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:60\n")
        server = Dns()
        yield server
    finally:
        if server:
            server.stop()
        ip("netns", "del", LAB, check=False)
        shutil.rmtree(etc, ignore_errors=True)
        if made and etc.parent.exists():
            etc.parent.rmdir()


@pytest.fixture(scope="module")
def joined(dns):
    with running(f"networks = {LAB}=netns:{LAB}\nnetwork = join:{LAB}\noperator_anywhere = yes\n") as s:
        yield s


def test_names_of_a_name_server_are_reached(joined, dns, name):
    with hello(joined, name, "127.0.0.1", 7201), hello(joined, name, "::1", 7202):
        assert ask(joined, name, "four.test:7201").out == b"hello from 127.0.0.1"
        assert ask(joined, name, "six.test:7202").out == b"hello from ::1"
        assert ask(joined, name, "db.test:7201").out == b"hello from 127.0.0.1"
        assert ask(joined, name, "db.test:7202").out == b"hello from ::1"
    assert told(joined, "db.test:7202").startswith("connect db.test:7202 (::1)")


def test_a_name_that_does_not_exist_and_bytes_that_are_no_answer_fail_within_seconds(joined, name):
    with at_most(4):
        r = joined.ssh(name, "true")
        assert joined.ssh(name, options=("-W", "nothing.test:80")).status == 255
    assert "no host nothing.test is known inside" in told(joined, "nothing.test")
    ask(joined, name, "all.garbage:80")
    assert "all.garbage" in told(joined, "all.garbage")
    assert ask(joined, name, "away.test:80").out == b""
    assert "connect away.test:80 (192.0.2.7)" in told(joined, "away.test") and "unreachable" in told(joined, "away.test")
    assert joined.ssh(name, "echo on").out == b"on\n", r


def test_of_forty_addresses_eight_are_tried(joined, name):
    assert ask(joined, name, "many.test:7203").out == b""
    assert "connect many.test:7203 (127.0.1." in told(joined, "many.test:7203")


def status_of(pid):
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


def resolvers(server):
    """Children of this server's inits that resolve: pid and status."""
    keepers, found = {str(pid) for pid, _ in server.all_pids()}, []
    for pid in (p.name for p in pathlib.Path("/proc").glob("[0-9]*")):
        with contextlib.suppress(OSError):
            status = status_of(pid)
            if status["Name"] != "berth-init" or status["PPid"] in keepers:
                continue
            parent = status_of(status["PPid"])
            if parent["Name"] == "berth-init" and parent["PPid"] in keepers:
                found.append((int(pid), status))
    return found


def test_while_a_name_server_is_silent_the_rest_goes_on_and_the_client_hears_in_time(joined, dns, name):
    async def go():
        async with asyncssh.connect("127.0.0.1", joined.port, username=name, known_hosts=None, client_keys=[str(joined.key)]) as c:
            assert (await c.run("echo before")).stdout == "before\n"

            async def hang():
                try:
                    reader, writer = await c.open_connection("no.silent", 80)
                    assert await reader.read() == b""
                    writer.close()
                except asyncssh.ChannelOpenError:
                    pass
            hanging = asyncio.ensure_future(hang())
            await asyncio.get_running_loop().run_in_executor(None, dns.await_question, "no.silent")
            for _ in range(3):
                assert (await asyncio.wait_for(c.run("echo meanwhile"), 5)).stdout == "meanwhile\n"
            assert not hanging.done()
            await asyncio.wait_for(hanging, 14)
    asyncio.run(asyncio.wait_for(go(), 60))
    assert "connect no.silent:80" in told(joined, "no.silent")


def test_a_resolver_holds_nothing_and_ends_with_who_asked(joined, dns, name):
    assert joined.ssh(name, "true").status == 0
    p = joined.popen(name, options=("-W", "held.silent:80"))
    dns.await_question("held.silent")
    (pid, status), = resolvers(joined)
    fds = {os.readlink(f) for f in pathlib.Path(f"/proc/{pid}/fd").glob("*")}
    assert all(f.startswith(("pipe:", "socket:")) for f in fds) and len(fds) <= 3, fds
    assert status["CapEff"] == status["CapPrm"] == "0" * 16 and status["NoNewPrivs"] == "1" and status["Seccomp"] == "2"
    assert "Shared" not in status and "berth" not in pathlib.Path(f"/proc/{pid}/environ").read_text()
    p.kill()
    p.communicate()
    wait_until("it to end with its client", lambda: not resolvers(joined), 4)  # its alarm is later


def test_a_pause_is_not_held_up_by_a_name_that_hangs(joined, dns, name):
    assert joined.ssh(name, "true").status == 0
    p = joined.popen(name, options=("-W", "paused.silent:80"))
    dns.await_question("paused.silent")
    assert resolvers(joined)
    with at_most(5):
        assert joined.verb("pause", "--force", name).status == 0
    p.communicate(timeout=20)
    assert not resolvers(joined)


def test_a_kill_is_not_held_up_either(joined, dns, name):
    assert joined.ssh(name, "true").status == 0
    p = joined.popen(name, options=("-W", "killed.silent:80"))
    dns.await_question("killed.silent")
    with at_most(5):
        assert joined.verb("rm", "--force", name).status == 0
    p.communicate(timeout=20)


def test_names_that_hang_take_all_places_for_seconds_and_no_longer(joined, dns, name):
    async def go():
        async with asyncssh.connect("127.0.0.1", joined.port, username=name, known_hosts=None, client_keys=[str(joined.key)]) as c:
            await c.run("true")
            opened = [asyncio.ensure_future(c.open_connection(f"n{i}.silent", 80)) for i in range(20)]
            await asyncio.get_running_loop().run_in_executor(None, dns.await_question, "n7.silent")
            assert len(resolvers(joined)) <= 16
            for o in opened:
                o.cancel()
    asyncio.run(asyncio.wait_for(go(), 60))
    wait_until("them to end", lambda: not resolvers(joined), 8)
    with hello(joined, name, "127.0.0.1", 7204):
        assert ask(joined, name, "four.test:7204").out == b"hello from 127.0.0.1"


def test_many_at_once_to_one_name(joined, name):
    port = free_port()
    with hello(joined, name, "127.0.0.1", 7205):
        p = joined.popen(name, options=("-N", "-L", f"{port}:four.test:7205"))
        dial(port).close()
        with at_most(60):
            socks = [socket.create_connection(("127.0.0.1", port), timeout=30) for _ in range(60)]
            assert {all_of(s) for s in socks} == {b"hello from 127.0.0.1"}
        p.kill()
        p.communicate()
