"""A quick part of tests/interop, so that the suite sees when one of its clients stops working; the whole: tests/interop/run."""
import os
import pathlib
import subprocess
import sys

from conftest import BUILD, at_most

ROOT = pathlib.Path(__file__).parents[2]
QUICK = "test_key and ed25519 or test_exit_s or test_half_close or test_terminal or test_pscp or test_curl_scp or test_asyncssh_signal"
FILES = ["test_openssh.py", "test_small_clients.py", "test_libraries.py", "test_files.py"]


def test_clients_that_the_suite_has_besides_do_the_same_with_berth_as_with_sshd():
    with at_most(300):
        done = subprocess.run([sys.executable, "-W", "ignore", "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", "-q", "-k", QUICK,
                               *(str(ROOT / "tests/interop" / f) for f in FILES)], capture_output=True, text=True, cwd=ROOT,
                              env={**os.environ, "BERTH_BUILD": str(BUILD)})
    assert done.returncode == 0, done.stdout[-6000:]
