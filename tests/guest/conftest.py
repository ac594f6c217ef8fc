"""A Debian made by debootstrap, and a repository of packages that it has not installed: the node's own mirror serves both."""
import os
import pathlib
import shutil
import subprocess
import tempfile

import pytest

from conftest_e2e import running

# what agents and developers ask for, and what uses much of a kernel: accounts, services, locks, sockets, shared memory
WANTED = """gcc libc6-dev make gdb strace git procps psmisc lsof iproute2 sudo iputils-ping less man-db locales cron dbus
    openssh-server openssh-client rsync tmux valgrind fakeroot python3-venv python3-pip nodejs npm
    postgresql redis-server mariadb-server apache2 nginx-light""".split()


def sources():
    """(URI, suite, component) of Debian's own archives, as the node's apt is told to use them."""
    rows = subprocess.run(["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages",
                           "Origin: Debian"], capture_output=True, check=True, text=True).stdout
    return sorted({tuple(line.split()) for line in rows.splitlines() if line.endswith(" main")})


def codename():
    with open("/etc/os-release") as f:
        return next(line.split("=")[1].strip() for line in f if line.startswith("VERSION_CODENAME="))


def make_tree(tree):
    suite = codename()
    uri = next(u for u, s, _ in sources() if s == suite)
    subprocess.run(["debootstrap", "--variant=minbase", suite, tree, uri], check=True, stdout=subprocess.DEVNULL)


def fetch_packages(tree, repository):
    """All that WANTED needs, as files; the tree is what it was then."""
    archives = "\n".join(f"deb {u} {s} {c}" for u, s, c in sources()) + "\n"
    list_file, resolver = tree / "etc/apt/sources.list", tree / "etc/resolv.conf"
    list_file.write_text(archives)
    shutil.copy("/etc/resolv.conf", resolver)
    for words in (["update"], ["install", "--download-only", "--no-install-recommends", *WANTED]):
        subprocess.run(["chroot", tree, "apt-get", "-qy", *words], check=True, stdout=subprocess.DEVNULL)
    resolver.unlink()
    list_file.unlink()
    repository.mkdir()
    for package in (tree / "var/cache/apt/archives").glob("*.deb"):
        shutil.move(package, repository)
    shutil.rmtree(tree / "var/lib/apt/lists")
    with open(repository / "Packages", "wb") as index:
        subprocess.run(["dpkg-scanpackages", "-m", "."], cwd=repository, stdout=index, stderr=subprocess.DEVNULL, check=True)


@pytest.fixture(scope="session")
def debian():
    """A server with image `debian`, and session `d` on it with all of WANTED, installed inside."""
    base = pathlib.Path(tempfile.mkdtemp(prefix="btg.", dir=os.environ.get("TMPDIR", "/var/tmp")))
    try:
        make_tree(base / "tree")
        fetch_packages(base / "tree", base / "repo")
        with running() as server:
            server.json("image", "import", "debian", str(base / "tree"), timeout=300)
            server.packages = base / "repo"
            yield server
    finally:
        shutil.rmtree(base)
