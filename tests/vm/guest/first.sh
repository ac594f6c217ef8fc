# seconds: 420
# Calls as a client sees them, and the walls as each executable has them.
. tests/vm/pytest.sh tests/e2e/test_first.py tests/e2e/test_processes.py
