"""Each kind of bad input gets one line `berth: WHAT: WHY (HINT)`, its exit code, and loses nothing."""
import os
import re
import socket
import subprocess
import tempfile

import pytest

from conftest import BUILD, Server

LINE = re.compile(r"^berth: [^\n]+: [^\n]+ \([^\n]+\)\n$")


def berthd(*args, **kw):
    return subprocess.run([BUILD / "berthd", *map(str, args)], capture_output=True, text=True, timeout=30, **kw)


def last_line(done):
    return done.stderr.splitlines(keepends=True)[-1]


@pytest.mark.parametrize("words,status", [
    ("frobnicate", 64), ("pause", 64), ("pause a b", 64), ("ls --no-such", 64), ("show 'open quote", 64),
    ("new UPPER", 64), ("new berth", 64), ("new s_aaaaaaaaaaaaaaaa", 64), ("show nobody", 66), ("pause nobody", 66),
    ("snapshots nobody", 66), ("call show c_aaaaaaaaaaaaaaaa", 66), ("call show nonsense", 64), ("rm nobody", 66),
    ("calls nobody --limit -1", 64), ("pause nobody --grace 5", 64),
])
def test_verbs(server, words, status):
    r = server.verb(words)
    assert r.status == status and LINE.match(r.stderr) and r.out == b"", r


def test_errors_as_json(server):
    import json
    r = server.verb("show nobody --json")
    e = json.loads(r.stderr)
    assert r.status == 66 and e["code"] == "absent" and e["message"] and e["hint"], r


def test_restore_of_what_does_not_exist(server, name):
    server.ssh(name, "echo x > a")
    r = server.verb("restore", name, "abcdef123456")
    assert r.status == 66 and LINE.match(r.stderr), r
    assert server.ssh(name, "cat a").out == b"x\n"


def test_bad_session_names_are_said(server):
    for user in ("UPPER", "_dash", "a/b", "x" * 64, "s_short!"):
        r = server.ssh(user, "true")
        assert r.status == 64 and LINE.match(r.stderr), (user, r)
    assert all(s["name"] not in ("UPPER", "_dash") for s in server.json("ls"))


def test_an_unknown_key_does_not_get_in(server, tmp_path):
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "k"], check=True)
    r = server.ssh("demo", "true", key=tmp_path / "k")
    assert r.status == 255 and "Permission denied (publickey)" in r.stderr, r


def test_roles_and_scopes_hold(server):
    agent = server.add_key("scoped-agent", 'role="orchestrator",sessions="agent-*,shared"')
    human = server.add_key("human", 'role="developer"')
    assert server.ssh("agent-1", "echo in", key=agent).out == b"in\n"
    r = server.ssh("other", "true", key=agent)
    assert r.status in (66, 77) and r.stderr.startswith("berth: "), r
    assert server.session("other") is None
    assert server.verb("rm agent-1", key=agent).status == 77
    assert server.ssh("agent-1", "echo dev", key=human).out == b"dev\n"
    r = server.ssh("not-there", "true", key=human)
    assert r.status == 66, r
    assert server.verb("pause agent-1", key=human).status == 77
    server.ssh("secret", "true")
    assert server.verb("show secret", key=agent).status == 66
    assert "secret" not in server.verb("ls", key=agent).stdout


def test_a_restricted_key_line_is_refused_not_widened(server):
    key = server.add_key("restricted", 'from="10.0.0.1"')
    r = server.ssh("demo", "true", key=key)
    assert r.status == 255 and "Permission denied" in r.stderr, r


def test_command_line(tmp_path):
    for args in (["--no-such"], ["stray"], ["--state"]):
        done = berthd(*args)
        assert done.returncode == 64 and LINE.match(last_line(done)), done


def test_config_with_an_unknown_key_or_a_bad_value(tmp_path):
    for text in ("no_such_key = 1\n", "kill_grace = soon\n", "auto_create = maybe\n", "nonsense\n", "calls_max = 0\n"):
        conf = tmp_path / "c"
        conf.write_text("# fine\n\n" + text)
        done = berthd("--config", conf, "--state", tmp_path / "s", "--run", tmp_path / "r")
        assert done.returncode == 78 and LINE.match(last_line(done)) and "line 3" in done.stderr, done
    assert not (tmp_path / "s").exists()
    done = berthd("--config", tmp_path / "absent")
    assert done.returncode == 78 and LINE.match(last_line(done)), done


def test_a_bad_address(tmp_path):
    for listen in ("nowhere", "127.0.0.1:99999", "host.name:22", "[::1"):
        done = berthd("--state", tmp_path / "s", "--run", tmp_path / "r", "--listen", listen)
        assert done.returncode == 78 and LINE.match(last_line(done)), done


def test_port_taken(tmp_path):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        done = berthd("--state", tmp_path / "s", "--run", tmp_path / "r", "--listen", "127.0.0.1:%d" % s.getsockname()[1])
    assert done.returncode == 69 and LINE.match(last_line(done)), done


def test_a_second_berthd_on_the_same_state(server):
    done = berthd("--state", server.state, "--run", server.run, "--listen", "127.0.0.1:0")
    assert done.returncode == 69 and LINE.match(last_line(done)) and "another berthd" in done.stderr, done


def test_a_corrupt_index_is_refused_and_nothing_touched(own_server, name):
    server = own_server
    server.ssh(name, "echo x > a")
    assert server.stop() == 0
    index = server.state / "index.db"
    good = index.read_bytes()
    bad = bytearray(good)
    bad[4096:8192] = os.urandom(4096)
    index.write_bytes(bad)
    before = sorted((str(p), p.stat().st_mtime_ns) for p in server.state.rglob("*") if p.is_file() and p.name[:8] != "index.db")
    done = berthd("--state", server.state, "--run", server.run, "--listen", "127.0.0.1:0")
    assert done.returncode == 65 and LINE.match(last_line(done)), done
    after = sorted((str(p), p.stat().st_mtime_ns) for p in server.state.rglob("*") if p.is_file() and p.name[:8] != "index.db")
    assert before == after and index.read_bytes() == bytes(bad)
    index.write_bytes(b"not a database at all, but long enough to be looked at" * 100)
    done = berthd("--state", server.state, "--run", server.run, "--listen", "127.0.0.1:0")
    assert done.returncode == 65 and LINE.match(last_line(done)), done
    index.write_bytes(good)
    server.start()
    assert server.ssh(name, "cat a").out == b"x\n"


def test_a_newer_index_is_refused(own_server):
    server = own_server
    assert server.stop() == 0
    import sqlite3
    c = sqlite3.connect(server.state / "index.db")
    ours = c.execute("PRAGMA user_version").fetchone()[0]
    c.execute("PRAGMA user_version=99")
    c.commit()
    c.close()
    done = berthd("--state", server.state, "--run", server.run, "--listen", "127.0.0.1:0")
    assert done.returncode == 78 and "schema version 99" in done.stderr, done
    c = sqlite3.connect(server.state / "index.db")
    c.execute(f"PRAGMA user_version={ours}")
    c.commit()
    c.close()
    server.start()


def test_no_root_for_a_rung_that_needs_it():
    with tempfile.TemporaryDirectory() as d:
        os.chmod(d, 0o777)
        with open(d + "/conf", "w") as f:
            f.write("isolation = root\n")
        done = berthd("--state", d + "/s", "--run", d + "/r", "--listen", "127.0.0.1:0", "--config", d + "/conf",
                      user=65534, group=65534)
        assert done.returncode == 77 and LINE.match(last_line(done)), done
        assert os.listdir(d) == ["conf"]


def test_garbage_before_the_banner_and_silence_hurt_nobody(own_server):
    server = own_server
    server.stop()
    server.config.write_text("login_grace = 1s\n")
    server.start()
    socks = []
    for payload in (b"", b"GET / HTTP/1.0\r\n\r\n", b"\0" * 4096, b"SSH-2.0-x\r\n" + os.urandom(2048), b"SSH-1.5-old\r\n"):
        s = socket.create_connection(("127.0.0.1", server.port))
        s.settimeout(20)
        s.sendall(payload)
        socks.append(s)
    assert server.ssh("demo", "echo fine").out == b"fine\n"
    for s in socks:
        try:
            while s.recv(4096):
                pass
        except ConnectionResetError:
            pass
        s.close()
