# seconds: 600
# Pause, resume warm and cold, restore; a manager that dies. Not the tests that need minutes of a real processor.
. tests/vm/pytest.sh tests/e2e/test_pause.py tests/e2e/test_takeover.py
