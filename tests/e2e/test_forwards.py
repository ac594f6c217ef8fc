"""Forwards: -L, -D, -W, -J into a session, -R out of it, and who may."""
import os
import re
import socket
import subprocess
import threading

import pytest
from conftest import RUNG, at_most, running, wait_until

pytestmark = pytest.mark.skipif(RUNG.startswith("process"), reason="a session of the rung process may open no socket of the internet")

ECHO = """
import socket, threading
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(("127.0.0.1", 7007)); s.listen(100)
print("up", flush=True)
def serve(c):
    while b := c.recv(65536):
        c.sendall(b)
    c.shutdown(socket.SHUT_WR)
while True:
    threading.Thread(target=serve, args=(s.accept()[0],), daemon=True).start()
"""


def echo_server(server, name):
    """An echo server at port 7007 inside the session."""
    p = server.popen(name, "exec python3 -c '" + ECHO.replace("'", '"') + "'", stdout=subprocess.PIPE)
    assert p.stdout.readline() == b"up\n"
    return p


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def dial(port, seconds=20):
    def attempt():
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=seconds)
        except ConnectionRefusedError:
            return None
    return wait_until("the forward", attempt)


def all_of(s):
    got = b""
    while b := s.recv(65536):
        got += b
    return got


def test_local_forward_carries_bytes_and_half_closes(server, name):
    inside = echo_server(server, name)
    port = free_port()
    p = server.popen(name, options=("-N", "-L", f"{port}:127.0.0.1:7007"))
    text = bytes(range(256)) * 40000
    for _ in range(3):
        with dial(port) as s, at_most(60):
            threading.Thread(target=lambda s=s: (s.sendall(text), s.shutdown(socket.SHUT_WR))).start()
            assert all_of(s) == text
    p.terminate()
    p.wait()
    inside.kill()
    inside.wait()


def test_stdio_forward_and_a_closed_port(server, name):
    inside = echo_server(server, name)
    p = server.popen(name, options=("-W", "localhost:7007"), stdin=subprocess.PIPE)
    out, _ = p.communicate(b"hello", timeout=30)
    assert (out, p.returncode) == (b"hello", 0)
    with at_most(20):
        r = server.ssh(name, options=("-W", "127.0.0.1:7008"))
    assert r.status == 255 and "forwarding failed" in r.stderr
    inside.kill()
    inside.wait()


def test_socks(server, name):
    inside = echo_server(server, name)
    port = free_port()
    p = server.popen(name, options=("-N", "-D", str(port)))
    with dial(port) as s:
        s.sendall(b"\5\1\0")
        assert s.recv(2) == b"\5\0"
        s.sendall(b"\5\1\0\1\x7f\0\0\1" + (7007).to_bytes(2, "big"))
        assert s.recv(10)[:2] == b"\5\0"
        s.sendall(b"through")
        assert s.recv(100) == b"through"
    p.terminate()
    p.wait()
    inside.kill()
    inside.wait()


def test_remote_forward_listens_inside(server, name):
    outside = socket.socket()
    outside.bind(("127.0.0.1", 0))
    outside.listen(5)
    p = server.popen(name, options=("-N", "-v", "-R", f"7009:127.0.0.1:{outside.getsockname()[1]}"), stderr=subprocess.PIPE)
    wait_until("the session", lambda: server.verb("show", name).status == 0)
    inside = server.popen(name, "for i in 1 2 3 4 5 6 7 8 9; do python3 -c 'import socket; s = socket.create_connection((\"localhost\", 7009)); "
                          "s.sendall(b\"from inside\"); s.shutdown(1); print(s.recv(100).decode())' && break; sleep 0.3; done",
                          stdout=subprocess.PIPE)
    outside.settimeout(30)
    s, _ = outside.accept()
    assert all_of(s) == b"from inside"
    s.sendall(b"from outside")
    s.close()
    assert inside.communicate(timeout=30)[0] == b"from outside\n"
    p.terminate()
    p.wait()
    wait_until("it to be gone", lambda: b"000" not in server.ssh(name, "grep -c ':1B61 ' /proc/net/tcp; true").out
               and server.ssh(name, "grep -c ':1B61 .* 0A ' /proc/net/tcp; true").out == b"0\n")


def test_a_port_of_its_own_choice_is_told(server, name):
    import asyncio
    import asyncssh

    async def ask():
        async with asyncssh.connect("127.0.0.1", server.port, username=name, known_hosts=None,
                                    client_keys=[str(server.key)]) as c:
            listener = await c.forward_remote_port("", 0, "127.0.0.1", 1)
            port = listener.get_port()
            r = await c.run(f"grep -c ':{port:04X} .* 0A ' /proc/net/tcp")
            listener.close()
            await listener.wait_closed()
            gone = await c.run(f"grep -c ':{port:04X} .* 0A ' /proc/net/tcp")
            return port, r.stdout, gone.stdout

    port, listens, gone = asyncio.run(asyncio.wait_for(ask(), 60))
    assert port > 1023 and (listens, gone) == ("1\n", "0\n")


def test_a_jump_through_a_session_reaches_this_server_or_says_no(server, name):
    r = server.ssh(name, options=("-W", f"127.0.0.1:{server.port}"), timeout=30)
    assert r.status == 255  # the session's loopback is its own: nobody listens there


def test_a_unix_socket_is_refused_and_the_connection_ends(server, name):
    port = free_port()
    p = server.popen(name, options=("-N", "-L", f"{port}:/tmp/socket"))
    with dial(port) as s:
        assert s.recv(1) == b""
    assert p.wait(30) == 255


def test_who_may_not_forward_is_told(server, name):
    key = server.add_key("orch-" + name, 'role="orchestrator"')
    assert server.ssh(name, "true", key=key).status == 0
    r = server.ssh(name, options=("-W", "127.0.0.1:7007"), key=key, timeout=30)
    assert r.status == 255 and "forwarding failed" in r.stderr
    p = server.popen(name, options=("-N", "-o", "ExitOnForwardFailure=yes", "-R", "7011:127.0.0.1:1"), stderr=subprocess.PIPE, key=key)
    assert p.wait(30) == 255 and b"forwarding failed" in p.stderr.read()


def test_forwards_are_in_the_audit_log(server, name):
    server.ssh(name, "true")
    server.ssh(name, options=("-W", "127.0.0.1:7013"), timeout=30)
    line = wait_until("its line", lambda: next((e for e in server.json("audit", "--limit 200") if e["kind"] == "forward"
                                                and "7013" in e["what"]), None))
    assert line["name"] == name and "refused" in line["what"]


def test_a_forward_wakes_a_paused_session(server, name):
    server.ssh(name, "true")
    assert server.verb("pause", name).status == 0
    r = server.ssh(name, options=("-W", "127.0.0.1:7007"), timeout=60)
    assert r.status == 255 or r.status == 0
    assert server.session(name)["state"] == "running"


def test_256_connections_at_once(server, name):
    inside = echo_server(server, name)
    port = free_port()
    p = server.popen(name, options=("-N", "-L", f"{port}:localhost:7007"))
    dial(port).close()
    with at_most(60):
        socks = [socket.create_connection(("127.0.0.1", port), timeout=30) for _ in range(200)]
        for i, s in enumerate(socks):
            s.sendall(b"%d" % i)
            s.shutdown(socket.SHUT_WR)
        assert [all_of(s) for s in socks] == [b"%d" % i for i in range(200)]
    p.terminate()
    p.wait()
    inside.kill()
    inside.wait()


def test_an_agent_is_forwarded_to_whom_may(name):
    with running("agent_roles = developer, operator\n") as server:
        agent = subprocess.run(["ssh-agent", "-s"], capture_output=True, text=True, check=True).stdout
        env = dict(os.environ, **dict(re.findall(r"(\w+)=([^;]+);", agent)))
        try:
            subprocess.run(["ssh-add", "-q", server.key], env=env, check=True)
            listed = subprocess.run(["ssh-add", "-l"], env=env, capture_output=True, check=True).stdout
            argv = server.ssh_argv(name, "ssh-add -l; echo $SSH_AUTH_SOCK", options=("-A",))
            r = subprocess.run(argv, env=env, capture_output=True, timeout=60)
            assert r.stdout.startswith(listed) and b"/run/berth/out/agent." in r.stdout, r
            path = r.stdout.decode().split()[-1]
            wait_until("its socket to be gone", lambda: server.ssh(name, f"test -e {path}").status == 1)
            left = subprocess.Popen(server.ssh_argv(name, "echo up; sleep 300", options=("-A",)), env=env, stdout=subprocess.PIPE)
            assert left.stdout.readline() == b"up\n"
            for pid, what in server.keeper_pids():
                if what == "berth-keeper":
                    os.kill(pid, 9)
            assert left.wait(60)
            assert server.ssh(name, "ls /run/berth/out | grep -c agent").out == b"0\n", "what a killed keeper left"
            key = server.add_key("orch", 'role="orchestrator"')
            argv = server.ssh_argv(name, "echo [$SSH_AUTH_SOCK]", options=("-A",), key=key)
            assert subprocess.run(argv, env=env, capture_output=True, timeout=60).stdout == b"[]\n"
            key = server.add_key("dev", 'role="developer",no-agent-forwarding')
            argv = server.ssh_argv(name, "echo [$SSH_AUTH_SOCK]", options=("-A",), key=key)
            assert subprocess.run(argv, env=env, capture_output=True, timeout=60).stdout == b"[]\n"
            # two at once on one connection, and a key of a call is the same call whatever the socket's name
            argv = server.ssh_argv(name, "ssh-add -l | wc -l", options=("-A", "-o", "SetEnv=BERTH_CALL=k"))
            assert [subprocess.run(argv, env=env, capture_output=True, timeout=60).stdout for _ in range(2)] == [b"1\n"] * 2
        finally:
            os.kill(int(env["SSH_AGENT_PID"]), 15)


def test_no_agent_is_forwarded_by_default(server, name):
    agent = subprocess.run(["ssh-agent", "-s"], capture_output=True, text=True, check=True).stdout
    env = dict(os.environ, **dict(re.findall(r"(\w+)=([^;]+);", agent)))
    try:
        r = subprocess.run(server.ssh_argv(name, "echo [$SSH_AUTH_SOCK]", options=("-A",)), env=env, capture_output=True, timeout=60)
        assert r.stdout == b"[]\n", r
    finally:
        os.kill(int(env["SSH_AGENT_PID"]), 15)
