"""Imported images: every form of source, what their config says, what they share, and what is refused."""
import contextlib
import hashlib
import io
import json
import os
import pathlib
import shutil
import sqlite3
import subprocess
import tarfile
import tempfile

import pytest

import conftest
from conftest import running, wait_until

TOOLS = ["sh", "cat", "ls", "id", "env", "mkdir", "rm", "stat", "readlink", "tr"]


def add_binary(root, source, name):
    """A program and the libraries that it is linked with, at the places where its loader looks."""
    target = root / "bin" / name
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)
    for word in subprocess.run(["ldd", source], capture_output=True, check=True, text=True).stdout.split():
        if word.startswith("/"):
            library = root / word[1:]
            library.parent.mkdir(parents=True, exist_ok=True)
            if not library.exists():
                shutil.copy(os.path.realpath(word), library)


def make_root(root):
    for tool in TOOLS:
        add_binary(root, shutil.which(tool), tool)
    (root / "etc").mkdir()
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nwww:x:1234:33:w:/srv:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\nstaff:x:77:\n")
    (root / "etc/mark").write_text("tree\n")
    (root / "srv").mkdir()
    os.chown(root / "srv", 1234, 33)
    (root / "owned").write_text("o")
    os.chown(root / "owned", 7, 8)
    os.chmod(root / "owned", 0o4750)
    os.setxattr(root / "owned", "user.note", b"kept")
    os.chmod(root, 0o711)
    return root


@pytest.fixture(scope="module")
def sources():
    base = pathlib.Path(tempfile.mkdtemp(prefix="bti."))
    make_root(base / "root")
    yield base
    shutil.rmtree(base)


def tar_of(entries):
    """A layer's bytes. entries: (name, bytes | None for a directory | a TarInfo)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as t:
        for name, content in entries:
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.name = name
            if content is None:
                info.type, info.mode = tarfile.DIRTYPE, 0o755
            if isinstance(content, bytes):
                info.size = len(content)
            t.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    return out.getvalue()


def base_layer(sources):
    return subprocess.run(["tar", "-C", sources / "root", "--xattrs", "--sort=name", "-cf", "-", "."],
                          capture_output=True, check=True).stdout


def sha(data):
    return hashlib.sha256(data).hexdigest()


def config_of(layers, **config):
    return json.dumps({"architecture": "amd64", "os": "linux", "config": config,
                       "rootfs": {"type": "layers", "diff_ids": ["sha256:" + sha(x) for x in layers]}}).encode()


def write_layout(path, layers, compress=lambda x: x, **config):
    blobs = path / "blobs/sha256"
    blobs.mkdir(parents=True)

    def put(data, media):
        (blobs / sha(data)).write_bytes(data)
        return {"mediaType": media, "digest": "sha256:" + sha(data), "size": len(data)}
    manifest = {"schemaVersion": 2, "config": put(config_of(layers, **config), "application/vnd.oci.image.config.v1+json"),
                "layers": [put(compress(x), "application/vnd.oci.image.layer.v1.tar") for x in layers]}
    one = put(json.dumps(manifest).encode(), "application/vnd.oci.image.manifest.v1+json")
    (path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [one]}))
    (path / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    return path


def write_docker(path, layers, **config):
    cfg = config_of(layers, **config)
    names = [f"{sha(x)}.tar" for x in layers]
    manifest = json.dumps([{"Config": sha(cfg) + ".json", "RepoTags": ["t:1"], "Layers": names}]).encode()
    path.write_bytes(tar_of([*dict(zip(names, layers)).items(), (sha(cfg) + ".json", cfg), ("manifest.json", manifest)]))
    return path


def second_layer():
    return tar_of([("etc", None), ("etc/.wh.mark", b""), ("etc/added", b"second\n"), ("app", None), ("app/data", b"1\n")])


def gzip(data):
    return subprocess.run(["gzip", "-n"], input=data, capture_output=True, check=True).stdout


def new(server, name, image):
    r = server.verb("new", name, "--image", image)
    assert r.status == 0, r
    return r


def run(server, name, command):
    r = server.ssh(name, command)
    assert r.status == 0, r
    return r.stdout


def drop_uppers_and_caches(server):
    """What an archive can bring back; images are no cache of anything."""
    shutil.rmtree(server.state / "cache" / "layers", ignore_errors=True)
    for upper in (server.state / "sessions").glob("s_*/upper.*"):
        shutil.rmtree(upper)


def test_a_tree_becomes_an_image_with_owners_modes_and_attributes(server, sources, name):
    made = server.json(f"image import {name} {sources}/root")
    assert made["name"] == name and made["entries"] > 10 and len(made["layers"]) == 2
    new(server, name, name)
    assert run(server, name, "cat /etc/mark; pwd; stat -c '%u:%g %a' /owned /; id -u") == "tree\n/workspace\n7:8 4750\n0:0 711\n0\n"
    layer = server.state / "cache/images" / made["layers"][1].split(":")[1]
    assert os.getxattr(layer / "owned", "user.note") == b"kept"
    assert run(server, name, "echo x > /workspace/a; ls /usr/bin/python3 2>/dev/null || echo own") == "own\n"
    assert server.json("show", name)["image"] == made["image"]


@pytest.mark.parametrize("how", ["plain", "gzip", "xz", "zstd"])
def test_a_tar_in_each_compression_is_the_same_layer(server, sources, name, how):
    path = sources / f"root.{how}"
    data = base_layer(sources)
    path.write_bytes(data if how == "plain" else subprocess.run([how, "-c"], input=data, capture_output=True, check=True).stdout)
    made = server.json(f"image import {name} {path}")
    assert made["layers"][-1] == "sha256:" + sha(data)
    new(server, name, name)
    assert run(server, name, "cat /etc/mark") == "tree\n"


@pytest.mark.parametrize("form", ["layout", "layout-gzip", "docker"])
def test_layers_whiteouts_env_directory_and_user_of_an_oci_image(server, sources, name, form):
    layers = [base_layer(sources), second_layer()]
    config = {"Env": ["PATH=/bin", "GREETING=hello there"], "WorkingDir": "/app", "User": "www:staff"}
    path = sources / name
    if form == "docker":
        write_docker(path, layers, **config)
    else:
        write_layout(path, layers, gzip if form == "layout-gzip" else lambda x: x, **config)
    made = server.json(f"image import {name} {path}")
    assert made["layers"][1:] == ["sha256:" + sha(x) for x in layers]
    assert (made["uid"], made["gid"], made["user"], made["cwd"]) == (1234, 77, "www:staff", "/app")
    new(server, name, name)
    out = run(server, name, "pwd; id -u; id -g; id -G; echo $GREETING $PATH $HOME; cat data /etc/added; ls /etc")
    assert out == "/app\n1234\n77\n77\nhello there /bin /srv\n1\nsecond\nadded\ngroup\nhosts\npasswd\n"
    assert server.ssh(name, "echo x > /etc/added").status != 0, "the user is not root"
    tty = server.ssh(name, "stat -c %u $(readlink /proc/self/fd/0)", options=["-tt"])
    assert tty.stdout.strip() == "1234", tty
    ref = json.loads((server.state / f"store/refs/image-{name}.json").read_text())
    assert ref["facts"]["layers"] == made["layers"] and ref["facts"]["uid"] == 1234
    facts = (server.state / f"store/refs/image-{made['image'].split(':')[1]}.json").read_bytes()
    assert "image:" + sha(facts) == made["image"], "facts are named by their content"


def test_images_share_layers_and_rm_takes_only_what_nobody_else_has(server, sources, name):
    base, top = base_layer(sources), second_layer()
    one = server.json(f"image import {name}-1 {write_layout(sources / (name + '-1'), [base], WorkingDir='/a')}")
    two = server.json(f"image import {name}-2 {write_layout(sources / (name + '-2'), [base, top + bytes(1024)], WorkingDir='/a')}")
    images = server.state / "cache/images"
    assert one["layers"] == two["layers"][:2]
    assert (images / sha(base)).is_dir() and (images / sha(top + bytes(1024))).is_dir()
    assert server.verb(f"image rm {name}-2").status == 0
    assert (images / sha(base)).is_dir() and not (images / sha(top + bytes(1024))).exists()
    assert not (server.state / f"store/refs/image-{name}-2.json").exists()
    new(server, name, name + "-1")
    assert run(server, name, "cat /etc/mark") == "tree\n"


def test_an_image_in_use_stays_and_a_new_one_of_its_name_changes_no_session(own_server, sources, name):
    server = own_server
    first = server.json(f"image import base {sources}/root")
    new(server, name, "base")
    refused = server.verb("image rm base")
    assert refused.status == 64 and name in refused.stderr, refused
    second = server.json(f"image import base {write_docker(sources / name, [base_layer(sources), second_layer()])}")
    assert second["image"] != first["image"]
    server.verb("pause", name)
    assert server.stop() == 0
    server.start()
    assert run(server, name, "cat /etc/mark") == "tree\n", "still its own image"
    listed = {(i["name"], i["sessions"]) for i in server.json("image ls")}
    assert listed == {("base", 0), ("", 1)}
    assert server.verb("image rm base").status == 0, "the name's image is in no use now"
    assert server.verb("rm", name, "--force").status == 0
    assert server.json("image ls")[0]["name"] == ""


def test_pause_and_cold_resume_on_an_image(own_server, sources, name):
    server = own_server
    server.json(f"image import i {write_layout(sources / name, [base_layer(sources), second_layer()])}")
    new(server, name, "i")
    run(server, name, "echo mine > /etc/added; rm /app/data; mkdir /app/new; echo k > /workspace/kept")
    assert server.verb("pause", name).status == 0
    manifest = server.json("snapshots", name)[0]["snapshot"].split(":")[1]
    assert server.json("image ls")[0]["image"] in (server.state / "store/blobs/sha256" / manifest).read_text()
    assert server.stop() == 0
    drop_uppers_and_caches(server)
    server.start()
    assert run(server, name, "cat /etc/added /workspace/kept; ls /app") == "mine\nk\nnew\n"


def test_a_resume_without_its_image_says_so(own_server, sources, name):
    server = own_server
    made = server.json(f"image import i {sources}/root")
    new(server, name, "i")
    run(server, name, "echo kept > /workspace/a")
    server.verb("pause", name)
    shutil.rmtree(server.state / "cache/images" / made["layers"][1].split(":")[1])
    r = server.verb("resume", name)
    assert r.status == 66 and "image import" in r.stderr, r
    server.json(f"image import i {sources}/root")
    assert run(server, name, "cat /workspace/a") == "kept\n"


def link(kind, target):
    info = tarfile.TarInfo()
    info.type, info.linkname = kind, target
    return info


HOSTILE = {
    "dotdot": [("../escaped", b"x")],
    "absolute": [("/tmp/berth-escaped", b"x")],
    "through a link": [("way", link(tarfile.SYMTYPE, "/tmp")), ("way/berth-escaped", b"x")],
    "hard link out": [("h", link(tarfile.LNKTYPE, "/etc/shadow"))],
    "hard link up": [("h", link(tarfile.LNKTYPE, "../../../index.db"))],
    "whiteout of up": [(".wh...", b"")],
    "opaque root": [(".wh..wh..opq", b"")],
}


@pytest.mark.parametrize("what", sorted(HOSTILE))
def test_a_hostile_tar_is_refused_and_leaves_nothing(server, sources, name, what):
    path = sources / name
    path.write_bytes(tar_of([("etc", None), *HOSTILE[what]]))
    r = server.verb(f"image import {name} {path}")
    assert r.status == 65, r
    assert not os.path.exists("/tmp/berth-escaped")
    assert all(i["name"] != name for i in server.json("image ls"))
    assert list((server.state / "cache/images").glob(".tmp.*")) == []


def test_damaged_and_lying_sources_are_refused(server, sources, name):
    base = base_layer(sources)
    good = write_layout(sources / name, [base])
    blob = good / "blobs/sha256" / sha(base)
    blob.write_bytes(base[:-512] + b"x" * 512)
    assert server.verb(f"image import {name} {good}").status == 65, "a blob with other bytes"
    lying = sources / (name + "-d")
    write_docker(lying, [base])
    data = lying.read_bytes().replace(b'"sha256:' + sha(base).encode(), b'"sha256:' + b"0" * 64)
    lying.write_bytes(data)
    assert server.verb(f"image import {name} {lying}").status == 65, "another diff_id"
    cut = sources / (name + "-c")
    cut.write_bytes(gzip(base)[:100000])
    assert server.verb(f"image import {name} {cut}").status == 65, "cut in the middle"
    link_out = write_layout(sources / (name + "-l"), [base])
    blob = link_out / "blobs/sha256" / sha(base)
    blob.unlink()
    blob.symlink_to(sources / "root/etc/passwd")
    assert server.verb(f"image import {name} {link_out}").status != 0, "a blob that leads elsewhere"


def test_device_nodes_are_left_out_and_counted(server, sources, name):
    node = tarfile.TarInfo()
    node.type, node.devmajor, node.devminor = tarfile.BLKTYPE, 8, 0
    path = sources / name
    path.write_bytes(tar_of([("etc", None), ("sda", node), ("etc/file", b"x")]))
    made = server.json(f"image import {name} {path}")
    assert made["dropped"] == 1
    assert not (server.state / "cache/images" / made["layers"][1].split(":")[1] / "sda").exists()


def test_an_import_that_loses_its_manager_leaves_nothing_and_can_be_repeated(own_server, sources, name):
    server = own_server
    path = sources / name
    path.write_bytes(tar_of([("etc", None), *((f"file-{n}", os.urandom(4 << 20)) for n in range(64))]))
    images = server.state / "cache/images"
    client = server.popen("berth", f"image import big {path}")
    wait_until("the import to write", lambda: list(images.glob(".tmp.*/file-2")))
    server.kill()
    client.communicate(timeout=30)
    wait_until("the worker to clean up", lambda: not list(images.glob(".tmp.*")))
    server.start()
    assert server.json("image ls") == []
    assert len(server.json(f"image import big {path}")["layers"]) == 2


def test_who_may_do_what_and_what_is_no_source(server, sources, name):
    key = server.add_key(name, 'role="orchestrator"')
    assert server.verb(f"image import {name} {sources}/root", key=key).status == 77
    assert server.verb(f"image rm {name}", key=key).status == 77
    assert server.verb("image ls", key=key).status == 0
    assert server.verb(f"image import {name} relative/path").status == 64
    assert server.verb(f"image import {name} {sources}/nothing").status == 66
    assert server.verb(f"image import {name} /dev/null").status == 64
    assert server.verb(f"image import {name} /").status == 64
    assert server.verb(f"image import host {sources}/root").status == 64
    assert server.verb("new", name, "--image", "nothing").status == 66
    assert server.session(name) is None


def test_the_names_of_a_source_tree_do_not_change_and_nothing_in_it_does(server, sources, name):
    before = subprocess.run(["find", sources / "root", "-printf", "%p %m %U %G %T@ %C@\n"], capture_output=True).stdout
    server.json(f"image import {name} {sources}/root")
    assert subprocess.run(["find", sources / "root", "-printf", "%p %m %U %G %T@ %C@\n"], capture_output=True).stdout == before


# ---- another node, and other packages on the same one ----

def edit_index(server, *statements):
    """Of a server that is not there: what another node, or another time, would have left."""
    assert server.stop() == 0
    with contextlib.closing(sqlite3.connect(server.state / "index.db")) as db:
        for statement in statements:
            assert db.execute(statement).rowcount == 1, statement
        db.commit()
    server.start()


def test_a_session_of_image_host_starts_on_another_node_only_when_that_is_said_once(own_server, name):
    server = own_server
    assert run(server, name, "echo kept > /workspace/f") == ""
    here = server.json("show", name)["node"]
    assert len(here) == 32 and here not in pathlib.Path("/etc/machine-id").read_text()
    server.verb("pause", name)
    edit_index(server, "UPDATE session_choices SET value='0123456789abcdef0123456789abcdef' WHERE key='node'")
    for r in (server.ssh(name, "true"), server.verb("resume", name)):
        assert r.status == 69 and r.stderr.count("\n") == 1, r
        assert "another node (0123456789ab)" in r.stderr and f"resume {name} --base-differs" in r.stderr, r
    error = server.verb("resume", name, "--json")
    assert json.loads(error.stdout or error.stderr)["code"] == "unavailable", error
    assert server.session(name)["state"] == "paused"
    assert "another node" in server.verb("show", name).stdout
    assert server.verb("resume", name, "--base-differs").status == 0
    assert run(server, name, "cat /workspace/f") == "kept\n"
    assert server.json("show", name)["node"] == here
    ref = server.state / "store/refs" / f"session-{server.session(name)['id']}.json"
    wait_until("its ref to name this node", lambda: json.loads(ref.read_text())["node"] == here)
    server.verb("pause", name)
    assert server.stop() == 0
    server.start()
    assert run(server, name, "cat /workspace/f") == "kept\n", "it is this node's from there on"


def test_a_refusal_for_the_node_leaves_restore_and_rm_as_they_are(own_server, name):
    server = own_server
    run(server, name, "echo 1 > /workspace/f")
    server.verb("pause", name)
    first = server.json("snapshots", name)[0]["snapshot"]
    edit_index(server, "UPDATE session_choices SET value='elsewhere' WHERE key='node'")
    assert server.verb("restore", name, first).status == 0
    assert server.ssh(name, "true").status == 69
    assert server.verb("rm", name).status == 0


def test_an_imported_image_is_the_same_on_every_node(own_server, sources, name):
    server = own_server
    server.json(f"image import i {sources}/root")
    new(server, name, "i")
    run(server, name, "echo kept > /workspace/f")
    server.verb("pause", name)
    edit_index(server, "UPDATE session_choices SET value='elsewhere' WHERE key='node'")
    assert run(server, name, "cat /workspace/f") == "kept\n"


def test_other_packages_on_the_same_node_are_told_and_refuse_nothing(own_server, name):
    server = own_server
    run(server, name, "echo kept > /workspace/f")
    server.verb("pause", name)
    [snapshot] = server.json("snapshots", name)
    manifest = json.loads((server.state / "store/blobs/sha256" / snapshot["snapshot"].split(":")[1]).read_text())
    assert manifest["annotations"]["berth.fingerprint"] == server.session(name)["image"]
    edit_index(server, "UPDATE sessions SET image='host:" + "0" * 64 + "'")
    assert run(server, name, "cat /workspace/f") == "kept\n"
    assert "packages have changed" in server.session(name)["reason"]


# ---- the node itself ----

# A host import copies all of /usr. So that these tests copy megabytes, berthd runs in a mount namespace where empty
# filesystems lie over its larger directories: another mount is never part of a copy.
KEPT = {"bin", "sbin", "lib", "lib64", "local", "share"}


def large_parts():
    usr = pathlib.Path("/usr")
    libraries = [p for p in usr.glob("lib/*-linux-gnu")]
    parts = [p for p in usr.iterdir() if p.name not in KEPT]
    parts += [p for p in (usr / "lib").iterdir() if p not in libraries and p.name not in ("dpkg", "locale")]
    parts += [p for library in libraries for p in library.iterdir()]
    parts += [p for top in ("local", "share") for p in (usr / top).iterdir() if p.name != "dpkg" and (top, p.name) != ("local", "bin")]
    return [str(p) for p in parts if p.is_dir() and not p.is_symlink()]


@contextlib.contextmanager
def server_with_a_small_usr(tmp, keep=()):
    build = tmp / "build"
    build.mkdir()
    for program in (os.path.realpath(os.path.join(os.environ.get("BERTH_BUILD", "build/release"), p))
                    for p in ("berthd", "berth-conn", "berth-keeper", "berth-worker", "berth-init")):
        shutil.copy2(program, build)
    (build / "berthd").rename(build / "real")
    covers = "\n".join(f"mount -t tmpfs -o size=64k none '{p}'" for p in large_parts() if p not in keep)
    (build / "covered").write_text(f"set -e\n{covers}\nexec {build}/real \"$@\"\n")
    (build / "berthd").write_text(f"#!/bin/sh\nexec unshare -m sh {build}/covered \"$@\"\n")
    (build / "berthd").chmod(0o755)
    old = conftest.BUILD
    conftest.BUILD = build
    try:
        with running() as server:
            yield server
    finally:
        conftest.BUILD = old


def package(tmp):
    """A package without a build tool but dpkg-deb: one program, a script that runs when it is installed."""
    root = tmp / "package"
    (root / "DEBIAN").mkdir(parents=True)
    (root / "usr/bin").mkdir(parents=True)
    (root / "DEBIAN/control").write_text("Package: berth-probe\nVersion: 1\nArchitecture: all\nMaintainer: t <t@t>\nDescription: t\n")
    (root / "DEBIAN/postinst").write_text("#!/bin/sh\necho configured > /var/lib/berth-probe\n")
    (root / "DEBIAN/postinst").chmod(0o755)
    (root / "usr/bin/berth-probe").write_text("#!/bin/sh\necho probed\n")
    (root / "usr/bin/berth-probe").chmod(0o755)
    subprocess.run(["dpkg-deb", "--root-owner-group", "-b", root, tmp / "probe.deb"], check=True, capture_output=True)
    return (tmp / "probe.deb").read_bytes()


def test_a_copy_of_the_host_takes_packages_and_keeps_them_over_a_cold_resume(sources, tmp_path, name):
    with server_with_a_small_usr(tmp_path) as server:
        made = server.json("image import debian host", timeout=300)
        assert len(made["layers"]) == 4
        new(server, name, "debian")
        assert " /usr " not in run(server, name, "cat /proc/mounts"), "nothing is bound over /usr"
        assert run(server, name, "echo mine > /usr/local/made; echo other > /usr/bin/factor; cat /usr/local/made") == "mine\n"
        installed = server.ssh(name, "cat > /tmp/p.deb && dpkg -i /tmp/p.deb && berth-probe", stdin=package(tmp_path))
        assert installed.status == 0 and installed.stdout.endswith("probed\n"), installed
        assert server.verb("pause", name).status == 0
        assert server.stop() == 0
        drop_uppers_and_caches(server)
        server.start()
        assert run(server, name, "cat /usr/local/made /usr/bin/factor /var/lib/berth-probe; berth-probe; dpkg -s berth-probe | grep Status") == \
            "mine\nother\nconfigured\nprobed\nStatus: install ok installed\n"
