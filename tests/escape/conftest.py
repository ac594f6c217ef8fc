"""Hostile code in a session. Uses the server and the fixtures of tests/e2e; after every test another session of
the same server must still be served."""
import importlib.util
import pathlib
import sys

import pytest

E2E = pathlib.Path(__file__).parents[1] / "e2e"
sys.path.append(str(E2E))


def load():
    """tests/e2e/conftest.py under a name of its own: two files called conftest meet in one pytest run."""
    spec = importlib.util.spec_from_file_location("berth_e2e", E2E / "conftest.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["berth_e2e"] = module
    spec.loader.exec_module(module)
    return module


e2e = load()
server, own_server, name = e2e.server, e2e.own_server, e2e.name


def pytest_configure(config):
    """The tests of e2e mean theirs when they say conftest."""
    for plugin in config.pluginmanager.get_plugins():
        if getattr(plugin, "__file__", None) == str(E2E / "conftest.py"):
            sys.modules["conftest"] = plugin


@pytest.fixture(autouse=True)
def bystander(request):
    """Another session of the server in use: it runs from before the attack, and must not notice it."""
    which = next((f for f in ("own_server", "server") if f in request.fixturenames), None)
    if which is None:
        yield None
        return
    target = request.getfixturevalue(which)
    manager = target.process
    began = target.ssh("bystander", "stat -c %Y /proc/1")
    assert began.status == 0, began
    yield "bystander"
    after = target.ssh("bystander", "stat -c %Y /proc/1")
    assert after.status == 0, after
    assert target.process.poll() is None, "the manager has died"
    if target.process is manager:  # the test has not stopped the server: then nothing may have
        assert after.out == began.out, "another session was restarted"


@pytest.fixture(scope="module")
def armed(server):
    """A session in which probe.c has been compiled."""
    from attack import arm
    return arm(server, "armed")
