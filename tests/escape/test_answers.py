"""Words of a session on somebody else's terminal: commands, names of processes, paths, notes. Whatever a terminal
heeds and does not show (C0, DEL, C1) stands in no answer of a verb, and in JSON it is escaped."""
import json
import re

import pytest

from berth_e2e import wait_until

COLOUR = "\x1b[31m\x9b31m\x07"  # the second is U+009B, CSI as well


def heeded(text):
    """What of it a terminal would heed, in UTF-8."""
    return re.findall("[\x00-\x08\x0b-\x1f\x7f-\x9f]", text.decode("utf-8", "replace"))


@pytest.fixture
def words(server, name):
    """A session whose call has such a command, and has left a process of such a name; returns the call's id."""
    child = r"import ctypes, time; ctypes.CDLL(None).prctl(15, b'\x1b[31m\xc2\x9b31m'); print('up', flush=True); time.sleep(10000)"
    r = server.ssh(name, f": '{COLOUR}'; python3 -c \"{child}\" > up & until grep -q up up; do :; done")
    assert r.status == 0, r
    return server.json("calls", name)[0]["call"]


def test_a_calls_command_and_its_processes_colour_no_terminal(server, name, words):
    for verb in (f"call show {words}", f"calls {name}", f"why {name}", f"show {name}", "ls", "audit"):
        r = server.verb(verb)
        assert r.status == 0 and heeded(r.out) == [], (verb, r)
        r = server.verb(verb, "--json")
        assert r.status == 0 and heeded(r.out) == [] and json.loads(r.out), (verb, r)
    shown = server.json("call show", words)
    assert COLOUR in shown["command"], shown


def test_what_a_snapshot_holds_and_is_told_of_colours_no_terminal(server, name):
    server.ssh(name, f"echo a > 'p{COLOUR}'; ln -s 't{COLOUR}' l")
    one = server.json("snapshot", name, f"--note 'n{COLOUR}'")
    server.ssh(name, f"echo b > 'p{COLOUR}'; echo c > 'q{COLOUR}'")
    two = server.json("snapshot", name)["snapshot"]
    one = one["snapshot"]
    for verb in (f"files {name} -r", f"files {one} --recursive", f"diff {one} {two}", f"diff {one} {two} --stat",
                 f"find {name} '*p*'", f"snapshots {name}", f"restore {name} {one} --path /workspace/l", f"label {name} 'x=y'"):
        for form in ("", " --json"):
            r = server.verb(verb + form)
            assert heeded(r.out) == [] and heeded(r.stderr.replace("\n", "").encode()) == [], (verb, r)


def test_the_commands_that_bisect_tells_of_colour_no_terminal(server, name):
    server.ssh(name, "true")
    assert server.verb("set", name, "snapshot call").status == 0
    server.ssh(name, "touch a")
    wait_until("a first snapshot", lambda: server.json("snapshots", name))
    good = server.json("snapshots", name)[-1]["snapshot"]
    server.ssh(name, f"rm a; : '{COLOUR}'")
    wait_until("a second snapshot", lambda: server.json("snapshots", name)[-1]["snapshot"] != good)
    bad = server.json("snapshots", name)[-1]["snapshot"]
    r = server.verb("bisect", name, good, bad, "-- test -e a")
    assert r.status == 0 and "rm a" in r.stdout and heeded(r.out) == [], r
