"""One test a client and feature, run against berth and against sshd with the same assertions; the run makes the table of README.md."""
import hashlib
import json
import os
import pathlib
import signal
import subprocess
import tempfile

import pytest

import hosts
from conftest_e2e import make_server, running
from table import Table

TABLE = Table()
WORK = pathlib.Path(os.environ.get("BERTH_INTEROP_WORK", "build/interop")).resolve()  # what `run` has installed of npm and built


def pytest_configure(config):
    config.addinivalue_line("markers", "case(client, feature, berth, sshd): the row of the table; berth, sshd: why that one says no, on purpose")


def pytest_generate_tests(metafunc):
    if "host" in metafunc.fixturenames:
        metafunc.parametrize("host", ["berth", "sshd"], indirect=True)


@pytest.fixture(scope="session")
def keys():
    with tempfile.TemporaryDirectory(prefix="berth-interop.") as d:
        folder = pathlib.Path(d)
        yield folder, hosts.make_keys(folder)


def authorize(server, public):
    with open(server.state / "keys/authorized_keys", "a") as f:
        f.writelines('role="operator" ' + line for line in public)


@pytest.fixture(scope="session")
def berth(keys):
    with running("agent_roles = operator\n") as server:
        authorize(server, keys[1])
        yield server


@pytest.fixture(scope="session")
def sshd(keys):
    with hosts.Sshd(*keys) as server:
        yield server


def overdue(*_):
    raise TimeoutError("the test took too long")


@pytest.fixture(autouse=True)
def bounded():
    """A client that hangs is a row that fails, not a run that does not end."""
    signal.signal(signal.SIGALRM, overdue)
    signal.alarm(int(os.environ.get("BERTH_INTEROP_SECONDS", "180")))
    yield
    signal.alarm(0)


@pytest.fixture
def name(request):
    return "i-" + hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:8]


@pytest.fixture
def host(request, name, keys):
    server = request.getfixturevalue(request.param)
    if request.param == "sshd":
        yield server.host()
        return
    yield hosts.Host("berth", server.port, name, keys[0], server.state / "keys/host_ed25519.pub")
    server.verb("rm", name)


@pytest.fixture
def host6(host, keys):
    """The same by IPv6; berth listens in one place, so it is one of its own."""
    if not host.is_berth:
        host.address = "::1"
        yield host
        return
    server = make_server()
    server.host = "[::1]"
    try:
        server.start()
        authorize(server, keys[1])
        there = hosts.Host("berth", server.port, host.user, keys[0], server.state / "keys/host_ed25519.pub")
        there.address = "::1"
        yield there
        server.remove()
    finally:
        server.discard()


@pytest.fixture
def here():
    with tempfile.TemporaryDirectory(prefix="berth-interop.") as d:
        yield pathlib.Path(d)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    case = item.get_closest_marker("case")
    if not case or not (report.when == "call" or report.outcome != "passed"):
        return
    params = dict(getattr(item, "callspec", None).params) if hasattr(item, "callspec") else {}
    which = params.pop("host", None)
    feature = case.args[1].format(**params)
    TABLE.add(case.args[0], feature, which, report.outcome, {k: v.format(**params) for k, v in case.kwargs.items()})


PACKAGES = {"ssh": "openssh-client", "sftp": "openssh-client", "scp": "openssh-client", "rsync": "rsync", "sshfs": "sshfs", "lftp": "lftp",
            "curl (libssh2)": "libssh2-1", "rclone (Go)": "rclone", "git": "git", "ansible": "ansible-core", "paramiko": "python3-paramiko",
            "asyncssh": "python3-asyncssh", "dbclient and plink": "dropbear-bin putty-tools", "psftp and pscp": "putty-tools",
            "net-ssh (Ruby)": "ruby-net-ssh", "x/crypto/ssh (Go)": "golang-golang-x-crypto-dev", "mosh": "mosh"}


def versions():
    """Of Debian's packages, and of npm's."""
    said = {}
    for client, names in PACKAGES.items():
        done = subprocess.run(["dpkg-query", "-W", "-f", "${Version} ", *names.split()], capture_output=True, text=True)
        said[client] = " and ".join(done.stdout.split())
    of_npm = [json.loads((WORK / f"node/node_modules/{n}/package.json").read_text())["version"] for n in ("ssh2", "ssh2-sftp-client")]
    return said | {"ssh2 (npm)": " and ".join(of_npm)}


def pytest_sessionfinish():
    if not os.environ.get("BERTH_INTEROP_TABLE"):
        return
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    TABLE.write(WORK, f"Last written at commit {commit}; a part's run replaces its own rows.", versions())
