"""`why`: one sentence that is true, whatever the session does."""
import json
import re
import signal

from conftest import wait_until


def why(server, name):
    r = server.verb("why " + name)
    assert r.status == 0 and r.stdout.count("\n") == 1 and r.stdout.startswith(name + " "), r
    return r.stdout[len(name) + 1:-1]


def test_it_says_what_a_session_does_and_what_comes_next(server, name):
    server.verb("new " + name)
    assert why(server, name) == "runs and waits for a call; it goes on until somebody pauses it"
    p = server.popen(name, "echo up; read x; exit 3")
    assert p.stdout.readline() == b"up\n"
    assert re.match(r"runs 1 call; the oldest, c_\w{16}, waits since \ds for its command to end: echo up; read x; exit 3$", why(server, name))
    p.stdin.close()
    assert p.wait(20) == 3
    wait_until("its end", lambda: re.match(r"runs and waits for a call; the last one ended \ds ago", why(server, name)))
    server.verb("pause " + name)
    assert re.match(r"is paused since \ds; its files are safe in archives; a first channel, or resume, starts it$", why(server, name))
    server.verb("rm " + name)
    ident = server.json("why", name)["id"]
    assert re.match(r"was deleted \ds ago$", server.json("why", ident)["why"])


def test_it_names_the_wait_of_a_pause_and_its_bound(server, name):
    server.ssh(name, "nohup sh -c 'trap \"\" TERM; touch up; while :; do sleep 0.1; done' >/dev/null 2>&1 & until [ -e up ]; do sleep 0.01; done")
    p = server.popen("berth", f"pause {name} --grace 20s")
    said = wait_until("its words", lambda: (w := why(server, name)).startswith("is pausing") and "SIGTERM" in w and w)
    assert re.match(r"is pausing: it waits since \d+s for its processes to heed SIGTERM; then it is paused; it is given up in \d+s at the latest$", said)
    second = server.popen("berth", f"resume {name}")
    wait_until("the second request", lambda: "; 1 more request waits for that" in why(server, name))
    for x in (p, second):
        assert x.wait(60) == 0
        x.stdin.close()


def test_a_command_cannot_break_the_line(server, name):
    p = server.popen(name, "echo up\nread x # \x1b[31mred\x07")
    assert p.stdout.readline() == b"up\n"
    said = why(server, name)
    assert "\x1b" not in said and "\x07" not in said
    assert json.loads(server.verb(f"why {name} --json").out)["calls"] == 1
    p.stdin.close()
    p.wait(20)


def test_a_session_that_cannot_start_says_why_and_what_helps(own_server, name):
    server = own_server
    server.ssh(name, "echo x > a")
    server.verb("pause " + name)
    server.stop(signal.SIGTERM)
    for d in (server.state / "sessions").glob("*/upper.*"):
        d.rename(str(d) + ".gone")
    for blob in (server.state / "store/blobs/sha256").iterdir():
        if blob.read_bytes()[:4] == b"\x28\xb5\x2f\xfd":
            blob.write_bytes(b"broken")
    server.start()
    assert server.ssh(name, "true").status != 0
    assert re.match(r"failed \ds ago: .+; its files are kept, and resume tries again$", why(server, name))


def test_nobody_hears_of_a_session_that_is_not_his(server, name):
    server.ssh(name, "true")
    key = server.add_key("stranger", 'role="developer",sessions="other-*"')
    r = server.verb("why " + name, key=key)
    assert r.status == 66 and "no such session" in r.stderr
