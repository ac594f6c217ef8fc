"""What clients of other makers see as they do with sshd: found by tests/interop, kept here where the suite runs it."""
import asyncio
import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import asyncssh
    import paramiko

from conftest import at_most


def go(server, name, body):
    async def whole():
        async with asyncssh.connect("127.0.0.1", server.port, username=name, known_hosts=None, client_keys=[str(server.key)], config=None,
                                    agent_path=None) as c:
            return await body(c)
    return asyncio.run(asyncio.wait_for(whole(), 60))


def test_a_client_reads_to_the_end_of_closed_streams_while_the_command_runs_on(server, name):
    with at_most(30):
        p = server.popen(name, "echo first; exec >&- 2>&-; cat > got; exit 3")
        assert p.stdout.read() == b"first\n"
        p.stdin.write(b"x" * 1_000_000)
        p.stdin.close()
        assert p.wait() == 3
    assert server.ssh(name, "wc -c < got").out == b"1000000\n"


def test_one_of_two_closed_streams_is_no_end(server, name):
    async def body(c):
        async with c.create_process("exec >&-; echo one >&2; read x; echo two >&2; exit 4") as p:
            first = await p.stderr.readline()
            p.stdin.write("go\n")
            return first, await p.stderr.readline(), (await p.wait()).exit_status
    assert go(server, name, body) == ("one\n", "two\n", 4)


def test_what_is_said_after_closed_streams_is_dropped_and_the_exit_is_right(server, name):
    r = server.ssh(name, "exec >&- 2>&-; sleep 100", options=("-o", "SetEnv=BERTH_TIMEOUT=1s"))
    assert (r.status, r.out) == (124, b"")
    r = server.ssh(name, "exec >&- 2>&-; sleep 0.2", options=("-o", "SetEnv=BERTH_MAX_OUTPUT=64K"))
    assert (r.status, r.out, r.err) == (0, b"", b"")


def test_a_command_is_told_of_its_connection(server, name):
    said = dict(line.split("=", 1) for line in server.ssh(name, "env").stdout.splitlines())
    client, port, own, own_port = said["SSH_CONNECTION"].split()
    assert (client, own, own_port) == ("127.0.0.1", "127.0.0.1", str(server.port))
    assert said["SSH_CLIENT"] == f"{client} {port} {own_port}" and "SSH_TTY" not in said
    assert server.ssh(name, 'test "$SSH_TTY" = "$(tty)" && echo same', options=("-tt",)).out == b"same\r\n"


def test_another_connection_asks_for_the_same_by_its_key_though_its_address_is_another(server, name):
    for _ in range(2):
        r = server.ssh(name, "echo run >> runs; cat runs", options=("-o", "SetEnv=BERTH_CALL=k"))
        assert (r.status, r.out) == (0, b"run\n"), r


def test_a_named_shell_is_told_of_the_connection_that_it_has_now(server, name):
    command = "echo ${SSH_CONNECTION#* }"
    first, second = (server.ssh(name, command, options=("-o", "SetEnv=BERTH_SHELL=one")).stdout.split()[0] for _ in range(2))
    assert first != second


def test_the_size_of_a_terminal_is_the_last_one_for_what_is_typed_after_it(server, name):
    c = paramiko.SSHClient()
    c.set_missing_host_key_policy(paramiko.AutoAddPolicy())
    c.connect("127.0.0.1", server.port, name, key_filename=str(server.key), look_for_keys=False, allow_agent=False)
    ch = c.get_transport().open_session()
    ch.get_pty("vt100", 77, 33)
    ch.exec_command("stty -echo; stty size; while read x; do stty size; done")
    out = ch.makefile("rb")
    assert out.readline() == b"33 77\r\n"
    for last in range(100, 110):
        for i in range(300):
            ch.resize_pty(50 + i % 50, 20 + i % 30)
        ch.resize_pty(last, 55)
        ch.sendall(b"\n")
        assert out.readline() == b"55 %d\r\n" % last
    c.close()
