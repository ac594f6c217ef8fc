"""A client that says whatever a test wants once it is logged in: packets are put together by hand, on paramiko's transport."""
import contextlib
import logging
import socket
import struct
import threading

import paramiko
from paramiko.message import Message

logging.getLogger("paramiko").setLevel(logging.CRITICAL)

IGNORE, GLOBAL, GLOBAL_SUCCESS, GLOBAL_FAILURE = 2, 80, 81, 82
OPEN, OPENED, OPEN_FAILED, WINDOW, DATA, MORE_DATA, EOF, CLOSE, REQUEST, SUCCESS, FAILURE = range(90, 101)


class _All:
    """Every number is in it: paramiko ignores what it would call an unknown channel."""

    def __contains__(self, _):
        return True

    def add(self, _):
        pass


class Gone(Exception):
    """The server ended the connection."""


def u32(n):
    return struct.pack(">I", n)


def text(s):
    s = s.encode() if isinstance(s, str) else s
    return u32(len(s)) + s


class Raw:
    """One connection; `heard` is every packet that came, in order."""

    def __init__(self, server, user, compress=False):
        self.heard, self.changed, self.gone, self.last = [], threading.Condition(), False, -1
        self.socket = socket.create_connection(("127.0.0.1", server.port))
        self.transport = t = paramiko.Transport(self.socket, gss_kex=False)
        t.channels_seen = _All()
        t._handler_table = {**t._handler_table, OPEN: lambda *_: None, OPENED: lambda *_: None,
                            OPEN_FAILED: lambda *_: None}  # the test answers
        t.use_compression(compress)
        read = t.packetizer.read_message

        def listen():
            try:
                kind, m = read()
            except BaseException:
                with self.changed:
                    self.gone = True
                    self.changed.notify_all()
                raise
            with self.changed:
                if kind != DATA and kind != MORE_DATA or len(self.heard) < 100000:
                    self.heard.append((kind, m.asbytes()))
                self.gone |= kind == 1  # DISCONNECT
                self.changed.notify_all()
            return kind, m
        t.packetizer.read_message = listen
        t.start_client(timeout=60)
        t.auth_publickey(user, paramiko.Ed25519Key.from_private_key_file(str(server.key)))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.transport.close()
        self.socket.close()

    def kill(self):
        """A link that breaks: no word, a reset; where the server was first, its thread has closed the socket."""
        with contextlib.suppress(OSError):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()
        self.transport.close()

    def send(self, kind, *parts):
        m = Message()
        m.add_byte(bytes([kind]))
        m.add_bytes(b"".join(parts))
        try:
            self.transport._send_user_message(m)
        except (OSError, EOFError, paramiko.SSHException) as e:
            raise Gone from e

    def find(self, kinds, channel=None):
        for kind, body in self.heard:
            if kind in kinds and (channel is None or body[:4] == u32(channel)):
                return kind, body
        return None

    def wait(self, kinds, channel=None, seconds=60):
        """The first packet of these kinds, for this channel of ours."""
        kinds = kinds if isinstance(kinds, tuple) else (kinds,)
        with self.changed:
            self.changed.wait_for(lambda: self.gone or self.find(kinds, channel), seconds)
            found = self.find(kinds, channel)
            if found:
                return found
            if self.gone:
                raise Gone
            raise AssertionError(f"waited {seconds} s for packet {kinds}")

    def wait_gone(self, seconds=60):
        with self.changed:
            assert self.changed.wait_for(lambda: self.gone, seconds), "the server did not end it"

    def count(self, kind):
        with self.changed:
            return sum(k == kind for k, _ in self.heard)

    def ask_open(self, window=1 << 20, packet=32768, kind="session", more=b""):
        """Returns our number of it, before it was answered."""
        self.last += 1
        self.send(OPEN, text(kind), u32(self.last), u32(window), u32(packet), more)
        return self.last

    def open(self, *args, **kw):
        """(our number, the server's)"""
        ours = self.ask_open(*args, **kw)
        kind, body = self.wait((OPENED, OPEN_FAILED), ours)
        assert kind == OPENED, "refused"
        return ours, struct.unpack(">I", body[4:8])[0]

    def request(self, theirs, name, *fields, reply=True):
        self.send(REQUEST, u32(theirs), text(name), bytes([reply]), *fields)

    def exec(self, theirs, command, reply=True):
        self.request(theirs, "exec", text(command), reply=reply)

    def pty(self, theirs, columns=80, rows=24, x=0, y=0, term="xterm", modes=b"\0"):
        self.request(theirs, "pty-req", text(term), u32(columns), u32(rows), u32(x), u32(y), text(modes))

    def data(self, theirs, what):
        self.send(DATA, u32(theirs), text(what))

    def run(self, command):
        """An exec as it should be; its exit status."""
        ours, theirs = self.open()
        self.exec(theirs, command)
        self.send(EOF, u32(theirs))
        self.wait(CLOSE, ours)
        self.send(CLOSE, u32(theirs))
        return self.status(ours)

    def status(self, ours):
        for kind, body in self.heard:
            if kind == REQUEST and body[:4] == u32(ours) and text("exit-status") in body:
                return struct.unpack(">I", body[-4:])[0]
        return None

    def output(self, ours, kind=DATA):
        return b"".join(body[8:] for k, body in self.heard if k == kind and body[:4] == u32(ours))
