"""What a client asks for one call by BERTH_* variables: with plain ssh, as SetEnv."""
import subprocess

import pytest
from conftest import at_most, wait_until


def call(server, name, command, *options, stdin=b"", **kw):
    return server.ssh(name, command, stdin=stdin, options=("-o", "SetEnv=" + " ".join(options)), **kw)


@pytest.mark.parametrize("option,words", [
    ("BERTH_TIMOUT=3s", "BERTH_TIMOUT is not known"), ("BERTH_TIMEOUT=3", "BERTH_TIMEOUT"), ("BERTH_TIMEOUT=0s", "BERTH_TIMEOUT"),
    ("BERTH_TIMEOUT=-1s", "BERTH_TIMEOUT"), ("BERTH_CWD=workspace", "not an absolute path"), ("BERTH_STDIN=yes", "not one of: null, keep"),
    ("BERTH_WAIT=some", "not all"), ("BERTH_DETACH=yes", "not 1"), ("BERTH_=1", "is not known"),
])
def test_what_is_not_known_or_no_value_is_refused(server, name, option, words):
    server.ssh(name, "true")
    before = len(server.json("calls", name))
    r = call(server, name, "echo ran", option)
    assert r.status == 64 and r.out == b"" and words in r.stderr, r
    assert r.stderr.startswith("berth: call: ") and r.stderr.count("\n") == 1
    assert len(server.json("calls", name)) == before, "nothing ran"


def test_none_of_them_reaches_the_command(server, name):
    r = call(server, name, "env | grep BERTH; echo end", "BERTH_TIMEOUT=1m", "BERTH_STDIN=null", "BERTH_WAIT=all")
    assert (r.out, r.status) == (b"end\n", 0)


def test_a_timeout_keeps_what_came_and_reaches_what_left_its_session(server, name):
    with at_most(20):
        r = call(server, name, "echo one; (setsid sh -c 'sleep 611 & exec sleep 612' &) ; trap '' TERM; echo two >&2; sleep 613; sleep 614",
                 "BERTH_TIMEOUT=500ms")
    assert (r.out, r.status) == (b"one\n", 124), r
    assert r.stderr.splitlines()[0] == "two" and "timed out after 500ms" in r.stderr and "BERTH_TIMEOUT=1s" in r.stderr
    shown = server.json("call", "show", server.json("calls", name)[0]["call"])
    assert shown["ended_by"] == "timeout" and shown["exit_status"] == 124
    wait_until("all of it to be gone", lambda: server.ssh(name, "ps -e -o args | grep -c '^sleep 61'").out == b"0\n")


def test_a_timeout_longer_than_the_sessions_limit_changes_nothing(server, name):
    assert server.verb(f"new {name} --wall 300ms").status == 0
    with at_most(20):
        r = call(server, name, "sleep 60", "BERTH_TIMEOUT=1h")
    assert r.status == 124 and f"set {name} wall" in r.stderr


def test_it_starts_where_it_is_told_or_not_at_all(server, name):
    assert call(server, name, "pwd", "BERTH_CWD=/usr/lib").out == b"/usr/lib\n"
    r = call(server, name, "echo ran", "BERTH_CWD=/nowhere")
    assert r.out == b"" and r.status in (126, 127) and "berth: exec: /nowhere: No such file or directory" in r.stderr, r


def test_stdin_can_be_at_its_end_from_the_start(server, name):
    p = server.popen(name, "cat; echo end", options=("-o", "SetEnv=BERTH_STDIN=null"))
    with at_most(20):  # our end of its stdin stays open
        assert p.stdout.read() == b"end\n" and p.wait() == 0
    p.stdin.close()


def test_waiting_for_all_gives_what_children_write(server, name):
    r = call(server, name, "(sleep 0.4; echo late; setsid sh -c 'sleep 0.4; echo later' &) & exit 3", "BERTH_WAIT=all")
    assert (r.out, r.status) == (b"late\nlater\n", 3)
    shown = server.json("call", "show", server.json("calls", name)[0]["call"])
    assert shown["left_running"] == []


def test_waiting_for_all_has_a_timeout_too(server, name):
    with at_most(20):
        r = call(server, name, "sleep 600 & echo up", "BERTH_WAIT=all", "BERTH_TIMEOUT=400ms")
    assert (r.out, r.status) == (b"up\n", 124), r


def test_a_detached_call_answers_with_its_id_and_runs_on(server, name):
    server.ssh(name, "mkfifo go")
    with at_most(20):
        r = call(server, name, "trap 'echo hup' HUP; read x < go; echo $x; cat; exit 9", "BERTH_DETACH=1", stdin=b"unused")
    assert r.status == 0 and r.err == b"", r
    ident = r.stdout.strip()
    assert ident.startswith("c_") and "\n" not in ident
    assert server.json("call", "show", ident)["ended_by"] in (None, "")
    follow = subprocess.Popen(server.ssh_argv("berth", f"call output {ident} --follow"), stdout=subprocess.PIPE)
    server.ssh(name, "echo went > go")
    assert follow.stdout.read() == b"went\n"
    assert follow.wait(20) == 0
    wait_until("its record", lambda: server.json("call", "show", ident)["ended_by"])
    assert server.json("call", "show", ident)["exit_status"] == 9


def test_a_terminal_cannot_be_detached(server, name):
    r = server.ssh(name, "true", options=("-tt", "-o", "SetEnv=BERTH_DETACH=1"))
    assert r.status == 64 and "BERTH_DETACH" in r.stdout + r.stderr
