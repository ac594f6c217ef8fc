"""The end-to-end tests' conftest, under a name that pytest has not given to ours."""
import importlib.util
import pathlib

_spec = importlib.util.spec_from_file_location("conftest_e2e_body", pathlib.Path(__file__).parents[1] / "e2e/conftest.py")
_body = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_body)
running, make_server, Result, SSH_OPTIONS = _body.running, _body.make_server, _body.Result, _body.SSH_OPTIONS
at_most, wait_until = _body.at_most, _body.wait_until
