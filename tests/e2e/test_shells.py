"""Named shells: BERTH_SHELL=NAME carries a shell's state from call to call, one call after the other."""
import asyncio
import os
import pathlib
import shutil
import signal
import tempfile

import asyncssh
import pytest
from conftest import at_most, running, wait_until
from test_images import add_binary


TOOLS = ["sh", "cat", "env", "grep", "ls", "mkdir", "mv", "rm", "rmdir", "sleep", "true"]


@pytest.fixture(scope="module")
def without_bash(server):
    """An image whose only shell is sh: dash."""
    with tempfile.TemporaryDirectory(prefix="bts.") as root:
        for tool in TOOLS:
            add_binary(pathlib.Path(root), shutil.which(tool), tool)
        pathlib.Path(root).chmod(0o755)
        server.json(f"image import dash {root}")
        return "dash"


@pytest.fixture(params=["bash", "sh"])
def kind(request, server, name):
    """Which shell the session has."""
    if request.param == "sh":
        image = request.getfixturevalue("without_bash")
        assert server.verb(f"new {name} --image {image}").status == 0
        assert server.ssh(name, "command -v bash").status == 127
    return request.param


def call(server, session, command, *options, shell="main", key=None, **kw):
    options = [f"BERTH_SHELL={shell}", *options] if shell else options
    return server.ssh(session, command, options=("-o", "SetEnv=" + " ".join(options)) if options else (), key=key, **kw)


def out(r):
    assert r.status == 0 and r.err == b"", r
    return r.stdout


def popen(server, session, command, *options, shell="main"):
    return server.popen(session, command, options=("-o", "SetEnv=" + " ".join([f"BERTH_SHELL={shell}", *options])))


def live(server, session):
    return [c for c in server.json("calls", session) if not c["ended_by"]]


@pytest.mark.parametrize("value", ["", "A", "a/b", "..", ".a", "-a", "a b", "a" * 64, "a@b", "a'"])
def test_what_is_no_name_is_refused(server, name, value):
    r = server.ssh(name, "echo ran", options=("-o", f'SetEnv="BERTH_SHELL={value}"'))
    assert r.status == 64 and r.out == b"" and "BERTH_SHELL" in r.stderr, r


def test_a_shell_without_a_command_is_refused(server, name):
    r = server.ssh(name, options=("-T", "-o", "SetEnv=BERTH_SHELL=main"))
    assert r.status == 64 and "BERTH_SHELL" in r.stderr, r


def test_directory_variables_aliases_options_and_umask_carry_over(server, name, kind):
    assert out(call(server, name, "mkdir -p /usr; cd /etc; cd /usr; x='one  two'; export Y=\"a\nb'\\\"\\$c\"; umask 027; alias ll='echo aliased'; set -u -f")) == ""
    assert out(call(server, name, "pwd; echo \"$OLDPWD|$x\"; env | grep -A1 ^Y; umask; ll 3; case $- in *u*f*|*f*u*) echo options;; esac")) == \
        "/usr\n/etc|one  two\nY=a\nb'\"$c\n0027\naliased 3\noptions\n"
    r = call(server, name, "echo $nosuch; echo not here")
    assert r.status != 0 and r.out == b"" and "nosuch" in r.stderr
    assert out(call(server, name, "set +u; unset x Y; unalias ll")) == ""
    assert out(call(server, name, "echo ${x-no} ${Y-no}; env | grep -c ^Y; pwd; ll 2>/dev/null || echo no alias")) == "no no\n0\n/usr\nno alias\n"
    plain = out(call(server, name, "echo ${x-no}; pwd", shell=None))
    assert plain.startswith("no\n/") and plain != "no\n/usr\n"
    assert out(call(server, name, "echo ${x-no}; pwd", shell="other")) == plain, "a shell of its own"


def test_bash_carries_all_that_it_has(server, name):
    assert out(call(server, name, """declare -A m=([k]='v w' ['a b']="$(printf 'x\\ny')"); a=(1 '' '3 4'); declare -i n=4; declare -r ro=fixed; declare -n ref=n
        declare -l low=ABC; export NOVALUE; declare -A empty; unset HOME; export -n LANG; shopt -s extglob nullglob; set -o pipefail
        f-g:h() { local x=$1; case $x in +([0-9])) echo "number $x";; esac; cat <<E
here $x
E
        }
        function time { echo mine; }; exported() { echo "number $1"; }; export -f exported; declare -f -r f-g:h; BERTH_SHELL=mine; IFS=:""")) == ""
    assert out(call(server, name, """echo "${m[k]}|${m[a b]}|${#a[@]}|${a[2]}|$ro"; n=n+1; echo $n $ref; low=QRS; echo $low; echo ${HOME-unset}
        declare -p NOVALUE empty IFS; f-g:h 7; bash -c 'exported 8'; \\time; (ro=2) 2>/dev/null || echo readonly; (f-g:h() { :; }) 2>/dev/null || echo so is it
        echo $BERTH_SHELL; shopt nullglob; false | true || echo pipefail""")) == (
        "v w|x\ny|3|3 4|fixed\n5 5\nqrs\nunset\ndeclare -x NOVALUE\ndeclare -A empty\ndeclare -- IFS=\":\"\nnumber 7\nhere 7\nnumber 8\nmine\n"
        "readonly\nso is it\nmine\nnullglob       \ton\npipefail\n")


def test_nothing_of_the_wrapper_is_seen(server, name):
    look = "declare -p; declare -f; alias; set +o; shopt; trap; umask; pwd; ls -l /proc/self/fd | wc -l; echo $# $- $?"
    strip = lambda text: [line for line in text.split("\n")  # what differs from process to process, and what was asked
                          if not line.startswith(("declare -a BASH_ARG", "declare -i BASHPID", "declare -ir PPID", "declare -i RANDOM",
                                                  "declare -- BASH_EXECUTION_STRING", "declare -i EPOCH", "declare -- EPOCH", "declare -i SRANDOM",
                                                  "declare -x OLDPWD", "declare -x SSH_C", "declare -- SRANDOM", "declare -i SECONDS", "declare -- _=", "declare -a PIPESTATUS"))]
    first, second = strip(out(call(server, name, look))), strip(out(call(server, name, look)))
    assert first == second
    assert not [line for line in second if "__berth" in line]
    plain = strip(out(call(server, name, f"exec bash -O expand_aliases -c '{look}'", shell=None)))
    assert {line.split("=")[0] for line in second} - {line.split("=")[0] for line in plain} == set()
    own = "env | grep -v ^SSH_C | sort"  # another connection each
    assert out(call(server, name, own)) == out(call(server, name, f"exec bash -c '{own}; :'", shell=None))
    assert out(call(server, name, "echo $BASH_EXECUTION_STRING")) == "echo $BASH_EXECUTION_STRING\n"


def test_streams_and_status_are_the_commands_own(server, name, kind):
    r = call(server, name, "cat; echo err >&2; (exit 7)", stdin=b"in\0put")
    assert (r.out, r.err, r.status) == (b"in\0put", b"err\n", 7)
    assert out(call(server, name, "echo next")) == "next\n", "a status that is not 0 harms nothing"
    r = call(server, name, "trap 'echo bye $?' EXIT; x=saved; (exit 5)")
    assert (r.out, r.err, r.status) == (b"bye 5\n", b"", 5)
    r = call(server, name, "echo $x; exec 2>&1; exec >&-; trap", stdin=b"")
    assert (r.out, r.err, r.status) == (b"saved\n", b"", 0), "traps are not carried over"
    r = call(server, name, "set -x; : traced")
    assert r.out == b"" and r.stderr.strip("+ \n") == ": traced", r
    r = call(server, name, ": again; set +x")
    assert sorted(line.lstrip("+ ") for line in r.stderr.splitlines()) == [": again", "set +x"], r
    assert out(call(server, name, "set -v")) == ""
    r = call(server, name, "set +v")
    assert r.stderr == ("set +v\n" if kind == "bash" else ""), "dash does not show what it evaluates"
    assert out(call(server, name, "echo quiet")) == "quiet\n"


def test_debug_and_error_traps_see_the_command_alone(server, name):
    r = call(server, name, "trap 'echo trapped' ERR; trap 'echo $((++n)) >&2' DEBUG; : ; set -T; (exit 3)")
    assert r.out == b"trapped\n" and r.status == 3
    assert out(call(server, name, "trap; echo ok")) == "ok\n"


def test_a_command_that_does_not_come_to_its_end_changes_nothing(server, name, kind):
    assert out(call(server, name, "x=kept; cd /usr")) == ""
    for command, status in (("x=lost; cd /; exit 3", 3), ("x=lost; exec true", 0), ("x=lost; set -e; false; :", 1), ("x=lost; kill -9 $$", None),
                            ("x=lost; kill -TERM $$; sleep 60", None), ("x=lost; set -u; echo $nosuch", None)):
        r = call(server, name, command)
        assert status is None and r.status != 0 or r.status == status, (command, r)
        assert out(call(server, name, "echo $x; pwd; echo ${-#*[eu]} >/dev/null")) == "kept\n/usr\n", command
    r = call(server, name, "x=lost; sleep 600", "BERTH_TIMEOUT=300ms")
    assert r.status == 124
    assert out(call(server, name, "echo $x; pwd")) == "kept\n/usr\n"
    assert call(server, name, "if true; (").status != 0
    assert out(call(server, name, "echo $x; pwd")) == "kept\n/usr\n"


def test_functions_and_aliases_named_like_builtins_do_not_disturb_it(server, name, kind):
    assert out(call(server, name, "x=1; cd() { echo my cd; }; printf() { echo mine; }; umask() { echo mine; }; alias set='echo s' eval='echo e' printf='echo p' exit='echo x'")) == ""
    assert out(call(server, name, "x=2; unset -f cd printf umask; unalias -a; cd /usr")) == ""
    assert out(call(server, name, "echo $x; pwd; printf '%s\\n' ok; set -- a; echo $1")) == "2\n/usr\nok\na\n"


def test_a_directory_that_is_gone_is_told(server, name, kind):
    began = out(call(server, name, "pwd; mkdir -p /root/away; cd /root/away; x=1"))
    assert server.ssh(name, "rmdir /root/away").status == 0
    r = call(server, name, "pwd; echo $x")
    assert (r.out, r.status) == ((began + "1\n").encode(), 0)
    assert r.stderr == "berth: call: /root/away, where its named shell was, is not there any more\n"


def test_a_directory_of_the_calls_own_comes_before_the_shells(server, name, kind):
    assert out(call(server, name, "cd /usr; x=1")) == ""
    assert out(call(server, name, "pwd; echo $x", "BERTH_CWD=/etc")) == "/etc\n1\n"
    assert out(call(server, name, "pwd")) == "/etc\n"


def test_what_cannot_be_saved_is_told_and_changes_nothing(server, name):
    assert out(call(server, name, "x=1")) == ""
    server.ssh(name, "cd ~/.local/state/berth && mv shells was && echo > shells")
    r = call(server, name, "x=2; (exit 4)")
    assert r.status == 4 and r.stderr == "berth: call: the state of its named shell was not saved, and is as before\n"
    server.ssh(name, "cd ~/.local/state/berth && rm shells && mv was shells")
    assert out(call(server, name, "echo $x")) == "1\n"


def test_a_terminal_may_be_in_a_shell(server, name):
    assert out(call(server, name, "x=1")) == ""
    r = server.ssh(name, "x=2; tty; stty size", options=("-tt", "-o", "SetEnv=BERTH_SHELL=main"))
    assert r.status == 0 and "/dev/pts/" in r.stdout, r
    assert out(call(server, name, "echo $x")) == "2\n"


def test_calls_of_one_shell_queue_in_order_and_hold_up_nobody_else(server, name):
    server.ssh(name, "mkfifo go")
    first = popen(server, name, "cat go; n=1; echo first")
    wait_until("the first", lambda: len(live(server, name)) == 1)
    rest = []
    for i in range(2, 6):
        rest.append(popen(server, name, f"n=${{n}}{i}; echo $n; cat"))
        rest[-1].stdin.write(b"in")
        rest[-1].stdin.close()
        wait_until("it to queue", lambda: len(live(server, name)) == i)
    assert out(call(server, name, "echo free", shell="other")) == "free\n"
    assert out(call(server, name, "echo free", shell=None)) == "free\n"
    server.ssh(name, "echo > go")
    with at_most(30):
        assert first.stdout.read() == b"\nfirst\n"
        assert [p.stdout.read() for p in rest] == [b"12\nin", b"123\nin", b"1234\nin", b"12345\nin"]
        assert [p.wait() for p in [first, *rest]] == [0] * 5


def test_one_that_waits_can_leave_and_run_out_of_time(server, name):
    server.ssh(name, "mkfifo go")
    first = popen(server, name, "x=first; cat go")
    wait_until("the first", lambda: len(live(server, name)) == 1)
    with at_most(20):
        r = call(server, name, "x=late", "BERTH_TIMEOUT=300ms")
    assert r.status == 124 and r.out == b"", r
    leaves = popen(server, name, "x=left")
    wait_until("it to queue", lambda: len(live(server, name)) == 2)
    leaves.kill()
    leaves.wait()
    wait_until("it to be gone", lambda: len(live(server, name)) == 1)
    detached = call(server, name, "x=$x,detached", "BERTH_DETACH=1").stdout.strip()
    assert len(live(server, name)) == 2, "it waits though nobody does for it"
    server.ssh(name, "echo > go")
    assert first.wait(20) == 0
    wait_until("the detached one", lambda: server.json("call", "show", detached)["ended_by"])
    assert out(call(server, name, "echo $x")) == "first,detached\n"


def test_one_that_waits_and_has_a_key_outlives_its_link(server, name):
    """Nobody runs it twice, and the next client of that key gets what it writes."""
    server.ssh(name, "mkfifo go")
    first = popen(server, name, "read x < go; V=first")
    wait_until("it to run", lambda: len(live(server, name)) == 1)
    waiting = popen(server, name, "echo $V | tee -a ran", "BERTH_CALL=k")
    wait_until("it to queue", lambda: len(live(server, name)) == 2)
    waiting.kill()
    waiting.wait()
    third = popen(server, name, "echo $V | tee -a ran", "BERTH_CALL=k")
    assert server.ssh(name, "echo > go").status == 0
    assert first.wait(30) == 0
    assert (third.communicate(timeout=30)[0], third.returncode) == (b"first\n", 0)
    assert server.ssh(name, "cat ran").stdout == "first\n"
    other = call(server, name, "echo $V | tee -a ran", "BERTH_CALL=k", shell="other")
    assert other.status == 64 and "BERTH_CALL" in other.stderr, other


def pause(server, session):
    assert server.verb("pause", session, "--force", "--grace", "100ms").status == 0


def kill_keeper(server, session):
    for pid, what in server.keeper_pids():
        if what == "berth-keeper":
            os.kill(pid, signal.SIGKILL)
    wait_until("the session to be paused", lambda: server.session(session)["state"] == "paused")


@pytest.mark.parametrize("end", [pause, kill_keeper])
def test_one_that_never_came_to_run_leaves_its_key(end):
    """A retry is told nothing of an end that was none of the command's: it runs it, once."""
    with running() as server:
        name = "demo"
        server.ssh(name, "mkfifo go")
        first = popen(server, name, "read x < go")
        wait_until("it to run", lambda: len(live(server, name)) == 1)
        waiting = popen(server, name, "echo run | tee -a ran", "BERTH_CALL=k")
        wait_until("it to queue", lambda: len(live(server, name)) == 2)
        end(server, name)
        assert waiting.communicate(timeout=30)[0] == b"" and waiting.returncode != 0 and first.wait(30) != 0
        for _ in range(2):
            assert out(call(server, name, "echo run | tee -a ran", "BERTH_CALL=k")) == "run\n"
        assert server.ssh(name, "cat ran").stdout == "run\n"


def test_one_that_waits_and_is_killed_by_the_verb_never_runs(server, name):
    server.ssh(name, "mkfifo go")
    first = popen(server, name, "read x < go")
    wait_until("it to run", lambda: len(live(server, name)) == 1)
    waiting = call(server, name, "touch ran", "BERTH_DETACH=1").stdout.strip()
    assert len(live(server, name)) == 2
    assert server.verb(f"call kill {waiting}").status == 0
    wait_until("its end", lambda: server.json("call", "show", waiting)["ended_by"])
    assert server.ssh(name, "echo > go").status == 0
    assert first.wait(30) == 0
    assert call(server, name, "test -e ran").status == 1, "it ran though it was killed"


def test_one_that_waits_can_be_signalled(server, name):
    server.ssh(name, "mkfifo go")
    first = popen(server, name, "x=first; cat go")
    wait_until("the first", lambda: len(live(server, name)) == 1)

    async def signalled(number):
        async with asyncssh.connect("127.0.0.1", server.port, username=name, known_hosts=None, client_keys=[str(server.key)]) as c:
            p = await c.create_process("x=second", env={"BERTH_SHELL": "main"})
            while len(await asyncio.to_thread(live, server, name)) < 2:
                pass
            p.send_signal("CONT")  # nothing that has not begun could make of it
            p.send_signal(number)
            return await p.wait()
    with at_most(20):
        r = asyncio.run(signalled("TERM"))
    assert r.exit_signal[0] == "TERM" and r.stdout == r.stderr == ""
    server.ssh(name, "echo > go")
    assert first.wait(20) == 0
    assert out(call(server, name, "echo $x")) == "first\n"


def test_what_a_call_leaves_running_does_not_hold_its_shell(server, name):
    with at_most(20):
        assert out(call(server, name, "sleep 600 & x=1")) == ""
        assert out(call(server, name, "echo $x")) == "1\n"


def test_state_survives_pause_restart_and_death_of_the_server():
    with running() as server:
        assert out(call(server, "demo", "cd /usr; f() { echo fun; }; export V=1")) == ""
        assert server.verb("pause demo").status == 0
        assert out(call(server, "demo", "pwd; f; env | grep ^V")) == "/usr\nfun\nV=1\n"
        server.stop()
        server.start()
        assert out(call(server, "demo", "pwd; f; V=2")) == "/usr\nfun\n"
        blocked = popen(server, "demo", "V=no; sleep 600")
        wait_until("it to run", lambda: live(server, "demo"))
        queued = popen(server, "demo", "V=no; echo ran")
        wait_until("it to queue", lambda: len(live(server, "demo")) == 2)
        with at_most(60):
            assert server.verb("pause demo").status == 0
            assert blocked.wait() != 0 and queued.wait() != 0
            assert queued.stdout.read() == b""
        assert out(call(server, "demo", "echo $V")) == "2\n"


def test_a_developer_has_no_shell_of_another_principal(server, name):
    one, two = (server.add_key(f"{name}-{i}", 'role="developer"') for i in "ab")
    assert out(call(server, name, "x=operator")) == ""
    assert out(call(server, name, "echo ${x-none}; x=one", key=one)) == "none\n"
    assert out(call(server, name, "echo ${x-none}; x=two", key=two)) == "none\n"
    assert [out(call(server, name, "echo $x", key=k)) for k in (None, one, two)] == ["operator\n", "one\n", "two\n"]
    assert out(call(server, name, "echo $x", "BERTH_CALL=k", key=one)) == "one\n"
    r = call(server, name, "echo $x", "BERTH_CALL=k", key=two)
    assert r.status == 64 and r.out == b"", "a key leads into no other's shell either"
    server.ssh(name, "mkfifo go")
    holds = popen(server, name, "cat go")
    wait_until("it to run", lambda: live(server, name))
    with at_most(20):
        assert out(call(server, name, "echo $x", key=one)) == "one\n", "nor does it wait for one"
    server.ssh(name, "echo > go")
    assert holds.wait(20) == 0


def test_many_at_once_each_see_what_was_before(server, name):
    assert out(call(server, name, "n=0")) == ""
    with at_most(60):
        calls = [popen(server, name, "n=$((n + 1)); echo $n") for _ in range(24)]
        seen = sorted(int(p.stdout.read()) for p in calls)
        assert [p.wait() for p in calls] == [0] * 24
    assert seen == list(range(1, 25))
