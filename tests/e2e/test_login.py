"""Who may come in: options of authorized_keys, user certificates by ssh-keygen, listeners, what is cut."""
import contextlib
import json
import os
import re
import shutil
import subprocess
import time

import pytest

from conftest import RUNG, Server, at_most, make_server, running, wait_until
from test_forwards import echo_server

NAMES = iter(range(10**6))


def keygen(*words):
    subprocess.run(["ssh-keygen", "-q", *map(str, words)], check=True, stdin=subprocess.DEVNULL, capture_output=True)


def make_key(server, kind="ed25519", bits=None):
    path = server.base / f"k{next(NAMES)}"
    keygen("-t", kind, *(["-b", bits] if bits else []), "-N", "", "-f", path, "-C", path.name)
    return path


def allow(server, key, options=""):
    with open(server.state / "keys" / "authorized_keys", "a") as f:
        f.write(options + (" " if options else "") + key.with_suffix(".pub").read_text())


def certify(authority, key, *words, identity="anna"):
    """The certificate is where ssh looks for it: beside the key."""
    keygen("-s", authority, "-I", identity, *words, key.with_suffix(".pub"))
    return key


def audit(server, kind):
    return [line for path in sorted((server.state / "audit").glob("*.jsonl")) for line in
            map(json.loads, path.read_text().splitlines()) if line["kind"] == kind]


def is_refused(done):
    return done.status == 255 and "Permission denied" in done.stderr


def was_cut(ssh):
    """Either end may be the first to be gone: the connection, or its link to the session."""
    return ssh.returncode in (255, 69)


@pytest.fixture(scope="module")
def authority(server):
    key = make_key(server)
    allow(server, key, "cert-authority")
    return key


# ---- options of authorized_keys ----

def test_a_key_comes_in_only_from_where_it_may(server, name):
    key = make_key(server)
    allow(server, key, 'from="127.0.0.2,10.0.0.0/8"')
    assert is_refused(server.ssh(name, "echo in", key=key))
    assert server.ssh(name, "echo in", key=key, options=["-b", "127.0.0.2"]).stdout == "in\n"
    line = audit(server, "auth")[-2]
    assert line["result"] == "refused" and "not for logins from 127.0.0.1" in line["why"], line


def test_a_key_that_has_expired_does_not_come_in(server, name):
    key = make_key(server)
    allow(server, key, 'expiry-time="20240101Z"')
    assert is_refused(server.ssh(name, "echo in", key=key))
    assert "has expired" in server.log()


def test_a_key_that_expires_while_it_is_connected_is_cut(server, name):
    key = make_key(server)
    until = time.strftime("%Y%m%d%H%M%SZ", time.gmtime(time.time() + 4))
    allow(server, key, f'expiry-time="{until}"')
    with server_popen(server, name, key, "echo in; exec cat") as p:
        assert p.stdout.readline() == b"in\n"
        with at_most(30):
            p.wait(30)
        assert was_cut(p)
    assert [c for c in audit(server, "cut") if c["user"] == name and "has expired" in c["why"]]


@contextlib.contextmanager
def server_popen(server, user, key, *command, options=()):
    argv = server.ssh_argv(user, *command, key=key, options=options)
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as p:
        try:
            yield p
        finally:
            p.kill()


def test_a_key_expires_without_a_manager_too(own_server, name):
    server = own_server
    key = make_key(server)
    server.ssh(name, "true")
    until = time.strftime("%Y%m%d%H%M%SZ", time.gmtime(time.time() + 5))
    allow(server, key, f'expiry-time="{until}"')
    with server_popen(server, name, key, "echo in; exec cat") as p:
        assert p.stdout.readline() == b"in\n"
        server.process.kill()
        server.process.wait()
        server.process.stdout.close()
        p.wait(30)  # its keeper ends the link
        assert p.returncode != 0
    server.start()


def test_a_key_that_is_removed_is_cut(server, name):
    key = make_key(server)
    file = server.state / "keys" / "authorized_keys"
    before = file.read_text()
    allow(server, key)
    with server_popen(server, name, key, "echo in; exec cat") as p:
        assert p.stdout.readline() == b"in\n"
        (server.base / "new").write_text(before)
        os.rename(server.base / "new", file)
        p.wait(30)
        assert was_cut(p)
    assert is_refused(server.ssh(name, "true", key=key))
    assert [c for c in audit(server, "cut") if c["user"] == name]


@pytest.mark.parametrize("before,after,cut", [
    ('role="orchestrator"', 'role="developer"', True), ("", "no-port-forwarding", True), ("", 'permitopen="a:1"', True),
    ("", 'sessions="other"', True), ("", 'expiry-time="20200101"', True), ("", 'from="10.0.0.0/8"', True),
    ("no-pty", "", False), ('permitopen="a:1"', "", False), ("", 'sessions="t-*"', False), ("", 'role="operator"', False)])
def test_who_may_do_less_than_before_is_cut(server, name, before, after, cut):
    key = make_key(server)
    file = server.state / "keys" / "authorized_keys"
    rest = file.read_text()
    allow(server, key, before)
    with server_popen(server, name, key, "echo in; exec cat") as p:
        assert p.stdout.readline() == b"in\n"
        changes = len(audit(server, "keys"))
        (server.base / "new").write_text(rest + f"{after} {key.with_suffix('.pub').read_text()}")
        os.rename(server.base / "new", file)
        wait_until("the change to be read", lambda: len(audit(server, "keys")) > changes)
        if cut:
            p.wait(30)
            assert was_cut(p)
        else:
            p.stdin.write(b"still\n")
            p.stdin.flush()
            assert p.stdout.readline() == b"still\n"
    file.write_text(rest)


def test_a_key_without_pty_gets_none_and_its_commands_run(server, name):
    for options in ("no-pty", "restrict"):
        key = make_key(server)
        allow(server, key, options)
        done = server.ssh(name, "true", key=key, options=["-tt"])
        assert done.status == 255 and "PTY allocation request failed" in done.stderr, done
        assert server.ssh(name, "test -t 0; echo $?", key=key).stdout == "1\n"
    allow(server, key := make_key(server), "restrict,pty")
    done = server.ssh(name, "test -t 0; echo $?", key=key, options=["-tt"])
    assert done.stdout.endswith("0\r\n"), done


def test_a_line_with_an_unknown_option_is_not_used_and_named(server, name):
    key = make_key(server)
    lines = len((server.state / "keys" / "authorized_keys").read_text().splitlines())
    allow(server, key, 'command="true"')
    assert is_refused(server.ssh(name, "true", key=key))
    assert f"authorized_keys line {lines + 1} is not used: option not supported: command" in server.log()


# ---- what a key allows of forwarding ----

def by_key(server, name, key, *options):
    """`ssh -W HOST:PORT` or -R, until it has said what comes of it."""
    argv = server.ssh_argv(name, key=key, options=("-o", "ExitOnForwardFailure=yes", *options))
    done = subprocess.run(argv, input=b"hello", capture_output=True, timeout=60)
    return done.stdout


def listens(server, name, key, where):
    """Whether -R is granted: the command behind it runs then."""
    return server.ssh(name, "echo in", key=key, options=["-o", "ExitOnForwardFailure=yes", "-R", f"{where}:127.0.0.1:1"]).stdout == "in\n"


@pytest.mark.skipif(RUNG.startswith("process"), reason="a session of isolation process has no network to forward into")
def test_forwarding_is_held_to_the_keys_line(server, authority, name):
    inside = echo_server(server, name)
    there, elsewhere = ("-W", "localhost:7007"), ("-W", "127.0.0.1:7007")
    rows = {"": (True, True, True, True), 'permitopen="localhost:7007"': (True, False, True, True),
            'permitopen="localhost:7008",permitopen="127.0.0.1:*"': (False, True, True, True),
            "no-port-forwarding": (False, False, False, False), "restrict": (False, False, False, False),
            "restrict,port-forwarding": (True, True, True, True),
            'permitlisten="localhost:8101"': (True, True, True, False), 'permitlisten="*:8102"': (True, True, False, True)}
    for options, expected in rows.items():
        key = make_key(server)
        allow(server, key, 'role="developer"' + ("," + options if options else ""))
        got = (by_key(server, name, key, *there) == b"hello", by_key(server, name, key, *elsewhere) == b"hello",
               listens(server, name, key, "8101"), listens(server, name, key, "8102"))
        assert got == expected, options
    # a certificate without permit-port-forwarding
    ca = make_key(server)
    allow(server, ca, 'cert-authority,role="developer"')
    key = certify(ca, make_key(server), "-n", name)
    assert by_key(server, name, key, *there) == b"hello"
    key = certify(ca, make_key(server), "-n", name, "-O", "no-port-forwarding")
    assert by_key(server, name, key, *there) == b"" and not listens(server, name, key, "8101")
    inside.kill()
    inside.wait()


# ---- certificates ----

@pytest.mark.parametrize("kind,bits", [("ed25519", None), ("ecdsa", 256), ("ecdsa", 384), ("ecdsa", 521), ("rsa", 2048)])
def test_a_certificate_comes_in(server, authority, name, kind, bits):
    key = certify(authority, make_key(server, kind, bits), "-z", "77", "-n", name)
    done = server.ssh(name, "echo in", key=key)
    assert done.stdout == "in\n", done
    line = audit(server, "auth")[-1]
    print_of = subprocess.check_output(["ssh-keygen", "-lf", authority], text=True).split()[1]
    assert (line["certificate"], line["serial"], line["authority"], line["role"]) == ("anna", "77", print_of, "orchestrator")
    assert line["principal"] == f"{print_of} cert:anna"
    # and not as anybody else
    assert is_refused(server.ssh(name + "x", "true", key=key))


def test_a_certificate_is_held_to_its_authoritys_line(server, name):
    ca = make_key(server)
    allow(server, ca, f'cert-authority,principals="agents",role="developer",sessions="{name}"')
    server.ssh(name, "true")
    key = certify(ca, make_key(server), "-n", "agents,others")
    assert server.ssh(name, "echo in", key=key).stdout == "in\n"
    assert server.ssh(name + "x", "true", key=key).status == 66
    assert server.verb("pause", name, key=key).status == 77
    assert is_refused(server.ssh(name, "true", key=certify(ca, make_key(server), "-n", name)))


def test_a_certificate_without_permit_pty_gets_none(server, authority, name):
    key = certify(authority, make_key(server), "-n", name, "-O", "no-pty")
    done = server.ssh(name, "true", key=key, options=["-tt"])
    assert done.status == 255 and "PTY allocation request failed" in done.stderr, done
    assert server.ssh(name, "echo in", key=key).stdout == "in\n"
    with_pty = certify(authority, make_key(server), "-n", name)
    assert server.ssh(name, "echo in", key=with_pty, options=["-tt"]).stdout.endswith("in\r\n")


BROKEN = [
    (["-n", "somebody"], "does not name"),
    ([], "names no principal"),
    (["-n", "NAME", "-V", "20200101:20210101"], "certificate has expired"),
    (["-n", "NAME", "-V", "+1d:+2d"], "not valid yet"),
    (["-n", "NAME", "-h"], "not a user certificate"),
    (["-n", "NAME", "-O", "force-command=id"], "force-command is not supported"),
    (["-n", "NAME", "-O", "critical:new@example.com=1"], "new@example.com is not supported"),
    (["-n", "NAME", "-O", "source-address=10.0.0.0/8,127.0.0.2"], "not for logins from 127.0.0.1"),
    (["-n", "NAME", "-O", "verify-required"], "verify-required is not supported"),
]


def client_sends(server, user, key):
    """asyncssh offers what OpenSSH's client would not."""
    import asyncio

    import asyncssh

    async def run():
        cert = key.parent / (key.name + "-cert.pub")
        async with asyncssh.connect("127.0.0.1", server.port, username=user, known_hosts=None,
                                    client_keys=[(str(key), str(cert))], agent_path=None):
            return True

    try:
        return asyncio.run(run())
    except asyncssh.PermissionDenied:
        return False


@pytest.mark.parametrize("words,said", BROKEN)
def test_a_certificate_that_is_not_right_is_refused(server, authority, name, words, said):
    key = certify(authority, make_key(server), *[name if w == "NAME" else w for w in words])
    refused = is_refused(server.ssh(name, "true", key=key)) if "-h" not in words else not client_sends(server, name, key)
    assert refused
    if "-h" not in words and "20200101:20210101" not in words and "+1d:+2d" not in words:  # those may not be offered
        assert said in audit(server, "auth")[-1]["why"], audit(server, "auth")[-1]


def test_a_source_address_lets_in_from_there(server, authority, name):
    key = certify(authority, make_key(server), "-n", name, "-O", "source-address=10.0.0.0/8,127.0.0.2/32")
    assert server.ssh(name, "echo in", key=key, options=["-b", "127.0.0.2"]).stdout == "in\n"


def test_an_authority_that_nobody_named_certifies_nothing(server, name):
    key = certify(make_key(server), make_key(server), "-n", name)
    assert is_refused(server.ssh(name, "true", key=key))
    line = audit(server, "auth")
    assert any("authority" in one and "is not known" in one.get("why", "") for one in line[-3:]), line[-3:]


def test_an_authority_does_not_come_in_itself(server, authority, name):
    assert is_refused(server.ssh(name, "true", key=authority))


@contextlib.contextmanager
def revoked(server, text):
    file = server.state / "keys" / "revoked_keys"
    file.write_text(text)
    try:
        yield
    finally:
        reads = len(audit(server, "keys"))
        file.write_text("")  # one that is gone may be one that is replaced: that takes its time
        wait_until("it to be read", lambda: len(audit(server, "keys")) > reads)
        file.unlink()


def test_what_is_revoked_does_not_come_in_and_is_cut(server, authority, name):
    key = certify(authority, make_key(server), "-n", name, "-z", "4711", identity="bert")
    lists = ["serial: 4700-4720\n", "id: bert\n", key.with_suffix(".pub").read_text(),
             authority.with_suffix(".pub").read_text()]
    for text in lists:
        with server_popen(server, name, key, "echo in; exec cat") as p:
            assert p.stdout.readline() == b"in\n"
            with revoked(server, text):
                p.wait(30)
                assert was_cut(p)
                assert is_refused(server.ssh(name, "true", key=key))
                assert server.ssh(name, "echo others", timeout=30).stdout == "others\n"
    assert server.ssh(name, "echo in", key=key).stdout == "in\n"


def test_a_list_of_revoked_keys_that_is_not_understood_lets_nobody_in(own_server, name):
    assert own_server.ssh(name, "echo in").stdout == "in\n"
    with revoked(own_server, "serial: 1\nsomething else\n"):
        assert is_refused(own_server.ssh(name, "true"))
        assert "revoked_keys line 2: neither a key nor a known word" in own_server.log()
    krl = own_server.base / "krl"
    keygen("-k", "-f", krl, own_server.key.with_suffix(".pub"))
    shutil.copy(krl, own_server.state / "keys" / "revoked_keys")
    assert is_refused(own_server.ssh(name, "true"))
    (own_server.state / "keys" / "revoked_keys").write_text("")
    assert own_server.ssh(name, "echo in").stdout == "in\n"
    (own_server.state / "keys" / "revoked_keys").unlink()
    (own_server.state / "keys" / "revoked_keys").mkdir()
    assert is_refused(own_server.ssh(name, "true"))
    (own_server.state / "keys" / "revoked_keys").rmdir()
    wait_until("it to be gone", lambda: own_server.ssh(name, "echo in").stdout == "in\n")


def test_a_certificate_that_expires_is_cut_and_is_none_the_less_a_name(server, authority, name):
    key = certify(authority, make_key(server), "-n", name, "-V", "-1m:+4s")
    with server_popen(server, name, key, "echo in; exec cat") as p:
        assert p.stdout.readline() == b"in\n"
        p.wait(30)
        assert was_cut(p)
    assert is_refused(server.ssh(name, "true", key=key))


def test_a_connection_by_certificate_goes_on_over_a_restart(own_server, name):
    server = own_server
    ca = make_key(server)
    allow(server, ca, "cert-authority")
    key = certify(ca, make_key(server), "-n", name, identity="carl")
    with server_popen(server, name, key, "echo in; exec cat") as p:
        assert p.stdout.readline() == b"in\n"
        server.process.kill()
        server.process.wait()
        server.process.stdout.close()
        server.start()
        wait_until("the connection to be taken back", lambda: audit(server, "adopt"))
        line = audit(server, "adopt")[-1]
        assert line["role"] == "orchestrator" and line["principal"].endswith(" cert:carl"), line
        p.stdin.write(b"still\n")
        p.stdin.flush()
        assert p.stdout.readline() == b"still\n"
        with revoked(server, "id: carl\n"):
            p.wait(30)
            assert was_cut(p)


# ---- listeners ----

def listeners_of(server):
    server.start(wait=False)
    line = server.process.stdout.readline().decode()
    match = re.fullmatch(r"berthd: listening on (.*)\n", line)
    assert match, line + server.log()
    return [re.fullmatch(r"\[?(.*?)\]?:(\d+)", one).groups() for one in match.group(1).split(", ")]


def test_each_listener_lets_in_its_roles(name):
    server = make_server()
    server.host = "127.0.0.1:0 roles=developer+orchestrator, [::1]:0, 127.0.0.2:0 roles=operator, 0.0.0.0:0, 127.0.0.1"
    try:
        ports = listeners_of(server)
        plain = server.add_key("plain")

        def come(index, key, host=None):
            address, server.port = ports[index][0], ports[index][1]
            argv = server.ssh_argv(name, "echo in", key=key)
            argv[-2] = f"{name}@{host or address}"
            done = subprocess.run(argv, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
            assert done.stdout in ("in\n", ""), done
            return done.stdout == "in\n"

        assert [come(i, plain) for i in (0, 1, 2, 4)] == [True, True, False, True]
        assert [come(i, server.key) for i in (0, 1, 2, 4)] == [False, True, True, True]
        assert come(3, plain, "127.0.0.1") and not come(3, server.key, "127.0.0.1")
        assert "does not come in by this listener" in server.log()
        server.stop()
    finally:
        server.discard()
        shutil.rmtree(server.base)


@pytest.mark.parametrize("listen,said", [
    ("127.0.0.1:0 roles=god", "no such role: god"), ("127.0.0.1", "not of the form ADDR:PORT"),
    ("127.0.0.1:0, nowhere:1", "not an address: nowhere"), ("127.0.0.1:0 role=operator", "not roles=ROLE+ROLE"),
    ("[::g]:1", "not an IPv6 address"), ("127.0.0.1:99999", "99999"), ("127.0.0.1:0,", "not of the form")])
def test_a_bad_listener_is_a_mistake_of_the_configuration(tmp_path, listen, said):
    server = Server(tmp_path)
    done = subprocess.run([server.build / "berthd", "--state", server.state, "--run", server.run, "--listen", listen],
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 78 and said in done.stderr, done


@pytest.mark.parametrize("option,roles,wrong", [
    ("forward_roles", "developer, operators", "operators"), ("forward_roles", "developer+operator", "developer+operator"),
    ("agent_roles", "developer,", ""), ("agent_roles", "nobody", "nobody"), ("agent_roles", "operator, , developer", "")])
def test_a_role_that_there_is_not_is_a_mistake_of_the_configuration(tmp_path, option, roles, wrong):
    server = Server(tmp_path, f"{option} = {roles}\n")
    for more in ([], ["--check"]):
        done = subprocess.run([server.build / "berthd", "--config", server.config, "--state", server.state, "--run", server.run,
                               *more], capture_output=True, text=True, timeout=60)
        assert done.returncode == 78 and f"{option}: no such role: {wrong}" in done.stderr, done


def test_a_banner_is_shown_before_the_login_and_once():
    with running("banner = for work of the house alone\n") as server:
        argv = ["ssh", "-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
                "-o", "IdentitiesOnly=yes", "-p", str(server.port), "-i", str(server.key), "demo@127.0.0.1", "echo in"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
        assert done.stdout == "in\n" and done.stderr.count("for work of the house alone") == 1, done
