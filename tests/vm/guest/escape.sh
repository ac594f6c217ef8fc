# seconds: 900
# by name: tests/vm/run escape
# Hostile code in a session, on this kernel.
. tests/vm/pytest.sh tests/escape
