"""berth-archive: on stores of a server, live or not, and on its own; stock tar, zstd and sqlite3 judge what it says."""
import hashlib
import json
import os
import pathlib
import re
import shutil
import signal
import sqlite3
import subprocess
import tarfile

import pytest

from conftest import BUILD, running

TOOL = BUILD / "berth-archive"


def tool(*words, stdin=None):
    return subprocess.run([TOOL, *map(str, words)], input=stdin, capture_output=True, text=True, timeout=120)


def good(*words, **kw):
    r = tool(*words, **kw)
    assert r.returncode == 0 and r.stderr == "", r
    return r.stdout


def answer(*words, **kw):
    return json.loads(good(*words, "--json", **kw))


def seen(tree):
    """Each entry of a tree, by python alone."""
    found = {}
    for where, dirs, files in os.walk(os.fsencode(tree)):
        for name in [*dirs, *files, b"."]:
            path = os.path.join(where, name)
            st = os.lstat(path)
            one = [st.st_mode, st.st_uid, st.st_gid, 0 if os.path.isdir(path) else st.st_nlink, st.st_mtime_ns]
            if os.path.islink(path):
                one.append(os.readlink(path))
            elif os.path.isfile(path):
                one += [st.st_size, hashlib.sha256(pathlib.Path(os.fsdecode(path)).read_bytes()).hexdigest() if st.st_size < 1 << 20 else 0]
            if not os.path.islink(path):
                one += [sorted((x, os.getxattr(path, x)) for x in os.listxattr(path))]
            found[os.path.relpath(path, os.fsencode(tree))] = one
    return found


@pytest.fixture
def tree(tmp_path):
    top = tmp_path / "tree"
    (top / "d/deep").mkdir(parents=True)
    (top / "a").write_text("a\n")
    (top / "d/script").write_text("#!/bin/sh\n")
    (top / "d/script").chmod(0o4755)
    os.link(top / "a", top / "d/deep/linked")
    os.symlink("../nowhere", top / "d/link")
    os.mkfifo(top / "d/fifo")
    pathlib.Path(os.fsdecode(os.fsencode(top) + b"/not \xff utf-8\n")).write_bytes(b"x")
    with open(top / "sparse", "wb") as f:
        f.truncate(10 << 30)
        f.seek(5 << 30)
        f.write(b"middle")
    os.setxattr(top / "a", "user.note", b"\0bytes")
    os.utime(top / "a", ns=(1, 1_234_567_890_123_456_789))
    os.utime(top / "d", ns=(1, 999_999_999))
    return top


def test_a_tree_comes_back_as_it_was_and_stock_tar_reads_it(tree, tmp_path):
    store = tmp_path / "store"
    made = answer("capture", tree, store)
    assert made["files"] == 4 and made["skipped"] == made["torn"] == 0
    assert answer("unpack", store, made["snapshot"], tmp_path / "out")["entries"] == made["entries"]
    assert seen(tmp_path / "out") == seen(tree)
    assert answer("unpack", store, made["layer"][7:15], tmp_path / "by-layer")["files"] == 4
    assert seen(tmp_path / "by-layer") == seen(tree)

    blob = store / "blobs/sha256" / made["layer"][7:]
    assert hashlib.sha256(blob.read_bytes()).hexdigest() == made["layer"][7:]
    (tmp_path / "stock").mkdir()
    subprocess.run(["tar", "--zstd", "--xattrs", "--xattrs-include=*", "-xpf", blob, "-C", tmp_path / "stock"], check=True)
    assert seen(tmp_path / "stock") == seen(tree)
    with sqlite3.connect(f"file:{store}/idx/{made['layer'][7:]}.idx?mode=ro&immutable=1", uri=True) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("SELECT count(*) FROM entry").fetchone() == (made["entries"],)


def test_the_same_tree_gives_the_same_layer_whatever_the_threads(tree, tmp_path):
    layers = {answer("capture", tree, tmp_path / f"store-{n}", "--threads", n)["layer"] for n in (1, 2, 7)}
    assert len(layers) == 1


def test_a_chain_of_uppers_unpacks_as_overlayfs_would_show_it(tree, tmp_path):
    store, upper = tmp_path / "store", tmp_path / "upper"
    first = answer("capture", tree, store, "--name", "job")
    (upper / "d").mkdir(parents=True)
    (upper / "d/new").write_text("new\n")
    (upper / "a").write_text("changed\n")
    os.mknod(upper / "d/fifo", 0o20000, 0)  # overlayfs' deletion
    second = answer("capture", upper, store, "--parent", first["snapshot"][7:19], "--name", "job", "--note", "on top")
    rows = answer("ls", store)
    assert [(r["snapshot"], r["parent"], len(r["layers"]), r["session_name"], r["note"]) for r in rows] == [
        (first["snapshot"], None, 1, "job", ""), (second["snapshot"], first["snapshot"], 2, "job", "on top")]
    good("unpack", store, "job", tmp_path / "out")
    out = tmp_path / "out"
    assert (out / "a").read_text() == "changed\n" and (out / "d/new").exists() and not (out / "d/fifo").exists()
    assert (out / "d/deep/linked").read_text() == "a\n"
    table = good("ls", store)
    assert second["snapshot"][7:19] in table and "job" in table and "on top" in table


def test_again_captures_what_has_changed_since(tree, tmp_path):
    store = tmp_path / "store"
    with subprocess.Popen([TOOL, "capture", tree, store, "--again", "--json"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as p:
        first = json.loads(p.stdout.readline())
        p.stdin.write("\n")
        p.stdin.flush()
        assert json.loads(p.stdout.readline())["snapshot"] is None
        (tree / "d/deep/more").write_text("more")
        (tree / "d/link").unlink()
        p.stdin.write("\n")
        p.stdin.flush()
        second = json.loads(p.stdout.readline())
        p.stdin.close()
        assert p.wait() == 0
    assert second["files"] == 1 and second["snapshot"] != first["snapshot"]
    good("unpack", store, second["snapshot"], tmp_path / "out")
    assert seen(tmp_path / "out") == seen(tree)


def test_each_wrong_use_is_one_line_with_its_exit_code(tree, tmp_path):
    store = tmp_path / "store"
    made = answer("capture", tree, store)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").touch()
    for status, words in [
            (64, []), (64, ["dance"]), (64, ["ls"]), (64, ["ls", store, "more"]), (64, ["ls", store, "--odd"]),
            (64, ["capture", tree, store, "--level", "0"]), (64, ["capture", tree, store, "--threads", "x"]),
            (66, ["ls", tmp_path / "none"]), (66, ["ls", tree]), (66, ["capture", tmp_path / "none", store]),
            (66, ["verify", store, "nobody"]), (66, ["unpack", store, "0123456789", tmp_path / "o"]),
            (64, ["capture", tree, store, "--parent", made["layer"][7:30]]),
            (64, ["capture", tmp_path, store]), (64, ["unpack", store, made["snapshot"], tmp_path / "full"]),
            (66, ["unpack", store, made["snapshot"], tmp_path / "no/where"])]:
        r = tool(*words)
        assert r.returncode == status, (words, r)
        assert re.fullmatch(r"berth: [^\n]+: [^\n]+ \([^\n]+\)\n", r.stderr) and r.stdout == "", (words, r)
    assert "usage: berth-archive" in good("--help") and good("--version").startswith("berth-archive ")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["full", "store", "tree"]


def damage(path, at=-40):
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.write_bytes(data)


def test_what_is_damaged_is_named_and_not_unpacked(tree, tmp_path):
    store = tmp_path / "store"
    made = answer("capture", tree, store)
    whole = answer("verify", store)
    assert whole["broken"] == [] and (whole["snapshots"], whole["layers"]) == (1, 1)
    assert "whole: 1 snapshots, 1 layers" in good("verify", store)
    layer, snapshot = made["layer"][7:], made["snapshot"][7:]
    config = json.loads((store / "blobs/sha256" / snapshot).read_text())["config"]["digest"][7:]
    for path in [f"blobs/sha256/{layer}", f"idx/{layer}.idx", f"blobs/sha256/{snapshot}", f"blobs/sha256/{config}", f"refs/{snapshot}.json"]:
        copy = tmp_path / "copy"
        shutil.copytree(store, copy)
        damage(copy / path)
        r = tool("verify", copy, "--json")
        assert r.returncode == 65, (path, r)
        assert len(json.loads(r.stdout)["broken"]) >= 1 and "broken" in tool("verify", copy).stdout
        if not path.startswith("idx"):
            r = tool("unpack", copy, snapshot, tmp_path / "out")
            assert r.returncode == 65 and r.stderr.startswith("berth: unpack: "), (path, r)
            assert not (tmp_path / "out").exists()
        shutil.rmtree(copy)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["store", "tree"]


def test_bytes_under_another_name_and_a_cut_one_are_found_though_no_snapshot_names_them(tree, tmp_path):
    store = tmp_path / "store"
    answer("capture", tree, store)
    (store / "blobs/sha256" / ("0" * 64)).write_bytes(b"other bytes")
    r = tool("verify", store, "--json")
    assert r.returncode == 65
    assert [(b["what"], b["digest"]) for b in json.loads(r.stdout)["broken"]] == [("blob", "sha256:" + "0" * 64)]


def test_a_signal_ends_it_and_leaves_nothing(tree, tmp_path):
    store = tmp_path / "store"
    for i in range(40):
        (tree / f"large-{i}").write_bytes(os.urandom(4 << 20))
    with subprocess.Popen([TOOL, "capture", tree, store], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as p:
        while not list(store.glob("blobs/.tmp.*")):
            assert p.poll() is None
        p.send_signal(signal.SIGTERM)
        _, err = p.communicate()
    assert p.returncode == 130 and b"signal" in err, (p.returncode, err)
    assert list(store.glob("**/.tmp.*")) == [] and list((store / "blobs/sha256").iterdir()) == []


def test_a_live_servers_store_is_read_beside_it_and_left_alone(tmp_path):
    with running() as server:
        server.ssh("one", "echo first > /workspace/a; mkdir /workspace/d; echo x > /workspace/d/f")
        assert server.verb("pause", "one").status == 0
        server.ssh("one", "echo second > /workspace/a; rm -r /workspace/d")  # resumes, and runs on
        assert server.verb("pause", "one").status == 0
        server.ssh("one", "true")
        store = server.state / "store"
        before = {p: p.lstat().st_mtime_ns for p in store.rglob("*")}
        head = next(s for s in server.json("snapshots", "one") if s["head"])
        rows = answer("ls", store)
        assert {r["session_name"] for r in rows} == {"one"} and len(rows) == 2
        assert rows[-1]["snapshot"].endswith(head["snapshot"].removeprefix("sha256:"))
        assert answer("verify", store)["broken"] == []
        good("unpack", store, "one", tmp_path / "now")
        assert (tmp_path / "now/workspace/a").read_text() == "second\n" and not (tmp_path / "now/workspace/d").exists()
        good("unpack", store, rows[0]["snapshot"], tmp_path / "then")
        assert (tmp_path / "then/workspace/d/f").read_text() == "x\n"
        r = tool("capture", tmp_path / "now", store)
        assert r.returncode == 64 and "server" in r.stderr
        assert {p: p.lstat().st_mtime_ns for p in store.rglob("*")} == before
        assert server.ssh("one", "cat /workspace/a").stdout == "second\n"
        layer = rows[-1]["layers"][0]["digest"][7:]
        with subprocess.Popen(["zstd", "-dcq", store / "blobs/sha256" / layer], stdout=subprocess.PIPE) as p:
            with tarfile.open(fileobj=p.stdout, mode="r|") as tar:
                names = [m.name for m in tar]
        assert "workspace/a" in names, names
