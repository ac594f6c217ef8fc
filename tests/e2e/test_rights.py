"""Rights that end, and those that do not: files of keys while they are written, while the server is away."""
import contextlib
import os
import threading

import pytest

from conftest import at_most, wait_until
from test_login import allow, audit, certify, is_refused, make_key, server_popen, was_cut


def replace(server, text, name="authorized_keys"):
    """At once, as an editor of good manners does."""
    (server.base / "new").write_text(text)
    os.rename(server.base / "new", server.state / "keys" / name)


def keys_were_read(server, since):
    wait_until("the files of keys to be read", lambda: len(audit(server, "keys")) > since)


def lives(p):
    p.stdin.write(b"still\n")
    p.stdin.flush()
    return p.stdout.readline() == b"still\n"


@contextlib.contextmanager
def being_written(file, text):
    """By somebody who takes his time: it never stands still until he is done, and text is all there is."""
    done = threading.Event()
    with open(file, "w") as f:
        def write():
            f.write("# ")
            while not done.wait(0.2):
                f.write("more ")
                f.flush()
        writer = threading.Thread(target=write)
        writer.start()
        try:
            yield
        finally:
            done.set()
            writer.join()
            f.write("\n" + text)


def stop(server):
    server.process.kill()
    server.process.wait()
    server.process.stdout.close()


# ---- while a file is written ----

def test_half_a_file_of_keys_is_not_read(own_server, name):
    server = own_server
    key = make_key(server)
    allow(server, key)
    file = server.state / "keys" / "authorized_keys"
    text = file.read_text()
    with server_popen(server, name, key, "echo in; exec cat") as p:
        assert p.stdout.readline() == b"in\n"
        with being_written(file, key.with_suffix(".pub").read_text()):
            assert server.ssh(name, "echo in", key=key).stdout == "in\n"
            assert lives(p)
        assert is_refused(server.ssh(name, "true"))  # the operator's key is not in what was written
        assert lives(p)
    file.write_text(text)
    assert server.ssh(name, "echo in").stdout == "in\n"


def test_a_revoked_key_does_not_come_in_while_the_list_is_written(own_server, name):
    server = own_server
    key = make_key(server)
    allow(server, key)
    file = server.state / "keys" / "revoked_keys"
    file.write_text(key.with_suffix(".pub").read_text())
    assert is_refused(server.ssh(name, "true", key=key))
    with being_written(file, "serial: 1\n"):
        assert is_refused(server.ssh(name, "true", key=key))
        assert server.ssh(name, "echo in").stdout == "in\n"
    assert server.ssh(name, "echo in", key=key).stdout == "in\n"


@pytest.mark.parametrize("away", [os.unlink, lambda path: os.rename(path, f"{path}~")])
def test_an_editor_that_takes_the_file_away_first_cuts_nobody(own_server, name, away):
    server = own_server
    file = server.state / "keys" / "authorized_keys"
    text = file.read_text()
    with server_popen(server, name, server.key, "echo in; exec cat") as p:
        assert p.stdout.readline() == b"in\n"
        reads = len(audit(server, "keys"))
        away(file)
        file.write_text(text + "# more\n")
        keys_were_read(server, reads)
        assert lives(p)
        assert not audit(server, "cut")


def test_without_a_file_of_keys_nobody_is_left(own_server, name):
    server = own_server
    with server_popen(server, name, server.key, "echo in; exec cat") as p:
        assert p.stdout.readline() == b"in\n"
        (server.state / "keys" / "authorized_keys").unlink()
        p.wait(30)
        assert was_cut(p)
    assert is_refused(server.ssh(name, "true"))
    stop(server)
    server.start()  # the first operator comes in after the first start alone
    assert is_refused(server.ssh(name, "true"))


def test_a_file_of_keys_that_cannot_be_read_lets_nobody_in(own_server, name):
    server = own_server
    file = server.state / "keys" / "authorized_keys"
    with server_popen(server, name, server.key, "echo in; exec cat") as p:
        assert p.stdout.readline() == b"in\n"
        replace(server, "# " + "x" * (5 << 20) + "\n")
        p.wait(30)
        assert was_cut(p)
    for _ in range(3):
        assert is_refused(server.ssh(name, "true"))
    assert server.log().count("authorized_keys cannot be used") == 1, server.log()
    replace(server, server.key.with_suffix(".pub").read_text())
    assert server.ssh(name, "echo in").stdout == "in\n"
    assert file.exists()


def test_a_server_that_begins_while_a_list_is_written_neither_lets_in_nor_cuts(own_server, name):
    server = own_server
    with server_popen(server, name, server.key, "echo in; exec cat") as p:
        assert p.stdout.readline() == b"in\n"
        stop(server)
        with being_written(server.state / "keys" / "revoked_keys", "serial: 1\n"):
            server.start()
            assert is_refused(server.ssh(name, "true"))
            wait_until("the connection to be taken back", lambda: audit(server, "adopt"))
            assert lives(p)
        assert server.ssh(name, "echo in").stdout == "in\n"
        assert lives(p) and not audit(server, "cut")


# ---- while the server is away ----

@pytest.mark.parametrize("after", [None, "no-pty", 'permitopen="a:1"', 'role="developer"', 'from="10.0.0.0/8"',
                                   'expiry-time="20200101"', 'sessions="other"'])
def test_what_ended_while_the_server_was_away_is_cut_by_the_next(own_server, name, after):
    server = own_server
    key = make_key(server)
    before = (server.state / "keys" / "authorized_keys").read_text()
    allow(server, key)
    with server_popen(server, name, key, "echo in; exec cat") as p, \
            server_popen(server, name, server.key, "echo in; exec cat") as other:
        assert p.stdout.readline() == b"in\n"
        assert other.stdout.readline() == b"in\n"
        stop(server)
        line = "" if after is None else f"{after} {key.with_suffix('.pub').read_text()}"
        replace(server, before + line)
        server.start()
        with at_most(30):
            p.wait(30)
        assert was_cut(p)
        wait_until("the other to be taken back", lambda: len(audit(server, "adopt")) == 2)
        assert lives(other)


def test_what_a_role_may_not_forward_any_more_is_cut_by_the_next_server(own_server, name):
    server = own_server
    key = make_key(server)
    allow(server, key, 'role="developer"')
    server.ssh(name, "true")
    with server_popen(server, name, key, "echo in; exec cat") as p, \
            server_popen(server, name, server.key, "echo in; exec cat") as other:
        assert p.stdout.readline() == b"in\n"
        assert other.stdout.readline() == b"in\n"
        stop(server)
        with open(server.config, "a") as f:
            f.write("forward_roles = operator\n")
        server.start()
        with at_most(30):
            p.wait(30)
        assert was_cut(p)
        wait_until("the other to be taken back", lambda: len(audit(server, "adopt")) == 2)
        assert lives(other)


# ---- verbs ----

def test_a_verb_about_a_session_ends_with_the_right_to_it(own_server, name):
    server = own_server
    key = make_key(server)
    before = (server.state / "keys" / "authorized_keys").read_text()
    allow(server, key, 'sessions="t-*"')
    server.ssh(name, "true")
    with server_popen(server, name, server.key, "echo in; exec cat") as call:
        assert call.stdout.readline() == b"in\n"
        number = next(c["call"] for c in server.json("calls", name) if c["command"].startswith("echo in"))
        verbs = len(audit(server, "verb"))
        with server_popen(server, "berth", key, f"call wait {number}") as p:
            wait_until("the verb to begin", lambda: len(audit(server, "verb")) > verbs)
            replace(server, before + f'sessions="other" {key.with_suffix(".pub").read_text()}')
            p.wait(30)
            assert was_cut(p)


# ---- a session gets another name ----

def test_a_rename_out_of_a_keys_scope_ends_its_connections_and_no_others(own_server, name):
    server = own_server
    keys = [make_key(server), make_key(server)]
    allow(server, keys[0], f'sessions="{name}"')
    allow(server, keys[1], f'sessions="{name}*"')
    server.ssh(name, "true")
    server.verb("pause", name)
    with contextlib.ExitStack() as stack:
        cut, kept = [stack.enter_context(server_popen(server, name, key, "echo in; exec cat")) for key in keys]
        for p in (cut, kept):
            assert p.stdout.readline() == b"in\n"
        seen = stack.enter_context(server_popen(server, f"{name}+{server.session(name)['head'][7:19]}", keys[0], "sftp", options=["-s"]))
        wait_until("the snapshot to be seen", lambda: audit(server, "view"))
        assert server.verb("rename", name, name + "-2").status == 0
        for p in (cut, seen):
            p.wait(30)
            assert was_cut(p)
        assert lives(kept)
        kept.stdin.close()
        kept.wait(30)


def test_a_session_that_comes_back_by_another_name_takes_nobodys_connection(own_server, name):
    server = own_server
    server.ssh(name, "echo old > a")
    sid = server.session(name)["id"]
    assert server.verb("rm", name).status == 0
    assert server.verb("new", name).status == 0
    path = server.base / "mux"
    mux = ["-o", f"ControlPath={path}"]
    master = server.popen(name, options=[*mux, "-M", "-N"])
    wait_until("the connection", path.exists)
    assert server.ssh(name, "echo new > a", options=mux).status == 0
    assert server.verb("undelete", sid, name + "-back").status == 0
    assert server.verb("pause", name).status == 0
    assert server.ssh(name, "cat a", options=mux).out == b"new\n"
    master.terminate()
    master.communicate(timeout=30)


# ---- certificates ----

def test_no_certificate_comes_in_by_sha1(own_server, name):
    server = own_server
    ca = make_key(server)
    allow(server, ca, "cert-authority")
    key = make_key(server, "rsa", "2048")
    certify(ca, key, "-n", name)
    good = ["-o", "PubkeyAcceptedAlgorithms=rsa-sha2-512-cert-v01@openssh.com"]
    assert server.ssh(name, "echo in", key=key, options=good).stdout == "in\n"
    bad = ["-o", "PubkeyAcceptedAlgorithms=ssh-rsa-cert-v01@openssh.com"]
    assert server.ssh(name, "true", key=key, options=bad).status == 255
