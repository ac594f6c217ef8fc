"""The network of a session: none, the node's, or one that an operator prepared. Namespaces, bridges and cables are made
here, under names of their own, and removed whatever happens."""
import contextlib
import json
import os
import pathlib
import select
import shutil
import socket
import subprocess
import threading

import pytest

from conftest import Server, at_most, make_server, running, wait_until

PID = os.getpid()
LAB, BRIDGE = f"btn{PID}", f"btb{PID}"
NET = f"10.{100 + PID // 200 % 100}.{PID % 200}"  # .1 the bridge; from .16 on sessions
CABLE = f"10.{200 + PID // 200 % 50}.{PID % 200}"  # .1 on the node, .2 in LAB


def ip(*words, ns=None, check=True):
    argv = ["ip", *(["-n", ns] if ns else []), *words]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert not check or done.returncode == 0, (argv, done.stderr)
    return done.stdout


@pytest.fixture(scope="module")
def lab():
    """A namespace with lo and a cable to the node; and a bridge."""
    etc = pathlib.Path("/etc/netns") / LAB
    made_etc = not etc.parent.exists()
    try:
        ip("netns", "add", LAB)
        ip("link", "set", "lo", "up", ns=LAB)
        ip("link", "add", f"btc{PID}", "type", "veth", "peer", "name", "lab0", "netns", LAB)
        ip("addr", "add", f"{CABLE}.1/24", "dev", f"btc{PID}")
        ip("link", "set", f"btc{PID}", "up")
        ip("addr", "add", f"{CABLE}.2/24", "dev", "lab0", ns=LAB)
        ip("link", "set", "lab0", "up", ns=LAB)
        ip("link", "add", BRIDGE, "type", "bridge")
        ip("addr", "add", f"{NET}.1/24", "dev", BRIDGE)
        ip("link", "set", BRIDGE, "up")
        etc.mkdir(parents=True)
        (etc / "resolv.conf").write_text("nameserver 192.0.2.53\n")
        yield LAB
    finally:
        ip("link", "del", f"btc{PID}", check=False)
        ip("netns", "del", LAB, check=False)
        ip("link", "del", BRIDGE, check=False)
        shutil.rmtree(etc, ignore_errors=True)
        if made_etc and etc.parent.exists():
            etc.parent.rmdir()


def config(more=""):
    return (f"spares = 0\nnetworks = {LAB}=netns:{LAB}, corp=bridge:{BRIDGE}/{NET}.16/24/{NET}.1, gone=netns:btg{PID},"
            f" nobridge=bridge:btx{PID}/{NET}.0/24\noperator_anywhere = yes\n{more}")


class Everywhere(Server):
    host = "0.0.0.0"


@contextlib.contextmanager
def everywhere(more=""):
    """A server that would answer on every address of the node."""
    made = make_server(config(more))
    made.__class__ = Everywhere
    try:
        made.start()
        yield made
        made.remove()
    finally:
        made.discard()


@pytest.fixture(scope="module")
def server(lab):
    with everywhere() as s:
        yield s


@contextlib.contextmanager
def answering(text, address="127.0.0.1", ns=None):
    """A server of the node, or of a namespace, that sends a text to who connects; gives its port."""
    script = ("import socket,sys\ns=socket.create_server((sys.argv[1],0))\nprint(s.getsockname()[1],flush=True)\n"
              "while True:\n c,_=s.accept()\n c.sendall(sys.argv[2].encode())\n c.close()")
    argv = [*(["ip", "netns", "exec", ns] if ns else []), "python3", "-c", script, address, text]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE)
    try:
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


READ = ("import socket,sys\ntry:\n c=socket.create_connection((sys.argv[1],int(sys.argv[2])),5)\n print(c.recv(100).decode())\n"
        "except OSError as e: print('no:',type(e).__name__, e.errno)")


def read(server, session, address, port):
    """What is answered at an address, as seen from inside."""
    return server.ssh(session, f"python3 - {address} {port}", stdin=READ.encode()).stdout.strip()


def network_of(server, session):
    return server.json("show", session)["network"]


# ---- none ----

def test_without_a_word_a_session_has_loopback_alone(server, name):
    assert server.verb("new", name).status == 0
    r = server.ssh(name, "ls /sys/class/net; ip -o addr | grep -v ' lo '; ip route; cat /etc/resolv.conf")
    assert r.stdout == "lo\n# no resolver: this session has no network, or one without\n", r
    assert network_of(server, name) == "none"
    assert "network     none\n" in server.verb("show", name).stdout
    with answering("node") as port:
        for address in ("127.0.0.1", f"{NET}.1", f"{CABLE}.1"):
            assert read(server, name, address, port).startswith("no: ")
        for address in ("127.0.0.1", f"{NET}.1", f"{CABLE}.1", f"{CABLE}.2"):
            assert read(server, name, address, server.port).startswith("no: ")


# ---- join: a namespace ----

def test_a_session_in_a_namespace_reaches_what_is_there_and_nothing_of_the_node(server, name):
    assert server.verb("new", name, "--network", f"join:{LAB}").status == 0
    assert network_of(server, name) == f"join:{LAB}"
    with answering("lab", ns=LAB) as there, answering("lab too", f"{CABLE}.2", ns=LAB) as too, answering("node") as node:
        assert read(server, name, "127.0.0.1", there) == "lab"
        assert read(server, name, f"{CABLE}.2", too) == "lab too"
        assert read(server, name, "127.0.0.1", node).startswith("no: ConnectionRefusedError")
        assert read(server, name, f"{CABLE}.1", node).startswith("no: ConnectionRefusedError")
    r = server.ssh(name, "ls /sys/class/net; ls /sys/devices/virtual/net; cat /etc/resolv.conf; touch /sys/x; echo x >> /etc/resolv.conf")
    assert r.stdout == "lab0\nlo\nlab0\nlo\nnameserver 192.0.2.53\n" and r.stderr.count("\n") == 2, r
    assert "Read-only file system" in r.stderr and "denied" in r.stderr, r


def test_two_sessions_in_one_namespace_hear_each_other(server, name):
    other = name + "x"
    for n in (name, other):
        assert server.verb("new", n, "--network", f"join:{LAB}").status == 0
    script = "import socket;s=socket.create_server(('127.0.0.1',0));print(s.getsockname()[1],flush=True);c,_=s.accept();c.sendall(b'hello')"
    p = server.popen(name, f'python3 -c "{script}"')
    port = int(p.stdout.readline())
    assert read(server, other, "127.0.0.1", port) == "hello"
    assert p.wait(20) == 0
    inode = os.stat(f"/run/netns/{LAB}").st_ino
    assert {server.ssh(n, "readlink /proc/self/ns/net").stdout.strip() for n in (name, other)} == {f"net:[{inode}]"}


def test_a_namespace_that_is_joined_cannot_be_changed(server, name):
    assert server.verb("new", name, "--network", f"join:{LAB}").status == 0
    wait_until("its addresses to be its own", lambda: "tentative" not in ip("addr", ns=LAB))
    before = ip("addr", ns=LAB) + ip("route", ns=LAB)
    tries = ["ip addr add 10.9.9.9/24 dev lab0", "ip route add 10.9.9.0/24 dev lab0", "ip route flush table all", "ip link set lab0 down",
             "ip link set lab0 netns 1", "ip link add dummy1 type dummy", "ip link del lab0", "ip neigh add 10.1.1.1 lladdr 02:0:0:0:0:1 dev lab0",
             "ip rule add from all lookup 9", "sysctl -w net.ipv4.ip_forward=1", "echo 1 > /proc/sys/net/ipv4/ip_forward",
             "python3 -c 'import socket; socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)'",
             "python3 -c 'import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW)'",
             f"python3 -c 'import socket; s=socket.socket(); s.setsockopt(0, 19, 1)'",  # IP_TRANSPARENT
             "nsenter --net=/proc/1/ns/net true", "unshare --net true"]
    script = "\n".join(f"( {t} ) >/dev/null 2>&1 && echo {t!r} was allowed" for t in tries)
    r = server.ssh(name, script + "\necho end")
    assert r.out == b"end\n", r
    assert ip("addr", ns=LAB) + ip("route", ns=LAB) == before


def test_from_a_namespace_no_socket_of_the_node_is_seen(server, name):
    assert server.verb("new", name, "--network", f"join:{LAB}").status == 0
    hidden = socket.socket(socket.AF_UNIX)
    hidden.bind(f"\0berth-node-{PID}")
    hidden.listen()
    with answering("node") as port, answering("lab", ns=LAB) as there:
        r = server.ssh(name, "cat /proc/net/tcp /proc/net/tcp6 /proc/net/unix; ss -tlnH || true; ip -o link")
        for p in (port, server.port):
            assert f":{p:04X}" not in r.stdout and f":{p} " not in r.stdout, r
        assert f":{there:04X}" in r.stdout and f"berth-node-{PID}" not in r.stdout and BRIDGE not in r.stdout
        r = server.ssh(name, f"python3 -c \"import socket; socket.socket(socket.AF_UNIX).connect('\\0berth-node-{PID}')\" 2>&1 | tail -1")
        assert "ConnectionRefusedError" in r.stdout
    hidden.close()


# ---- join: a bridge ----

def bridge_ports():
    return [p.name for p in pathlib.Path(f"/sys/class/net/{BRIDGE}/brif").iterdir()]


@pytest.fixture
def corp(lab):
    with everywhere() as s:
        yield s
    wait_until("the kernel to remove what was on the bridge", lambda: not bridge_ports())


def test_sessions_on_a_bridge_have_addresses_and_reach_each_other_and_the_node(corp):
    for session in ("a", "b"):
        assert corp.verb("new", session, "--network", "join:corp").status == 0
    assert [corp.json("show", s)["address"] for s in "ab"] == [f"{NET}.16", f"{NET}.17"]
    assert f"network     join:corp, address {NET}.16\n" in corp.verb("show", "a").stdout
    r = corp.ssh("a", "ls /sys/class/net; ip -o addr show dev eth0; ip route; ip -o link show lo | grep -c LOOPBACK,UP")
    assert r.stdout.split("\n")[:2] == ["eth0", "lo"] and f" inet {NET}.16/24 brd {NET}.255 " in r.stdout, r
    assert f"default via {NET}.1 dev eth0" in r.stdout and "inet6" not in r.stdout and r.stdout.endswith("\n1\n"), r
    script = f"import socket;s=socket.create_server(('{NET}.16',80));print('up',flush=True);[s.accept()[0].sendall(b'of a') for i in 'xy']"
    p = corp.popen("a", f'python3 -c "{script}"')
    assert p.stdout.readline() == b"up\n"
    assert read(corp, "b", f"{NET}.16", 80) == "of a"
    with socket.create_connection((f"{NET}.16", 80), 10) as c:
        assert c.recv(10) == b"of a"
    assert p.wait(20) == 0
    with answering("node", f"{NET}.1") as port, answering("loopback") as loopback:
        assert read(corp, "b", f"{NET}.1", port) == "node"
        assert read(corp, "b", f"{NET}.1", loopback).startswith("no: ConnectionRefusedError")
        assert read(corp, "b", "127.0.0.1", loopback).startswith("no: ConnectionRefusedError")
    assert len(bridge_ports()) == 2
    assert corp.verb("pause", "a").status == 0
    wait_until("one cable to go", lambda: len(bridge_ports()) == 1)
    assert corp.ssh("a", "ip -o -4 addr show dev eth0").stdout.count(f"{NET}.16/24") == 1


def test_a_session_on_a_bridge_cannot_take_another_address_or_write_packets_by_hand(corp):
    assert corp.verb("new", "a", "--network", "join:corp").status == 0
    tries = [f"ip addr add {NET}.99/24 dev eth0", "ip link set eth0 address 02:00:00:00:00:09", "ip link set eth0 down", "ip route del default",
             "ip link set lo down", "sysctl -w net.ipv4.ip_nonlocal_bind=1", "sysctl -w net.ipv6.conf.eth0.disable_ipv6=0",
             "python3 -c 'import socket; socket.socket(socket.AF_INET, socket.SOCK_RAW, 255)'",
             "python3 -c 'import socket; socket.socket(socket.AF_INET6, socket.SOCK_RAW, 58)'",
             "python3 -c 'import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW)'",
             "python3 -c 'import socket; s=socket.socket(); s.setsockopt(0, 19, 1)'"]
    r = corp.ssh("a", "\n".join(f"( {t} ) >/dev/null 2>&1 && echo {t!r} was allowed" for t in tries) + "\necho end")
    assert r.out == b"end\n", r


# ---- host ----

def test_the_network_of_the_node_is_for_operators_alone(server, name):
    orchestrator = server.add_key(f"orchestrator-{name}", 'role="orchestrator"')
    r = server.verb("new", name, "--network", "host", key=orchestrator)
    assert (r.status, r.stderr) == (77, f"berth: new: the node's own network is given by operators alone (none, or join:NAME)\n"), r
    assert server.session(name) is None
    assert server.verb("new", name + "j", "--network", f"join:{LAB}", key=orchestrator).status == 0
    developer = server.add_key(f"developer-{name}", 'role="developer"')
    assert server.verb("new", name, "--network", f"join:{LAB}", key=developer).status == 77
    assert server.verb("new", name, "--network", "host").status == 0
    assert network_of(server, name) == "host"
    with answering("node") as port:
        assert read(server, name, "127.0.0.1", port) == "node"
    r = server.ssh(name, f"ls /sys/class/net; cat /etc/resolv.conf; ip link add dummy1 type dummy; ip link set {BRIDGE} down; echo 1 > /sys/class/net/{BRIDGE}/mtu")
    assert BRIDGE in r.stdout.split() and pathlib.Path("/etc/resolv.conf").read_text() in r.stdout, r
    assert r.stderr.count("not permitted") == 2 and "Read-only" in r.stderr, r
    assert server.verb("pause", name).status == 0  # the other tests of this server ask for nothing then


# ---- berthd itself ----

MAPPED = "import socket,sys\nc=socket.socket(socket.AF_INET6)\nc.settimeout(5)\ntry:\n c.connect(('::ffff:'+sys.argv[1],int(sys.argv[2])))\n print(c.recv(9))\nexcept OSError as e: print('no')"


def test_the_server_is_not_reached_from_any_network(lab):
    with everywhere() as server:
        assert server.verb("new", "j", "--network", f"join:{LAB}").status == 0
        assert server.verb("new", "b", "--network", "join:corp").status == 0
        places = [("j", f"{CABLE}.1"), ("b", f"{NET}.1"), ("b", f"{CABLE}.1")]
        for session, address in places:
            assert read(server, session, address, server.port) in ("", "no: ConnectionResetError 104"), (session, address)
        with socket.create_connection((f"{CABLE}.1", server.port), 10) as c:  # the node may, from the same addresses
            assert c.recv(4) == b"SSH-"
        assert server.verb("new", "h", "--network", "host").status == 0
        for address in ("127.0.0.1", f"{NET}.1"):
            assert read(server, "h", address, server.port) in ("", "no: ConnectionResetError 104"), address
            assert server.ssh("h", f"python3 - {address} {server.port}", stdin=MAPPED.encode()).stdout in ("b''\n", "no\n")
            with socket.create_connection((address, server.port), 10) as c:
                assert c.recv(4) == b"SSH-"
        assert "connections out of sessions are refused: 1 (sessions_reach_server)" in server.log()
        assert server.ssh("j", "echo in").out == b"in\n"


def test_the_server_is_reached_where_the_option_allows_it(lab):
    with everywhere("sessions_reach_server = yes\n") as server:
        assert server.verb("new", "j", "--network", f"join:{LAB}").status == 0
        assert server.verb("new", "b", "--network", "join:corp").status == 0
        assert server.verb("new", "h", "--network", "host").status == 0
        for session, address in (("j", f"{CABLE}.1"), ("b", f"{NET}.1"), ("h", "127.0.0.1")):
            assert read(server, session, address, server.port).startswith("SSH-2.0-"), session


# ---- life ----

def test_a_network_outlives_pause_restore_and_both_ends_of_the_server(lab):
    with everywhere() as server:
        joined = f"test $(readlink /proc/self/ns/net) = 'net:[{os.stat(f'/run/netns/{LAB}').st_ino}]' && echo joined"
        assert server.verb("new", "j", "--network", f"join:{LAB}").status == 0
        assert server.ssh("j", "echo x > /workspace/f").status == 0
        assert server.verb("pause", "j").status == 0
        ref = server.state / "store" / "refs" / f"session-{server.json('show', 'j')['id']}.json"
        assert json.loads(ref.read_text())["network"] == f"join:{LAB}"
        assert server.ssh("j", joined).out == b"joined\n"
        snapshot = server.json("show", "j")["head"]
        assert server.verb("restore", "j", snapshot).status == 0
        assert server.ssh("j", joined).out == b"joined\n"
        server.kill()
        server.start()  # the session goes on
        assert server.ssh("j", joined).out == b"joined\n"
        server.stop()
        server.start()
        assert network_of(server, "j") == f"join:{LAB}"
        assert server.ssh("j", joined).out == b"joined\n"


def test_a_network_that_is_no_longer_there_is_said_so_and_the_session_waits_for_it(lab):
    with everywhere() as server:
        assert server.verb("new", "j", "--network", f"join:{LAB}").status == 0
        assert server.ssh("j", "echo kept > /workspace/f").status == 0
        server.stop()
        server.config.write_text("operator_anywhere = yes\n")
        server.start()
        r = server.ssh("j", "true")
        assert r.status == 66 and f"no network {LAB} is there to join" in r.stderr, r
        assert server.session("j")["state"] == "failed" and LAB in server.session("j")["reason"]
        server.stop()
        server.config.write_text(config())
        server.start()
        assert server.ssh("j", "cat /workspace/f").out == b"kept\n"
        assert network_of(server, "j") == f"join:{LAB}"


@pytest.mark.parametrize("network,status,words", [
    ("bogus", 64, "no such network: bogus"), ("join:", 64, "no such network: join:"), ("Host", 64, "no such network"),
    ("join:unknown", 66, "no network unknown is there to join"), ("join:../../run/x", 66, "is there to join"),
    ("join:gone", 66, f"network gone: there is no /run/netns/btg{PID}"), ("join:nobridge", 66, f"network nobridge: there is no bridge btx{PID}"),
], ids=["bogus", "empty", "case", "unknown", "path", "gone", "nobridge"])
def test_a_network_that_cannot_be_had_is_refused_in_words(server, name, network, status, words):
    before = set(bridge_ports())
    r = server.verb("new", name, "--network", network)
    assert r.status == status and words in r.stderr and r.stderr.startswith("berth: ") and r.stderr.count("\n") == 1, r
    assert set(bridge_ports()) == before


def test_the_default_is_the_operators_to_choose(lab):
    with everywhere(f"network = join:{LAB}\n") as server:
        with answering("lab", ns=LAB) as port:
            assert read(server, "first", "127.0.0.1", port) == "lab"  # made by its first channel
        assert network_of(server, "first") == f"join:{LAB}"
        assert server.verb("new", "second", "--network", "none").status == 0
        assert server.ssh("second", "ls /sys/class/net").out == b"lo\n"


@pytest.mark.parametrize("lines,words", [
    ("network = host\n", "network: neither none nor join:NAME"), ("network = join:x\n", "network: neither none nor join:NAME"),
    ("networks = x\n", "networks: not of the form NAME=netns:NETNS"), ("networks = x=y:z\n", "networks: neither netns nor bridge: y"),
    ("networks = x=netns:a/b\n", "networks: not a name of ip-netns or an absolute path: a/b"),
    ("networks = x=bridge:br0\n", "networks: not of the form bridge:BRIDGE/FIRST/BITS[/GATEWAY]"),
    ("networks = x=bridge:br0/10.0.0.300/24\n", "networks: not an IPv4 address and 8 to 30 bits: 10.0.0.300/24"),
    ("networks = x=bridge:br0/10.0.0.0/24/10.1.0.1\n", "networks: the gateway or the first address is outside of the subnet"),
    ("networks = x=netns:a, x=netns:b\n", "networks: x stands there twice"),
])
def test_a_config_that_says_nonsense_is_refused(lines, words):
    server = make_server(lines)
    server.start(wait=False)
    assert server.process.wait(30) == 78
    server.process.stdout.close()
    assert words in server.log() and server.log().strip().count("\n") == 0, server.log()
    shutil.rmtree(server.base)


def test_a_path_that_is_no_namespace_and_the_nodes_own_are_refused(lab):
    with everywhere() as server:
        server.stop()
        file = server.base / "file"
        file.write_text("")
        server.config.write_text(f"operator_anywhere = yes\nnetworks = file=netns:{file}, own=netns:/proc/self/ns/net\n")
        server.start()
        r = server.verb("new", "f", "--network", "join:file")
        assert r.status == 78 and "is no network namespace" in r.stderr, r
        r = server.verb("new", "o", "--network", "join:own")
        assert r.status == 78 and "is the node's own: use host" in r.stderr, r
