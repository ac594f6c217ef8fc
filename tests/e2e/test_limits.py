"""Limits of a session: each holds, is reported by name, and is nobody else's."""
import json
import os
import pathlib
import re

import pytest

from conftest import at_most, running, wait_until

CONTROLLERS = {"memory": "memory.limit_in_bytes", "pids": "pids.max", "cpu": "cpu.cfs_quota_us"}


def group(server, session, controller):
    """The session's directory in the hierarchy that enforces this limit."""
    sid = server.session(session)["id"]
    for top in (f"/sys/fs/cgroup/{controller}", "/sys/fs/cgroup/unified", "/sys/fs/cgroup"):
        for path in pathlib.Path(top).glob(f"berth-????????/{sid}"):
            if any((path / f).exists() for f in (CONTROLLERS[controller], f"{controller}.max")):
                return path
    raise AssertionError(f"no {controller} cgroup of {session}")


def in_force(server, session, controller):
    path = group(server, session, controller)
    v1 = path / CONTROLLERS[controller]
    return (v1 if v1.exists() else path / f"{controller}.max").read_text().strip()


def left_of(sid):
    top = pathlib.Path("/sys/fs/cgroup")  # of v2, or of a directory for each hierarchy
    return [str(p) for depth in ("", "*/") for p in top.glob(f"{depth}berth-????????/{sid}")]


def last_call(server, session):
    return server.json("calls", session)[0]


MEMORY_BOMB = "exec tail /dev/zero"  # keeps all that it reads in memory, as there is no newline
FORK_BOMB = "i=0; while [ $i -lt 300 ]; do sleep 60 & i=$((i+1)); done; wait"


def test_a_memory_bomb_is_ended_and_said_so(server, name):
    assert server.verb("new", name, "--memory", "64M").status == 0
    assert in_force(server, name, "memory") == str(64 << 20)
    with at_most(30):
        r = server.ssh(name, MEMORY_BOMB)
    assert r.status != 0
    assert f"berth: call: out of memory: the limit of 64M was hit (raise it: ssh berth@HOST set {name} memory 128M)\n" in r.stderr, r
    call = last_call(server, name)
    assert (call["ended_by"], call["limit"]) == ("limit", "memory"), call
    assert server.ssh(name, "echo alive").out == b"alive\n"


def test_a_fork_bomb_hits_its_limit_and_is_said_so(server, name):
    assert server.verb("new", name, "--pids", "64").status == 0
    other = name + "x"
    assert server.verb("new", other).status == 0
    assert in_force(server, name, "pids") == "64"
    with at_most(30):
        r = server.ssh(name, FORK_BOMB)
        assert server.ssh(other, "echo unaffected").out == b"unaffected\n"
    assert f"berth: call: too many processes: the limit of 64 was hit (raise it: ssh berth@HOST set {name} pids 128)\n" in r.stderr, r
    call = last_call(server, name)
    assert (call["ended_by"], call["limit"]) == ("limit", "pids"), call
    assert int((group(server, name, "pids") / "pids.current").read_text()) <= 64
    events = (group(server, other, "pids") / "pids.events").read_text()
    assert "max 0" in events


def test_a_call_that_hit_nothing_is_told_nothing(server, name):
    assert server.verb("new", name, "--memory", "256M", "--pids", "64").status == 0
    r = server.ssh(name, "exit 3")
    assert (r.status, r.err) == (3, b"")
    assert "limit" not in last_call(server, name)


def test_cpu_is_throttled(server, name):
    assert server.verb("new", name, "--cpu", "0.1").status == 0
    assert in_force(server, name, "cpu").split()[0] == "10000"
    spinner = server.popen(name, "while :; do :; done")

    def throttled():
        stat = dict(line.split() for line in (group(server, name, "cpu") / "cpu.stat").read_text().splitlines())
        return int(stat["nr_throttled"]) > 3
    wait_until("the session to be throttled", throttled)
    spinner.kill()
    spinner.communicate()


def test_a_calls_time_ends_it_and_the_children_that_left_its_session(server, name):
    assert server.verb("new", name, "--wall", "1s").status == 0
    with at_most(15):
        r = server.ssh(name, "echo partial; setsid sh -c 'trap \"\" TERM; echo $$ > /workspace/pid; while :; do sleep 1; done' >/dev/null 2>&1 & setsid sleep 777 & sleep 888")
    assert (r.status, r.out) == (124, b"partial\n"), r
    assert f"berth: call: timed out: the limit of 1s was hit (raise it: ssh berth@HOST set {name} wall 2s)\n" in r.stderr
    call = last_call(server, name)
    assert (call["ended_by"], call["limit"], call["exit_status"]) == ("timeout", "wall", 124), call
    assert server.ssh(name, "cat /workspace/pid; ! pgrep -f 'sleep [7]77'").status == 0  # SIGTERM reached it at once
    wait_until("SIGKILL of what ignores SIGTERM", lambda: server.ssh(name, "! kill -0 $(cat /workspace/pid) 2>&-").status == 0, 15)


def test_a_limit_of_a_live_session_is_changed_and_takes_effect(server, name):
    assert server.verb("new", name, "--pids", "20").status == 0
    server.verb("set", name, "pids", "500")
    assert in_force(server, name, "pids") == "500"
    assert server.ssh(name, "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24; do sleep 0.1 & done; wait").err == b""
    server.verb("set", name, "memory", "64M")
    assert in_force(server, name, "memory") == str(64 << 20)
    server.verb("set", name, "memory", "96M")
    assert in_force(server, name, "memory") == str(96 << 20)
    assert "limit of 96M was hit" in server.ssh(name, MEMORY_BOMB).stderr
    server.verb("set", name, "wall", "500ms")
    assert server.ssh(name, "sleep 60").status == 124
    server.verb("set", name, "wall", "none")
    assert server.ssh(name, "sleep 1").status == 0
    server.verb("set", name, "calls", "1")
    held = server.popen(name, "echo up; read x")
    assert held.stdout.readline() == b"up\n"
    assert server.ssh(name, "true").status == 69
    held.stdin.close()
    held.wait(20)
    server.verb("set", name, "pids", "default")
    assert in_force(server, name, "pids") == "4096"


def test_open_files_and_tmpfs(server, name):
    assert server.verb("new", name, "--files", "128", "--tmp", "1M").status == 0
    r = server.ssh(name, "ulimit -Hn; head -c 3000000 /dev/zero > /dev/shm/a; wc -c < /dev/shm/a; head -c 3000000 /dev/zero > /run/a; wc -c < /run/a")
    assert r.stdout.split() == ["128", str(1 << 20), str(1 << 20)], r
    assert "next start" in server.verb("set", name, "files", "256").stdout
    server.verb("pause", name)
    assert server.ssh(name, "ulimit -Hn").stdout.strip() == "256"


def test_limits_outlive_a_pause_and_a_restart_of_the_server(own_server, name):
    server = own_server
    assert server.verb("new", name, "--memory", "64M", "--pids", "77").status == 0
    server.verb("pause", name)
    assert left_of(server.session(name)["id"]) == []
    assert server.json("show", name)["limits"]["memory"]["limit"] == "64M"
    server.ssh(name, "true")
    assert in_force(server, name, "memory") == str(64 << 20)
    server.kill()
    server.start()
    limits = server.json("show", name)["limits"]
    assert (limits["memory"]["in_force"], limits["pids"]["in_force"]) == (64 << 20, 77), limits
    assert "limit of 64M was hit" in server.ssh(name, MEMORY_BOMB).stderr
    server.verb("set", name, "pids", "78")
    assert in_force(server, name, "pids") == "78"
    ref = server.state / "store" / "refs" / f"session-{server.session(name)['id']}.json"
    wait_until("the session's ref", lambda: json.loads(ref.read_text()).get("limits") == {"memory": 64 << 20, "pids": 78}, 20)


def test_show_says_what_holds_and_by_which_means(server, name):
    assert server.verb("new", name, "--cpu", "1.5", "--memory", "512M").status == 0
    limits = server.json("show", name)["limits"]
    assert set(limits) == {"cpu", "memory", "pids", "disk", "files", "tmp", "wall", "calls"}
    assert (limits["cpu"]["limit"], limits["cpu"]["value"], limits["cpu"]["in_force"]) == ("1.50", 150, 150)
    assert limits["memory"]["by"] in ("cgroup v1", "cgroup v2") and limits["memory"]["used"] > 0
    assert limits["pids"]["set"] is False
    text = server.verb("show", name).stdout
    assert re.search(r"memory 512M, by cgroup v[12]; uses \d+M", text) and "wall none (default), by its keeper" in text, text


def test_only_an_operator_goes_above_the_default(own_server, name):
    server = own_server
    key = server.add_key("loop", 'role="orchestrator"')
    assert server.verb("new", name, "--memory", "5G", key=key).status == 77
    assert server.verb("new", name, "--memory", "1G", key=key).status == 0
    assert server.verb("set", name, "memory", "2G", key=key).status == 0
    r = server.verb("set", name, "memory", "5G", key=key)
    assert r.status == 77 and "memory above 4G is for operators" in r.stderr, r
    assert server.verb("set", name, "memory", "5G").status == 0  # the operator's is the new ceiling
    assert server.verb("set", name, "memory", "1G", key=key).status == 0
    assert server.verb("set", name, "memory", "5G", key=key).status == 0
    assert server.verb("set", name, "memory", "none", key=key).status == 77
    assert server.verb("set", name, "memory", "512M").status == 0
    assert server.verb("set", name, "memory", "1G", key=key).status == 77
    assert server.verb("set", name, "memory", "default", key=key).status == 0
    assert server.json("show", name)["limits"]["memory"]["limit"] == "512M"
    outside = server.add_key("else", 'role="orchestrator",sessions="other-*"')
    assert server.verb("set", name, "pids", "100", key=outside).status == 66
    developer = server.add_key("dev", 'role="developer"')
    assert server.verb("set", name, "pids", "100", key=developer).status == 77


@pytest.mark.parametrize("key,value", [("memory", "1K"), ("memory", "lots"), ("pids", "0"), ("pids", "1x"), ("cpu", "1.234"),
                                       ("cpu", "0"), ("cpu", "."), ("wall", "5"), ("files", "none"), ("calls", "5000"), ("speed", "9"),
                                       ("memory", "99999999999T")])
def test_values_that_make_no_sense_are_refused_and_change_nothing(server, key, value):
    server.ssh("t-values", "true")
    before = server.json("show", "t-values")["limits"]
    r = server.verb("set", "t-values", key, f"'{value}'")
    assert r.status == 64 and r.stderr.startswith("berth: set t-values: "), r
    after = server.json("show", "t-values")["limits"]
    assert {k: v["value"] for k, v in after.items()} == {k: v["value"] for k, v in before.items()}


def test_nothing_is_left_in_any_hierarchy(name):
    with running() as server:
        assert server.verb("new", name, "--memory", "64M").status == 0
        sid = server.session(name)["id"]
        assert left_of(sid) != []
        assert server.verb("rm", name, "--force").status == 0
        assert left_of(sid) == []
        server.ssh(name + "b", "sleep 600 >/dev/null 2>&1 &")
        mine = group(server, name + "b", "memory").parent.name
        server.stop()
        assert [str(p) for depth in ("", "*/") for p in pathlib.Path("/sys/fs/cgroup").glob(f"{depth}{mine}")] == []


def test_a_config_that_makes_no_sense_is_said_at_start(tmp_path):
    import conftest
    server = conftest.Server(tmp_path, "limit_memory = lots\n")
    server.start(wait=False)
    assert server.process.wait(20) == 78
    server.process.stdout.close()
    assert "limit_memory lots" in server.log()
