"""files, cat, diff, find, export and import: what a snapshot holds, read without a session that runs."""
import json
import os
import shutil
import subprocess

import pytest

from conftest import at_most, running, wait_until
import trees


def head(server, name):
    return server.session(name) and server.json("show", name)["head"].split(":")[1]


def snapshot(server, name, command="true"):
    """Runs a command and pauses; the snapshot's digest."""
    done = server.ssh(name, command)
    assert done.status == 0, done
    assert server.verb("pause", name).status == 0
    return head(server, name)


def workers(server):
    return [pid for pid, what in server.all_pids() if what == "berth-worker"]


@pytest.fixture(scope="module")
def story(server):
    """A session with three snapshots."""
    name = "story"
    first = snapshot(server, name, "printf 'one\\ntwo\\nthree\\n' > a; mkdir d; echo deep > d/x; echo gone > d/y; "
                                   "ln -s a link; ln a hard; truncate -s 1G sparse; printf end >> sparse; "
                                   "head -c 3000000 /dev/urandom > big")
    second = snapshot(server, name, "printf 'one\\n2\\nthree\\n' > a2; mv a2 a; rm d/y; chmod 700 d; echo new > n")
    third = snapshot(server, name, "rm -r d; echo a file > d; cp big big2; touch link2")
    return name, first, second, third


def test_files_lists_a_directory_and_all_that_is_below(server, story):
    name, first, second, third = story
    listed = {f["path"]: f for f in server.json("files", first, "/workspace")}
    assert set(listed) == {f"workspace/{n}" for n in ("a", "d", "link", "hard", "sparse", "big")}
    assert listed["workspace/a"]["type"] == listed["workspace/hard"]["type"] == "file"
    assert listed["workspace/a"]["size"] == listed["workspace/hard"]["size"] == 14
    assert listed["workspace/link"]["target"] == "a"
    assert listed["workspace/sparse"]["size"] == (1 << 30) + 3
    assert listed["workspace/d"]["mode"] == "0755"
    below = {f["path"] for f in server.json("files", first[:12], "workspace/", "--recursive")}
    assert below == set(listed) | {"workspace/d/x", "workspace/d/y"}
    of_session = {f["path"] for f in server.json("files", name, "/workspace", "--recursive")}
    assert "workspace/d" in of_session and "workspace/d/x" not in of_session
    lines = server.verb("files", f"{name}+{second[:8]}", "/workspace/d").stdout
    assert lines.endswith(" workspace/d/x\n") and lines.startswith("-rw-r--r--     0     0            5 20"), lines
    for path in ("/workspace/d/x", "./workspace//d/./x/"):
        assert server.verb("files", second, path).stdout == lines
    assert server.verb("files", second, "/workspace/../workspace/d/x").status == 66, "paths are names, not walks"
    assert server.verb("files", second).stdout == server.verb("files", second, "/").stdout


def test_cat_prints_any_part_of_any_file(server, story):
    name, first, second, third = story
    assert server.verb("cat", first, "/workspace/a").out == b"one\ntwo\nthree\n"
    assert server.verb("cat", first, "workspace/hard").out == b"one\ntwo\nthree\n"
    assert server.verb("cat", second, "/workspace/hard").out == b"one\ntwo\nthree\n"
    assert server.verb("cat", second, "/workspace/a").out == b"one\n2\nthree\n"
    assert server.verb("cat", name, "/workspace/d").out == b"a file\n"
    assert server.verb("cat", first, "/workspace/a", "--from", "4", "--limit", "3").out == b"two"
    assert server.verb("cat", first, "/workspace/sparse", "--from", str((1 << 30) - 2)).out == b"\0\0end"
    big = server.verb("cat", name, "/workspace/big").out
    assert len(big) == 3000000 and server.verb("cat", first, "/workspace/big").out == big


def test_diff_tells_what_changed(server, story):
    name, first, second, third = story
    changes = {(c["change"], c["path"]) for c in server.json("diff", first, second)}
    home = {(c, p) for c, p in changes if p.startswith("workspace/")}
    assert home == {("content", "workspace/a"), ("deleted", "workspace/d/y"), ("attributes", "workspace/d"),
                    ("added", "workspace/n")}, changes
    assert server.json("diff", second) == server.json("diff", first, second), "alone: against its parent"
    back = {(c["change"], c["path"]) for c in server.json("diff", second, first)}
    assert ("added", "workspace/d/y") in back and ("deleted", "workspace/n") in back
    lines = server.verb("diff", second, third).stdout.splitlines()
    assert {"T workspace/d", "D workspace/d/x", "A workspace/big2"} <= set(lines), lines
    stat = server.verb("diff", second, third, "--stat").stdout
    assert "A            -      3000000 workspace/big2\n" in stat and "3000000 bytes more" not in stat.splitlines()[0]
    assert stat.splitlines()[-1].endswith(" less"), stat
    assert server.verb("diff", third, third).out == b""


def test_a_unified_diff_is_one_that_patch_takes(server, story, tmp_path):
    name, first, second, third = story
    text = server.verb("diff", first, second, "-u").stdout
    assert "--- a/workspace/a\n+++ b/workspace/a\n@@ -1,3 +1,3 @@\n one\n-two\n+2\n three\n" in text
    (tmp_path / "workspace/d").mkdir(parents=True)
    for path in ("workspace/a", "workspace/d/x", "workspace/d/y"):
        (tmp_path / path).write_bytes(server.verb("cat", first, path).out)
    subprocess.run(["patch", "-p1", "-s", "-E"], cwd=tmp_path, input=text.encode(), check=True)
    assert (tmp_path / "workspace/a").read_bytes() == b"one\n2\nthree\n"
    assert (tmp_path / "workspace/n").read_text() == "new\n"
    assert not (tmp_path / "workspace/d/y").exists()
    binary = server.verb("diff", second, third, "-u").stdout
    assert "Binary files a/workspace/big2 and b/workspace/big2 differ" in binary


def test_the_live_workspace_is_compared_without_a_pause(server, name):
    first = snapshot(server, name, "echo 1 > kept; echo 1 > changed; echo 1 > gone")
    with_sleep = server.popen(name, "echo 2 > changed; rm gone; echo new > new; chmod 600 kept; echo ready; sleep 600")
    assert with_sleep.stdout.readline() == b"ready\n"
    for words in (["diff", name], ["diff", first, "--live"]):
        changes = {(c["change"], c["path"]) for c in server.json(*words) if "workspace/" in c["path"]}
        assert changes == {("content", "workspace/changed"), ("deleted", "workspace/gone"),
                           ("added", "workspace/new"), ("attributes", "workspace/kept")}
    assert "-1\n+2\n" in server.verb("diff", name, "-u").stdout
    assert server.session(name)["state"] == "running"
    with_sleep.kill()
    with_sleep.wait()
    assert server.verb("pause", name, "--force").status == 0
    assert not [c for c in server.json("diff", name) if "workspace" in c["path"]], "paused: it is its newest snapshot"


def test_find_tells_where_files_appeared_changed_and_vanished(server, story):
    name, first, second, third = story
    found = {f["path"]: f for f in server.json("find", name, "y")}
    assert set(found) == {"workspace/d/y"}
    f = found["workspace/d/y"]
    assert [(c["change"], c["snapshot"].split(":")[1]) for c in f["changes"]] == [("appeared", first), ("vanished", second)]
    assert [h.split(":")[1] for h in f["held_by"]] == [first]
    x = server.json("find", name, "workspace/d/*")
    assert {f["path"] for f in x} == {"workspace/d/x", "workspace/d/y"}
    assert [c["change"] for c in next(f for f in x if f["path"].endswith("x"))["changes"]] == ["appeared", "vanished"]
    a = server.json("find", name, "/workspace/a")[0]
    assert [c["change"] for c in a["changes"]] == ["appeared", "changed"] and len(a["held_by"]) == 3
    lines = server.verb("find", name, "'big*'").stdout.splitlines()
    assert len(lines) == 2 and lines[0].startswith(first[:12]) and " appeared " in lines[0], lines
    assert server.verb("find", name, "nothing-like-it").out == b""


def test_what_cannot_be_read_is_said_in_one_line(server, story, name):
    _, first, *_ = story
    for words, status, line in (
        (["cat", first, "/workspace/none"], 66, "berth: cat story: no /workspace/none in what the session has changed"),
        (["cat", first, "/workspace/d"], 64, "it is a directory"),
        (["cat", first, "/workspace/link"], 64, "it is a symbolic link"),
        (["files", first, "/etc/no"], 66, "no /etc/no in"),
        (["files", "no-such"], 66, "no session or snapshot no-such"),
        (["diff", first, "story", "--live"], 64, "not both"),
        (["export", first, "--tar", "--oci"], 64, "one of --oci, --docker and --tar"),
        (["import", "story"], 64, "there is a session of this name"),
    ):
        done = server.verb(*words)
        assert (done.status, done.out) == (status, b"") and line in done.stderr and done.stderr.count("\n") == 1, done
    server.ssh(name, "true")
    done = server.verb("files", name)
    assert done.status == 66 and "has no snapshot yet" in done.stderr
    error = json.loads(server.verb("cat", first, "/workspace/none", "--json").err)
    assert error["code"] == "absent"
    assert not workers(server) or wait_until("workers to end", lambda: not workers(server)) is not None


def test_names_do_nothing_to_a_terminal(server, name):
    point = snapshot(server, name, r"""touch "$(printf 'esc\033[2J')" "$(printf 'new\nline')" """)
    text = server.verb("files", point, "/workspace").stdout
    assert "\x1b" not in text and r"esc\x1b[2J" in text and r"new\x0aline" in text
    assert {f["path"] for f in server.json("files", point, "/workspace")} == {"workspace/esc\x1b[2J", "workspace/new\nline"}


def test_who_may_read(server, story):
    name, first, *_ = story
    inside = server.add_key("reader", 'role="developer",sessions="story"')
    outside = server.add_key("stranger", 'role="developer",sessions="other-*"')
    assert server.verb("cat", first, "/workspace/a", key=inside).out == b"one\ntwo\nthree\n"
    assert server.verb("find", name, "a", key=inside).status == 0
    assert server.verb("import", "story-2", key=inside).status == 77
    for words in (["cat", first, "/workspace/a"], ["files", name], ["find", name, "a"], ["export", first]):
        done = server.verb(*words, key=outside)
        assert (done.status, done.out) == (66, b""), done


def test_a_client_that_goes_away_takes_its_worker_along(server, name):
    point = snapshot(server, name, "head -c 60000000 /dev/urandom > big")
    reading = server.popen("berth", f"cat {point} /workspace/big")
    assert len(reading.stdout.read(100000)) == 100000
    wait_until("a worker that waits for its reader", lambda: workers(server))
    reading.kill()
    reading.wait()
    wait_until("the worker to end", lambda: not workers(server), 10)


def test_a_reader_that_is_slow_gets_all(server, name):
    point = snapshot(server, name, "head -c 30000000 /dev/urandom > big; sha256sum big")
    reading = server.popen("berth", f"cat {point} /workspace/big")
    sums = subprocess.run("sleep 2; sha256sum", shell=True, stdin=reading.stdout, capture_output=True)
    assert reading.wait() == 0
    again = server.ssh(name, "sha256sum big").stdout.split()[0]
    assert sums.stdout.decode().split()[0] == again


# ---- export and import ----


def test_stock_tar_has_the_files_of_a_merged_export(server, story, tmp_path):
    name, first, second, third = story
    done = server.verb("export", second, "--tar")
    assert done.status == 0 and done.err == b"", done.err
    subprocess.run(["tar", "-C", tmp_path, "-xpf", "-"], input=done.out, check=True)
    here = tmp_path / "workspace"
    assert sorted(os.listdir(here)) == ["a", "big", "d", "hard", "link", "n", "sparse"]
    assert (here / "a").read_text() == "one\n2\nthree\n" and (here / "hard").read_text() == "one\ntwo\nthree\n"
    assert os.listdir(here / "d") == ["x"] and (here / "d").stat().st_mode & 0o7777 == 0o700
    assert (here / "sparse").stat().st_blocks < 100 and (here / "sparse").stat().st_size == (1 << 30) + 3


def skopeo(*words):
    if not shutil.which("skopeo"):
        pytest.skip("skopeo is not installed")
    done = subprocess.run(["skopeo", "--insecure-policy", *words], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def test_skopeo_reads_what_is_exported(server, story, tmp_path):
    name, first, second, third = story
    for form in ("oci", "docker"):
        path = tmp_path / f"{form}.tar"
        path.write_bytes(server.verb("export", second, f"--{form}").out)
        kind = f"{form}-archive"
        config = json.loads(skopeo("inspect", "--config", f"{kind}:{path}"))
        assert len(config["rootfs"]["diff_ids"]) == len(config["history"]) >= 2
        raw = json.loads(skopeo("inspect", "--raw", f"{kind}:{path}"))
        assert len(raw["layers"]) == len(config["rootfs"]["diff_ids"])
        skopeo("copy", f"{kind}:{path}", f"dir:{tmp_path}/{form}")  # every digest and diff_id is checked on the way
    tags = json.loads(skopeo("list-tags", f"docker-archive:{tmp_path}/docker.tar"))
    assert tags["Tags"] == [f"docker.io/berth/story:{second[:12]}"] or second[:12] in str(tags)


def test_skopeo_reads_the_store_itself(server, story, tmp_path):
    """Its blobs are those of an OCI layout: an index of it is all that is missing."""
    name, first, second, third = story
    blobs = server.state / "store" / "blobs"
    (tmp_path / "blobs").symlink_to(blobs)
    shutil.copy(server.state / "store" / "oci-layout", tmp_path / "oci-layout")
    size = (blobs / "sha256" / third).stat().st_size
    (tmp_path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [
        {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": f"sha256:{third}", "size": size,
         "annotations": {"org.opencontainers.image.ref.name": "story"}}]}))
    raw = json.loads(skopeo("inspect", "--raw", f"oci:{tmp_path}:story"))
    assert raw["annotations"]["berth.session-name"] == "story"
    skopeo("copy", f"oci:{tmp_path}:story", f"dir:{tmp_path}/copy")


def test_a_session_goes_over_to_another_server(server, name):
    server.ssh(name, "true")
    trees.make(server, name)
    before = trees.read(server, name)
    point = snapshot(server, name)
    exported = server.verb("export", name).out
    done = server.ssh("berth", "import twin", stdin=exported)
    assert done.status == 0, done
    assert done.stdout.startswith("twin: paused, snapshot ")
    assert server.session("twin")["state"] == "paused"
    assert server.verb("diff", point, "twin").out == b""
    assert set(trees.differences(before, trees.read(server, "twin"))) <= {"/etc/hosts", "/etc/hostname"}
    assert server.json("snapshots", "twin")[0]["made_by"] == "import"
    with running() as second:
        done = second.ssh("berth", "import moved --json", stdin=exported)
        assert done.status == 0, done
        assert json.loads(done.out)["session"] == "moved"
        second.stop()
        second.start()  # it is in the index, and in the store
        assert second.verb("cat", "moved", "/workspace/tree/plain").out == b"plain\n"
        other = trees.differences(before, trees.read(second, "moved"))
        assert not [path for path in other if path.startswith("/workspace/")], "the image is that server's own"


def test_what_is_no_export_makes_no_session(server, story, name):
    _, first, *_ = story
    exported = server.verb("export", first).out
    harmed = bytearray(exported)
    harmed[len(harmed) // 2] ^= 1
    for bad in (b"", b"no tar at all" * 100, exported[: len(exported) // 2], bytes(harmed)):
        done = server.ssh("berth", f"import {name}", stdin=bad)
        assert done.status == 65 and done.out == b"" and done.stderr.startswith(f"berth: import {name}: "), done
        assert server.session(name) is None
    giving = server.popen("berth", f"import {name}")
    giving.stdin.write(exported[:100000])
    giving.stdin.flush()
    wait_until("a worker that takes it", lambda: workers(server))
    giving.kill()
    giving.wait()
    wait_until("the worker to end", lambda: not workers(server), 10)
    assert server.session(name) is None
    done = server.ssh("berth", f"import {name}", stdin=exported)
    assert done.status == 0, done


def test_a_damaged_archive_and_a_missing_index(own_server, name):
    server = own_server
    point = snapshot(server, name, "echo good > a; head -c 5000000 /dev/urandom > big")
    store = server.state / "store"
    [index] = (store / "idx").iterdir()
    kept = index.read_bytes()
    index.unlink()
    assert server.verb("cat", point, "/workspace/a").out == b"good\n"
    assert not list((store / "idx").iterdir()), "reading writes nothing"
    index.write_bytes(kept[: len(kept) // 2])
    done = server.verb("files", point, "--recursive")
    assert done.status == 65, done
    index.write_bytes(kept)
    layer = store / "blobs" / "sha256" / index.stem
    harmed = bytearray(layer.read_bytes())
    harmed[len(harmed) // 2] ^= 0x40
    layer.write_bytes(harmed)
    assert server.verb("cat", point, "/workspace/a").out == b"good\n", "of a frame that is whole"
    done = server.verb("cat", point, "/workspace/big")
    assert done.status == 65 and "is damaged" in done.stderr, done
    assert server.verb("export", point).status == 65
    layer.unlink()
    done = server.verb("cat", point, "/workspace/a")
    assert done.status == 65 and "missing" in done.stderr, done


def test_reads_while_the_manager_is_killed_end(own_server, name):
    server = own_server
    point = snapshot(server, name, "head -c 60000000 /dev/urandom > big")
    reading = server.popen("berth", f"cat {point} /workspace/big")
    assert len(reading.stdout.read(100000)) == 100000
    server.kill()
    with at_most(seconds=20):
        rest = reading.stdout.read()
        assert reading.wait() == 75, reading.stderr.read()
    assert len(rest) < 60000000
    wait_until("the worker to end", lambda: not workers(server), 10)
    server.start()
    assert server.verb("cat", point, "/workspace/big", "--limit", "5").status == 0


def test_a_listing_of_80000_files_is_quick(server, name):
    point = snapshot(server, name, "mkdir t; cd t; for d in $(seq 80); do mkdir $d; "
                                   "(cd $d; seq 1000 | xargs touch); done")
    with at_most(seconds=3):
        text = server.verb("files", point, "--recursive").out
    assert text.count(b"\n") > 80000
    with at_most(seconds=1):
        assert server.verb("files", point, "/workspace").out.count(b"\n") == 1
