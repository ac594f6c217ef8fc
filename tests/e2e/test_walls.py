"""Walls that can be lowered, one by one: setuid programs, nested namespaces, /tmp in memory. Each closed where nobody asked."""
import json
import shutil

import pytest

from conftest import running, wait_until

# setpriv itself keeps its capabilities over the change of ids; env, which it executes, has none to begin with.
AS_USER = "setpriv --reuid 1000 --regid 1000 --clear-groups env"


def new(server, name, *words):
    r = server.verb("new", name, *words)
    assert r.status == 0, r


def out(server, name, command):
    r = server.ssh(name, command)
    assert r.status == 0, r
    return r.stdout


def cold(server, name):
    assert server.verb("pause", name).status == 0
    assert server.stop() == 0
    shutil.rmtree(server.state / "cache" / "layers", ignore_errors=True)
    for upper in (server.state / "sessions").glob("s_*/upper.*"):
        shutil.rmtree(upper)
    server.start()


# A password in passwd itself, since image host has no shadow; su asks PAM, which asks for it on stdin.
SU = "h=$(openssl passwd -6 pw); sed -i \"s#^root:[^:]*:#root:$h:#\" /etc/passwd; echo pw | " + AS_USER + " su root -c 'id -u' 2>/dev/null"


def test_su_and_file_capabilities_work_with_setuid_alone(server, name):
    grants = "cp /usr/bin/cat /workspace/c; setcap cap_net_raw+ep /workspace/c; " + AS_USER + " /workspace/c /proc/self/status | grep -c 'CapEff:.*2000$'"
    new(server, name, "--setuid", "yes")
    new(server, name + "-n")
    assert out(server, name + "-n", "su nobody -s /bin/sh -c 'id -un'") == "nobody\n", "root needs no setuid program for that"
    assert server.ssh(name, SU).stdout == "0\n"
    assert server.ssh(name, grants).stdout == "1\n"
    assert server.ssh(name + "-n", SU).stdout == ""
    assert server.ssh(name + "-n", grants).stdout == "0\n"


def test_setuid_lowers_no_other_wall(server, name):
    new(server, name, "--setuid", "yes")
    status = out(server, name, "cat /proc/self/status")
    assert "Seccomp:\t2\n" in status and "CapBnd:\t00000000a80425fb\n" in status
    for command in ("unshare -U true", "mount -t tmpfs none /mnt", "umount /proc", "echo x > /proc/sys/kernel/hostname", "mknod /tmp/n c 1 3"):
        assert server.ssh(name, command).status != 0, command


BWRAP = "bwrap --unshare-all --unshare-user --ro-bind / / --proc /proc --dev /dev --tmpfs /tmp --hostname within sh -c 'hostname; echo $$; touch /tmp/x && echo wrote'"


def test_bubblewrap_works_with_nested_alone(server, name):
    new(server, name, "--nested", "yes")
    new(server, name + "-n")
    assert out(server, name, BWRAP) == "within\n2\nwrote\n"
    assert out(server, name, f"{AS_USER} {BWRAP}") == "within\n2\nwrote\n"
    assert server.ssh(name + "-n", BWRAP).status != 0
    assert server.ssh(name + "-n", "unshare -U true").status != 0
    assert server.ssh(name + "-n", "ls /run/berth/proc").status != 0


REFUSED = [
    "mount -t tmpfs none /mnt", "unshare -m true", "nsenter -t 1 -m true", "hostname x", "umount /run/berth/out", "mount -o remount,rw,bind /usr",
    "unshare -Urm mount -o remount,rw,bind /usr", "unshare -Urm umount /proc/sys", "unshare -Urm mount -o remount,rw,bind /proc/sys",
    "unshare -Urm umount -l /proc/kcore", "unshare -Urm sh -c 'mknod /dev/shm/n b 254 0'", "unshare -Ur hostname x", "unshare -Urm mount -t ext4 /dev/vda /mnt",
    "unshare -Urmn sh -c 'mount -t sysfs s /mnt && cat /mnt/kernel/notes'", "unshare -Ur dmesg",
    "unshare -UrmC sh -c 'mount -t cgroup2 c /mnt && mkdir /mnt/x'", "unshare -UrmC sh -c 'mount -t cgroup2 c /mnt && echo 1 > /mnt/cgroup.freeze'",
    "unshare -UrmC sh -c 'mount -t cgroup2 c /mnt && echo 1 > /mnt/cgroup.kill'", "unshare -UrmC sh -c 'mount -t cgroup2 c /mnt && echo max > /mnt/pids.max'",
    "unshare -UrmC sh -c 'mount -t cgroup -o memory c /mnt && echo -1 > /mnt/memory.limit_in_bytes'",
    "unshare -UrmC sh -c 'mount -t cgroup -o pids c /mnt && echo max > /mnt/pids.max'", "unshare -UrmC sh -c 'mount -t cgroup -o pids c /mnt && mkdir /mnt/x'",
    *(f"unshare -UrmC sh -c 'mount -t cgroup -o {h} c /mnt && {do}'" for h in ("freezer", "cpuset", "devices")
      for do in ("echo /x > /mnt/release_agent", "mkdir /mnt/x", "echo $$ > /mnt/cgroup.procs", "echo 1 > /mnt/notify_on_release")),
    *(f"sh -c 'echo 1 > {p}/{f}'" for p in ("/run/berth/proc", "/proc") for f in (
        "sys/kernel/core_pattern", "sys/kernel/modprobe", "sysrq-trigger", "sys/vm/drop_caches", "sys/kernel/hostname", "1/oom_score_adj",
        "sys/user/max_user_namespaces", "irq/default_smp_affinity")),
    *(f"unshare -Ur sh -c 'echo 1 > /run/berth/proc/{f}'" for f in ("sys/kernel/core_pattern", "sysrq-trigger", "sys/vm/drop_caches")),
    "head -c1 /run/berth/proc/kcore", "head -c1 /run/berth/proc/kmsg", "cat /run/berth/proc/1/environ", "ls /run/berth/proc/1/root/", "ls /run/berth/proc/1/fd/",
]


def test_nested_opens_no_way_out(server, name):
    """What it does open: namespaces of its own, and on a second /proc the facts that the first one's masks hide."""
    new(server, name, "--nested", "yes")
    pattern = open("/proc/sys/kernel/core_pattern").read()
    for command in REFUSED:
        r = server.ssh(name, command)
        assert r.status != 0, (command, r)
    assert open("/proc/sys/kernel/core_pattern").read() == pattern


def test_a_flood_of_namespaces_has_a_bound(server, name):
    new(server, name, "--nested", "yes")
    flood = """
import ctypes, os, signal
unshare, n = ctypes.CDLL(None).unshare, 0
while n < 1200:
    r, w = os.pipe()
    if os.fork() == 0:
        os.write(w, b"y" if unshare(0x10000000) == 0 else b"n")
        signal.pause()
    if os.read(r, 1) == b"n":
        break
    os.close(r)
    os.close(w)
    n += 1
print(n)
"""
    assert server.ssh(name, "python3 -", stdin=flood.encode()).stdout == "1024\n"
    assert server.ssh("bystander", "echo served").stdout == "served\n"


def test_nested_processes_end_with_the_session(server, name):
    new(server, name, "--nested", "yes")
    server.ssh(name, "setsid unshare -Urpf sh -c 'exec sleep 1000' >/dev/null 2>&1 </dev/null & echo on")
    assert server.verb("pause", name, "--grace", "100ms").status == 0
    assert out(server, name, "ps -e -o args= | grep -c '[s]leep 1000' || true") == "0\n"


def test_tmp_is_kept_unless_it_is_in_memory(own_server, name):
    new(own_server, name)
    new(own_server, name + "-m", "--tmp-in-memory yes --tmp 1M")
    write = "echo f > /tmp/f; stat -fc %T /tmp; stat -c %a /tmp"
    assert out(own_server, name, write) == "overlayfs\n1777\n"
    assert out(own_server, name + "-m", write) == "tmpfs\n1777\n"
    full = own_server.ssh(name + "-m", "head -c 2M /dev/zero > /tmp/big")
    assert full.status != 0 and "No space left" in full.stderr
    assert own_server.verb("pause", name + "-m").status == 0
    cold(own_server, name)
    assert out(own_server, name, "cat /tmp/f") == "f\n"
    assert out(own_server, name + "-m", "ls -A /tmp; stat -fc %T /tmp") == "tmpfs\n"
    for fs in (own_server.state / "sessions" / own_server.session(name + "-m")["id"]).glob("upper.*/fs/tmp"):
        assert not any(fs.iterdir())


def test_choices_are_shown_kept_and_of_the_one_session(own_server, name):
    def walls():
        return {k: (v["value"], v["set"]) for k, v in own_server.json("show", name)["walls"].items()}
    new(own_server, name, "--setuid yes --tmp-in-memory no")
    want = {"setuid": (True, True), "nested": (False, False), "tmp-in-memory": (False, True)}
    assert walls() == want
    ref = own_server.state / "store/refs" / f"session-{own_server.session(name)['id']}.json"
    wait_until("its ref", ref.exists)
    assert json.loads(ref.read_text())["walls"]["setuid"] == {"value": True, "set": True}
    cold(own_server, name)
    assert walls() == want
    assert "walls       setuid yes\n            nested no (default)\n            tmp-in-memory no\n" in own_server.verb("show", name).stdout
    own_server.verb("pause", name)
    assert own_server.stop() == 0
    own_server.config.write_text("nested = yes\ntmp_in_memory = yes\n")
    own_server.start()
    assert walls() == {**want, "nested": (True, False)}
    assert out(own_server, name, "stat -fc %T /tmp; unshare -U echo nested") == "overlayfs\nnested\n"
    assert out(own_server, name + "-x", "stat -fc %T /tmp; grep NoNewPrivs /proc/self/status") == "tmpfs\nNoNewPrivs:\t1\n"


@pytest.mark.parametrize("words, status", [("--setuid yes", 77), ("--nested yes", 77), ("--setuid no --nested no --tmp-in-memory yes", 0), ("--setuid perhaps", 64)])
def test_who_may_lower_a_wall(server, name, words, status):
    key = server.add_key(name, 'role="orchestrator"')
    r = server.verb("new", name, words, key=key)
    assert r.status == status, r
    assert (server.session(name) is None) == (status != 0)
