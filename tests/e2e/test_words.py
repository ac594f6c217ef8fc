"""What verbs say: the same facts in both forms, the same words for the same thing, hints that lead on."""
import json

import pytest

from conftest import running


@pytest.fixture(scope="module")
def server():
    with running() as s:
        yield s


def refused(server, *words):
    r = server.verb(*words)
    assert r.status and not r.out and r.stderr.startswith(f"berth: {words[0]}") and r.stderr.count("\n") == 1, r
    return r.status, r.stderr.rstrip("\n")


def saved(server, name, text):
    assert server.ssh(name, f"echo {text} > a").status == 0
    return server.json("snapshot", name)["snapshot"].removeprefix("sha256:")


def test_restore_says_where_the_session_is_as_undo_does(server, name):
    first = saved(server, name, 1)
    saved(server, name, 2)
    back = server.verb("restore", name, first)
    assert back.stdout == f"{name}: paused, at {first[:12]}, made by snapshot\n", back
    assert server.json("undo", name)["head"] is None
    assert refused(server, "undo", name) == (66, f"berth: undo {name}: there is nothing to go back to (snapshots lists them)")
    assert refused(server, "redo", name, "2")[1].startswith(f"berth: redo {name}: there is 1 step to come back (")


def test_a_path_that_a_snapshot_lacks_leads_to_those_that_it_has(server, name):
    digest = saved(server, name, 1)
    assert refused(server, "restore", name, digest, "--path", "b") == (
        66, f"berth: restore {name}: the snapshot has no /workspace/b (what it has: ssh berth@HOST files {digest[:12]})")


def test_the_table_of_snapshots_tells_when_one_may_go(server, name):
    server.ssh(name, "echo 1 > a")
    assert server.verb("snapshot", name, "--ttl", "7d").status == 0
    (one,) = server.json("snapshots", name)
    assert f"snapshot; until {one['expires'][:16]}Z" in server.verb("snapshots", name).stdout


def test_a_long_command_is_marked_as_cut(server, name):
    assert server.verb("new", name, "--snapshot", "call").status == 0
    command = "echo " + "ä" * 40 + " > a"
    assert server.ssh(name, command).status == 0
    server.verb("pause", name)
    assert ": echo " + "ä" * 21 + "…\n" in server.verb("snapshots", name).stdout


def test_calls_of_a_snapshot_have_one_form_in_every_verb(server, name):
    assert server.verb("new", name, "--snapshot", "call").status == 0
    for i in range(3):
        assert server.ssh(name, f"echo {i} > a").status == 0
    assert server.verb("pause", name).status == 0
    made = server.json("snapshots", name)
    assert [[c["command"] for c in s["calls"]] for s in made] == [[f"echo {i} > a"] for i in range(3)]
    digests = [s["snapshot"].removeprefix("sha256:") for s in made]
    told = server.verb("bisect", name, digests[0], digests[2], "--json", "--", "'test $(cat a) = 0'").stdout
    assert json.loads(told.splitlines()[-1])["calls"] == made[1]["calls"]
    assert server.json("undo", name)["calls"] == made[1]["calls"]


def test_a_rule_of_retention_is_given_as_one_types_it(server, name):
    assert server.verb("new", name).status == 0
    assert server.verb("set", name, "retention", "last=20", "daily=7", "ttl=90d").stdout == f"{name}: retention last=20 daily=7 ttl=90d\n"
    assert server.verb("set", name, "retention", "'last=20 daily=7'").stdout == f"{name}: retention last=20 daily=7\n"
    assert refused(server, "set", name, "pids", "5", "6") == (64, f"berth: set {name}: one word too many: 6 (run: ssh berth@HOST help set)")


def test_a_name_that_is_nobodys_is_told_back_and_a_deleted_one_named_so(server, name):
    assert refused(server, "show", "nosuch") == (66, "berth: show: no such session: nosuch (run: ssh berth@HOST ls)")
    for verb in ("files", "export", "verify"):
        assert refused(server, verb, "nosuch") == (66, f"berth: {verb}: no session or snapshot nosuch (run: ssh berth@HOST ls)")
    assert refused(server, "fork", "nosuch", "other")[1] == "berth: fork: no session or snapshot nosuch (run: ssh berth@HOST ls)"
    digest = saved(server, name, 1)
    assert refused(server, "undelete", name)[1] == f"berth: undelete: session {name} was not deleted (run: ssh berth@HOST show {name})"
    assert server.verb("rm", name, "--force").status == 0
    assert refused(server, "pause", name)[1] == f"berth: pause: session {name} was deleted (run: ssh berth@HOST undelete {name})"
    assert f"session {name} was deleted (" in refused(server, "files", name)[1]
    assert b"workspace" in server.verb("files", f"{name}+{digest[:12]}").out


def test_a_usage_error_found_late_points_at_the_help_of_its_verb(server, name):
    digest = saved(server, name, 1)
    other = saved(server, name, 2)
    assert refused(server, "fork", name, "x", "--count", "0")[1].endswith("(run: ssh berth@HOST help fork)")
    assert refused(server, "bisect", name, other, digest, "--", "true")[1].endswith("(GOOD first; see: ssh berth@HOST snapshots)")
    assert server.verb("label", f"{name}+{digest}", "--name", "one").status == 0
    assert refused(server, "label", f"{name}+{other}", "--name", "one")[1].endswith(f"(choose another name, or: label {name}+one --name '')")
