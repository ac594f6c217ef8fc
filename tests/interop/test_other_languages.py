"""npm's ssh2 and ssh2-sftp-client, Ruby's net-ssh, Go's x/crypto/ssh: each runs a program of its own language, which makes the claims."""
import contextlib
import json
import os
import pathlib
import subprocess

import pytest

from conftest import WORK
from inside import echo_inside

HERE = pathlib.Path(__file__).parent
ALL_KEYS = ["ed25519", "ecdsa-256", "ecdsa-384", "ecdsa-521", "rsa-2048", "rsa-4096"]


def node(what, host, **more):
    to = {"address": host.address, "port": host.port, "username": host.user, "key": str(host.key), **more}
    return ["node", HERE / "clients.mjs", what, json.dumps(to)]


def ruby(what, host, **more):
    to = {"address": host.address, "port": host.port, "username": host.user, "key": str(host.key), **more}
    return ["ruby", "-W0", HERE / "client.rb", what, json.dumps(to)]


def go(what, host, key=None, echo=0, **_):
    return [WORK / "go-client", what, f"{host.address}:{host.port}", host.user, str(key or host.key), str(echo)]


TOOLS = {"ssh2 (npm)": node, "net-ssh (Ruby)": ruby, "x/crypto/ssh (Go)": go}
KEYS = [(tool, key) for tool in TOOLS for key in ALL_KEYS]
CASES = [
    ("ssh2 (npm)", "streams", "streams apart and exact, stdin, exit status, 8 MiB each"),
    ("ssh2 (npm)", "signal", "stream.signal(), and the name of the signal that ended it"),
    ("ssh2 (npm)", "terminal", "a terminal: size, TERM, env, 300 changes of its size"),
    ("ssh2 (npm)", "shell", "a shell without a terminal that answers 200 times"),
    ("ssh2 (npm)", "channels", "200 channels at once"),
    ("ssh2 (npm)", "rekey", "rekey() 8 times amid 64 MiB there and back"),
    ("ssh2 (npm)", "keepalive", "keepaliveInterval 500 ms, nothing said for 5 s"),
    ("ssh2 (npm)", "forwards", "forwardOut 8 MiB, to a closed port, forwardIn"),
    ("ssh2 (npm)", "jump", "a forwarded channel as a socket"),
    ("ssh2 (npm)", "sftp", "sftp: fastPut, fastGet, rename, readdir, createReadStream"),
    ("ssh2 (npm)", "sftpClient", "ssh2-sftp-client: put, get, append, mkdir -p, uploadDir, downloadDir, rmdir -r"),
    ("net-ssh (Ruby)", "streams", "streams apart and exact, stdin, exit status and signal, 8 MiB each"),
    ("net-ssh (Ruby)", "terminal", "a terminal: size, TERM"),
    ("net-ssh (Ruby)", "channels", "50 channels at once"),
    ("net-ssh (Ruby)", "rekey", "rekey_limit 1 MiB, 32 MiB there and back"),
    ("net-ssh (Ruby)", "compression", "compression"),
    ("net-ssh (Ruby)", "keepalive", "keepalive each second, nothing said for 5 s"),
    ("net-ssh (Ruby)", "forwards", "forward.local"),
    ("net-ssh (Ruby)", "sftp", "net-sftp: files, a tree, rename, entries, glob; net-scp"),
    ("x/crypto/ssh (Go)", "streams", "streams apart and exact, stdin, exit status, 8 MiB each"),
    ("x/crypto/ssh (Go)", "signal", "Signal(), and the name of the signal that ended it"),
    ("x/crypto/ssh (Go)", "terminal", "a terminal: size, TERM, no echo (TerminalModes)"),
    ("x/crypto/ssh (Go)", "channels", "200 channels at once"),
    ("x/crypto/ssh (Go)", "rekey", "RekeyThreshold 1 MiB, 32 MiB there and back"),
    ("x/crypto/ssh (Go)", "forwards", "Dial 8 MiB, to a closed port, Listen"),
]


def pytest_param(tool, *rest, feature):
    return pytest.param(tool, *rest, marks=pytest.mark.case(tool, feature), id=f"{tool.split()[0].replace('/', '-')}-{rest[0]}")


def check(argv):
    done = subprocess.run([str(a) for a in argv], capture_output=True, text=True, timeout=120, env={**os.environ, "BERTH_INTEROP_WORK": str(WORK)})
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("tool,key", [pytest_param(t, k, feature=f"key {k}") for t, k in KEYS])
def test_key(host, tool, key):
    name = key + ".pem" if tool.startswith("net-ssh") and key != "ed25519" else key  # with OpenSSL 3 it reads no others
    check(TOOLS[tool]("key", host, key=str(host.keys / name)))


@pytest.mark.parametrize("tool,what", [pytest_param(t, w, feature=f) for t, w, f in CASES])
def test_case(host, here, tool, what):
    (here / "tree/sub").mkdir(parents=True)
    for i in range(20):
        (here / f"tree/sub/{i}").write_text(str(i))
    with echo_inside(host) if what in ("forwards", "jump") else contextlib.nullcontext(0) as echo:
        check(TOOLS[tool](what, host, here=str(here), tree=str(here / "tree"), echo=echo))
