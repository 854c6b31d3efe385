"""Applications start and fail each for itself; what a target cannot reach is an error."""

from twisted.application.service import Service
from twisted.plugin import IPlugin
from zope.interface import implementer

from meshsvc.interfaces import IMeshApplication
from meshsvc.node.applications import Applications, find


@implementer(IPlugin, IMeshApplication)
class App:
    def __init__(self, name, make=Service):
        self.name, self.make = name, make
        self.made = []

    def make_service(self, mesh):
        service = self.make()
        self.made.append((mesh, service))
        return service


class BrokenStart(Service):
    def startService(self):
        raise OSError("no disk")


def broken_make():
    raise ValueError("bad options")


def test_one_that_raises_never_stops_the_others(logged_errors):
    """make_service or startService that raises leaves the application out, with its traceback."""
    installed = [App("bad-make", broken_make), App("good"), App("bad-start", BrokenStart)]
    apps = Applications(lambda name: f"context of {name}", "all", lambda _: (installed, []))
    warnings = apps.load()
    apps.startService()
    assert warnings == ["bad-make: builtins.ValueError: bad options"]
    states = {state.name: state for state in apps.states}
    assert states["good"].state == "running"
    assert installed[1].made[0][0] == "context of good"
    assert installed[1].made[0][1].running
    assert states["bad-make"].state == states["bad-start"].state == "failed"
    assert "no disk" in states["bad-start"].error
    assert "Traceback" in states["bad-start"].error
    assert [service.name for service in apps.services] == ["good"]
    assert len(logged_errors.flush(ValueError, OSError)) == 2


def test_only_the_enabled_are_built_and_a_missing_one_is_named():
    """[node] applications chooses; what it names and is not installed is reported."""
    installed = [App("one"), App("two")]
    apps = Applications(lambda name: None, ("two", "three"), lambda _: (installed, []))
    [warning] = apps.load()
    assert warning.startswith("three: no installed plugin provides the application 'three'")
    assert {s.name: s.state for s in apps.states} == {
        "one": "available",
        "two": "running",
        "three": "failed",
    }


def test_a_plugin_that_raises_on_import_is_listed_with_its_traceback(
    tmp_path, monkeypatch, logged_errors
):
    """The search goes on past a module that raises, and says which and why."""
    plugins = tmp_path / "twisted" / "plugins"
    plugins.mkdir(parents=True)
    (plugins / "broken_app_plugin.py").write_text("raise RuntimeError('import went wrong')\n")
    import twisted.plugins

    monkeypatch.setattr(twisted.plugins, "__path__", [str(plugins), *twisted.plugins.__path__])
    _, failed = find(IMeshApplication)
    logged_errors.flush(RuntimeError)
    [state] = [state for state in failed if state.name == "broken_app_plugin"]
    assert state.state == "failed"
    assert "RuntimeError: import went wrong" in state.error
