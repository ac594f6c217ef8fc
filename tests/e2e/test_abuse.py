"""Clients that break every rule after login: one connection may suffer, its own; nobody else does, and nothing is left."""
import os

import pytest

import raw
from conftest import at_most, wait_until
from raw import Raw, text, u32


def conns(server):
    return {pid for pid, what in server.all_pids() if what == "berth-conn"}


def resident(pid):
    """KiB."""
    with open(f"/proc/{pid}/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmRSS"))


def conn_of(server, before):
    (pid,) = wait_until("its process", lambda: conns(server) - before)
    return pid


@pytest.mark.parametrize("packet", [0, 1, 9, 10, 11])
def test_a_greatest_packet_that_nothing_fits_in(server, name, packet):
    server.ssh(name, "true")
    before = conns(server)
    with Raw(server, name) as r:
        pid = conn_of(server, before)
        ours, theirs = r.open(packet=packet)
        r.exec(theirs, "head -c 100000 /dev/zero")
        with at_most(60):
            try:
                r.wait(raw.CLOSE, ours, 50)
                r.send(raw.CLOSE, u32(theirs))
                assert r.run("exit 3") == 3
            except raw.Gone:
                pass
    with at_most(20):
        wait_until("it to be gone", lambda: pid not in conns(server))
    assert server.ssh(name, "echo fine").out == b"fine\n"


def test_bytes_for_a_channel_that_we_closed_are_not_kept(server, name):
    server.ssh(name, "true")
    before = conns(server)
    with Raw(server, name) as r:
        pid = conn_of(server, before)
        ours, theirs = r.open()
        r.exec(theirs, "exit 0")
        r.wait(raw.CLOSE, ours)
        small = resident(pid)
        try:
            for _ in range(2000):
                r.data(theirs, bytes(32768))
            r.run("true")
        except raw.Gone:
            pass
        assert not os.path.exists(f"/proc/{pid}") or resident(pid) < small + 16384


def test_channels_that_are_never_closed_are_not_kept_for_ever(server, name):
    server.ssh(name, "true")
    before = conns(server)
    with Raw(server, name) as r:
        pid = conn_of(server, before)
        for i in range(2000):
            try:
                ours, theirs = r.open()
                r.exec(theirs, "exec", reply=False)
                r.send(raw.CLOSE + 0 if i < 1000 else raw.EOF, u32(theirs))
                if i >= 1000:
                    r.wait(raw.CLOSE, ours)
            except raw.Gone:
                return
            r.heard.clear()
            if i == 500:
                small = resident(pid)
        assert resident(pid) < small + 8192
