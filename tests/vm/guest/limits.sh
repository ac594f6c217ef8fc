# seconds: 420
# Each limit holds and is named, by the controllers of cgroup v2.
. tests/vm/pytest.sh tests/e2e/test_limits.py
