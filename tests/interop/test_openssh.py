"""OpenSSH's ssh: logging in, commands, streams, terminals, many channels, keepalives, rekeying."""
import fcntl
import hashlib
import os
import pty
import signal
import struct
import subprocess
import termios
import threading

import pytest

from conftest_e2e import at_most, wait_until
from hosts import KEYS

MIB = 1 << 20
CLIENT = "ssh"
BLOB = os.urandom(8 * MIB)
SUM = hashlib.sha256(BLOB).hexdigest()


def case(feature, **kw):
    return pytest.mark.case(CLIENT, feature, **kw)


# ---- logging in ----

@case("key {key}")
@pytest.mark.parametrize("key", KEYS)
def test_key(host, key):
    assert host.ssh("echo in", key=host.keys / key).out == b"in\n"


@case("BatchMode: a key that is not known, 255 and its words")
def test_refused(host, here):
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", here / "other"], check=True)
    with at_most(20):
        r = host.ssh("true", key=here / "other")
    assert r.status == 255 and b"Permission denied (publickey)" in r.err


@case("the known key after five others")
def test_many_keys(host, here):
    """Probes count, and sshd allows six."""
    others = []
    for i in range(5):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", here / f"k{i}"], check=True)
        others += ["-i", str(here / f"k{i}")]
    r = subprocess.run(["ssh", *host.options(key=here / "k0"), *others, "-i", str(host.key), host.to, "echo in"], capture_output=True, timeout=60)
    assert r.stdout == b"in\n", r


@case("the host key is known the next time")
def test_known_hosts(host, here):
    key = host.host_key.read_text().split()
    (here / "known").write_text(f"[127.0.0.1]:{host.port} {key[0]} {key[1]}\n")
    options = ["-o", f"UserKnownHostsFile={here}/known", "-o", "StrictHostKeyChecking=yes"]
    base = ["-F", "none", "-o", "BatchMode=yes", "-i", str(host.key), "-p", str(host.port)]
    assert subprocess.run(["ssh", *options, *base, host.to, "echo in"], capture_output=True).stdout == b"in\n"


def connects(host, *options):
    """Whether it does, by what is asked for alone."""
    r = host.ssh("cat", stdin=BLOB, options=options)
    assert r.out == (BLOB if r.status == 0 else b""), r
    return r.status == 0


@case("host key ssh-ed25519")
def test_host_key(host):
    assert connects(host, "-o", "HostKeyAlgorithms=ssh-ed25519")


@case("host key {algorithm}", berth="its host key is ed25519 alone")
@pytest.mark.parametrize("algorithm", ["ecdsa-sha2-nistp256", "rsa-sha2-512"])
def test_other_host_key(host, algorithm):
    assert connects(host, "-o", f"HostKeyAlgorithms={algorithm}") is not host.is_berth


@case("key exchange {kex}")
@pytest.mark.parametrize("kex", ["curve25519-sha256", "curve25519-sha256@libssh.org", "diffie-hellman-group16-sha512",
                                 "diffie-hellman-group14-sha256"])
def test_kex(host, kex):
    assert connects(host, "-o", f"KexAlgorithms={kex}")


@case("key exchange {kex}", berth="option `kex` adds it")
@pytest.mark.parametrize("kex", ["ecdh-sha2-nistp256", "ecdh-sha2-nistp384", "ecdh-sha2-nistp521", "diffie-hellman-group18-sha512"])
def test_other_kex(host, kex):
    assert connects(host, "-o", f"KexAlgorithms={kex}") is not host.is_berth


@case("key exchange diffie-hellman-group-exchange-sha256", berth="libssh would read its groups from a file")
def test_group_exchange(host):
    assert connects(host, "-o", "KexAlgorithms=diffie-hellman-group-exchange-sha256") is not host.is_berth


@case("key exchange sntrup761x25519-sha512@openssh.com", berth="libssh 0.10 has no post-quantum exchange; clients take curve25519 by themselves")
def test_post_quantum(host):
    r = host.ssh("echo in", options=("-o", "KexAlgorithms=sntrup761x25519-sha512@openssh.com"))
    assert (r.status, r.out) == ((255, b"") if host.is_berth else (0, b"in\n"))


CIPHERS = ["chacha20-poly1305@openssh.com", "aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr", "aes192-ctr", "aes256-ctr"]


@case("cipher {cipher}, 8 MiB there and back")
@pytest.mark.parametrize("cipher", CIPHERS)
def test_cipher(host, cipher):
    assert host.ssh("cat", stdin=BLOB, options=("-c", cipher)).out == BLOB



@case("MAC {mac}")
@pytest.mark.parametrize("mac", ["hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com", "hmac-sha2-256"])
def test_mac(host, mac):
    assert connects(host, "-c", "aes128-ctr", "-m", mac)


@case("MAC {mac}", berth="{why}")
@pytest.mark.parametrize("mac,why", [("hmac-sha2-512", "option `macs` adds it"), ("hmac-sha1", "SHA-1")])
def test_other_mac(host, mac, why):
    assert connects(host, "-c", "aes128-ctr", "-m", mac) is not host.is_berth


@case("MAC umac-128-etm@openssh.com", berth="libssh has no UMAC; clients take another by themselves")
def test_umac(host):
    r = host.ssh("echo in", options=("-c", "aes128-ctr", "-m", "umac-128-etm@openssh.com"))
    assert r.out == (b"" if host.is_berth else b"in\n")


@case("compression: 8 MiB there and back")
def test_compression(host):
    assert host.ssh("cat", stdin=BLOB, options=("-C",)).out == BLOB
    text = b"a line of text, again and again\n" * 200000
    assert host.ssh("cat", stdin=text, options=("-C",)).out == text


@case("IPv6")
def test_ipv6(host6):
    assert host6.ssh("echo in").out == b"in\n"


@case("-v tells of no error")
def test_verbose(host):
    r = host.ssh("echo in", options=("-v", "-o", "LogLevel=DEBUG1"))
    assert r.out == b"in\n" and b"Exit status 0" in r.err
    assert b"error" not in r.err.replace(b"no error", b"").lower(), r.err


# ---- commands ----

@case("exit status")
def test_exit_status(host):
    assert [host.ssh(f"exit {n}").status for n in (0, 1, 7, 126, 255)] == [0, 1, 7, 126, 255]
    assert host.ssh("no-such-command").status == 127


@case("exit by a signal: 255, and no status")
def test_exit_signal(host):
    r = host.ssh("kill -TERM $$", options=("-v", "-o", "LogLevel=DEBUG1"))
    assert r.status == 255 and b"exit-signal" in r.err


@case("stdout and stderr apart, 8 MiB of random each")
def test_streams(host):
    host.sh("cat > blob", stdin=BLOB)
    r = host.ssh("cat blob & cat blob >&2; wait")
    assert (r.status, r.out == BLOB, r.err == BLOB) == (0, True, True)


@case("stdin, 8 MiB of random")
def test_stdin(host):
    assert host.sh("sha256sum", stdin=BLOB).split()[0].decode() == SUM


@case("a command of 100,000 bytes")
def test_long_command(host):
    assert host.sh("echo " + "x" * 100_000) == b"x" * 100_000 + b"\n"


@case("output after stdin's end")
def test_half_close_of_stdin(host):
    assert host.sh("cat > /dev/null; seq 100000; echo last", stdin=BLOB[:MIB]).endswith(b"99999\n100000\nlast\n")


@case("stdin goes on after stdout's and stderr's end")
def test_half_close_of_output(host):
    p = host.popen("echo first; exec >&- 2>&-; cat > got; sync")
    assert p.stdout.read() == b"first\n"
    p.stdin.write(BLOB)
    p.stdin.close()
    assert p.wait(60) == 0
    assert host.sh("sha256sum < got").split()[0].decode() == SUM


@case("a command that reads nothing ends though stdin goes on")
def test_unread_stdin(host):
    with at_most(30):
        p = host.popen("echo done", stdin=subprocess.PIPE)
        assert p.stdout.read() == b"done\n"
        assert p.wait() == 0
        p.stdin.close()


@case("a command that closes stdin, then writes 8 MiB")
def test_closed_stdin(host):
    host.sh("cat > blob", stdin=BLOB)
    with at_most(60):
        p = host.popen("exec <&-; cat blob")
        feeder = threading.Thread(target=feed, args=(p.stdin,))
        feeder.start()
        assert p.stdout.read() == BLOB
        assert p.wait() == 0
        feeder.join()


def feed(pipe):
    try:
        while True:
            pipe.write(b"x" * 65536)
    except BrokenPipeError:
        pass


@case("a child that keeps stdout open", berth="ssh returns when the command has ended; with sshd it hangs until the child does")
def test_left_child(host):
    p = host.popen("sleep 30 & echo $!")
    pid = int(p.stdout.readline())
    if host.is_berth:
        assert p.wait(10) == 0
    else:
        host.sh(f"kill {pid}")
        assert p.wait(10) == 0


@case("a child without our streams lives on")
def test_left_daemon(host):
    pid = int(host.sh("setsid sleep 300 > /dev/null 2>&1 < /dev/null & echo $!"))
    host.sh(f"kill -0 {pid} && kill {pid}")


@case("-n: no stdin")
def test_no_stdin(host):
    r = host.ssh("wc -c", options=("-n",), stdin=b"not this")
    assert r.out == b"0\n"


@case("-f: goes to the background when it has logged in")
def test_background(host, here):
    control = here / "c"
    with at_most(30):
        done = subprocess.run(host.argv(options=("-f", "-N", "-M", "-S", str(control))), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL)
    assert done.returncode == 0
    assert host.ssh("echo in", options=("-S", str(control))).out == b"in\n"
    assert host.ssh(options=("-S", str(control), "-O", "exit")).status == 0


@case("-N: logged in, and nothing runs")
def test_no_command(host, here):
    control = here / "c"
    p = host.popen(options=("-N", "-M", "-S", str(control)))
    wait_until("it to be there", control.exists)
    assert host.ssh(options=("-S", str(control), "-O", "check")).status == 0
    p.terminate()
    assert p.wait(20) == 0, "a master ends by a signal as by -O exit"


@case("-s: subsystem")
def test_subsystem(host):
    p = host.popen("sftp", options=("-s",))
    p.stdin.write(b"\0\0\0\5\1\0\0\0\3")
    p.stdin.flush()
    head = p.stdout.read(9)
    assert head[4:] == b"\2\0\0\0\3"
    p.stdin.close()
    assert p.wait(20) == 0


@case("-s: an unknown subsystem is refused")
def test_no_subsystem(host):
    r = host.ssh("nosuch", options=("-s",))
    assert r.status == 255 and b"subsystem request failed" in r.err


@case("SetEnv and SendEnv: LANG, LC_*, COLORTERM")
def test_env(host):
    argv = host.argv("echo $LC_ONE/$LC_TWO/$COLORTERM", options=("-o", "SetEnv=LC_ONE=1 COLORTERM=truecolor", "-o", "SendEnv=LC_TWO"))
    assert subprocess.run(argv, capture_output=True, env={**os.environ, "LC_TWO": "with space"}).stdout == b"1/with space/truecolor\n"


@case("SetEnv of another name is ignored, without a word")
def test_other_env(host):
    r = host.ssh("echo ${LD_PRELOAD-unset} ${MINE-unset}", options=("-o", "SetEnv=LD_PRELOAD=/x MINE=1"))
    assert (r.out, r.err) == (b"unset unset\n", b"")


@case("USER, HOME, LOGNAME, SHELL, PATH, SSH_CONNECTION, SSH_CLIENT are there")
def test_own_env(host):
    said = dict(line.split("=", 1) for line in host.sh("env").decode().splitlines() if "=" in line)
    assert {"USER", "HOME", "LOGNAME", "SHELL", "PATH", "SSH_CONNECTION", "SSH_CLIENT"} <= set(said), said
    client = said["SSH_CONNECTION"].split()
    assert len(client) == 4 and client[0] == "127.0.0.1" and client[3] == str(host.port)
    assert said["SSH_CLIENT"].split() == [client[0], client[1], client[3]]


# ---- terminals ----

class Terminal:
    """ssh on a terminal of ours."""

    def __init__(self, host, *command, options=("-tt",), size=(24, 80), term="xterm-256color"):
        self.master, slave = pty.openpty()
        self.slave = slave
        self.resize(*size)
        self.process = subprocess.Popen(host.argv(*command, options=options), stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
                                        env={**os.environ, "TERM": term})
        self.seen = b""

    def resize(self, rows, columns):
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def tell(self):
        self.process.send_signal(signal.SIGWINCH)

    def type(self, text):
        os.write(self.master, text)

    def until(self, text):
        with at_most(60):
            while text not in self.seen:
                self.seen += os.read(self.master, 65536)
        before, _, self.seen = self.seen.partition(text)
        return before

    def close(self):
        """A terminal that hangs up drops what was typed last: ssh has to end by itself."""
        status = self.process.wait(20)
        os.close(self.slave)
        os.close(self.master)
        return status


@case("-t: a terminal of the client's size and TERM")
def test_terminal(host):
    t = Terminal(host, "tty; stty size; echo $TERM; echo end", size=(41, 137))
    said = t.until(b"end\r\n")
    assert said.startswith(b"/dev/pts/") and b"41 137\r\nxterm-256color\r\n" in said, said
    assert t.close() == 0


@case("a shell on a terminal: echo, Ctrl-C, Ctrl-D, exit status")
def test_terminal_shell(host):
    t = Terminal(host, options=("-tt",))
    t.type(b"PS1='> '; sleep 1000 || echo went$((1))on\n")
    t.until(b"went$((1))on\r\n")
    wait_until("the sleep", lambda: host.ssh("pgrep -x sleep").status == 0)
    t.type(b"\x03")
    t.type(b"echo in$((1))terrupted\n")
    t.until(b"in1terrupted")
    t.type(b"(exit 9)\n\x04")
    assert t.close() == 9


@case("-t: eight bits, and stty raw")
def test_terminal_raw(host):
    t = Terminal(host, "stty raw -echo; echo ready; head -c 256 | od -An -v -tu1 | tr -s ' \\n' ' '; echo end")
    t.until(b"ready")
    t.type(bytes(range(256)).replace(b"~", b"!"))
    assert [int(n) for n in t.until(b"end").split()] == [b if b != 126 else 33 for b in range(256)]
    t.close()


@case("500 changes of the window's size, the last one counts")
def test_resize_storm(host):
    t = Terminal(host, "echo ready; while read line; do stty size; done")
    t.until(b"ready")
    for i in range(500):
        t.resize(20 + i % 50, 80 + i % 90)
        t.tell()
    t.resize(33, 111)
    t.tell()

    def told():
        t.type(b"\n")
        return b"33 111" in t.until(b"\r\n") or b"33 111" in t.seen
    wait_until("the last size", told)
    t.type(b"\x04")
    t.close()


@case("-T with a shell: a script on stdin, its exit status")
def test_script_on_stdin(host):
    r = host.ssh(options=("-T",), stdin=b"echo one\ncd /\npwd\nexit 5\n")
    assert (r.out, r.status) == (b"one\n/\n", 5)


@case("a shell that answers 1,000 times")
def test_long_shell(host):
    p = host.popen(options=("-T",))
    for i in range(1000):
        p.stdin.write(b"echo answer-%d\n" % i)
        p.stdin.flush()
        assert p.stdout.readline() == b"answer-%d\n" % i
    p.stdin.close()
    assert p.wait(20) == 0


# ---- many at once, and long ----

@case("ControlMaster: 250 channels at once")
def test_many_channels(host, here):
    control = here / "c"
    master = host.popen(options=("-N", "-M", "-S", str(control)))
    wait_until("it to be there", control.exists)
    mine = [host.popen("cat; echo $?", options=("-S", str(control))) for _ in range(250)]
    for i, p in enumerate(mine):  # all are there, then each is answered
        p.stdin.write(b"%d\n" % i)
        p.stdin.flush()
        assert p.stdout.readline() == b"%d\n" % i
    for p in mine:
        p.stdin.close()
    assert {p.stdout.read() for p in mine} == {b"0\n"}
    assert {p.wait(60) for p in mine} == {0}
    for p in mine:
        p.stderr.close()
    master.terminate()
    master.wait(20)


@case("ControlMaster: 200 commands in turn on one connection")
def test_commands_in_turn(host, here):
    control = here / "c"
    master = host.popen(options=("-N", "-M", "-S", str(control)))
    wait_until("it to be there", control.exists)
    for i in range(200):
        assert host.ssh(f"echo {i}; exit {i % 100}", options=("-S", str(control))).status == i % 100
    master.terminate()
    master.wait(20)


@case("ServerAliveInterval=1, CountMax=1: 30 s in which nothing is said")
def test_keepalive(host):
    r = host.ssh("sleep 31; echo awake", options=("-o", "ServerAliveInterval=1", "-o", "ServerAliveCountMax=1"))
    assert (r.out, r.status) == (b"awake\n", 0), r


@case("RekeyLimit=1M: 100 MiB in both directions, byte-exact")
def test_rekey(host):
    text = BLOB * 13
    r = host.ssh("cat", stdin=text, options=("-o", "RekeyLimit=1M"), timeout=300)
    assert (r.status, hashlib.sha256(r.out).digest()) == (0, hashlib.sha256(text).digest())


@case("RekeyLimit by time: every second, while output comes slowly")
def test_rekey_by_time(host):
    r = host.ssh("for i in 1 2 3 4 5; do sleep 1; echo $i; done", options=("-o", "RekeyLimit=default 1", "-v", "-o", "LogLevel=DEBUG1"))
    assert r.out == b"1\n2\n3\n4\n5\n" and r.err.count(b"SSH2_MSG_NEWKEYS received") > 2


@case("a client that stops reading for 3 s gets all of 64 MiB")
def test_slow_reader(host):
    p = host.popen("head -c 64M /dev/zero")
    got = len(p.stdout.read(65536))
    p.send_signal(signal.SIGSTOP)
    with pytest.raises(subprocess.TimeoutExpired):
        p.wait(3)
    p.send_signal(signal.SIGCONT)
    while piece := p.stdout.read(MIB):
        got += len(piece)
    assert (got, p.wait(20)) == (64 * MIB, 0)
