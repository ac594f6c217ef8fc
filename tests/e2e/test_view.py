"""sftp SESSION+SNAPSHOT@host: a snapshot's files, read and nothing else."""
import json
import os
import pathlib
import subprocess

import pytest

from conftest import RUNG, SSH_OPTIONS, running, wait_until
from test_bisect import gone, history, left


def sftp_argv(server, user, key=None):
    return ["sftp", *SSH_OPTIONS, "-P", str(server.port), "-i", str(key or server.key), "-b", "-", "-o", f"User={user}", "127.0.0.1"]


def sftp(server, user, batch, key=None):
    return subprocess.run(sftp_argv(server, user, key), input=batch.encode(), capture_output=True, timeout=60)


@pytest.fixture
def here(tmp_path):
    return tmp_path


@pytest.fixture(scope="module")
def past(server):
    return history(server, "past", ["one", "two", "three"])


def test_a_snapshot_s_files_are_read_as_they_were(server, past, here):
    for digest, value in zip(past, ["one", "two", "three"]):
        done = subprocess.run(["sftp", *SSH_OPTIONS, "-P", str(server.port), "-i", server.key,
                               f"past+{digest[:12]}@127.0.0.1:n", here / "n"], capture_output=True, timeout=60)
        assert done.returncode == 0, done
        assert (here / "n").read_text() == value + "\n"
    assert server.session("past")["state"] == "paused", "the session itself is not started"
    gone(server)


def test_every_way_to_name_one_works(server, past, here):
    ident = server.session("past")["id"]
    for word in (past[0], past[0][:6], "sha256:" + past[0]):
        for user in (f"past+{word}", f"{ident}+{word}"):
            done = sftp(server, user, f"get n {here}/n\n")
            assert done.returncode == 0 and (here / "n").read_text() == "one\n", (user, done)
    gone(server)


def test_a_running_session_and_its_snapshot_are_looked_at_side_by_side(server, here):
    first = history(server, "live", ["old"])[0]
    assert server.ssh("live", "echo new > n").status == 0
    done = sftp(server, f"live+{first[:12]}", f"get n {here}/n\n")
    assert done.returncode == 0 and (here / "n").read_text() == "old\n"
    assert server.ssh("live", "cat n").stdout == "new\n"
    assert server.verb("pause", "live").status == 0


def test_nothing_can_be_written(server, past, here):
    (here / "f").write_text("mine")
    user = f"past+{past[0][:12]}"
    for line in (f"put {here}/f f", f"put {here}/f /tmp/f", "rm n", "mkdir d", "rename n m", "chmod 600 n", "ln -s a l",
                 "rmdir ../workspace", f"put {here}/f /dev/shm/f", f"put {here}/f /run/f"):
        done = sftp(server, user, line + "\n")
        assert done.returncode != 0, (line, done)
        assert b"ermission denied" in done.stderr or b"ead-only" in done.stderr or b"ailure" in done.stderr, (line, done)
    done = sftp(server, user, f"ls -1\nget n {here}/n\n")
    assert (here / "n").read_text() == "one\n" and b"\nf\n" not in done.stdout
    gone(server)


@pytest.mark.skipif(RUNG in ("process", "process-user"), reason="the rung process mounts nothing")
def test_its_root_is_mounted_read_only(server, past):
    with subprocess.Popen(sftp_argv(server, f"past+{past[0][:12]}"), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as p:
        p.stdin.write(b"pwd\n")
        p.stdin.flush()
        wait_until("it to be there", lambda: left(server))
        p.stdout.readline()
        p.stdout.readline()
        roots = set()
        for proc in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                if (proc / "comm").read_text() == "sftp-server\n" or "sftp-server" in (proc / "cmdline").read_text():
                    lines = [line.split() for line in (proc / "mountinfo").read_text().splitlines()]
                    roots |= {line[5].split(",")[0] for line in lines if line[4] == "/" and "overlay" in line}
            except OSError:
                continue
        assert "ro" in roots, roots
        p.stdin.close()
    gone(server)


def one_line(done):
    lines = done.stderr.decode() if isinstance(done.stderr, bytes) else done.stderr
    return [line for line in lines.splitlines() if line]


def test_all_else_is_refused_in_one_line(server, past, here):
    user = f"past+{past[0][:12]}"
    for command, options in (("cat n", ()), ("", ("-tt",)), ("scp -f n", ())):
        done = server.ssh(user, *([command] if command else []), options=options)
        assert done.status == 77, done
        text = (done.stdout + done.stderr).strip().splitlines()
        assert len(text) == 1 and "a snapshot is only read" in text[0], done
    argv = [word for word in server.ssh_argv(user, options=["-W", "127.0.0.1:1"]) if word != "LogLevel=ERROR"]
    argv.insert(argv.index("-o", argv.index("UserKnownHostsFile=/dev/null")) + 1, "LogLevel=INFO")
    done = subprocess.run(argv, capture_output=True, timeout=60)
    assert done.returncode != 0 and b"administratively prohibited" in done.stderr, done  # libssh sends no words with it
    p = subprocess.run(["scp", *SSH_OPTIONS, "-P", str(server.port), "-i", str(server.key), f"{user}@127.0.0.1:n",
                        f"{here}/n"], capture_output=True, timeout=60)
    assert p.returncode == 0 and (here / "n").read_text() == "one\n", p
    gone(server)


def test_what_is_not_there_is_told(server, past):
    for user, word in ((f"past+{'0' * 12}", "no snapshot"), ("nosuch+abcdef", "no snapshot"), ("past+..", "not a snapshot")):
        done = sftp(server, user, "ls\n")
        assert done.returncode != 0 and word in done.stderr.decode(), (user, done)
    assert server.session("nosuch") is None
    gone(server)


def test_a_view_is_shared_and_ends_with_its_last_connection(server, past):
    user = f"past+{past[1][:12]}"
    with subprocess.Popen(sftp_argv(server, user), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as a:
        a.stdin.write(b"ls n\n")
        a.stdin.flush()
        a.stdout.readline()
        a.stdout.readline()
        ids = left(server)
        assert len(ids) == 1
        assert sftp(server, user, "ls n\n").returncode == 0
        assert left(server) == ids, "the other one still reads"
        assert server.verb("show", ids[0]).status == 66
        a.stdin.write(b"ls stamp\n")
        a.stdin.close()
        assert b"stamp" in a.stdout.read()
    gone(server)


def test_who_may_read_a_snapshot(own_server):
    server = own_server
    past = history(server, "past", ["one"])
    user = f"past+{past[0][:12]}"
    developer = server.add_key("developer", 'role="developer",sessions="past"')
    stranger = server.add_key("stranger", 'role="operator",sessions="other-*"')
    assert sftp(server, user, "ls n\n", key=developer).returncode == 0
    done = sftp(server, user, "ls n\n", key=stranger)
    assert done.returncode != 0 and b"no snapshot" in done.stderr, done
    lines = [line for line in server.json("audit") if line["kind"] == "view"]
    assert len(lines) == 1 and lines[0]["snapshot"] == past[0] and lines[0]["name"] == "past"
    wait_until("the file to be on the record", lambda: [
        line for line in server.json("audit") if line["kind"] in ("call", "call_start", "sftp", "start") or "sftp" in json.dumps(line)])
    gone(server)


def test_a_reload_of_keys_does_not_cut_who_may_still_read(own_server):
    server = own_server
    past = history(server, "past", ["one"])
    key = server.add_key("developer", 'role="developer",sessions="past"')
    with subprocess.Popen(sftp_argv(server, f"past+{past[0][:12]}", key), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as a:
        a.stdin.write(b"ls n\n")
        a.stdin.flush()
        a.stdout.readline()
        a.stdout.readline()
        server.add_key("another", 'role="developer"')
        wait_until("the keys to be read", lambda: len([x for x in server.json("audit") if x["kind"] == "keys"]) >= 3)
        a.stdin.write(b"ls stamp\n")
        a.stdin.close()
        assert b"stamp" in a.stdout.read()


def test_a_manager_that_dies_takes_its_views_along_and_the_next_removes_them(own_server):
    server = own_server
    past = history(server, "past", ["one"])
    with subprocess.Popen(sftp_argv(server, f"past+{past[0][:12]}"), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE) as a:
        a.stdin.write(b"ls n\n")
        a.stdin.flush()
        a.stdout.readline()
        a.stdout.readline()
        assert len(left(server)) == 1
        server.kill()
        server.start()
        gone(server)
        a.kill()
    assert sftp(server, f"past+{past[0][:12]}", "ls n\n").returncode == 0
    gone(server)


def test_rm_of_the_session_leaves_its_snapshots_to_be_read(own_server, here):
    server = own_server
    past = history(server, "past", ["one"])
    assert server.verb("rm", "past").status == 0
    kept = left(server)
    done = sftp(server, f"past+{past[0][:12]}", f"get n {here}/n\n")
    assert done.returncode == 0 and (here / "n").read_text() == "one\n", done
    wait_until("the view to be gone", lambda: left(server) == kept)


def test_a_stop_of_the_server_ends_views(here):
    with running() as server:
        past = history(server, "past", ["one"])
        a = subprocess.Popen(sftp_argv(server, f"past+{past[0][:12]}"), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE)
        a.stdin.write(b"ls n\n")
        a.stdin.flush()
        a.stdout.readline()
        a.stdout.readline()
        assert server.stop() == 0
        a.communicate(timeout=20)
        server.start()
        assert left(server) == []
