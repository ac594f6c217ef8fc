"""`call input`: somebody else gives a live call stdin."""
import contextlib
import hashlib
import json
import subprocess
import threading

from conftest import at_most, wait_until


def detach(server, name, command, *values):
    r = server.ssh(name, command, options=("-o", "SetEnv=" + " ".join(("BERTH_DETACH=1", *values))))
    assert r.status == 0, r
    return r.stdout.strip()


def live(server, name):
    """The id of the only call that runs."""
    wait_until("the session", lambda: server.verb("show", name).status == 0)
    return wait_until("the call", lambda: (c := server.json("calls", name)) and c[0]["live"] and c[0]["call"])


def give(server, ident, text, *flags):
    return server.ssh("berth", " ".join(("call input", ident, *flags)), stdin=text)


def test_a_detached_call_that_keeps_its_stdin_takes_input_until_its_end(server, name):
    ident = detach(server, name, "cat; exit 7", "BERTH_STDIN=keep")
    assert give(server, ident, b"one\n").status == 0
    r = give(server, ident, b"two\n", "--json")
    assert json.loads(r.out) == {"call": ident, "bytes": 4}, r
    wait_until("both lines", lambda: server.verb("call output", ident).out == b"one\ntwo\n")
    assert give(server, ident, b"three\n", "--end").status == 0
    assert server.verb("call wait", ident).status == 7
    assert server.verb("call output", ident).out == b"one\ntwo\nthree\n"
    r = give(server, ident, b"four\n")
    assert r.status == 66 and "ended" in r.stderr


def test_a_detached_call_is_at_its_end_of_stdin_by_itself(server, name):
    server.ssh(name, "mkfifo go")
    ident = detach(server, name, "cat; read x < go")
    r = give(server, ident, b"x")
    assert r.status == 69 and "BERTH_STDIN=keep" in r.stderr
    assert server.verb("call kill", ident).status == 0


def test_a_prompt_of_a_live_call_is_answered_by_another(server, name):
    p = server.popen(name, "printf 'sure? '; read answer; echo got $answer", stdin=subprocess.PIPE)
    ident = live(server, name)
    assert give(server, ident, b"yes\n").status == 0
    with at_most(30):
        out, err = p.communicate(timeout=30)
    assert (out, p.returncode) == (b"sure? got yes\n", 0), err


def test_a_terminal_is_typed_into_by_another(server, name):
    p = server.popen(name, "printf 'sure? '; read answer; echo got $answer", options=("-tt",), stdin=subprocess.PIPE)
    ident = live(server, name)
    wait_until("its prompt", lambda: b"sure?" in server.verb("call output", ident).out)
    assert give(server, ident, b"yes\n").status == 0
    out, _ = p.communicate(timeout=30)
    assert out.endswith(b"got yes\r\n")


def test_stdin_ends_when_the_client_ends_it_as_before(server, name):
    with at_most(30):
        r = server.ssh(name, "cat; echo end", stdin=b"a\n")
    assert r.out == b"a\nend\n"


def test_an_owner_that_ends_stdin_does_not_end_a_kept_one(server, name):
    p = server.popen(name, "cat; echo end", options=("-o", "SetEnv=BERTH_STDIN=keep"), stdin=subprocess.PIPE)
    p.stdin.write(b"mine\n")
    p.stdin.close()
    ident = live(server, name)
    wait_until("its line", lambda: server.verb("call output", ident).out == b"mine\n")
    assert give(server, ident, b"yours\n", "--end").status == 0
    with at_most(30):
        assert p.stdout.read() == b"mine\nyours\nend\n"
    assert p.wait(30) == 0


def test_ten_megabytes_arrive_whole_though_nobody_reads_at_first(server, name, tmp_path):
    server.ssh(name, "mkfifo go")
    text = b"".join(b"%09d\n" % i for i in range(1000000))
    (tmp_path / "text").write_bytes(text)
    ident = detach(server, name, "read x < go; sha256sum", "BERTH_STDIN=keep")
    with open(tmp_path / "text", "rb") as f:
        p = server.popen("berth", f"call input {ident} --end --json", stdin=f)
    server.ssh(name, "echo > go")
    assert json.loads(p.communicate(timeout=60)[0])["bytes"] == len(text)
    assert server.verb("call wait", ident).status == 0
    assert server.verb("call output", ident).stdout.split()[0] == hashlib.sha256(text).hexdigest()


def test_who_gives_is_told_that_the_call_reads_no_more(server, name):
    server.ssh(name, "mkfifo go")
    ident = detach(server, name, "read x < go; head -c 1; exec 0</dev/null; read x < go", "BERTH_STDIN=keep")
    p = server.popen("berth", f"call input {ident}", stdin=subprocess.PIPE, stderr=subprocess.PIPE)

    def write():
        with contextlib.suppress(BrokenPipeError):
            p.stdin.write(b"x" * (3 << 20))  # more than the pipe takes

    writer = threading.Thread(target=write)
    writer.start()
    server.ssh(name, "echo > go")
    with at_most(30):
        err = p.stderr.read()
    assert p.wait(30) == 74 and b"reads no more" in err
    server.ssh(name, "echo > go")
    assert server.verb("call wait", ident).status == 0


def test_who_gives_is_let_go_when_the_call_ends(server, name):
    server.ssh(name, "mkfifo go")
    ident = detach(server, name, "read line; echo $line", "BERTH_STDIN=keep")
    p = server.popen("berth", f"call input {ident}", stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    p.stdin.write(b"last\n")
    p.stdin.flush()
    with at_most(30):
        err = p.stderr.read()
    assert p.wait(30) == 74 and (b"5 bytes were written" in err or b"has ended before" in err)
    p.stdin.close()
    assert server.verb("call output", ident).out == b"last\n"


def test_a_giver_that_is_killed_leaves_the_call_and_its_stdin(server, name):
    ident = detach(server, name, "cat", "BERTH_STDIN=keep")
    p = server.popen("berth", f"call input {ident} --end", stdin=subprocess.PIPE)
    p.stdin.write(b"half\n")
    p.stdin.flush()
    wait_until("its line", lambda: server.verb("call output", ident).out == b"half\n")
    p.kill()
    p.wait()
    assert give(server, ident, b"whole\n", "--end").status == 0
    assert server.verb("call wait", ident).status == 0
    assert server.verb("call output", ident).out == b"half\nwhole\n"


def test_a_call_with_a_key_takes_input_beside_its_owner(server, name):
    p = server.popen(name, "cat", options=("-o", "SetEnv=BERTH_CALL=k"), stdin=subprocess.PIPE)
    p.stdin.write(b"owner\n")
    p.stdin.flush()
    ident = live(server, name)
    wait_until("its line", lambda: server.verb("call output", ident).out == b"owner\n")
    assert give(server, ident, b"other\n").status == 0
    wait_until("the other", lambda: server.verb("call output", ident).out == b"owner\nother\n")
    p.stdin.close()
    assert p.stdout.read() == b"owner\nother\n"
    assert p.wait(30) == 0


def test_another_ones_scope_hides_it(server, name):
    ident = detach(server, name, "cat", "BERTH_STDIN=keep")
    key = server.add_key("scoped-" + name, 'role="developer",sessions="other-*"')
    assert server.ssh("berth", f"call input {ident}", stdin=b"x", key=key).status == 66
    assert give(server, ident, b"", "--end").status == 0
    assert server.verb("call wait", ident).status == 0
