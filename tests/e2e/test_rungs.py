"""The ladder of isolation: each rung does the main job, keeps what it says, and says what it is."""
import os
import pathlib
import re
import signal
import socket
import subprocess
import time

import pytest
from conftest import Account, RUNGS, at_most, make_server, running, wait_until

RUNG_NAMES = list(RUNGS)


@pytest.fixture(scope="module", params=RUNG_NAMES)
def rung(request):
    return request.param


@pytest.fixture(scope="module")
def server(rung):
    with running(rung=rung) as s:
        yield s


@pytest.fixture
def own(rung):
    with running(rung=rung) as s:
        yield s


def whole(rung):
    return rung.startswith("process")


def drop_upper_and_cache(s, name):
    """What a cold resume does without: all that is not in the store. Of a stopped server."""
    session = next(iter((s.state / "sessions").iterdir()))
    subprocess.run(["rm", "-rf", *session.glob("upper.*"), *(s.state / "cache" / "layers").glob("*")], check=True)


# ---- the main job ----

def test_a_call_has_streams_exit_and_signal(server, name):
    r = server.ssh(name, "cat; echo err >&2; exit 7", stdin=b"in")
    assert (r.out, r.err, r.status) == (b"in", b"err\n", 7)
    assert server.ssh(name, "kill -KILL $$").status == 255


BUSY = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; times"


def test_processor_time_is_the_kernels_word_or_inits(rung, server, name):
    """By cgroup: of all processes. By init: of the command, and what it has waited for."""
    by_cgroup = rung == "root"
    run = f"mkfifo go; ( ({BUSY} > all; head -1 all > used; echo > go) & ); read x < go; cat used" if by_cgroup else f"({BUSY}) | head -1"
    r = server.ssh(name, f"sh -c '{run}; exit 3'")  # the shell itself is idle
    assert r.status == 3, r
    minutes, seconds = re.match(r"(\d+)m([\d.]+)s", r.stdout).groups()
    used = int(minutes) * 60 + float(seconds)
    call = server.json("calls", name)[0]
    assert used > 0.02 and call["cpu_ns"] > used * 0.9e9, (used, call)
    assert call["cpu_by"] == ("cgroup" if by_cgroup else "init")
    assert ("its init says" in server.verb("call show", call["call"]).stdout) == (not by_cgroup)


def test_work_survives_a_warm_and_a_cold_resume(rung):
    with running(rung=rung) as s:
        s.ssh("w", "mkdir d; echo one > d/a; ln -s a d/l; ln d/a d/h; printf x > 'b\tc'; chmod 751 d; mkfifo f; "
                   "truncate -s 1M sparse; echo home > ~/h; setfattr -n user.k -v v d/a 2>/dev/null; true")
        listing = "find . ~ -printf '%P %y %m %s %T@ %l\\n' | sort; cat d/h ~/h"
        before = s.ssh("w", listing)
        for _ in range(2):
            assert s.verb("pause w").status == 0
            assert s.ssh("w", listing).out == before.out
        assert s.verb("pause w").status == 0
        s.stop(signal.SIGTERM)
        drop_upper_and_cache(s, "w")
        s.start()
        after = s.ssh("w", listing)
        assert after.out == before.out, s.log()[-2000:]
        assert s.ssh("w", "stat -c %h d/a").out == b"2\n"


def test_a_restore_goes_back_and_keeps_what_it_replaced(server, name):
    server.ssh(name, "echo one > a; echo gone > b")
    first = server.json("pause", name)["snapshot"][7:19]
    server.ssh(name, "echo two > a; rm b; echo new > c")
    assert server.verb(f"restore {name} {first}").status == 0
    assert server.ssh(name, "cat a b; ls").out == b"one\ngone\na\nb\n"
    kept = [s for s in server.json("snapshots", name) if s["snapshot"][7:19] != first]
    assert kept, "what was replaced is a snapshot"
    assert server.verb(f"restore {name} {kept[-1]['snapshot'][7:19]}").status == 0
    assert server.ssh(name, "cat a; ls").out == b"two\na\nc\n"


def test_a_pause_waits_for_what_shutdown_writes(server, name):
    server.ssh(name, "nohup sh -c 'trap \"echo saved > saved; exit\" TERM; touch up; while :; do sleep 0.05; done' "
                     ">/dev/null 2>&1 & until [ -e up ]; do sleep 0.01; done")
    assert server.verb("pause " + name).status == 0
    assert server.ssh(name, "cat saved").out == b"saved\n"


def test_frozen_processes_write_nothing_while_they_are_captured(server, name):
    """Two files written in turn: a torn capture would have the second ahead of the first."""
    server.ssh(name, "nohup sh -c 'trap : TERM; i=0; while :; do i=$((i+1)); echo $i >> a; echo $i >> b; done' "
                     ">/dev/null 2>&1 & until [ -s b ]; do sleep 0.01; done")
    assert server.verb(f"pause {name} --grace 50ms").status == 0
    a, b = (int(x) for x in server.ssh(name, "tail -qn1 a b").out.split())
    assert a in (b, b + 1)


VFORK = b"""
#include <time.h>
#include <unistd.h>
int main(void)
{
	for (;;) {
		pid_t pid = vfork();
		if (pid == 0) { /* the parent waits in the kernel, where no signal reaches it */
			for (volatile long i = 0; i < 40000000; i++)
				;
			execl("/bin/true", "true", (char *)0);
			_exit(1);
		}
	}
}
"""


def test_a_pause_stops_what_is_between_vfork_and_exec(server, name):
    assert server.ssh(name, "cat > v.c && cc -O1 -o v v.c && (nohup ./v >/dev/null 2>&1 &)", stdin=VFORK).status == 0
    with at_most(30):
        assert server.verb(f"pause {name} --grace 50ms").status == 0


def test_a_pause_with_nothing_new_makes_no_snapshot(server, name):
    server.ssh(name, "echo x > a")
    server.verb("pause " + name)
    server.ssh(name, "cat a")
    n = len(server.json("snapshots", name))
    server.verb("pause " + name)
    assert len(server.json("snapshots", name)) == n


def test_the_manager_dies_and_calls_go_on(own):
    p = own.popen("t", "echo begun; read x; echo $x")
    assert p.stdout.readline() == b"begun\n"
    own.kill()
    own.start()
    p.stdin.write(b"more\n")
    p.stdin.close()
    assert p.stdout.read() == b"more\n" and p.wait(30) == 0
    assert own.session("t")["state"] == "running"
    assert own.verb("pause t").status == 0


def test_the_keeper_dies_and_no_file_is_lost(own):
    p = own.popen("k", "trap '' HUP TERM; (setsid sleep 987 &) ; echo x > a; echo up; sleep 300")
    assert p.stdout.readline() == b"up\n"
    keeper = next(pid for pid, what in own.keeper_pids() if what == "berth-keeper")
    os.kill(keeper, signal.SIGKILL)
    wait_until("the session to be unclean", lambda: own.session("k")["unclean"])
    assert own.session("k")["state"] == "paused"
    assert p.wait(30) != 0
    left = subprocess.run(["pgrep", "-x", "-f", "sleep 987"], capture_output=True).stdout
    assert left == b"", "processes outlive their session"
    assert own.ssh("k", "cat a").out == b"x\n"


def test_a_call_that_is_over_leaves_nothing_after_its_timeout(server, name):
    assert server.verb(f"new {name} --wall 300ms").status == 0
    with at_most(20):
        r = server.ssh(name, "echo partial; trap '' TERM; sleep 301 & setsid sleep 302 & wait; sleep 303")
    assert r.status == 124 and r.out == b"partial\n" and b"wall" in r.err
    r = server.ssh(name, "ps -e -o args 2>/dev/null | grep -c '^sleep 30[123]$'")
    if server.rung in ("root", "rootless"):
        wait_until("all of the call to be killed",
                   lambda: server.ssh(name, "ps -e -o args | grep -c '^sleep 30[123]$'").out == b"0\n")


def test_what_a_call_leaves_running_is_listed(server, name):
    # it is sleep by then, not yet the shell's fork of itself
    server.ssh(name, "sleep 456 >/dev/null 2>&1 & until [ \"$(cat /proc/$!/comm)\" = sleep ]; do :; done; echo done")
    call = server.json("calls", name)[0]
    assert any("sleep 456" in line for line in server.json("call", "show", call["call"])["left_running"])


def test_a_terminal_works_and_the_weakest_rung_is_named_on_it(server, name, rung):
    r = server.ssh(name, "tty; stty size", options=("-tt",))
    assert r.status == 0 and "/dev/pts/" in r.stdout
    assert ("isolation is `process`" in r.stdout) == whole(rung)


# ---- what it says ----

def test_show_names_the_rung_and_what_enforces_limits(server, name, rung):
    server.ssh(name, "true")
    shown = server.json("show", name)
    assert shown["isolation"] == RUNGS[rung][0]
    text = server.verb("show " + name).stdout
    assert re.search(rf"^isolation +{RUNGS[rung][0]}: ", text, re.M)
    by = shown["limits"]["pids"]["by"]
    assert by.startswith("cgroup") if rung == "root" else "RLIMIT" in by or "nothing" in by


def check(rung, *more, config=""):
    s = make_server(config, rung)
    try:
        r = subprocess.run([*s.as_user(), s.build / "berthd", "--check", "--state", s.state, "--run", s.run, "--config",
                            s.config, *more], capture_output=True, text=True, timeout=90,
                           env={**os.environ, "HOME": "/"})
        left = [str(p) for p in s.state.rglob("*")] if s.state.exists() else []
        assert left == [], "a trial leaves nothing"
    finally:
        subprocess.run(["rm", "-rf", s.base], check=True)
    return r


def test_check_proves_the_rung(rung):
    r = check(rung)
    assert r.returncode == 0, r
    assert re.search(rf"^{RUNGS[rung][0]} +yes: a session started in [0-9.]+ ms, ran a command in", r.stdout, re.M)
    assert re.search(rf"^chosen +{RUNGS[rung][0]}$", r.stdout, re.M)


def test_check_says_why_a_better_rung_is_not_to_be_had():
    r = check("rootless", config="isolation = auto\n")
    assert r.returncode == 0 and re.search(r"^root +no: .*CAP_SYS_ADMIN.*\(start it as root", r.stdout, re.M), r
    r = check("rootless", config="isolation = root\n")
    assert r.returncode == 69 and "berth: berthd: no isolation can be had here" in r.stderr, r
    r = check("root", config="isolation = strong\n")
    assert r.returncode == 78 and "isolation" in r.stderr, r


def test_auto_takes_the_best_and_says_so_at_the_start():
    with running("isolation = auto\n", rung="rootless") as s:
        s.ssh("a", "true")
        assert s.json("show", "a")["isolation"] == "rootless"
        assert "isolation is rootless: no root: " in s.log()


# ---- its walls ----

def test_the_servers_own_files_are_out_of_reach(server, name):
    secret = server.key.read_text().splitlines()[1]
    r = server.ssh(name, f"cat {server.key} {server.state}/keys/* {server.state}/index.db; ls {server.state}; "
                         f"ls -R {server.run}; cat /proc/*/environ; echo x > {server.state}/keys/authorized_keys; "
                         f"echo x > {server.base}/planted; exit 0")
    assert secret not in r.stdout and "operator" not in r.stdout
    assert not (server.base / "planted").exists()


def test_another_session_is_out_of_reach(server, name):
    server.ssh(name + "-a", "echo secret > s; nohup sleep 555 >/dev/null 2>&1 &")
    row = server.session(name + "-a")
    r = server.ssh(name + "-b", f"cat {server.state}/sessions/{row['id']}/upper.*/fs/workspace/s; "
                                "for p in /proc/[0-9]*; do [ \"$(cat $p/comm 2>/dev/null)\" = sleep ] && "
                                "{ kill -9 ${p#/proc/}; cat $p/environ $p/cwd/s; }; done; exit 0")
    assert "secret" not in r.stdout
    alive = server.ssh(name + "-a", "cat s; grep -l '^sleep$' /proc/[0-9]*/comm | wc -l")
    assert alive.stdout.startswith("secret\n") and int(alive.stdout.split()[1]) >= 1


def test_the_server_cannot_be_reached_or_harmed(server, name):
    pid = server.process.pid
    r = server.ssh(name, f"kill -9 {pid} 2>/dev/null; kill -STOP {pid} 2>/dev/null; "
                         f"timeout 2 bash -c 'exec 3<>/dev/tcp/127.0.0.1/{server.port} && head -c 4 <&3'; exit 0")
    assert "SSH-" not in r.stdout
    assert server.process.poll() is None and server.verb("ls").status == 0


def test_no_process_of_a_session_passes_for_a_manager(rung):
    """While the manager is dead its keepers wait for the next one: whoever connects must not be of a session."""
    if not whole(rung):
        pytest.skip("a session of this rung sees no socket of the server")
    with running(rung=rung) as s:
        assert s.verb("new m").status == 0
        p = s.popen("m", "read go; python3 -c '\nimport glob,socket,sys\n"
                         "for l in open(\"/proc/net/unix\"):\n"
                         " p = l.split()[-1]\n"
                         " if \"keepers/\" in p:\n"
                         "  k = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
                         "  try:\n"
                         "   k.connect(p); k.settimeout(5); print(\"hello\", len(k.recv(65536)))\n"
                         "  except OSError as e: print(e)\n"
                         "'; echo over")
        p.stdin.flush()
        wait_until("the call to run", lambda: s.json("calls", "m"))
        s.kill()
        p.stdin.write(b"go\n")
        p.stdin.flush()
        said = b""
        while not said.endswith(b"over\n"):
            said += p.stdout.read1()
        assert b"hello 0" in said or b"hello" not in said, said
        s.start()
        assert s.session("m")["state"] == "running"
        p.stdin.close()
        p.wait(30)


# ---- rootless in more and in fewer rights ----

@pytest.fixture
def delegated():
    """A v2 cgroup that belongs to the ordinary user, as systemd's Delegate=yes makes it."""
    roots = [p for p in ("/sys/fs/cgroup/unified", "/sys/fs/cgroup") if os.path.exists(p + "/cgroup.procs")]
    if not roots:
        pytest.skip("no cgroup v2 hierarchy here")
    top = pathlib.Path(roots[0]) / f"berth-test-{os.getpid()}"
    top.mkdir()
    for path in (top, top / "cgroup.procs", top / "cgroup.subtree_control", top / "cgroup.threads"):
        os.chown(path, Account.get().uid, Account.get().uid)
    yield top
    for path in sorted(top.rglob("*"), key=lambda p: -len(p.parts)):
        if path.is_dir():
            path.rmdir()
    top.rmdir()


def test_rootless_uses_a_cgroup_that_was_delegated(delegated):
    s = make_server("spares = 0\n", rung="rootless")
    plain = s.as_user()
    s.as_user = lambda: ["sh", "-c", f'echo $$ > {delegated}/cgroup.procs; exec "$@"', "sh", *plain]
    try:
        s.start()
        p = s.popen("d", "echo up; read x")
        assert p.stdout.readline() == b"up\n"
        boxes = [p for p in delegated.rglob("box") if (p / "cgroup.events").exists()]
        assert len(boxes) == 1 and "populated 1" in (boxes[0] / "cgroup.events").read_text()
        p.stdin.close()
        assert p.wait(20) == 1
        assert s.verb("pause d").status == 0
        assert s.ssh("d", "echo again").out == b"again\n"
        s.remove()
    finally:
        s.discard()


def test_rootless_without_subordinate_ids_has_root_alone():
    with running(rung="rootless") as s:
        s.ssh("one", "true")
        s.stop()
        lines = pathlib.Path("/etc/subuid").read_text()
        try:  # as for an account that useradd gave none
            pathlib.Path("/etc/subuid").write_text(
                "".join(l for l in lines.splitlines(True) if not l.startswith(Account.get().name + ":")))
            s.start()
        finally:
            pathlib.Path("/etc/subuid").write_text(lines)
        r = s.ssh("one", "id -u; echo x > /etc/made; chown 5 /etc/made 2>&1 | grep -c Invalid; cat /proc/self/uid_map; tty",
                  options=("-tt",))
        assert r.stdout.split()[:2] == ["0", "1"] and "/dev/pts/" in r.stdout, r
        assert s.verb("pause one").status == 0 and s.ssh("one", "cat /etc/made").out == b"x\n"
        assert "a session has no id but root's" in s.verb("show one").stdout
