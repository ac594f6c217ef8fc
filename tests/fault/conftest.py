"""Faults: the server of tests/e2e with one call of its processes failing. Fixtures are those of tests/e2e."""
import importlib.util
import pathlib
import sys

E2E = pathlib.Path(__file__).parents[1] / "e2e"
if "berth_e2e" not in sys.modules:
    spec = importlib.util.spec_from_file_location("berth_e2e", E2E / "conftest.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["berth_e2e"] = module
    spec.loader.exec_module(module)
name = sys.modules["berth_e2e"].name
