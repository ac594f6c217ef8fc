# seconds: 480
# Pause, resume warm and cold, restore; a manager that dies. Not the tests that take minutes on a slow processor.
. tests/vm/pytest.sh tests/e2e/test_pause.py tests/e2e/test_takeover.py -k "not twenty_six and not worker_during and not every_other"
