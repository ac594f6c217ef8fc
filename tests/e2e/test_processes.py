"""What each executable is linked with, and that nothing is left behind."""
import subprocess

import pytest

from conftest import BUILD

COMMON = {"libc.so.6", "ld-linux-x86-64.so.2"}
NEEDS = {
    "berthd": {"libsqlite3.so.0", "libseccomp.so.2", "libcrypto.so.3"},
    "berth-conn": {"libssh.so.4"},
    "berth-keeper": set(),
    "berth-worker": {"libarchive.so.13", "libzstd.so.1", "libsqlite3.so.0", "libjansson.so.4", "libcrypto.so.3"},
    "berth-init": set(),
    "berth-sftp-preload.so": set(),
    "berth-archive": {"libarchive.so.13", "libzstd.so.1", "libsqlite3.so.0", "libjansson.so.4", "libcrypto.so.3"},
    "berth-verify-audit": {"libcrypto.so.3"},
}


@pytest.mark.parametrize("program", NEEDS)
def test_each_executable_is_linked_with_its_own_libraries_alone(program):
    out = subprocess.run(["objdump", "-p", BUILD / program], capture_output=True, text=True, check=True).stdout
    needed = {line.split()[1] for line in out.splitlines() if line.strip().startswith("NEEDED")}
    assert needed - COMMON == NEEDS[program]
    if program == "berth-init":
        assert not needed and "INTERP" not in out, "pid 1 of a sandbox is static"


@pytest.mark.parametrize("program", NEEDS)
def test_each_executable_is_hardened(program):
    out = subprocess.run(["readelf", "-Wld", BUILD / program], capture_output=True, text=True, check=True).stdout
    assert "GNU_RELRO" in out
    assert not any("GNU_STACK" in line and "RWE" in line for line in out.splitlines())
    if program != "berth-init":
        assert "BIND_NOW" in out or "NOW" in out


def test_an_installed_berth_finds_its_parts(tmp_path):
    import os
    import conftest
    subprocess.run(["cmake", "--install", BUILD, "--prefix", tmp_path / "usr"], check=True, stdout=subprocess.DEVNULL)
    init = tmp_path / "usr/libexec/berth/berth-init"
    assert init.stat().st_mode & 0o777 == 0o711
    os.chmod(tmp_path, 0o755)
    server = conftest.make_server()
    try:
        before, conftest.BUILD = conftest.BUILD, tmp_path / "usr/sbin"
        server.start()
        assert server.ssh("demo", "echo installed; cat /proc/1/comm").out == b"installed\nberth-init\n"
        assert "no sftp" not in server.log()
        server.remove()
    finally:
        conftest.BUILD = before
        server.discard()
