"""Long chains are kept short by merged layers: same files, same history, whatever comes between."""
import json
import subprocess

from conftest import running, wait_until
import test_reindex
import trees


def layers_of(server, snapshot):
    return json.loads((server.state / "store/blobs/sha256" / snapshot).read_text())["layers"]


def busy(server):
    """Between two jobs of a merge there is no worker for a moment: it is looked at more than once."""
    return any(what == "berth-worker" for _ in range(5) for _, what in server.all_pids())


def chain(server, name, n, first=0):
    for i in range(first, first + n):
        r = server.ssh(name, f"mkdir -p d{i % 5}; echo {i} > d{i % 5}/f{i}; echo {i} > same; rm -rf d{(i - 3) % 5} 2>/dev/null; "
                             f"test {i} != 4 || rm /etc/inputrc; test {i} != 6 || ln d{i % 5}/f{i} hard")
        assert r.status == 0, r
        assert server.verb("pause", name).status == 0
        wait_until("merges to end", lambda: not busy(server))


def drop_uppers_and_caches(server):
    for tree in [*server.state.glob("cache/layers/*"), *server.state.glob("sessions/*/upper.*")]:
        subprocess.run(["rm", "-rf", tree], check=True)


def test_a_long_chain_lists_few_layers_and_shows_the_same(name):
    with running("gc_interval = 0s\ngc_age = 0s\n") as server:
        seen = {}
        for i in range(40):
            chain(server, name, 1, i)
            head = server.session(name)["head"][7:]
            if i in (3, 9, 20, 39):
                seen[head] = trees.read(server, name)
                server.verb("pause", name)
        rows = server.json("snapshots", name)
        assert len(rows) == 40
        counts = [len(layers_of(server, r["snapshot"][7:])) for r in rows]
        assert max(counts) <= 16, counts
        assert all(r["bytes"] < 5000 for r in rows), "what a snapshot added is told, not what was merged"
        assert server.verb("verify", "--all").status == 0
        server.json("gc")
        assert server.stop() == 0
        drop_uppers_and_caches(server)
        server.start()
        for head, tree in seen.items():
            assert server.verb("restore", name, head).status == 0
            assert trees.differences(tree, trees.read(server, name)) == {}, head
            server.verb("pause", name)
        assert server.verb("gc").status == 0 and server.verb("verify", "--all").status == 0


def test_what_is_merged_survives_a_collector_until_it_is_listed(name):
    with running("gc_interval = 0s\ngc_age = 0s\ncache_max = 0\nwarm_keep = 0s\n") as server:
        chain(server, name, 8)
        wait_until("a merge", lambda: "8 layers are merged" in server.log())
        server.json("gc")
        chain(server, name, 1, 8)
        head = server.session(name)["head"][7:]
        assert len(layers_of(server, head)) == 2
        assert server.verb("verify", "--all").status == 0
        assert server.ssh(name, "cat same").out == b"8\n"


def test_a_restart_forgets_it_and_merges_again(name):
    with running("gc_interval = 0s\ngc_age = 0s\n") as server:
        chain(server, name, 8)
        assert server.stop() == 0
        server.start()
        server.json("gc")
        chain(server, name, 2, 8)
        assert len(layers_of(server, server.session(name)["head"][7:])) <= 3
        assert server.verb("verify", "--all").status == 0
        before = test_reindex.told(server)
        assert server.stop() == 0
        r = test_reindex.reindex(server)
        assert r.returncode == 0, r
        server.start()
        assert test_reindex.told(server) == before


def test_retention_of_a_merged_chain_frees_the_single_layers(name):
    with running("gc_interval = 0s\ngc_age = 0s\nretention = last=1\n") as server:
        chain(server, name, 10)
        server.json("gc")
        head = server.session(name)["head"][7:]
        layers = {layer["digest"][7:] for layer in layers_of(server, head)}
        blobs = {p.name for p in (server.state / "store/blobs/sha256").iterdir()}
        assert layers < blobs and len(blobs) == len(layers) + 2 and len(layers) <= 3
        drop = server.stop()
        assert drop == 0
        drop_uppers_and_caches(server)
        server.start()
        assert server.ssh(name, "cat same; ls -d hard").out == b"9\nhard\n"
