"""Debian in a session, as the people know it who use it: each test is a thing that a machine does."""
import shutil
import subprocess
import textwrap

import pytest

from conftest import WANTED

NAME = "d"


def run(server, text, stdin=None, timeout=300):
    """Lines of bash, the first that fails ends it; what they wrote."""
    text = textwrap.dedent(text)
    r = server.ssh(NAME, text if stdin else "bash -eu", stdin=stdin or text.encode(), timeout=timeout)
    assert r.status == 0, r
    return r.stdout


def drop_what_archives_hold(server):
    shutil.rmtree(server.state / "cache" / "layers", ignore_errors=True)
    for upper in (server.state / "sessions").glob("s_*/upper.*"):
        shutil.rmtree(upper)


@pytest.fixture(scope="module")
def installed(debian):
    server = debian
    assert server.verb("new", NAME, "--image", "debian").status == 0
    tar = subprocess.run(["tar", "-C", server.packages.parent, "-c", "repo"], capture_output=True, check=True).stdout
    run(server, "tar -xC /srv", stdin=tar)
    run(server, 'echo "deb [trusted=yes] file:/srv/repo ./" > /etc/apt/sources.list; apt-get -q update')
    server.said = run(server, "DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends " + " ".join(WANTED),
                      timeout=600)
    return server


def test_packages_are_installed_and_configured(installed):
    assert run(installed, "dpkg --audit; apt-get check -qq; dpkg-query -W -f '${db:Status-Status}\\n' | sort -u") == "installed\n"
    assert "Errors were encountered" not in installed.said
    print("packages:", run(installed, "dpkg-query -W | wc -l").strip())


def test_a_package_comes_over_http_fetched_by_the_user_of_apt(installed):
    out = run(installed, """
        cd /srv/repo && (python3 -m http.server 8000 >/dev/null 2>&1 & echo $! > /run/http)
        trap 'kill $(cat /run/http)' EXIT
        until (exec 3<>/dev/tcp/127.0.0.1/8000) 2>/dev/null; do read -t 0.05 <> <(:) || :; done
        echo "deb [trusted=yes] http://127.0.0.1:8000/ ./" > /etc/apt/sources.list
        apt-get -q update 2>&1
        DEBIAN_FRONTEND=noninteractive apt-get -qy remove fakeroot >/dev/null
        DEBIAN_FRONTEND=noninteractive apt-get -qy install fakeroot 2>&1
        echo "deb [trusted=yes] file:/srv/repo ./" > /etc/apt/sources.list
        fakeroot id -u
        """)
    assert "unsandboxed" not in out and "Get:1 http://127.0.0.1:8000" in out and out.endswith("\n0\n"), out


def test_tools_of_developers_work(installed):
    out = run(installed, r"""
        mkdir -p ~/w && cd ~/w
        printf '#include <stdio.h>\nint f(int x){return 2*x;}\nint main(void){printf("%%d\\n",f(21));}\n' > a.c
        printf 'a: a.c\n\tgcc -g -o a a.c\n' > Makefile
        make -s a && ./a
        gdb -batch -ex 'break f' -ex run -ex 'print x' ./a 2>&1 | grep '^.1 = 21'
        strace -f -o t sh -c ./a && grep -c execve t
        valgrind -q --error-exitcode=9 ./a
        git -c init.defaultBranch=m init -q r && cd r && git config user.email a@b && git config user.name a
        cp ../a.c . && git add . && git commit -qm one && git clone -q file://$PWD ../r2 && cmp a.c ../r2/a.c && cd ..
        python3 -m venv v && mkdir -p p/probe && echo 'x = 7' > p/probe/__init__.py
        printf 'from setuptools import setup\nsetup(name="probe", version="1", packages=["probe"])\n' > p/setup.py
        v/bin/pip install -q --no-index --no-build-isolation ./p 2>/dev/null; v/bin/python -c 'import probe; print(probe.x)'
        mkdir -p n app && printf '{"name":"n","version":"1.0.0","main":"m.js"}' > n/package.json && echo 'module.exports=8' > n/m.js
        (cd n && npm pack --silent) && cd app && npm install --silent --offline --no-audit --no-fund ../n/n-1.0.0.tgz
        node -e 'console.log(require("n"))'
        """)
    assert out.split()[:4] == ["42", "$1", "=", "21"] and out.endswith("42\n7\nn-1.0.0.tgz\n8\n"), out


def test_users_names_and_terminals(installed):
    out = run(installed, """
        id bob >/dev/null 2>&1 || adduser --quiet --disabled-password --gecos '' bob
        echo bob:secret | chpasswd
        su bob -c 'id -un; ping -c1 -W5 127.0.0.1 >/dev/null && echo pinged'
        sudo -u bob sh -c 'cd && touch f && stat -c %U f' 2>&1
        hostname -f
        sed -i 's/# en_US.UTF-8/en_US.UTF-8/' /etc/locale.gen && locale-gen >/dev/null && LC_ALL=en_US.UTF-8 date +%B >/dev/null 2>&1
        tmux new -d -s one 'tty > /tmp/tty; tmux wait -S done' && tmux wait done && cat /tmp/tty
        """)
    assert out == "bob\npinged\nbob\n" + NAME + "\n/dev/pts/0\n", out
    assert b"top" in installed.ssh(NAME, "TERM=xterm top -n1", options=["-tt"]).out


SERVICES = "postgresql mariadb redis-server apache2 nginx ssh dbus cron".split()


def start_services(server):
    for name in SERVICES:
        out = run(server, f"service {name} start 2>&1 || {{ echo failed; exit 1; }}")
        print(name, out.strip())


ASK = """
    su postgres -c 'psql -Atc "select sum(i) from t"'
    mysql -N -e 'select count(*) from d.t'
    redis-cli get key
    """


def test_services_start_and_their_data_is_there_after_a_cold_resume(installed):
    server = installed
    run(server, "sed -i 's/^Listen 80$/Listen 8080/' /etc/apache2/ports.conf")
    start_services(server)
    run(server, """
        su postgres -c 'psql -qc "create table t as select generate_series(1,100000) as i"'
        mysql -e 'create database d; create table d.t as select 1 as i union select 2'
        redis-cli set key value
        """)
    assert run(server, ASK) == "5000050000\n2\nvalue\n"
    run(server, """
        mkdir -p -m 700 ~/.ssh && ssh-keygen -q -t ed25519 -N '' -f ~/.ssh/id_ed25519 && cp ~/.ssh/id_ed25519.pub ~/.ssh/authorized_keys
        ssh -o StrictHostKeyChecking=no localhost true 2>&1
        rsync -a /etc/ localhost:/root/etc-copy/
        python3 -c 'import urllib.request as u; [print(u.urlopen("http://127.0.0.1:%d" % p).status) for p in (80, 8080)]'
        """)
    files = run(server, "dpkg -V 2>/dev/null | grep -v ' c /' || true")
    assert server.verb("pause", NAME, timeout=300).status == 0
    assert server.stop() == 0
    drop_what_archives_hold(server)
    server.start()
    assert run(server, "service redis-server status || true; dpkg -V 2>/dev/null | grep -v ' c /' || true").endswith(files)
    start_services(server)
    assert run(server, ASK) == "5000050000\n2\nvalue\n"
    assert run(server, "dpkg --audit; su bob -c 'id -un' 2>/dev/null || true") in ("", "bob\n")
    row = server.json("show", NAME)
    assert row["state"] == "running", row
