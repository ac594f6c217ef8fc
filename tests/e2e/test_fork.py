"""fork: what a new session has of its origin, what it does not, who may, and what outlives the origin."""
import concurrent.futures
import json
import os
import shutil
import signal

import pytest

from conftest import RUNG, running, wait_until


STACKS = pytest.mark.skipif(RUNG in ("process", "process-user"), reason="the rung process shows the node's own files, and lowers no walls")


def head(server, name):
    return server.session(name)["head"].removeprefix("sha256:")


def paused(server, name, command):
    done = server.ssh(name, command)
    assert done.status == 0, done
    done = server.verb("pause", name)
    assert done.status == 0, done
    return head(server, name)


def calls_of(server, name):
    return server.json("calls", name)


@STACKS
def test_a_fork_of_a_paused_session_has_its_files_and_goes_its_own_way(server, name):
    origin = paused(server, name, "echo one > a; mkdir d; echo two > d/b; rm -f /etc/debian_version")
    done = server.verb("fork", name, name + "-f")
    assert done.status == 0, done
    assert done.stdout == f"{name}-f: running, from {origin[:12]} of {name}\n"
    assert server.ssh(name + "-f", "cat a d/b; test -e /etc/debian_version; echo $?").stdout == "one\ntwo\n1\n"
    assert server.ssh(name + "-f", "echo mine > a; hostname").stdout == f"{name}-f\n"
    assert server.ssh(name, "cat a; echo theirs > d/b").stdout == "one\n"
    assert server.ssh(name + "-f", "cat a d/b").stdout == "mine\ntwo\n"


def test_a_fork_s_first_snapshot_has_the_one_it_was_forked_from_as_parent(server, name):
    origin = paused(server, name, "echo 1 > a")
    assert server.verb("fork", name, name + "-f").status == 0
    own = paused(server, name + "-f", "echo 2 > b")
    listed = server.json("snapshots", name + "-f")
    assert [(s["snapshot"], s["parent"]) for s in listed] == [("sha256:" + own, "sha256:" + origin)]
    assert server.ssh(name + "-f", "cat a b").stdout == "1\n2\n"


@pytest.mark.parametrize("how", ["digest", "with-session", "name-of-session-first"])
def test_a_snapshot_is_forked_by_each_way_to_name_it(server, name, how):
    first = paused(server, name, "echo first > a")
    paused(server, name, "echo second > a")
    word = {"digest": first[:12], "with-session": f"{name}+{first[:12]}", "name-of-session-first": name}[how]
    made = server.json("fork", word, name + "-f")
    assert made["session"] == name + "-f" and made["state"] == "running" and made["origin"] == name
    wanted = "second\n" if how == "name-of-session-first" else "first\n"
    assert server.ssh(name + "-f", "cat a").stdout == wanted


def test_count_makes_as_many_and_all_of_them_run(server, name):
    paused(server, name, "echo shared > a")
    made = server.json("fork", name, name + "-f", "--count", "6")
    assert [m["session"] for m in made] == [f"{name}-f-{i}" for i in range(1, 7)]
    assert {m["state"] for m in made} == {"running"}
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        done = list(pool.map(lambda m: server.ssh(m["session"], f"echo {m['session']} >> a; cat a"), made))
    assert [d.stdout for d in done] == [f"shared\n{m['session']}\n" for m in made]
    for m in made:
        assert server.verb("rm", m["session"]).status == 0


def test_a_name_that_is_taken_makes_none_of_them(server, name):
    paused(server, name, "echo x > a")
    assert server.verb("new", name + "-f-2").status == 0
    done = server.verb("fork", name, name + "-f", "--count", "3")
    assert done.status == 64 and f"{name}-f-2" in done.stderr, done
    assert server.session(name + "-f-1") is None and server.session(name + "-f-3") is None
    assert server.verb("fork", name, name).status == 64
    assert server.verb("fork", name, "NoName").status == 64
    assert server.verb("fork", name, name + "-g", "--count", "0").status == 64
    assert server.verb("fork", "nosuch", name + "-g").status == 66


@STACKS
def test_named_shells_come_along_and_call_keys_do_not(server, name):
    shell = ["-o", "SetEnv=BERTH_SHELL=main"]
    server.ssh(name, "mkdir -p /workspace/deep; cd /workspace/deep; X=carried; f() { echo f of $X; }", options=shell)
    once = server.ssh(name, "echo ran >> /workspace/runs; echo out", options=["-o", "SetEnv=BERTH_CALL=step-1"])
    assert once.stdout == "out\n"
    assert server.verb("pause", name).status == 0
    assert server.verb("fork", name, name + "-f").status == 0
    assert server.ssh(name + "-f", "pwd; f", options=shell).stdout == "/workspace/deep\nf of carried\n"
    server.ssh(name + "-f", "echo ran >> /workspace/runs; echo out", options=["-o", "SetEnv=BERTH_CALL=step-1"])
    assert server.ssh(name + "-f", "cat /workspace/runs").stdout == "ran\nran\n"
    assert server.ssh(name, "cat /workspace/runs").stdout == "ran\n"
    assert not any("step-1" in json.dumps(c) for c in calls_of(server, name + "-f")[1:])


@STACKS
def test_limits_walls_and_network_are_taken_over(server, name):
    assert server.verb("new", name, "--pids", "200", "--tmp-in-memory", "yes", "--fork-ready", "yes").status == 0
    paused(server, name, "true; echo 1 > a")
    assert server.verb("fork", name, name + "-f").status == 0
    was, now = server.json("show", name), server.json("show", name + "-f")
    for key in ("walls", "mounts", "network", "image", "fork_ready"):
        assert was[key] == now[key], key
    assert {k: (v["value"], v["set"]) for k, v in was["limits"].items()} == \
        {k: (v["value"], v["set"]) for k, v in now["limits"].items()}
    assert now["limits"]["pids"]["value"] == 200


@STACKS
def test_an_orchestrator_forks_no_more_than_it_could_make(own_server, name):
    server = own_server
    key = server.add_key("orchestrator", 'role="orchestrator"')
    assert server.verb("new", name, "--memory", "8G", "--setuid", "yes").status == 0
    paused(server, name, "echo 1 > a")
    done = server.verb("fork", name, name + "-f", key=key)
    assert done.status == 77 and "memory 8G" in done.stderr and "setuid" in done.stderr and "--plain" in done.stderr, done
    assert server.session(name + "-f") is None
    done = server.verb("fork", name, name + "-f", "--plain", key=key)
    assert done.status == 0 and "without memory 8G, setuid" in done.stdout, done
    assert server.json("show", name + "-f")["walls"]["setuid"] == {"value": False, "set": False}
    assert server.ssh(name + "-f", "cat a", key=key).stdout == "1\n"
    done = server.verb("set", name + "-f", "memory", "8G", key=key)
    assert done.status == 77, "its ceiling did not come along either"
    assert server.verb("fork", name, name + "-g").status == 0
    assert server.json("show", name + "-g")["walls"]["setuid"]["value"], "an operator's fork has all"


def test_scope_is_needed_on_both_names(own_server):
    server = own_server
    key = server.add_key("scoped", 'role="orchestrator",sessions="mine-*"')
    developer = server.add_key("developer", 'role="developer"')
    theirs = paused(server, "theirs", "echo secret > a")
    paused(server, "mine-1", "echo open > a")
    assert server.verb("fork", "theirs", "mine-2", key=key).status == 66
    assert server.verb("fork", theirs[:12], "mine-2", key=key).status == 66
    assert server.verb("fork", "mine-1", "others", key=key).status == 77
    assert server.verb("fork", "mine-1", "mine-2", key=developer).status == 77
    assert server.verb("fork", "mine-1", "mine-2", key=key).status == 0


def test_rm_of_the_origin_harms_no_fork_warm_or_cold(own_server, name):
    server = own_server
    paused(server, name, "echo kept > a; head -c 300000 /dev/urandom > b; sha256sum b > sum")
    assert server.verb("fork", name, name + "-f").status == 0
    assert server.verb("rm", name).status == 0
    assert server.ssh(name + "-f", "cat a; sha256sum -c sum").stdout == "kept\nb: OK\n"
    assert server.stop() == 0
    shutil.rmtree(server.state / "cache" / "layers", ignore_errors=True)
    for upper in (server.state / "sessions").glob("s_*/upper.*"):
        shutil.rmtree(upper)
    server.start()
    assert server.ssh(name + "-f", "cat a; sha256sum -c sum").stdout == "kept\nb: OK\n"


def test_a_fork_s_ref_names_its_head(own_server, name):
    server = own_server
    origin = paused(server, name, "echo 1 > a")
    made = server.json("fork", name, name + "-f")
    ref = server.state / "store" / "refs" / f"session-{made['id']}.json"
    wait_until("its ref", ref.exists)
    told = json.loads(ref.read_text())
    assert told["head"] == "sha256:" + origin and told["name"] == name + "-f" and not told["deleted"]


def test_a_manager_that_is_killed_right_after_a_fork_keeps_it(own_server, name):
    server = own_server
    paused(server, name, "echo 1 > a")
    assert server.verb("fork", name, name + "-f", "--count", "3").status == 0
    server.kill()
    server.start()
    for i in (1, 2, 3):
        assert server.ssh(f"{name}-f-{i}", "cat a").stdout == "1\n"


def test_what_a_crash_left_is_captured_before_it_is_forked(own_server, name):
    server = own_server
    paused(server, name, "echo old > a")
    assert server.ssh(name, "echo new > a; sync").status == 0
    for pid, what in server.keeper_pids():
        if what == "berth-keeper":
            os.kill(pid, signal.SIGKILL)
    wait_until("it to be unclean", lambda: server.session(name)["unclean"])
    assert server.verb("fork", name, name + "-f").status == 0
    assert server.ssh(name + "-f", "cat a").stdout == "new\n"
    assert not server.session(name)["unclean"]


def test_a_session_without_a_snapshot_is_forked_as_new(server, name):
    assert server.verb("new", name).status == 0
    assert server.verb("pause", name).status == 0
    done = server.verb("fork", name, name + "-f")
    assert done.status == 0, done
    assert server.ssh(name + "-f", "ls").stdout == ""


@STACKS
def test_fork_ready_unpacks_behind_a_pause_so_that_a_fork_needs_no_worker():
    with running("fork_ready = yes\n") as server:
        digest = paused(server, "origin", "head -c 3000000 /dev/urandom > a; sha256sum a > sum")
        wait_until("its layers", lambda: f"fork_ready: the layers of {digest[:12]} are unpacked" in server.log())
        layers = {p.name for p in (server.state / "cache" / "layers").iterdir() if len(p.name) == 64}
        assert len(layers) == 1
        assert server.verb("fork", "origin", "f").status == 0
        assert "its layers to be unpacked" not in server.log()
        assert server.ssh("f", "sha256sum -c sum").stdout == "a: OK\n"
        server.stop()
        server.start()
        wait_until("its layers once more", lambda: server.log().count(f"of {digest[:12]} are unpacked") >= 2)


def test_fork_ready_is_chosen_by_new_and_shown(server, name):
    assert server.verb("new", name, "--fork-ready", "yes").status == 0
    assert server.json("show", name)["fork_ready"] == {"value": True, "set": True}
    assert "fork-ready" in server.verb("show", name).stdout
    plain = name + "-p"
    assert server.verb("new", plain).status == 0
    assert server.json("show", plain)["fork_ready"] == {"value": False, "set": False}


@STACKS
def test_fork_ready_is_set_later_and_unpacks_the_head_that_there_is(own_server, name):
    server = own_server
    digest = paused(server, name, "echo 1 > a")
    assert server.verb("set", name, "fork-ready", "maybe").status == 64
    done = server.verb("set", name, "fork-ready", "yes")
    assert done.status == 0 and done.stdout == f"{name}: fork-ready yes\n", done
    assert server.json("show", name)["fork_ready"] == {"value": True, "set": True}
    wait_until("its layers", lambda: f"fork_ready: the layers of {digest[:12]} are unpacked" in server.log())
    server.stop()
    server.start()
    assert server.json("show", name)["fork_ready"] == {"value": True, "set": True}
    assert server.verb("set", name, "fork-ready", "no").status == 0
    assert server.json("show", name)["fork_ready"] == {"value": False, "set": True}
    assert server.verb("set", name, "fork-ready", "default").status == 0
    server.stop()
    server.start()
    assert server.json("show", name)["fork_ready"] == {"value": False, "set": False}


def test_a_fork_is_on_the_record(server, name):
    origin = paused(server, name, "echo 1 > a")
    assert server.verb("fork", name, name + "-f").status == 0
    lines = server.json("audit")
    asked = [line for line in lines if line.get("verb") == "fork" and f"name={name}-f" in line["given"]]
    assert asked and asked[-1]["name"] == name and asked[-1]["result"] == "begun"
    made = [line for line in lines if line["kind"] == "session" and line["name"] == name + "-f"]
    assert made and made[0]["head"] == origin


@pytest.mark.parametrize("how", ["link", "ctrl-c"])
def test_a_fork_that_is_given_up_leaves_what_has_not_started_unmade(own_server, how):
    server = own_server
    paused(server, "origin", "head -c 400000000 /dev/urandom > a")
    p = server.popen("berth", "fork origin f --count 3", options=["-tt"] if how == "ctrl-c" else [])
    wait_until("the first to unpack", lambda: server.session("f-1") and "unpacked" in server.session("f-1")["waits_for"])
    if how == "ctrl-c":
        p.stdin.write(b"\x03")
        p.stdin.flush()
        assert p.wait(20) == 130
    else:
        p.kill()
    wait_until("its rows to go", lambda: [s["name"] for s in server.json("ls")] == ["origin"])
    p.communicate()
    wait_until("their files to go", lambda: len(list((server.state / "sessions").iterdir())) == 1)
    assert server.verb("fork", "origin", "f", "--count", "3").status == 0


def test_a_fork_goes_back_to_where_it_came_from_and_to_nothing_else_of_others(server, name):
    first = paused(server, name, "echo 1 > a")
    second = paused(server, name, "echo 2 > a")
    assert server.verb("fork", second[:12], name + "-f").status == 0
    paused(server, name + "-f", "echo 3 > a")
    third = paused(server, name, "echo other > a")
    for digest, text in ((second, "2\n"), (first, "1\n")):
        done = server.verb("restore", name + "-f", digest[:12])
        assert done.status == 0, done
        assert server.ssh(name + "-f", "cat a").stdout == text
    done = server.verb("restore", name + "-f", third[:12])
    assert done.status == 66 and "does not come from" in done.stderr, done
    listed = server.json("snapshots", name + "-f")
    assert listed[0]["parent"] == "sha256:" + second


def test_many_forks_of_what_is_not_unpacked_unpack_it_once(own_server):
    server = own_server
    paused(server, "origin", "head -c 30000000 /dev/urandom > a; sha256sum a > sum")
    made = server.json("fork", "origin", "f", "--count", "5")
    assert {m["state"] for m in made} == {"running"}
    assert [server.ssh(f"f-{i}", "sha256sum -c sum").status for i in range(1, 6)] == [0] * 5


def test_a_running_session_is_forked_as_it_is_and_goes_on(server, name):
    server.ssh(name, "echo 1 > a")
    with server.popen(name, "echo up; read x; echo got $x") as p:
        assert p.stdout.readline() == b"up\n"
        done = server.verb("fork", name, name + "-f")
        assert done.status == 0, done
        assert server.ssh(name + "-f", "cat a").stdout == "1\n"
        p.stdin.write(b"line\n")
        p.stdin.close()
        assert p.stdout.read() == b"got line\n" and p.wait(20) == 0
    listed = server.json("snapshots", name)
    assert [s["made_by"] for s in listed] == ["fork"]
    assert server.session(name + "-f")["head"] == listed[0]["snapshot"]
    assert server.ssh(name, "echo 2 > a").status == 0
    assert server.verb("fork", name, name + "-g", "--count", "2").status == 0
    assert [server.ssh(f"{name}-g-{i}", "cat a").stdout for i in (1, 2)] == ["2\n", "2\n"]
    assert server.session(name)["state"] == "running"
