"""bisect: which snapshot is the first bad one, by forks that nobody sees and that leave nothing."""
import json
import os
import signal
import subprocess

import pytest

from conftest import wait_until


def history(server, name, values):
    """One snapshot each, with the value in /workspace/n; their digests, the oldest first."""
    made = []
    for value in values:
        assert server.ssh(name, f"echo {value} > n; date +%N > stamp").status == 0
        assert server.verb("pause", name).status == 0
        made.append(server.session(name)["head"].removeprefix("sha256:"))
    return made


def left(server):
    """Directories and rows of sessions that no list shows."""
    known = {s["id"] for s in server.json("ls")}
    return [p.name for p in (server.state / "sessions").iterdir() if p.name not in known]


def gone(server):
    wait_until("throwaway sessions to be gone", lambda: not left(server))


def events(done):
    return [json.loads(line) for line in done.out.splitlines()]


@pytest.fixture(scope="module")
def past(server):
    return history(server, "past", range(1, 10))


@pytest.mark.parametrize("first_bad, parallel", [(1, 1), (2, 2), (3, 4), (4, 1), (5, 2), (6, 4), (7, 1), (8, 2), (1, 4)])
def test_the_first_bad_snapshot_is_found_wherever_it_is(server, past, first_bad, parallel):
    done = server.verb("bisect", "past", past[0][:12], past[-1][:12], "--json", "--parallel", str(parallel),
                       "--", f"'test $(cat n) -le {first_bad}'")
    assert done.status == 0, done
    told = events(done)
    assert told[-1]["event"] == "found" and told[-1]["first_bad"] == "sha256:" + past[first_bad]
    assert told[-1]["last_good"] == "sha256:" + past[first_bad - 1] and told[-1]["made_by"] == "pause"
    tested = [e for e in told if e["event"] == "tested"]
    assert len(tested) <= 2 + 7 and {e["verdict"] for e in tested} == {"good", "bad"}
    gone(server)


def test_words_of_the_command_arrive_as_they_were_given(server, past):
    done = server.verb("bisect", "past", past[0][:8], past[2][:8], "--", "grep", "-qx", "'[1 2]'", "n")
    assert done.status == 0 and f"first bad: {past[2][:12]}" in done.stdout, done
    assert f"{past[0][:12]}: good (exit 0)" in done.stdout


def test_the_end_of_what_a_bad_run_printed_is_shown(server, past):
    command = "'for i in $(seq 1000); do echo line $i; done; echo to stderr >&2; test $(cat n) = 1'"
    done = server.verb("bisect", "past", past[0][:12], past[1][:12], "--", command)
    assert done.status == 0, done
    assert "    line 1000\n" in done.stdout and "    to stderr\n" in done.stdout and "line 1\n" not in done.stdout
    told = events(server.verb("bisect", "past", past[0][:12], past[1][:12], "--json", "--", command))
    bad = next(e for e in told if e.get("verdict") == "bad")
    assert bad["output"].endswith("line 1000\nto stderr\n") or "to stderr\n" in bad["output"]
    gone(server)


def test_125_skips_and_says_so_when_nothing_else_is_left(server, past):
    done = server.verb("bisect", "past", past[0][:12], past[6][:12], "--", "'n=$(cat n); test $n = 4 && exit 125; test $n -le 2'")
    assert done.status == 0 and f"first bad: {past[2][:12]}" in done.stdout, done
    done = server.verb("bisect", "past", past[0][:12], past[4][:12], "--",
                       "'n=$(cat n); case $n in 3|4) exit 125;; esac; test $n -le 2'")
    assert done.status == 69 and "skipped" in done.stderr and past[4][:12] in done.stderr, done
    gone(server)


def test_ends_that_are_not_what_they_were_said_to_be_are_told(server, past):
    done = server.verb("bisect", "past", past[0][:12], past[3][:12], "--", "false")
    assert done.status == 64 and "good snapshot" in done.stderr, done
    done = server.verb("bisect", "past", past[0][:12], past[3][:12], "--", "true")
    assert done.status == 64 and "bad snapshot" in done.stderr, done
    done = server.verb("bisect", "past", past[3][:12], past[0][:12], "--", "true")
    assert done.status == 64 and "no ancestor" in done.stderr, done
    done = server.verb("bisect", "past", past[3][:12], past[3][:12], "--", "true")
    assert done.status == 64, done
    assert server.verb("bisect", "past", past[0][:12], past[3][:12]).status == 64
    assert server.verb("bisect", "past", "ffffff", past[3][:12], "--", "true").status == 66
    gone(server)


def test_a_run_that_takes_too_long_is_bad(server, past):
    done = server.verb("bisect", "past", past[0][:12], past[2][:12], "--timeout", "700ms", "--",
                       "'test $(cat n) = 3 && exec sleep 600; true'")
    assert done.status == 0 and f"first bad: {past[2][:12]}" in done.stdout and "too long" in done.stdout, done
    gone(server)


def test_runs_do_not_see_each_other_and_change_nothing(server, past):
    before = server.json("snapshots", "past")
    done = server.verb("bisect", "past", past[0][:12], past[8][:12], "--parallel", "4", "--",
                       "'test ! -e mark || exit 1; echo x > mark; test $(cat n) -le 5'")
    assert done.status == 0 and f"first bad: {past[5][:12]}" in done.stdout, done
    assert server.json("snapshots", "past") == before
    assert server.ssh("past", "ls").stdout == "n\nstamp\n"
    assert server.verb("pause", "past").status == 0
    gone(server)


def test_much_output_holds_nothing_up(server, past):
    done = server.verb("bisect", "past", past[0][:12], past[1][:12], "--", "'head -c 150000000 /dev/zero; test $(cat n) = 1'",
                       timeout=120)
    assert done.status == 0 and f"first bad: {past[1][:12]}" in done.stdout, done.stderr
    gone(server)


def test_a_path_leads_through_a_fork_to_its_origin(server):
    mine = history(server, "root", [1, 2])
    assert server.verb("fork", "root", "branch").status == 0
    theirs = history(server, "branch", [3, 4])
    done = server.verb("bisect", "branch", mine[0][:12], theirs[1][:12], "--", "'test $(cat n) -le 2'")
    assert done.status == 0 and f"first bad: {theirs[0][:12]}" in done.stdout, done
    gone(server)


def test_no_list_shows_the_forks_of_a_bisect_and_no_client_reaches_them(own_server):
    server = own_server
    past = history(server, "past", [1, 2])
    p = server.popen("berth", f"bisect past {past[0][:12]} {past[1][:12]} -- 'echo up >> /tmp/x; exec sleep 600'")
    ids = wait_until("its sessions to run", lambda: len(left(server)) == 2 and left(server))
    assert [s["name"] for s in server.json("ls")] == ["past"]
    for i in ids:
        assert server.verb("show", i).status == 66 and server.verb("pause", i).status == 66
        assert server.ssh(i, "true").status == 66
        assert server.verb("fork", i, "x").status == 66
    p.send_signal(signal.SIGINT)
    p.wait(20)
    gone(server)


def sleeping(server):
    return [p for p in os.listdir("/proc") if p.isdigit() and is_sleep(p)]


def is_sleep(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as f:
            return f.read() == b"sleep\x0031536\x00"
    except OSError:
        return False


@pytest.mark.parametrize("how", ["ctrl-c", "ctrl-c on a terminal", "link", "manager"])
def test_what_a_bisect_began_goes_with_it(own_server, how):
    server = own_server
    past = history(server, "past", [1, 2, 3])
    argv = server.ssh_argv("berth", f"bisect past {past[0][:12]} {past[2][:12]} -- 'exec sleep 31536'",
                           options=["-tt"] if "terminal" in how else [])
    p = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        wait_until("its command to run", lambda: len(sleeping(server)) >= 2)
        if how == "ctrl-c":
            p.send_signal(signal.SIGINT)  # what a terminal sends to a client that made none on the server
            p.wait(20)
        elif "terminal" in how:
            p.stdin.write(b"\x03")
            p.stdin.flush()
            assert p.wait(20) == 130
        elif how == "link":
            p.kill()
        else:
            server.kill()
            server.start()
        gone(server)
        wait_until("its command to end", lambda: not sleeping(server))
    finally:
        p.kill()
        print(p.communicate())
    assert server.ssh("past", "cat n").stdout == "3\n"


def test_an_orchestrator_bisects_without_what_an_operator_gave(own_server):
    server = own_server
    key = server.add_key("orchestrator", 'role="orchestrator",sessions="past"')
    other = server.add_key("other", 'role="orchestrator",sessions="x"')
    developer = server.add_key("developer", 'role="developer"')
    assert server.verb("new", "past", "--memory", "8G").status == 0
    past = history(server, "past", [1, 2])
    words = ["bisect", "past", past[0][:12], past[1][:12], "--", "'test $(cat n) = 1'"]
    done = server.verb(*words, key=key)
    assert done.status == 0 and "without what an operator gave: memory 8G" in done.stdout, done
    assert server.verb(*words, key=other).status == 66
    assert server.verb(*words, key=developer).status == 77
    gone(server)


def test_a_session_with_a_disk_of_its_own_leaves_no_device(own_server):
    server = own_server
    assert server.verb("new", "past", "--disk", "200M").status == 0
    past = history(server, "past", [1, 2, 3])
    done = server.verb("bisect", "past", past[0][:12], past[2][:12], "--", "'head -c 1000000 /dev/zero > b; test $(cat n) -le 2'")
    assert done.status == 0 and f"first bad: {past[2][:12]}" in done.stdout, done
    gone(server)
    wait_until("its devices to be let go", lambda: not server.loop_devices(), 20)


def test_per_call_snapshots_are_searched_and_the_call_is_named(own_server):
    server = own_server
    assert server.verb("new", "past").status == 0
    assert server.verb("set", "past", "snapshot", "call").status == 0
    for i in range(1, 6):
        assert server.ssh("past", f"echo {i} > n").status == 0
    made = wait_until("five snapshots", lambda: (lambda s: len(s) >= 5 and s)(server.json("snapshots", "past")))
    ids = [s["snapshot"].removeprefix("sha256:") for s in made]
    done = server.verb("bisect", "past", ids[0][:12], ids[-1][:12], "--", "'test $(cat n) -le 3'")
    assert done.status == 0 and ": echo 4 > n" in done.stdout, done
    gone(server)
    assert [s["snapshot"] for s in server.json("snapshots", "past")][:5] == [s["snapshot"] for s in made][:5]
