"""undo and redo, one path out of a snapshot, and what may change of a session and a snapshot: names, labels, pins."""
import json
import os
import pathlib
import select
import sqlite3
import subprocess
import tempfile

import pytest

from conftest import running, wait_until


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
        select.select([], [], [], 0.02 * moment)
        server.kill()
        undo.communicate(timeout=30)
        server.start()
        row = sqlite3.connect(server.state / "index.db").execute(
            "SELECT lower(hex(head)),(SELECT count(*) FROM redo WHERE session=id) FROM sessions WHERE name=?", (name,)).fetchone()
        done = row[0] == one[7:]
        assert row[0] in (one[7:], two[7:]) and row[1] == (2 if done else 0), row
        assert cat(server, name) == (f"one{moment}" if done else "three")


# ---- names, labels, pins; back from deletion ----


def ref_of(server, what):
    return json.loads((server.state / "store" / "refs" / f"{what}.json").read_text())


def test_rename_keeps_id_calls_snapshots_and_connections_and_frees_the_name(server, name):
    pauses(server, name, "one")
    sid, calls = server.session(name)["id"], server.json("calls", name)
    path = server.base / "mux"
    mux = ["-o", f"ControlPath={path}"]
    master = server.popen(name, options=[*mux, "-M", "-N"])
    wait_until("the connection", path.exists)
    call = server.popen(name, "echo ready; cat", options=mux)
    assert call.stdout.readline() == b"ready\n"
    r = server.json("rename", name, name + "-new")
    assert (r["session"], r["id"], r["state"]) == (name + "-new", sid, "running"), r
    assert ref_of(server, f"session-{sid}")["name"] == name + "-new"
    assert server.verb("show", name).status == 66
    assert server.json("calls", sid)[-1] == calls[-1] and len(server.json("snapshots", name + "-new")) == 1
    # the name is free, and a connection that came by it is the session's still, also through a pause
    assert server.ssh(name, "ls").out == b""
    assert server.ssh(name, "cat a", options=mux).out == b"one\n"
    assert server.verb("pause", name + "-new").status == 0
    call.communicate(timeout=30)
    r = server.ssh(name, "cat a; hostname", options=mux)
    assert r.out == f"one\n{name}-new\n".encode(), r
    master.terminate()
    master.communicate(timeout=30)


def test_a_renamed_session_keeps_its_connections_through_a_takeover(own_server, name):
    server = own_server
    holder = server.popen(name, "echo ready; cat")
    assert holder.stdout.readline() == b"ready\n"
    sid = server.session(name)["id"]
    assert server.verb("rename", name, "other").status == 0
    server.kill()
    server.start()
    assert server.session("other")["id"] == sid
    wait_until("its connection to be taken back", lambda: '"adopt"' in "".join(p.read_text() for p in (server.state / "audit").glob("*.jsonl")))
    out, _ = holder.communicate(b"still here\n", timeout=30)
    assert (out, holder.returncode) == (b"still here\n", 0)


def test_rename_needs_a_free_name_and_the_right_to_both(server, name):
    server.ssh(name, "true")
    server.ssh(name + "-b", "true")
    r = server.verb("rename", name, name + "-b")
    assert r.status == 64 and "there is a session" in r.stderr, r
    key = server.add_key("scoped-" + name, f'role="orchestrator",sessions="{name}"')
    r = server.verb("rename", name, name + "-c", key=key)
    assert r.status == 77, r
    assert server.session(name)["name"] == name
    for bad in ("berth", "s_aaaaaaaaaaaaaaaa", "A"):
        assert server.verb("rename", name, bad).status == 64


def test_undelete_brings_all_of_it_back(server, name):
    (one,) = pauses(server, name, "one")
    server.ssh(name, "echo two > a", options=["-o", "SetEnv=BERTH_CALL=k1"])
    server.verb("label", name, "team=red")
    sid = server.session(name)["id"]
    assert server.verb("rm", name).status == 0
    assert ref_of(server, f"session-{sid}")["deleted"] is True
    r = server.verb("undelete", name)
    assert r.status == 0, r
    s = server.session(name)
    assert (s["id"], s["state"], s["labels"]) == (sid, "paused", {"team": "red"}), s
    ref = ref_of(server, f"session-{sid}")
    assert ref["deleted"] is False and ref["labels"] == {"team": "red"} and ref["head"] == s["head"], ref
    assert cat(server, name) == "two"
    r = server.ssh(name, "echo two > a", options=["-o", "SetEnv=BERTH_CALL=k1"])
    assert r.status == 0 and len([c for c in server.json("calls", name) if c["command"] == "echo two > a"]) == 1, "its keys too"
    r = server.verb("undelete", name)
    assert r.status == 66, r


def test_undelete_where_name_and_ids_are_taken_by_others(server, name):
    server.ssh(name, "echo one > a; true", options=["-o", "SetEnv=BERTH_CALL=k1"])
    sid = server.session(name)["id"]
    assert server.verb("rm", name).status == 0
    assert server.verb("new", name).status == 0  # takes the name, and the first free uids
    for i in range(4):
        server.ssh(f"{name}-{i}", "true")
    r = server.verb("undelete", name)
    assert r.status == 64 and "undelete " + sid in r.stderr, r
    assert server.verb("undelete", sid, name + "-back").status == 0
    r = server.ssh(name + "-back", "cat a; stat -c %u a; touch b")
    assert (r.out, r.status) == (b"one\n0\n", 0), r
    assert server.ssh(name + "-back", "echo one > a; true", options=["-o", "SetEnv=BERTH_CALL=k1"]).status == 0
    assert len(server.json("calls", name + "-back")) == 2, "the key was replayed, not run again"
    for i in range(4):
        server.verb("rm", f"{name}-{i}")


def test_undelete_ends_with_the_tombstone():
    with running("tombstone = 0s\n") as server:
        server.ssh("short", "true")
        server.verb("rm", "short")
        r = server.verb("undelete", "short")
        assert r.status == 66 and "too long ago" in r.stderr, r


def test_labels_of_sessions_are_kept_shown_and_asked_for(own_server, name):
    server = own_server
    server.ssh(name, "true")
    server.ssh(name + "-b", "true")
    assert server.json("label", name, "team=red", "'text=a b'", "x=1")["labels"] == {"team": "red", "text": "a b", "x": "1"}
    r = server.verb("label", name, "x=", "team=blue")
    assert r.stdout == f"{name}: running, team=blue, text=a b\n", r
    server.verb("label", name + "-b", "team=green")
    assert [s["name"] for s in server.json("ls", "--label team=blue")] == [name]
    assert [s["name"] for s in server.json("ls", "--label team")] == [name, name + "-b"]
    assert server.json("ls", "--label team=blue", "--label team=green") == []
    assert "team=blue" in server.verb("show", name).stdout
    sid = server.session(name)["id"]
    assert ref_of(server, f"session-{sid}")["labels"] == {"team": "blue", "text": "a b"}
    server.kill()
    server.start()
    assert server.session(name)["labels"] == {"team": "blue", "text": "a b"}
    for bad in ("novalue", "UP=1", "=v", "'a=x\ty'", "--name n", "--pin yes", ""):
        r = server.verb("label", name, bad)
        assert r.status == 64 and r.stderr.startswith("berth: label"), r
    assert server.verb("label", name, *[f"k{i}=v" for i in range(15)]).status == 64, "more than 16"
    assert server.session(name)["labels"] == {"team": "blue", "text": "a b"}


def test_facts_of_a_snapshot_are_in_its_ref_and_row(server, name):
    one, two = pauses(server, name, "one", "two")
    r = server.json("label", one[7:19], "good=yes", "--name first", "--note 'the one'", "--pin yes", "--ttl 1h")
    assert r["snapshot"] == one and r["session"] == name, r
    facts = ref_of(server, one[7:])["facts"]
    assert facts == r["facts"] and facts["pinned"] is True and facts["labels"] == {"good": "yes"}, facts
    assert (facts["name"], facts["note"]) == ("first", "the one") and facts["expires_ns"] > 0
    row = heads(server, name)[one]
    assert (row["name"], row["note"]) == ("first", "the one"), row
    r = server.verb("label", f"{name}+first", "good=", "--pin no", "--ttl 0s", "--note ''")
    assert r.status == 0 and r.stdout == f"{name}: snapshot {one[7:19]} is first\n", r
    assert ref_of(server, one[7:])["facts"] == {"name": "first"}
    r = server.verb("label", f"{name}+{two[7:19]}", "--name first")
    assert r.status == 64 and "named first" in r.stderr, r
    assert server.verb("label", f"{name}+{two[7:19]}", "--name abcdef").status == 64, "it looks like a digest"
    assert server.json("restore", name, "first")["head"] == one
    assert server.verb("label", f"{name}+first", "--name ''").status == 0
    assert server.verb("label", f"{name}+first", "a=b").status == 66


def test_a_manager_killed_amid_a_rename_has_one_name_for_all(own_server, name):
    server = own_server
    server.ssh(name, "echo one > a")
    names = [name, "other"]
    for moment in range(6):
        was = next(n for n in names if server.session(n))
        to = names[1 - names.index(was)]
        rename = server.popen("berth", f"rename {was} {to}")
        select.select([], [], [], 0.02 * moment)
        server.kill()
        rename.communicate(timeout=30)
        server.start()
        there = [n for n in names if server.session(n)]
        assert len(there) == 1, there
        assert cat(server, there[0]) == "one"
        assert server.verb("label", there[0], f"moment={moment}").status == 0
        assert ref_of(server, f"session-{server.session(there[0])['id']}")["name"] == there[0]


# ---- one path out of a snapshot ----


def tree(server, name, path):
    """Every entry below a path: kind, mode, owner, time, size, content, link."""
    script = (f"cd {path} && find . ! -type d -printf '%p %y %m %U:%G %T@ %s %n %l\\n' | sort; "
              f"find . -type d -printf '%p %m %U:%G %T@\\n' | sort; "
              f"find . -type f | sort | xargs -r -d '\\n' sha256sum")
    return server.ssh(name, script).stdout


def test_one_file_comes_back_and_calls_go_on(server, name):
    (one,) = pauses(server, name, "one")
    holder = server.popen(name, "echo two > a; echo new > b; echo ready; cat")
    assert holder.stdout.readline() == b"ready\n"
    r = server.json("restore", name, one, "--path a")
    assert (r["path"], r["from"], r["written"], r["removed"], r["state"]) == ("/workspace/a", one, 1, 0, "running"), r
    assert server.ssh(name, "cat a b").out == b"one\nnew\n"
    out, _ = holder.communicate(b"still here\n", timeout=30)
    assert (out, holder.returncode) == (b"still here\n", 0)
    # what it replaced is a snapshot, and the session's own line goes on from its head
    saved = heads(server, name)[r["snapshot"]]
    assert (saved["parent"], saved["made_by"], saved["head"]) == (one, "restore", False), saved
    assert server.json("restore", name, r["snapshot"], "--path /workspace/a")["written"] == 1
    assert cat(server, name) == "two"


def test_a_tree_becomes_what_it_was_deletions_too(server, name):
    make = ("mkdir -p t/deep/er t/empty; cd t; echo 1 > one; echo 2 > deep/two; ln one linked; ln -s ../a soft; mkfifo pipe; "
            "chmod 4750 one; chown 5:6 deep/two; touch -d 2001-02-03T04:05:06.789 deep deep/two; truncate -s 5M sparse; "
            "printf end >> sparse; echo acl > x; command -v setfattr >/dev/null && setfattr -n user.k -v v x; "
            "head -c 300000 /dev/urandom > big; touch 'strange\tname'; chmod 0111 deep/er")
    r = server.ssh(name, make)
    assert r.status == 0, r
    before = tree(server, name, "/workspace/t")
    one = server.json("pause", name)["snapshot"]
    change = ("cd t; rm -r deep; echo file > deep; mkdir one2; echo x > one2/y; rm soft; mkdir soft; echo z > soft/z; rm pipe; "
              "echo 9 > pipe; echo more >> big; chmod 600 x; rm linked; echo other > linked; mkdir -p new/er; echo n > new/er/n; "
              "rm -r empty; ln -s /etc empty; mknod fifo2 p; printf X | dd of=sparse bs=1 seek=100 conv=notrunc 2>/dev/null; echo out > ../outside")
    r = server.ssh(name, change)
    assert r.status == 0, r
    r = server.json("restore", name, one[7:], "--path t")
    assert r["skipped"] == 0 and r["removed"] >= 5 and r["same"] >= 1, r
    assert tree(server, name, "/workspace/t") == before
    assert server.ssh(name, "cat outside; du -k t/sparse | cut -f1").stdout.split()[0] == "out"
    again = server.json("restore", name, one[7:], "--path t")
    assert (again["written"], again["removed"]) == (2, 0) and again["same"] > 8, "only what has two names is made anew"


def test_a_path_of_the_image_and_of_a_paused_session(server, name):
    pauses(server, name, "one")
    one = server.json("snapshots", name)[0]["snapshot"]
    server.ssh(name, "echo broken > /etc/inputrc; rm /etc/nsswitch.conf; rm -r /etc/alternatives; echo two > a")
    server.verb("pause", name)
    assert server.json("restore", name, one, "--path /etc")["state"] == "running"
    r = server.ssh(name, "cat a; grep -c broken /etc/inputrc; test -s /etc/nsswitch.conf && ls /etc/alternatives | wc -l")
    assert r.stdout.split()[:2] == ["two", "0"] and int(r.stdout.split()[2]) > 0, r


def test_a_directory_that_was_removed_is_made_again_with_its_own_attributes(server, name):
    server.ssh(name, "mkdir -p d/e; chmod 700 d; chown 7:8 d; echo x > d/e/f")
    one = server.json("pause", name)["snapshot"]
    server.ssh(name, "rm -r d")
    server.json("restore", name, one, "--path d/e/f")
    assert server.ssh(name, "stat -c '%a %u:%g' d; cat d/e/f").out == b"700 7:8\nx\n"


def test_what_cannot_be_put_back_is_said_and_nothing_is_touched(server, name):
    (one,) = pauses(server, name, "one")
    server.ssh(name, "echo two > a; mkdir d; ln -s d link; echo keep > d/x")
    two = server.json("pause", name)["snapshot"]
    server.ssh(name, "rm -r d; ln -s /etc d; rm link; mkdir link; echo v > link/x; sha256sum /etc/* 2>/dev/null > sums")
    for snapshot, path, status, words in [
            (one, "nothing", 66, "the snapshot has no /workspace/nothing"), (one, "d/x", 66, "has no /workspace/d"),
            (one, "/", 64, "all of it"), (one, "../etc", 64, "not .."), (one, "", 64, "it is empty"),
            (two, "d/x", 69, "/workspace/d is no directory now"), (two, "link/x", 69, "/workspace/link is no directory in the snapshot"),
            (two, "/proc/self", 66, "no /proc/self"), (two, "/usr/bin", 66, "no /usr/bin"), (two, "/proc", 69, "/proc is a mount")]:
        r = server.verb("restore", name, snapshot, f"--path '{path}'")
        assert r.status == status and words in r.stderr, (path, r)
    assert server.ssh(name, "sha256sum -c sums >/dev/null && cat a link/x && ls").out == b"two\nv\na\nd\nlink\nsums\n"


def test_a_link_in_place_of_a_tree_is_replaced_not_followed(server, name):
    server.ssh(name, "mkdir d; echo x > d/hosts")
    one = server.json("pause", name)["snapshot"]
    server.ssh(name, "sha256sum /etc/hosts > sum; rm -r d; ln -s /etc d")
    server.json("restore", name, one, "--path d")
    assert server.ssh(name, "test ! -L d && cat d/hosts && sha256sum -c sum").out == b"x\n/etc/hosts: OK\n"


def test_a_hard_link_out_of_the_tree_keeps_what_it_has(server, name):
    server.ssh(name, "mkdir d; echo x > d/f")
    one = server.json("pause", name)["snapshot"]
    server.ssh(name, "echo yy > d/f; ln d/f out")
    server.json("restore", name, one, "--path d")
    assert server.ssh(name, "cat d/f out").out == b"x\nyy\n"


def test_processes_that_move_what_is_on_the_way_lead_nothing_astray(server, name):
    """The tree and a directory in it are swapped with links to another tree all the time, by processes that stand in
    their parents and so touch nothing beyond them. That other tree must stay as it is, to the time of its change."""
    server.ssh(name, "mkdir -p t/a/b /srv/victim/a/b; for i in $(seq 300); do echo $i > t/a/b/$i; done; echo v > /srv/victim/a/b/1")
    look = "find /srv/victim -printf '%p %m %U %s %n %C@\n' | sort; cat /srv/victim/a/b/1"
    one = server.json("pause", name)["snapshot"]
    before = server.ssh(name, look).out
    swap = "ln -sT {to} evil; mv -T {what} away; mv -T evil {what}; mv -T {what} evil; mv -T away {what}"
    work = [("/workspace", swap.format(what="t", to="/srv/victim")), ("/workspace/t", swap.format(what="a", to="/srv/victim/a")),
            ("/workspace/t/a/b", "rm -f 1*; echo x > more")]
    racers = [server.popen(name, f"cd {where}; echo ready; while :; do {what}; done 2>/dev/null") for where, what in work]
    for racer in racers:
        assert racer.stdout.readline() == b"ready\n"
    for _ in range(8):
        server.verb("restore", name, one, "--path t")  # whether it succeeds is chance
    assert server.ssh(name, look).out == before
    for racer in racers:
        racer.kill()
        racer.communicate()


@pytest.fixture
def shared():
    """A directory of the node that anybody can reach and write."""
    with tempfile.TemporaryDirectory() as base:
        os.chmod(base, 0o755)
        path = pathlib.Path(base) / "shared"
        path.mkdir()
        path.chmod(0o777)
        yield path


def test_mounts_below_the_path_are_left_alone(shared, name):
    (shared / "of-the-node").write_text("node\n")
    with running(f"mounts = {shared}\n") as server:
        assert server.verb("new", name, f"--mount {shared}:/workspace/d/m").status == 0
        server.ssh(name, "echo x > d/x")
        one = server.json("pause", name)["snapshot"]
        server.ssh(name, "echo y > d/x; echo mine > d/m/mine; mkdir d/n")
        r = server.json("restore", name, one, "--path d")
        assert r["skipped"] == 1, r
        assert server.ssh(name, "cat d/x d/m/mine d/m/of-the-node; ls d").out == b"x\nmine\nnode\nm\nx\n"
        r = server.verb("restore", name, one, "--path d/m")
        assert r.status == 69 and "is a mount" in r.stderr, r


def test_restore_of_a_path_works_cold_and_over_long_chains(own_server, name):
    server = own_server
    made = pauses(server, name, *[f"v{i}" for i in range(28)])
    assert server.stop() == 0
    subprocess.run(["rm", "-rf", server.state / "cache/layers", *(server.state / "sessions").glob("s_*/upper.*")], check=True)
    server.start()
    for i in (0, 13, 26):
        server.json("restore", name, made[i], "--path a")
        assert cat(server, name) == f"v{i}"
    assert server.verb("restore", name, made[27]).status == 0
    assert cat(server, name) == "v27"


def test_a_manager_killed_while_files_are_put_back_leaves_the_session_running(own_server, name):
    server = own_server
    server.ssh(name, "mkdir t; for i in $(seq 1000); do echo $i > t/$i; done")
    one = server.json("pause", name)["snapshot"]
    for moment in range(4):
        server.ssh(name, f"rm -r t; mkdir t; echo {moment} > t/new")
        restore = server.popen("berth", f"restore {name} {one} --path t")
        wait_until("it to begin", lambda: server.session(name)["waits_for"] or restore.poll() is not None, 10)
        select.select([], [], [], 0.04 * moment)
        server.kill()
        restore.communicate(timeout=30)
        server.start()
        assert server.session(name)["state"] == "running"
        # what had begun goes on without its manager, and is waited for
        wait_until("it to be let in", lambda: server.verb("restore", name, one, "--path t").status == 0, 120)
        assert server.ssh(name, "ls t | wc -l").stdout.strip() == "1000"


def test_a_full_disk_is_said_and_the_rest_is_in_the_snapshot(server, name):
    assert server.verb("new", name, "--disk 40M").status == 0
    server.ssh(name, "head -c 30000000 /dev/urandom > big; sha256sum big > sum")
    one = server.json("pause", name)["snapshot"]
    r = server.ssh(name, "rm big; head -c 25000000 /dev/urandom > other; echo x > big; echo done")
    assert r.out == b"done\n", r
    r = server.verb("restore", name, one, "--path big")
    assert r.status in (0, 73), r
    if r.status == 73:
        assert "what it was before is snapshot" in r.stderr, r
        assert server.ssh(name, "cat big; ls -A").out == b"x\nbig\nother\nsum\n", "no half file, and nothing beside it"


def test_the_process_rung_says_that_it_restores_all_or_nothing(name):
    with running(rung="process") as server:
        (one,) = pauses(server, name, "one")
        r = server.verb("restore", name, one, "--path a")
        assert r.status == 69 and "rung process" in r.stderr and "restore all of it" in r.stderr, r
        server.ssh(name, "echo two > a")
        assert server.json("undo", name)["head"] == one
        assert cat(server, name) == "one"
        assert server.verb("redo", name).status == 0
        assert cat(server, name) == "two"
        sid = server.session(name)["id"]
        assert server.verb("rm", name).status == 0
        for other in ("b", "c"):
            server.ssh(other, "true")
        assert server.verb("undelete", sid).status == 0
        assert cat(server, name) == "two"
