"""verify: each kind of damage is found, named with what it harms, repaired where it can be, and shown by resume."""
import contextlib
import json
import os
import pathlib
import random
import shutil
import sqlite3
import subprocess

import pytest

from conftest import Server, make_server, running, wait_until


@pytest.fixture
def server():
    with running("gc_interval = 0s\n") as s:
        yield s


def chain(server, name, n=3):
    made = []
    for i in range(n):
        server.ssh(name, f"echo {i} > f{i}; head -c 300000 /dev/urandom > r{i}; mkfifo p{i}; truncate -s 1M hole{i}")
        made.append(server.json("pause", name)["snapshot"][7:])
    return made


def blob(server, digest):
    return server.state / "store/blobs/sha256" / digest


def layers_of(server, snapshot):
    return [layer["digest"][7:] for layer in json.loads(blob(server, snapshot).read_text())["layers"]]


def flip(path, seed=1):
    data = bytearray(path.read_bytes())
    at = random.Random(seed).randrange(len(data))
    data[at] ^= 1 << seed % 8
    path.write_bytes(data)


def found(server, *words, status=65):
    done = server.verb("verify", *words, "--json")
    assert done.status == status, done
    return json.loads(done.out)


def make_cold(server):
    for tree in [*server.state.glob("cache/layers/*"), *server.state.glob("sessions/*/upper.*")]:
        subprocess.run(["rm", "-rf", tree], check=True)


def test_what_is_good_is_said_to_be_good(server, name):
    made = chain(server, name)
    r = server.verb("verify", name)
    assert r.status == 0 and r.stdout.startswith("3 snapshots, 3 layers,") and r.stdout.endswith(": good\n"), r
    r = server.verb("verify", made[1][:12])
    assert r.status == 0 and r.stdout.startswith("1 snapshots, 2 layers"), r
    assert server.verb("verify", f"{name}+{made[2][:12]}").status == 0
    assert server.verb("verify", "--all").status == 0
    assert server.verb("verify").status == 64
    assert server.verb("verify", "nothing-of-this-name").status == 66
    done = server.verb("verify", "--all", "--progress", "--json")
    assert json.loads(done.out)["faults"] == 0
    events = [json.loads(line) for line in done.err.splitlines()]
    assert events and all(e["event"] == "progress" and e["of_files"] >= e["files"] for e in events), done


def test_what_is_harmed_outside_ones_scope_is_not_told(server, name):
    """A fork shares its layers with its origin, and whoever has the one need not know of the other."""
    made = chain(server, name, 1)
    assert server.verb("fork", name, "theirs").status == 0
    server.ssh("theirs", "echo more > a")
    server.json("pause", "theirs")
    flip(blob(server, layers_of(server, made[0])[0]))
    key = server.add_key("theirs-key", 'role="developer",sessions="theirs"')
    assert f"{name}+{made[0][:12]}" in server.verb("verify", "theirs").stdout
    for form in ("", " --json"):
        r = server.verb("verify", "theirs" + form, key=key)
        assert r.status == 65 and name not in r.stdout and made[0] not in r.stdout, r


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "gone", "other"])
def test_a_damaged_layer_is_found_with_what_it_harms(server, name, damage):
    made = chain(server, name)
    bad = layers_of(server, made[2])[1]
    path = blob(server, bad)
    if damage == "flip":
        flip(path)
    elif damage == "cut":
        os.truncate(path, path.stat().st_size // 2)
    elif damage == "empty":
        os.truncate(path, 0)
    elif damage == "gone":
        path.unlink()
    else:
        shutil.copy(blob(server, layers_of(server, made[0])[0]), path)
    answer = found(server, name)
    assert answer["faults"] == 1
    (fault,) = answer["found"]
    assert fault["kind"] == "layer" and fault["digest"][7:] == bad and fault["why"]
    assert {h[7:] for h in fault["harms"]} == set(made[1:])
    assert found(server, made[0][:12], status=0)["faults"] == 0, "the first does without it"
    text = server.verb("verify", "--all")
    assert text.status == 65 and bad[:12] in text.stdout and f"{name}+{made[1][:12]}" in text.stdout


def test_every_bit_that_flips_is_found(server, name):
    """A sample of places in every file of a store; each is put back before the next."""
    made = chain(server, name, 2)
    files = [*server.state.glob("store/blobs/sha256/*"), server.state / "store/refs" / f"{made[1]}.json"]
    for n, path in enumerate(files):
        data = path.read_bytes()
        for seed in range(3):
            flip(path, 17 * n + seed)
            assert server.verb("verify", "--all").status == 65, (path, seed)
            path.write_bytes(data)
    assert server.verb("verify", "--all").status == 0


def test_an_index_is_made_anew_from_its_archive(server, name):
    made = chain(server, name)
    first, second, third = (server.state / "store/idx" / f"{d}.idx" for d in layers_of(server, made[2]))
    def rows(path):
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            return db.execute("SELECT * FROM entry ORDER BY path").fetchall(), db.execute("SELECT * FROM layer").fetchall()
    was = [rows(p) for p in (first, second, third)]
    first.unlink()
    os.truncate(second, 100)
    shutil.copy(third, third.with_suffix(".keep"))
    with contextlib.closing(sqlite3.connect(third)) as db:
        db.execute("DELETE FROM entry WHERE path = CAST('workspace/f2' AS BLOB)")
        db.commit()
    third.with_suffix(".keep").unlink()
    assert found(server, name)["faults"] == 3
    answer = found(server, name, "--repair", status=0)
    assert (answer["faults"], answer["repaired"]) == (0, 3)
    assert [rows(p) for p in (first, second, third)] == was
    assert found(server, name, status=0)["repaired"] == 0


def test_a_ref_is_written_anew_from_the_index(server, name):
    made = chain(server, name, 2)
    ref = server.state / "store/refs" / f"{made[1]}.json"
    was = json.loads(ref.read_text())
    for damage in ("{", None, json.dumps({**was, "facts": {"note": "forged"}}), json.dumps({**was, "layers": was["layers"][:1]})):
        if damage is None:
            ref.unlink()
        else:
            ref.write_text(damage)
        assert found(server, name)["found"][0]["kind"] == "snapshot"
        assert found(server, name, "--repair", status=0)["repaired"] == 1
        assert json.loads(ref.read_text()) == was


def test_what_cannot_be_repaired_is_left_and_said(server, name):
    made = chain(server, name)
    bad = layers_of(server, made[2])[2]
    flip(blob(server, bad))
    was = blob(server, bad).read_bytes()
    answer = found(server, name, "--repair")
    assert answer["faults"] == 1 and "no mirror" in answer["found"][0]["why"]
    assert blob(server, bad).read_bytes() == was


def test_resume_of_a_damaged_chain_names_what_is_still_good(server, name):
    made = chain(server, name, 3)
    assert server.stop() == 0
    make_cold(server)
    flip(blob(server, layers_of(server, made[2])[2]))
    server.start()
    r = server.verb("resume", name)
    assert r.status == 65 and made[0][:12] in r.stderr and made[1][:12] in r.stderr and made[2][:12] not in r.stderr, r
    r = server.ssh(name, "true")
    assert r.status == 65 and made[1][:12] in r.stderr, r
    assert server.verb("restore", name, made[1]).status == 0
    assert server.ssh(name, "cat f0 f1; ls").out.split()[:2] == [b"0", b"1"]


def test_a_damaged_long_chain_names_what_is_still_good(name):
    with running("gc_interval = 0s\nchain_max = 2\n") as server:
        made = chain(server, name, 17)
        assert server.stop() == 0
        make_cold(server)
        layers = layers_of(server, made[-1])  # some of them may be merged ones by now
        bad = layers[len(layers) // 2]
        harmed = [bad in layers_of(server, s) for s in made]
        first = harmed.index(True)
        assert first > 0
        flip(blob(server, bad))
        server.start()
        r = server.verb("resume", name)
        assert r.status == 65 and made[first - 1][:12] in r.stderr and made[-1][:12] not in r.stderr, r


# ---- the mirror ----

@pytest.fixture
def mirrored(tmp_path):
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    with running(f"gc_interval = 0s\ngc_age = 0s\nblob_mirror = {mirror}\n") as s:
        s.mirror = mirror
        yield s


def mirror_blobs(server):
    return {p.name for p in (server.mirror / "blobs/sha256").iterdir()}


def test_the_mirror_has_all_when_a_pause_is_reported(mirrored, name):
    server = mirrored
    for i in range(3):
        server.ssh(name, f"echo {i} > f{i}")
        assert server.verb("pause", name).status == 0
        assert mirror_blobs(server) == {p.name for p in (server.state / "store/blobs/sha256").iterdir()}
        refs = {p.name: p.read_text() for p in (server.state / "store/refs").glob("*.json")}
        assert {p.name: p.read_text() for p in (server.mirror / "refs").glob("*.json")} == refs


def test_repair_takes_from_the_mirror_and_fills_it(mirrored, name):
    server = mirrored
    made = chain(server, name)
    first, second, third = layers_of(server, made[2])
    flip(blob(server, first))
    blob(server, second).unlink()
    flip(blob(server, made[1]))
    (server.mirror / "blobs/sha256" / third).unlink()
    assert found(server, name)["faults"] == 3
    answer = found(server, name, "--repair", status=0)
    assert answer["repaired"] == 3, answer
    assert found(server, name, status=0)["repaired"] == 0
    assert third in mirror_blobs(server)
    flip(blob(server, first), 3)
    flip(server.mirror / "blobs/sha256" / first, 4)
    was = blob(server, first).read_bytes()
    assert found(server, name, "--repair")["faults"] == 1, "a bad copy is not taken"
    assert blob(server, first).read_bytes() == was


def test_without_its_mirror_nothing_is_archived_and_all_else_goes_on(mirrored, name):
    server = mirrored
    server.ssh(name, "echo one > a")
    server.verb("pause", name)
    server.ssh(name, "echo two > a")
    away = server.mirror.with_name("away")
    server.mirror.rename(away)
    r = server.verb("pause", name)
    assert r.status == 69 and "blob_mirror" in r.stderr, r
    assert server.session(name)["state"] == "running" and server.ssh(name, "cat a").out == b"two\n"
    away.rename(server.mirror)
    assert server.verb("pause", name).status == 0
    server.mirror.rename(away)
    assert server.ssh(name, "cat a").out == b"two\n", "a resume needs no mirror"
    away.rename(server.mirror)


def test_an_import_is_in_the_mirror_when_it_is_reported_and_not_made_without(mirrored, name):
    server = mirrored
    with running() as other:
        chain(other, name)
        exported = other.verb("export", name).out
    away = server.mirror.with_name("away")
    server.mirror.rename(away)
    r = server.ssh("berth", f"import {name}", stdin=exported)
    assert r.status == 69 and "blob_mirror" in r.stderr, r
    assert server.session(name) is None
    away.rename(server.mirror)
    r = server.ssh("berth", f"import {name}", stdin=exported)
    assert r.status == 0, r
    made = server.session(name)["head"][7:]
    assert {*layers_of(server, made), made} <= mirror_blobs(server)
    refs = {p.name: p.read_text() for p in (server.state / "store/refs").glob("*.json")}
    assert {p.name: p.read_text() for p in (server.mirror / "refs").glob("*.json")} == refs
    for digest in mirror_blobs(server) - {made}:
        blob(server, digest).unlink(missing_ok=True)
    assert found(server, name, "--repair", status=0)["repaired"] > 0
    assert server.ssh(name, "true").status == 0


def test_what_is_collected_goes_from_the_mirror_too(mirrored, name):
    server = mirrored
    made = chain(server, name)
    server.verb("set", name, "retention", "last=1")
    server.json("gc")
    assert mirror_blobs(server) == {p.name for p in (server.state / "store/blobs/sha256").iterdir()}
    assert not (server.mirror / "refs" / f"{made[0]}.json").exists()
