"""Clients that break every rule after login: one connection may suffer, its own; nobody else does, and nothing is left."""
import contextlib
import os
import random
import re
import socket
import threading

import pytest

import raw
from conftest import BUILD, at_most, wait_until
from raw import Gone, Raw, text, u32

SANITIZED = BUILD.name == "asan"  # where freed memory is kept for a while


def conns(server):
    return {pid for pid, what in server.all_pids() if what == "berth-conn"}


def resident(pid):
    """KiB."""
    try:
        with open(f"/proc/{pid}/status") as f:
            return next((int(line.split()[1]) for line in f if line.startswith("VmRSS")), 0)
    except (FileNotFoundError, ProcessLookupError):
        return 0


def fds(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def conn_of(server, before):
    (pid,) = wait_until("its process", lambda: conns(server) - before)
    return pid


class Bystander:
    """Somebody else, whose lines come back all the while."""

    def __init__(self, server):
        self.p, self.lines, self.stop = server.popen("bystander", "cat"), 0, threading.Event()
        self.say()
        self.thread = threading.Thread(target=self.go_on)
        self.thread.start()

    def say(self):
        self.p.stdin.write(b"%d\n" % self.lines)
        self.p.stdin.flush()
        assert self.p.stdout.readline() == b"%d\n" % self.lines
        self.lines += 1

    def go_on(self):
        with contextlib.suppress(BrokenPipeError, AssertionError):
            while not self.stop.wait(0.02):
                self.say()

    def end(self):
        self.stop.set()
        self.thread.join(30)
        assert not self.thread.is_alive(), "somebody else was stopped"
        self.say()
        self.p.stdin.close()
        assert self.p.wait(30) == 0


@pytest.fixture
def watched(server, name):
    """Nothing is left of what a test does: no process, descriptor or memory; others go on; nothing crashes."""
    server.ssh(name, "true")
    keepers = [pid for pid, what in server.keeper_pids() if what == "berth-keeper"]
    standing = [server.process.pid, *keepers]
    somebody = Bystander(server)
    ours = conns(server)
    log = len(server.log())
    before = {pid: (fds(pid), resident(pid)) for pid in standing}
    yield server
    wait_until("its connections to be gone", lambda: conns(server) <= ours, 40)
    somebody.end()
    for pid, (n, memory) in before.items():
        wait_until("descriptors to be closed", lambda: fds(pid) <= n, 10)
        assert resident(pid) < memory + (1 << 19 if SANITIZED else 8192), pid
    assert not re.search("Sanitizer|runtime error|Assertion|[Ss]egmentation", server.log()[log:])
    assert server.ssh(name, "echo fine").out == b"fine\n"


@pytest.mark.parametrize("packet", [0, 1, 9, 10, 11])
def test_a_greatest_packet_that_nothing_fits_in(watched, name, packet):
    server = watched
    before = conns(server)
    with Raw(server, name) as r:
        pid = conn_of(server, before)
        try:
            if packet:
                ours, theirs = r.open(packet=packet)
                r.exec(theirs, "head -c 100000 /dev/zero")
                r.wait(raw.CLOSE, ours, 50)
                r.send(raw.CLOSE, u32(theirs))
            else:
                r.ask_open(packet=packet)  # libssh answers, or not
            assert r.run("exit 3") == 3
        except Gone:
            pass
    wait_until("it to be gone", lambda: pid not in conns(server))


def test_bytes_for_a_channel_that_we_closed_are_not_kept(watched, name):
    server = watched
    before = conns(server)
    with Raw(server, name) as r:
        pid = conn_of(server, before)
        ours, theirs = r.open()
        r.exec(theirs, "exit 0")
        r.wait(raw.CLOSE, ours)
        small = resident(pid)
        try:
            for _ in range(2000):
                r.data(theirs, bytes(32768))
            r.run("true")
        except Gone:
            pass
        assert resident(pid) < small + (16384 if not SANITIZED else 1 << 19)


def test_channels_that_are_never_closed_are_not_kept_for_ever(watched, name):
    server = watched
    before = conns(server)
    with Raw(server, name) as r:
        pid = conn_of(server, before)
        for i in range(2000):
            try:
                ours, theirs = r.open()
                r.exec(theirs, "exec", reply=False)
                r.send(raw.CLOSE + 0 if i < 1000 else raw.EOF, u32(theirs))
                if i >= 1000:
                    r.wait(raw.CLOSE, ours)
            except Gone:
                return
            r.heard.clear()
            if i == 500:
                small = resident(pid)
        assert resident(pid) < small + (8192 if not SANITIZED else 1 << 19)


CONNECT = """python3 -c '
import socket
s = socket.create_connection(("127.0.0.1", %d))
s.settimeout(50)
try:
    print("ended" if s.recv(1) == b"" else "?")
except ConnectionResetError:
    print("ended")
'"""


def listen(r, port=0):
    """-R: the port inside."""
    r.send(raw.GLOBAL, text("tcpip-forward"), b"\1", text("localhost"), u32(port))
    _, body = r.wait(raw.GLOBAL_SUCCESS)
    return int.from_bytes(body[:4], "big")


def test_a_refused_connection_from_inside_ends_there_and_touches_no_other_channel(server, name):
    with Raw(server, name) as r:
        ours, theirs = r.open()
        assert ours == 0
        r.exec(theirs, "cat")
        port = listen(r)
        inside = server.popen(name, CONNECT % port)
        _, body = r.wait(raw.OPEN)
        asked = body[4 + len("forwarded-tcpip"):][:4]
        r.send(raw.OPEN_FAILED, asked, u32(2), text("nobody listens"), text(""))
        with at_most(10):
            assert inside.communicate(timeout=30) == (b"ended\n", b"")
        r.data(theirs, "still here")
        r.wait(raw.DATA, ours)
        assert r.output(ours) == b"still here"
        assert not r.find((raw.EOF, raw.CLOSE), ours)
        r.send(raw.EOF, u32(theirs))
        r.wait(raw.CLOSE, ours)
        assert r.status(ours) == 0


def test_a_connection_from_inside_that_is_answered_too_late(server, name):
    with Raw(server, name) as r:
        ours, theirs = r.open()
        r.exec(theirs, "cat")
        port = listen(r)
        inside = server.popen(name, CONNECT % port)
        _, body = r.wait(raw.OPEN)
        asked = body[4 + len("forwarded-tcpip"):][:4]
        assert inside.communicate(timeout=50) == (b"ended\n", b"")
        r.send(raw.OPENED, asked, u32(77), u32(1 << 20), u32(32768))
        r.wait(raw.CLOSE, 77)
        r.send(raw.CLOSE, asked)
        r.data(theirs, "still here")
        r.wait(raw.DATA, ours)
        assert not r.find((raw.EOF, raw.CLOSE), ours)
        assert r.run("exit 4") == 4


def test_a_forward_ends_with_the_session_that_it_leads_to(server, name):
    inside = server.popen(name, """exec python3 -uc '
import socket
s = socket.socket(); s.bind(("127.0.0.1", 7007)); s.listen(5); print("up")
c = s.accept()[0]; c.sendall(b"last words"); c.recv(1)
'""")
    assert inside.stdout.readline() == b"up\n"
    with Raw(server, name) as r:
        ours, theirs = r.open(kind="direct-tcpip", more=text("127.0.0.1") + u32(7007) + text("here") + u32(1))
        r.wait(raw.DATA, ours)
        assert server.verb("pause", name).status == 0
        r.wait(raw.CLOSE, ours, 20)
        assert r.output(ours) == b"last words"
    inside.kill()
    inside.wait()


# ---- requests in the wrong state ----

def test_requests_in_the_wrong_state_are_refused_one_by_one(watched, name):
    with Raw(watched, name) as r:
        ours, theirs = r.open()
        r.data(theirs, "early ")
        r.request(theirs, "window-change", u32(9), u32(9), u32(0), u32(0), reply=False)
        r.request(theirs, "signal", text("INT"), reply=False)
        r.request(theirs, "no-such@thing", b"\xff" * 100)
        r.wait(raw.FAILURE, ours)
        r.exec(theirs, "cat; echo end")
        r.wait(raw.SUCCESS, ours)
        for late in (lambda: r.exec(theirs, "echo second"), lambda: r.request(theirs, "shell"), lambda: r.pty(theirs),
                     lambda: r.request(theirs, "subsystem", text("sftp")), lambda: r.request(theirs, "env", text("LANG"), text("C")),
                     lambda: r.request(theirs, "x11-req", b"\0", text("a"), text("b"), u32(0))):
            before = r.count(raw.FAILURE)
            late()
            with r.changed:
                assert r.changed.wait_for(lambda: r.count(raw.FAILURE) > before or r.gone, 30)
        r.request(theirs, "exec")  # without a command: libssh does not answer
        for what in ("NO-SUCH", "", "\0", "x" * 5000):
            r.request(theirs, "signal", text(what), reply=False)
        r.data(theirs, "late ")
        r.send(raw.EOF, u32(theirs))
        r.send(raw.EOF, u32(theirs))
        r.data(theirs, "behind the end")
        r.wait(raw.CLOSE, ours)
        assert r.output(ours).startswith(b"early late ") and r.output(ours).endswith(b"end\n")
        assert r.status(ours) == 0
        for _ in range(3):
            r.exec(theirs, "echo after the end")
            r.send(raw.EOF, u32(theirs))
            r.send(raw.CLOSE, u32(theirs))
            r.data(theirs, "to nobody")
            r.send(raw.WINDOW, u32(theirs), u32(0xffffffff))
        assert r.run("exit 5") == 5


def test_numbers_that_no_channel_has(watched, name):
    with Raw(watched, name) as r:
        ours, theirs = r.open()
        for n in (0, theirs + 1, 0x7fffffff, 0xffffffff):
            for kind, *more in ((raw.DATA, text("x")), (raw.MORE_DATA, u32(1), text("x")), (raw.EOF,), (raw.WINDOW, u32(1 << 31)),
                                (raw.CLOSE,), (raw.REQUEST, text("exec"), b"\1", text("id"))):
                r.send(kind, u32(n), *more)
        assert r.run("exit 6") == 6


def test_every_kind_of_packet_with_nonsense_in_it(watched, name):
    chance = random.Random(7)
    for kind in [*range(1, 20), *range(30, 35), *range(50, 55), *range(60, 67), *range(79, 110), 192, 255]:
        for body in (b"", chance.randbytes(5), u32(0xffffffff) * 3, text("session") + u32(1), text("\0" * 100)):
            with Raw(watched, name) as r, contextlib.suppress(Gone):
                r.send(kind, body)
                break
    for _ in range(40):  # several on one connection
        with Raw(watched, name) as r, contextlib.suppress(Gone):
            ours, theirs = r.open()
            for _ in range(20):
                kind = chance.choice([2, 4, *range(80, 101)])
                r.send(kind, u32(chance.choice([theirs, 0, 1])), chance.randbytes(chance.randrange(60)))


# ---- floods ----

def test_ten_thousand_channels_at_once(watched, name):
    before = conns(watched)
    with Raw(watched, name) as r:
        pid = conn_of(watched, before)
        small = resident(pid)
        for _ in range(10000):
            r.ask_open(window=100)
        with r.changed:
            assert r.changed.wait_for(lambda: r.count(raw.OPENED) + r.count(raw.OPEN_FAILED) == 10000, 120)
        assert r.count(raw.OPENED) == 256
        assert resident(pid) < small + (65536 if not SANITIZED else 1 << 19)


def test_an_environment_without_end(watched, name):
    with Raw(watched, name) as r:
        ours, theirs = r.open()
        for i in range(3000):
            r.request(theirs, "env", text(f"LC_{i}"), text("x" * 20000), reply=False)
        for name_, value in (("LC_NUL", "a\0b"), ("LC_\0X", "y"), ("LC_BAD", b"\xff\xfe"), (b"LC_\xff", "z"), ("LC_A=B", "c"), ("", ""),
                             ("LANG", "n\n\x1b[2J"), ("LD_PRELOAD", "/tmp/x"), ("BERTH_", "1"), ("LC_END", "there")):
            r.request(theirs, "env", text(name_), text(value), reply=False)
        r.exec(theirs, "echo ok")
        r.wait(raw.CLOSE, ours)
        assert b"ok\n" in r.output(ours) or r.status(ours) == 64  # BERTH_: no such option
        r.send(raw.CLOSE, u32(theirs))
        ours, theirs = r.open()
        r.request(theirs, "env", text("LC_BAD"), text(b"\xfe"), reply=False)
        r.exec(theirs, "env | grep -ac LC_")
        r.wait(raw.CLOSE, ours)
        assert r.status(ours) == 0


@pytest.mark.parametrize("columns,rows,term", [(0, 0, "xterm"), (0xffffffff, 0xffffffff, "xterm"), (65535, 65535, "x" * 100000), (65536, 1, "\0"),
                                               (1 << 31, 1 << 31, "a\nb\x1b[c"), (1, 1, b"\xff\xfe")])
def test_absurd_terminals(watched, name, columns, rows, term):
    with Raw(watched, name) as r:
        ours, theirs = r.open()
        r.pty(theirs, columns, rows, 0xffffffff, 0xffffffff, term, os.urandom(50))
        r.exec(theirs, "stty size; read x; stty size")
        for _ in range(2000):
            r.request(theirs, "window-change", u32(columns), u32(rows), u32(7), u32(0xffffffff), reply=False)
        r.data(theirs, "\n")
        r.wait(raw.CLOSE, ours)
        sizes = re.findall(rb"(\d+) (\d+)\r\n", r.output(ours))
        assert len(sizes) == 2 and all(int(a) < 65536 and int(b) < 65536 for a, b in sizes)


def test_commands_that_are_no_text(watched, name):
    with Raw(watched, name) as r:
        for command in (b"", b"\0", b"echo a\0b", b"\xff\xfe\xfd", b"x" * 130000, b"y" * 200000, b"'", b"\n" * 1000):
            ours, theirs = r.open()
            r.exec(theirs, command)
            r.send(raw.EOF, u32(theirs))
            r.wait(raw.CLOSE, ours)
            assert r.status(ours) is not None
            r.send(raw.CLOSE, u32(theirs))
        assert r.run("exit 7") == 7
    for command in (b"\0", b"show \xff\xfe", b"ls " + b"x" * 100000, b"'", b"a " * 30000):
        with Raw(watched, "berth") as r:
            ours, theirs = r.open()
            r.exec(theirs, command)
            r.wait(raw.CLOSE, ours)
            assert r.status(ours) == 64 or command == b"\0"


def test_a_window_that_never_opens_holds_its_own_call_alone(watched, name):
    before = conns(watched)
    with Raw(watched, name) as r:
        pid = conn_of(watched, before)
        ours, theirs = r.open(window=0)
        r.exec(theirs, "yes")
        small, _ = r.open(window=1)
        r.exec(small + theirs - ours, "yes")
        assert r.run("exit 8") == 8
        with open(f"/proc/{pid}/stat") as f:
            used = sum(map(int, f.read().split()[13:15]))
        for _ in range(20):
            assert r.run("true") == 0
        with open(f"/proc/{pid}/stat") as f:
            assert sum(map(int, f.read().split()[13:15])) - used < 300  # it does not spin
        r.send(raw.WINDOW, u32(theirs), u32(4))
        r.wait(raw.DATA, ours)
        assert r.output(ours) == b"y\ny\n"
        assert r.output(small) == b"y"


def test_packets_of_the_greatest_size_and_one_that_is_greater(watched, name):
    with Raw(watched, name) as r:
        ours, theirs = r.open()
        r.exec(theirs, "wc -c")
        for _ in range(64):
            r.data(theirs, bytes(32768))
        for _ in range(4):
            r.data(theirs, bytes(250000))
        r.data(theirs, b"")
        r.send(raw.EOF, u32(theirs))
        r.wait(raw.CLOSE, ours)
        assert r.output(ours) == b"%d\n" % (64 * 32768 + 4 * 250000)
        log = len(watched.log())
        with contextlib.suppress(Gone):
            r.data(theirs, bytes(1 << 20))
            r.wait_gone()
        wait_until("a line of it", lambda: "Packet len too high" in watched.log()[log:])


def test_a_client_that_sends_far_more_than_its_window(watched, name):
    before = conns(watched)
    with Raw(watched, name) as r, contextlib.suppress(Gone):
        pid = conn_of(watched, before)
        ours, theirs = r.open()
        r.exec(theirs, "sleep 1000")
        for _ in range(1000):
            r.data(theirs, bytes(32768))
            assert resident(pid) < (65536 if not SANITIZED else 1 << 19)
        r.wait_gone()


def test_garbage_where_packets_should_be(watched, name):
    for garbage in (b"\0" * 65536, b"\xff" * 65536, os.urandom(65536), b"GET / HTTP/1.0\r\n\r\n"):
        r = Raw(watched, name)
        ours, theirs = r.open()
        r.exec(theirs, "cat")
        r.wait(raw.SUCCESS, ours)
        with contextlib.suppress(OSError):
            r.socket.sendall(garbage)
        r.kill()


def test_connections_that_say_nothing(own_server, name):
    server = own_server
    server.stop()
    server.config.write_text("login_grace = 3s\n")
    server.start()
    silent = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(100)]
    slow = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(20)]
    for s in slow:
        with contextlib.suppress(OSError):
            s.sendall(b"SSH-2.0-")
    with at_most(30):
        assert server.ssh(name, "echo fine").out == b"fine\n"
    wait_until("them to be ended", lambda: not conns(server), 40)
    for s in silent + slow:
        s.close()


# ---- the end in the middle of everything ----

def random_deeds(r, chance, n):
    channels = []
    for _ in range(n):
        deed = chance.randrange(12)
        if deed < 3 or not channels:
            channels.append(r.open(window=chance.choice([0, 1, 1000, 1 << 20]), packet=chance.choice([100, 32768])))
            continue
        ours, theirs = chance.choice(channels)
        if deed == 3:
            r.pty(theirs, chance.randrange(300), chance.randrange(300))
        elif deed == 4:
            r.exec(theirs, chance.choice(["true", "cat", "yes", "sleep 100", "head -c 1000000 /dev/zero; sleep 1", "kill $$"]), reply=False)
        elif deed == 5:
            r.request(theirs, "subsystem", text("sftp"), reply=False)
        elif deed == 6:
            r.data(theirs, bytes(chance.randrange(30000)))
        elif deed == 7:
            r.send(raw.EOF, u32(theirs))
        elif deed == 8:
            r.send(raw.CLOSE, u32(theirs))
            channels.remove((ours, theirs))
        elif deed == 9:
            r.request(theirs, "window-change", u32(chance.randrange(500)), u32(50), u32(0), u32(0), reply=False)
        elif deed == 10:
            r.request(theirs, "signal", text(chance.choice(["HUP", "TERM", "WINCH", "USR1"])), reply=False)
        elif deed == 11 and chance.random() < 0.3:
            r.ask_open(kind="direct-tcpip", more=text("127.0.0.1") + u32(chance.choice([1, 22])) + text("here") + u32(1))


def test_a_client_killed_in_the_middle_of_everything(watched, name):
    others = conns(watched)
    for seed in range(25):
        r = Raw(watched, name)
        with contextlib.suppress(Gone, AssertionError):
            random_deeds(r, random.Random(seed), 60)
        r.kill()
        wait_until("its end", lambda: conns(watched) <= others, 10)


def test_rekeys_among_all_of_it(watched, name):
    for seed in range(8):
        chance = random.Random(100 + seed)
        with Raw(watched, name) as r:
            ours, theirs = r.open()
            r.exec(theirs, "head -c 3000000 /dev/zero; sleep 1; echo end >&2")
            for _ in range(4):
                with contextlib.suppress(AssertionError):
                    random_deeds(r, chance, 10)
                r.transport.renegotiate_keys()
                r.send(raw.WINDOW, u32(theirs), u32(1000000))
            r.wait(raw.CLOSE, ours)
            assert r.status(ours) == 0 and r.output(ours, raw.MORE_DATA).endswith(b"end\n")


def test_channels_opened_and_closed_in_any_order(watched, name):
    """Of 256 at once, each is closed before, while or after its command runs."""
    chance = random.Random(1)
    for _ in range(3):
        with Raw(watched, name) as r:
            channels = [r.open() for _ in range(256)]
            chance.shuffle(channels)
            for ours, theirs in channels:
                if chance.random() < 0.7:
                    r.exec(theirs, chance.choice(["true", "cat", "yes", "echo $$; exit 3"]), reply=False)
                if chance.random() < 0.5:
                    r.send(raw.CLOSE, u32(theirs))
            chance.shuffle(channels)
            for ours, theirs in channels:
                r.send(raw.EOF, u32(theirs))
                r.send(raw.CLOSE, u32(theirs))
            with r.changed:
                assert r.changed.wait_for(lambda: r.count(raw.CLOSE) == 256 or r.gone, 60)
            assert not r.gone and r.run("exit 9") == 9


# ---- storms; BERTH_TEST_STORMS: how many of each ----

STORMS = int(os.environ.get("BERTH_TEST_STORMS", "1"))


def test_256_channels_at_once_each_with_its_own_output_and_exit(watched, name):
    for storm in range(STORMS):
        with Raw(watched, name) as r:
            channels = [r.open() for _ in range(256)]
            for ours, theirs in channels:
                r.exec(theirs, f"echo {storm} {ours}; exit {ours % 100}", reply=False)
            for ours, theirs in channels:
                r.wait(raw.CLOSE, ours)
            for ours, theirs in channels:
                assert r.output(ours) == b"%d %d\n" % (storm, ours), r.output(ours, raw.MORE_DATA)
                assert r.status(ours) == ours % 100


def test_sizes_and_signals_in_a_storm_of_rekeys(watched, name):
    for storm in range(STORMS):
        chance = random.Random(storm)
        with Raw(watched, name) as r:
            ours, theirs = r.open()
            r.pty(theirs)
            r.exec(theirs, "trap : WINCH USR1 USR2; echo up; until read line; do :; done; stty size; echo $line")
            r.wait(raw.DATA, ours)
            for i in range(600):
                r.request(theirs, "window-change", u32(chance.randrange(1, 500)), u32(chance.randrange(1, 500)), u32(0), u32(0), reply=False)
                r.request(theirs, "signal", text(chance.choice(["USR1", "USR2", "WINCH"])), reply=False)
                if i % 150 == 149:
                    r.transport.renegotiate_keys()
            r.request(theirs, "window-change", u32(101), u32(33), u32(0), u32(0), reply=False)
            assert r.run("true") == 0  # a round trip: what was sent before is there
            r.data(theirs, "end\n")
            r.wait(raw.CLOSE, ours)
            assert b"33 101\r\nend\r\n" in r.output(ours), r.output(ours)[-300:]


def test_a_client_that_leaves_early_while_256_channels_run(watched, name):
    others = conns(watched)
    for storm in range(4 * STORMS):
        chance = random.Random(storm)
        r = Raw(watched, name)
        with contextlib.suppress(Gone):
            channels = [r.open() for _ in range(256)]
            chance.shuffle(channels)
            for ours, theirs in channels[:200]:
                r.exec(theirs, chance.choice(["yes", "echo a; sleep 100", "cat", "head -c 300000 /dev/zero"]), reply=False)
            for ours, theirs in channels[:chance.randrange(200)]:
                r.send(raw.CLOSE, u32(theirs))
            if storm % 2:
                r.send(1, u32(11), text("bye"), text(""))
        r.kill()
        wait_until("its end", lambda: conns(watched) <= others, 30)


DEAF = """exec python3 -uc '
import socket, time
s = socket.socket(); s.bind(("127.0.0.1", 7010)); s.listen(0)
full = []
for _ in range(8):
    c = socket.socket(); c.setblocking(False); c.connect_ex(("127.0.0.1", 7010)); full.append(c)
print("up"); time.sleep(100)
'"""


def test_hosts_that_do_not_answer_do_not_hold_up_the_connection(watched, name):
    inside = watched.popen(name, DEAF)
    assert inside.stdout.readline() == b"up\n"
    with Raw(watched, name) as r:
        assert r.run("true") == 0
        with at_most(4):  # 40 times a quarter of a second else
            for _ in range(40):
                r.ask_open(kind="direct-tcpip", more=text("127.0.0.1") + u32(7010) + text("here") + u32(1))
            assert r.run("exit 3") == 3
    inside.kill()
    inside.wait()
