"""A session feels like a machine: what people do on one works in it, and is there after a cold resume. The whole proof,
in a Debian of its own with PostgreSQL from packages: tests/guest/run."""
import os
import shutil
import textwrap

import pytest

from test_images import drop_uppers_and_caches, new, run, server_with_a_small_usr


def needs(*programs):
    missing = [p for p in programs if not shutil.which(p)]
    return pytest.mark.skipif(bool(missing), reason=f"the node, whose /usr a session sees, has no {', '.join(missing)}")


def postgres():
    """Where Debian keeps the newest server's programs."""
    top = "/usr/lib/postgresql"
    have = [f"{top}/{v}/bin" for v in sorted(os.listdir(top)) if os.path.exists(f"{top}/{v}/bin/initdb")] if os.path.isdir(top) else []
    return have[-1] if have else None


def script(server, name, text, timeout=60):
    """Runs lines of shell, the first that fails ends it; returns what they wrote."""
    r = server.ssh(name, "sh -eu", stdin=textwrap.dedent(text).encode(), timeout=timeout)
    assert r.status == 0, r
    return r.stdout


def pause_and_resume_cold(server, name):
    r = server.verb("pause", name)
    assert r.status == 0, r
    assert server.stop() == 0
    drop_uppers_and_caches(server)
    server.start()


@needs("gcc", "gdb", "strace")
def test_a_program_is_built_debugged_and_traced(server, name):
    out = script(server, name, r"""
        cat > a.c <<'C'
        #include <stdio.h>
        static int twice(int x) { return 2 * x; }
        int main(void) { printf("%d\n", twice(21)); return 0; }
        C
        gcc -g -O0 -o a a.c
        ./a
        gdb -batch -ex 'break twice' -ex run -ex 'print x' -ex backtrace -ex kill ./a 2>&1
        strace -o t ./a >/dev/null
        grep '^write(1, "42.n", 3)' t
        sleep 600 & gdb -batch -p $! -ex 'info inferiors' -ex detach 2>&1; kill $!
        """)
    assert out.startswith("42\n") and "$1 = 21\n" in out and "in main ()" in out, out
    assert "= 3\n" in out and "detached]" in out, out


@needs("ps", "top")
def test_ps_and_top_show_the_session_and_nothing_else(server, name):
    out = script(server, name, "sleep 601 & ps -e -o comm=; kill $!")
    assert sorted(out.split()) == ["berth-init", "ps", "sh", "sh", "sleep"], out
    out = run(server, name, "exec top -b -n1")
    assert "Tasks:   2 total" in out and "berth-i" in out, out
    r = server.ssh(name, "TERM=xterm top -n1", options=["-tt"])
    assert r.status == 0 and b"Tasks" in r.out, r


@needs("git")
def test_git_clones_a_local_repository(server, name):
    out = script(server, name, """
        git init -q -b main one && cd one
        git config user.email a@b && git config user.name a
        echo hello > f && git add f && git commit -qm first
        cd .. && git clone -q one two && git clone -q file://$PWD/one three
        cat two/f three/f && git -C three log --format=%s
        """)
    assert out == "hello\nhello\nfirst\n"


@needs("python3")
def test_pip_installs_a_local_package_into_a_venv(server, name):
    if not script(server, name, "python3 -c 'import ensurepip' 2>/dev/null && echo yes || true"):
        pytest.skip("the node has no python3-venv")
    out = script(server, name, """
        mkdir -p p/probe && cd p
        echo 'def word(): return "probed"' > probe/__init__.py
        printf 'from setuptools import setup\\nsetup(name="probe", version="1", packages=["probe"])\\n' > setup.py
        python3 -m venv ../v
        ../v/bin/pip install -q --no-index --no-build-isolation . 2>/dev/null
        cd / && /workspace/v/bin/python -c 'import probe; print(probe.word(), probe.__file__)'
        """)
    assert out.startswith("probed /workspace/v/lib/python3"), out


@needs("npm")
def test_npm_installs_from_a_tarball_and_upgrades_after_a_resume(server, name):
    make = """
        mkdir -p p && cd p
        printf '{"name":"probe","version":"%s","bin":{"probe":"m.js"},"scripts":{"postinstall":"echo %s > /workspace/ran"}}' $V $V > package.json
        printf '#!/usr/bin/env node\\nconsole.log("v" + require("./package.json").version)\\n' > m.js
        npm pack --silent >/dev/null
        mkdir -p ../app && cd ../app && npm install --silent --offline --no-audit --no-fund ../p/probe-$V.tgz
        node_modules/.bin/probe; cat ../ran
        """
    assert script(server, name, f"V=1.0.0\n{textwrap.dedent(make)}") == "v1.0.0\n1.0.0\n"
    assert server.verb("pause", name).status == 0
    # its directories are a layer's now, which cannot be renamed: npm has to find another way
    assert script(server, name, f"V=2.0.0\n{textwrap.dedent(make)}") == "v2.0.0\n2.0.0\n"


@needs("python3")
def test_users_of_a_session_have_what_setuid_programs_give_elsewhere(server, name):
    out = script(server, name, f"""
        getent hosts $(hostname) | tr -s ' '
        touch /var/lock/probe && stat -c %a /var/lock/.
        cat > u.py <<'P'
        import os, socket, struct
        os.setgid(1000); os.setuid(1000)
        socket.create_server(("127.0.0.1", 80))
        ping = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
        ping.settimeout(5)
        ping.sendto(struct.pack("!BBHHH", 8, 0, 0, 0, 1) + b"berth", ("127.0.0.1", 0))
        print(ping.recv(100)[-5:].decode())
        P
        python3 u.py
        """)
    assert out == f"127.0.1.1 {name}\n1777\nberth\n"


@needs("python3")
def test_processes_share_memory_locks_and_unix_sockets(server, name):
    assert script(server, name, """
        cat > m.py <<'P'
        import multiprocessing as m, os, socket
        print(m.Pool(2).map(abs, [-1, -2]))
        a = socket.socket(socket.AF_UNIX); a.bind("/workspace/s"); a.listen()
        b = socket.socket(socket.AF_UNIX); b.connect("/workspace/s")
        c, _ = a.accept(); b.send(b"over"); print(c.recv(9).decode())
        P
        python3 m.py
        """) == "[1, 2]\nover\n"


@pytest.mark.skipif(not postgres(), reason="the node has no PostgreSQL")
def test_postgresql_is_asked_by_a_second_call_and_is_there_after_a_cold_resume(own_server, name):
    server, home = own_server, postgres()
    as_user = "setpriv --reuid postgres --regid postgres --clear-groups"
    start = f"{as_user} {home}/pg_ctl -s -w -D /workspace/db -l /workspace/log -o '-k /tmp' start"
    script(server, name, f"""
        install -d -o postgres -g postgres db && touch log && chown postgres log
        {as_user} {home}/initdb -D /workspace/db -A trust >/dev/null
        {start}
        """)
    ask = "psql -U postgres -At"
    run(server, name, f"{ask} -h /tmp -c 'create table t as select generate_series(1, 100000) as i'")
    assert run(server, name, f"{ask} -h 127.0.0.1 -c 'select count(*) from t'") == "100000\n"
    pause_and_resume_cold(server, name)
    assert run(server, name, f"{start} && {ask} -h /tmp -c 'select sum(i) from t'") == "5000050000\n"
    assert "was interrupted" not in run(server, name, "cat log"), "a pause is a clean shutdown to it"


REPOSITORY = r"""
    # two packages: one with an account, a service directory and a dependency, the other that
    mkdir -p /srv/repo && cd /srv/repo
    for p in probe-tool probe-lib; do
        mkdir -p $p/DEBIAN $p/usr/share/$p
        echo "from $p" > $p/usr/share/$p/word
        printf 'Package: %s\nVersion: 1.0\nArchitecture: all\nMaintainer: t <t@t>\nDescription: t\n' $p > $p/DEBIAN/control
    done
    echo 'Depends: probe-lib (>= 1.0)' >> probe-tool/DEBIAN/control
    cat > probe-tool/DEBIAN/postinst <<'P'
    #!/bin/sh
    set -e
    groupadd --system probe
    useradd --system --gid probe --home-dir /var/lib/probe --create-home probe
    install -o probe -g probe -m 0640 /usr/share/probe-lib/word /var/lib/probe/word
    P
    chmod 755 probe-tool/DEBIAN/postinst
    for p in probe-tool probe-lib; do
        dpkg-deb --root-owner-group -b $p $p.deb >/dev/null
        cat $p/DEBIAN/control
        echo "Filename: ./$p.deb"
        echo "Size: $(stat -c %s $p.deb)"
        echo "SHA256: $(sha256sum $p.deb | cut -d' ' -f1)"
        echo
    done > Packages
    mkdir -p /etc/apt
    echo "deb [trusted=yes] file:/srv/repo ./" > /etc/apt/sources.list
    """


@needs("apt-get", "useradd")
def test_apt_get_installs_from_a_repository_and_it_is_there_after_a_cold_resume(tmp_path, name):
    with server_with_a_small_usr(tmp_path, keep=("/usr/lib/apt",)) as server:
        server.json("image import debian host", timeout=300)
        new(server, name, "debian")
        script(server, name, REPOSITORY)
        script(server, name, "apt-get -q update; DEBIAN_FRONTEND=noninteractive apt-get -qy install probe-tool")
        look = "stat -c '%U:%G %a' /var/lib/probe/word; cat /var/lib/probe/word; dpkg-query -W -f '${Status}\\n' 'probe-*'; dpkg --audit"
        want = "probe:probe 640\nfrom probe-lib\ninstall ok installed\ninstall ok installed\n"
        assert script(server, name, look) == want
        pause_and_resume_cold(server, name)
        assert script(server, name, look) == want
        script(server, name, "apt-get -qy purge probe-lib")
        assert run(server, name, "dpkg-query -W 'probe-*' 2>/dev/null; test -e /usr/share/probe-tool || echo gone") == "gone\n"
