"""undo and redo, one path out of a snapshot, and what may change of a session and a snapshot: names, labels, pins."""
import json
import os
import sqlite3
import subprocess

from conftest import wait_until


def heads(server, name):
    return {s["snapshot"]: s for s in server.json("snapshots", name)}


def pauses(server, name, *texts):
    """A snapshot for each text, which is then in the file `a`; returns their digests."""
    made = []
    for text in texts:
        assert server.ssh(name, f"echo {text} > a").status == 0
        made.append(server.json("pause", name)["snapshot"])
    return made


def cat(server, name, what="a"):
    return server.ssh(name, f"cat {what}").stdout.strip()


# ---- undo and redo ----


def test_undo_walks_to_parents_and_redo_comes_back_exactly(server, name):
    one, two, three = pauses(server, name, "one", "two", "three")
    r = server.json("undo", name, "2")
    assert (r["head"], r["state"], r["made_by"], r["redo"]) == (one, "paused", "pause", 2), r
    assert cat(server, name) == "one"
    r = server.json("redo", name)
    assert (r["head"], r["redo"]) == (two, 1) and "snapshot" not in r, r
    assert cat(server, name) == "two"
    assert server.json("redo", name)["head"] == three
    assert cat(server, name) == "three"
    r = server.verb("redo", name)
    assert r.status == 66 and "nothing was undone" in r.stderr, r


def test_undo_of_unsaved_changes_goes_to_the_head_and_redo_brings_them_back(server, name):
    (one,) = pauses(server, name, "one")
    server.ssh(name, "echo unsaved > a; echo b > b")
    r = server.json("undo", name)
    assert r["head"] == one and r["snapshot"] != one and r["redo"] == 1, r
    saved = heads(server, name)[r["snapshot"]]
    assert (saved["parent"], saved["made_by"]) == (one, "undo"), saved
    assert server.ssh(name, "cat a; ls").out == b"one\na\n"
    assert server.json("redo", name)["head"] == r["snapshot"]
    assert server.ssh(name, "cat a; ls").out == b"unsaved\na\nb\n"


def test_undo_of_two_steps_counts_unsaved_changes_as_the_first(server, name):
    one, two = pauses(server, name, "one", "two")
    server.ssh(name, "echo three > a")
    r = server.json("undo", name, "2")
    assert (r["head"], r["redo"]) == (one, 2), r
    assert cat(server, name) == "one"
    assert server.json("redo", name, "2")["head"] == r["snapshot"]
    assert cat(server, name) == "three"
    assert server.json("undo", name)["head"] == two, "the parent of what was unsaved"


def test_undo_of_a_sessions_first_changes_leaves_it_as_it_was_made(server, name):
    server.ssh(name, "echo one > a")
    r = server.verb("undo", name)
    assert r.status == 0 and r.stdout.startswith(f"{name}: paused, as it was made; what it replaces is snapshot "), r
    assert server.ssh(name, "ls").out == b""
    assert server.verb("redo", name).status == 0
    assert cat(server, name) == "one"
    ref = server.state / "store" / "refs" / f"session-{server.session(name)['id']}.json"
    assert json.loads(ref.read_text())["head"] == server.session(name)["head"]
    server.verb("undo", name)
    assert "head" not in json.loads(ref.read_text()), "no head, as it has none"


def test_redo_works_after_a_restart_of_the_manager_and_cold(own_server, name):
    server = own_server
    one, two, three = pauses(server, name, "one", "two", "three")
    server.json("undo", name, "2")
    server.kill()
    server.start()
    assert server.json("redo", name)["head"] == two
    assert cat(server, name) == "two"
    assert server.stop() == 0
    subprocess.run(["rm", "-rf", server.state / "cache/layers", *(server.state / "sessions").glob("s_*/upper.*")], check=True)
    server.start()
    assert server.json("redo", name)["head"] == three
    assert cat(server, name) == "three"


def test_a_new_snapshot_after_an_undo_ends_the_way_forward_and_the_old_stays_a_branch(server, name):
    one, two = pauses(server, name, "one", "two")
    server.json("undo", name)
    cat(server, name)
    assert server.json("pause", name).get("snapshot") is None, "nothing was changed: the way stays"
    server.ssh(name, "echo other > a")
    (other,) = pauses(server, name, "other")
    r = server.verb("redo", name)
    assert r.status == 66 and "another snapshot was made since" in r.stderr, r
    there = heads(server, name)
    assert there[two]["parent"] == there[other]["parent"] == one
    assert server.verb("restore", name, two).status == 0
    assert server.verb("redo", name).status == 66
    assert cat(server, name) == "two"


def test_undo_over_unsaved_changes_after_an_undo_starts_a_new_way(server, name):
    one, two = pauses(server, name, "one", "two")
    server.json("undo", name)
    server.ssh(name, "echo other > a")
    r = server.json("undo", name)
    assert (r["head"], r["redo"]) == (one, 1), r
    assert server.json("redo", name)["head"] == r["snapshot"]
    assert cat(server, name) == "other"


def test_redo_keeps_what_it_replaces_as_a_branch_and_goes_on(server, name):
    one, two, three = pauses(server, name, "one", "two", "three")
    server.json("undo", name, "2")
    server.ssh(name, "echo meanwhile > a")
    r = server.json("redo", name)
    assert (r["head"], r["redo"]) == (two, 1), r
    assert heads(server, name)[r["snapshot"]]["parent"] == one
    assert server.json("redo", name)["head"] == three
    server.verb("restore", name, r["snapshot"])
    assert cat(server, name) == "meanwhile"


def test_undo_further_than_there_is_changes_nothing_and_ends_nothing(server, name):
    pauses(server, name, "one")
    holder = server.popen(name, "echo ready; cat")
    assert holder.stdout.readline() == b"ready\n"
    for steps, status in (("4", 66), ("0", 64), ("10001", 64), ("x", 64)):
        r = server.verb("undo", name, steps)
        assert r.status == status and r.stderr.startswith("berth: undo"), r
    r = server.verb("undo", name, "3")
    assert r.status == 66 and "there are" in r.stderr, r
    out, _ = holder.communicate(b"still here\n", timeout=30)
    assert out == b"still here\n"
    assert server.session(name)["state"] == "running"


def test_undo_ends_calls_as_restore_does(server, name):
    pauses(server, name, "one")
    call = server.popen(name, "trap '' TERM; echo two > a; echo ready; while :; do sleep 0.1; done")
    assert call.stdout.readline() == b"ready\n"
    key = server.add_key("dev-" + name, 'role="orchestrator"')
    r = server.verb("undo", name, key=key)
    assert r.status == 75 and "--force" in r.stderr, r
    assert server.verb("undo", name).status == 0
    call.communicate(timeout=30)
    assert server.json("calls", name)[0]["ended_by"] == "restore"
    assert cat(server, name) == "one"


def test_what_a_shutdown_writes_is_no_step_of_its_own(server, name):
    one, two = pauses(server, name, "one", "two")
    call = server.popen(name, "trap 'echo late > late; exit 0' TERM; echo ready; while :; do sleep 0.1; done")
    assert call.stdout.readline() == b"ready\n"
    r = server.json("undo", name)
    call.communicate(timeout=30)
    assert r["head"] == one and heads(server, name)[r["snapshot"]]["parent"] == two, r
    assert server.json("redo", name)["head"] == two


def test_a_manager_killed_amid_an_undo_has_done_all_of_it_or_nothing(own_server, name):
    server = own_server
    for moment in range(5):
        one, two = pauses(server, name, f"one{moment}", f"two{moment}")
        server.ssh(name, "head -c 3000000 /dev/urandom > big; echo three > a")
        undo = server.popen("berth", f"undo {name} 2")
        wait_until("the undo to begin", lambda: server.session(name)["state"] != "running", 10)
        import select
        select.select([], [], [], 0.02 * moment)
        server.kill()
        undo.communicate(timeout=30)
        server.start()
        row = sqlite3.connect(server.state / "index.db").execute(
            "SELECT lower(hex(head)),(SELECT count(*) FROM redo WHERE session=id) FROM sessions WHERE name=?", (name,)).fetchone()
        done = row[0] == one[7:]
        assert row[0] in (one[7:], two[7:]) and row[1] == (2 if done else 0), row
        assert cat(server, name) == (f"one{moment}" if done else "three")
