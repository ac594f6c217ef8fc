"""What the tests start inside: an echo server; and how they reach it."""
import contextlib
import socket

from conftest_e2e import wait_until

ECHO = """
import socket, threading
s = socket.create_server(("127.0.0.1", 0), backlog=300)
print(s.getsockname()[1], flush=True)
def serve(c):
    with c:
        while b := c.recv(65536):
            c.sendall(b)
        c.shutdown(socket.SHUT_WR)
while True:
    threading.Thread(target=serve, args=(s.accept()[0],), daemon=True).start()
"""


@contextlib.contextmanager
def echo_inside(host):
    """A server inside that says what it hears; its port."""
    p = host.popen("exec python3 -c '" + ECHO.replace("'", '"') + "'")
    try:
        yield int(p.stdout.readline())
    finally:
        p.kill()
        p.communicate()


def dial(port, seconds=60):
    def attempt():
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=seconds)
        except ConnectionRefusedError:
            return None
    return wait_until("the forward", attempt)


def all_of(s):
    got = bytearray()
    while b := s.recv(65536):
        got += b
    return bytes(got)
