# seconds: 420
# Calls as a client sees them. Not what asks for a compiler of berth.
. tests/vm/pytest.sh tests/e2e/test_first.py tests/e2e/test_processes.py --deselect tests/e2e/test_first.py::test_an_installed_berth_finds_its_parts
