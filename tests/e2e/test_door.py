"""Who knocks without coming in: limits before login, waits of addresses, and that no refusal is silent."""
import contextlib
import json
import socket
import subprocess

import pytest

from conftest import at_most, running, wait_until


def audit(server, kind):
    return [line for path in sorted((server.state / "audit").glob("*.jsonl")) for line in
            map(json.loads, path.read_text().splitlines()) if line["kind"] == kind]


def refused(server, reason):
    return sum(int(line["times"]) for line in audit(server, "refuse") if line["reason"] == reason)


@contextlib.contextmanager
def half_open(server, n, source="127.0.0.1"):
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 30, (source, 0))) for _ in range(n)]


def strange_key(server, name="strange"):
    path = server.base / name
    if not path.exists():
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path


def ended(sock):
    """Whether the server has closed it (waits; its version comes first)."""
    sock.settimeout(30)
    with contextlib.suppress(ConnectionResetError):
        while sock.recv(4096):
            pass
    return True


def test_half_open_connections_keep_nobody_out(name):
    with running("connections_unproven_address = 10\nlogin_grace = 60s\n") as server:
        inside = server.popen(name, "echo in; exec cat")
        assert inside.stdout.readline() == b"in\n"
        with half_open(server, 200) as socks:
            with at_most(30):
                assert server.ssh(name, "echo also").stdout == "also\n"
            inside.stdin.write(b"still\n")
            inside.stdin.flush()
            assert inside.stdout.readline() == b"still\n"
            assert all(ended(s) for s in socks[:180])
            wait_until("all refusals to be told", lambda: refused(server, "crowd") >= 190)
            # by their number, not one by one
            assert len(audit(server, "refuse")) < 60
            assert "too many of one address that have not logged in" in server.log()
        inside.stdin.close()
        assert inside.wait(30) == 0


def test_the_limit_in_all_ends_those_of_whom_there_are_most(name):
    with running("connections_unproven_max = 12\nconnections_unproven_address = 10\nlogin_grace = 60s\n") as server:
        with half_open(server, 3, "127.0.0.9") as few, half_open(server, 40, "127.0.0.8") as many:
            assert all(ended(s) for s in many[:28])
            assert server.ssh(name, "echo in").stdout == "in\n"
            wait_until("the refusals to be told", lambda: refused(server, "crowd") + refused(server, "unproven") >= 31)
            for s in few:  # they were never the most
                s.settimeout(30)
                assert s.recv(8).startswith(b"SSH-2.0-")
                s.send(b"SSH-2.0-x\r\n")
                assert s.recv(4096)  # its key exchange begins


def test_who_is_in_is_not_ended_for_who_is_not(name):
    with running("connections_max = 3\nlogin_grace = 60s\n") as server:
        inside = [server.popen(name, "echo in; exec cat") for _ in range(3)]
        assert all(p.stdout.readline() == b"in\n" for p in inside)
        done = server.ssh(name, "true")
        assert done.status == 255
        wait_until("it to be told", lambda: refused(server, "full") >= 1)
        with half_open(server, 1) as (sock,):
            sock.settimeout(30)
            assert b"connections_max" in sock.recv(4096)
        inside[0].stdin.close()
        assert inside[0].wait(30) == 0
        wait_until("room", lambda: server.ssh(name, "echo in").stdout == "in\n")
        for p in inside[1:]:
            p.stdin.close()
            assert p.wait(30) == 0
        # those that have not logged in make room
        with half_open(server, 10):
            assert server.ssh(name, "echo in").stdout == "in\n"


def test_an_address_whose_logins_fail_has_to_wait(name):
    with running("login_failures = 3\nlogin_backoff = 1d\nlogin_backoff_max = 1d\n") as server:
        key = strange_key(server)
        for _ in range(3):
            done = server.ssh(name, "true", key=key, options=["-b", "127.0.0.7"])
            assert "Permission denied" in done.stderr
        wait_until("the last to end", lambda: len(audit(server, "disconnect")) >= 3)
        with at_most(10), half_open(server, 1, "127.0.0.7") as (sock,):
            sock.settimeout(30)
            assert b"too many failed logins of its address" in sock.recv(4096)
        assert server.ssh(name, "true", options=["-b", "127.0.0.7"]).status == 255  # whatever its key
        assert server.ssh(name, "echo in", options=["-b", "127.0.0.6"]).stdout == "in\n"
        wait_until("it to be told", lambda: refused(server, "wait") >= 2)


def test_a_wait_ends_and_a_good_login_forgets_it(name):
    with running("login_failures = 2\nlogin_backoff = 1s\nlogin_backoff_max = 2s\n") as server:
        key = strange_key(server)

        def come(with_key=None):
            return server.ssh(name, "echo in", key=with_key, options=["-b", "127.0.0.7"])

        for _ in range(2):
            come(key)
        wait_until("it to be let in again", lambda: come().stdout == "in\n")
        assert come(key).status == 255  # one failure: no wait
        assert come().stdout == "in\n"


def test_loopback_itself_never_waits(name):
    with running("login_failures = 1\nlogin_backoff = 1d\nlogin_backoff_max = 1d\n") as server:
        for _ in range(3):
            assert "Permission denied" in server.ssh(name, "true", key=strange_key(server)).stderr
        assert server.ssh(name, "echo in").stdout == "in\n"


def test_too_many_tries_end_a_connection(name):
    with running("login_attempts = 4\n") as server:
        keys = [strange_key(server, f"k{i}") for i in range(6)]
        options = [word for key in keys for word in ("-i", str(key))]
        done = server.ssh(name, "true", key=keys[0], options=options)
        assert done.status == 255 and "Permission denied" not in done.stderr, done
        wait_until("it to be told", lambda: refused(server, "attempts") == 1)
        assert server.ssh(name, "echo in").stdout == "in\n"


def test_who_says_nothing_is_ended_in_time(name):
    with running("login_grace = 1s\n") as server:
        with half_open(server, 2) as socks, at_most(20):
            assert all(ended(s) for s in socks)
        wait_until("it to be told", lambda: refused(server, "late") == 2)


@pytest.mark.parametrize("line,said", [("login_attempts = 1", "login_attempts"), ("login_exempt = here", "not ADDR"),
                                       ("connections_unproven_max = 0", "connections_unproven_max")])
def test_bad_limits_are_mistakes_of_the_configuration(tmp_path, line, said):
    from conftest import BUILD
    (tmp_path / "c").write_text(line + "\n")
    done = subprocess.run([BUILD / "berthd", "--state", tmp_path / "s", "--run", tmp_path / "r", "--listen", "127.0.0.1:0",
                           "--config", tmp_path / "c"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 78 and said in done.stderr, done


def test_refused_keys_do_not_fill_the_logs(name):
    with running("login_attempts = 1000\n") as server:
        keys = [strange_key(server, f"k{i}") for i in range(90)]
        options = [word for key in keys[1:] for word in ("-i", str(key))]
        clients = [subprocess.Popen(server.ssh_argv(name, "true", key=keys[0], options=options), stdin=subprocess.DEVNULL,
                                    stderr=subprocess.PIPE) for _ in range(10)]
        assert all(b"Permission denied" in p.communicate(timeout=60)[1] for p in clients)

        def told():
            return len([a for a in audit(server, "auth") if a["result"] == "refused"])

        wait_until("all to be told of", lambda: told() + refused(server, "keys") == 900)
        assert refused(server, "keys") > 0
