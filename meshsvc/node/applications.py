"""Finding and starting applications: a broken one is listed, and never stops the node.

``twisted.plugin`` logs what goes wrong while a plugin is imported and goes on; the log is
listened to for the time of the search, so that the traceback can be shown to whoever asks
``meshsvc plugins``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from twisted.application.service import IService, MultiService
from twisted.logger import ILogObserver, LogEvent, Logger, globalLogPublisher
from twisted.plugin import getPlugins
from twisted.python.failure import Failure
from zope.interface import Interface, implementer

from meshsvc.interfaces import IMeshApplication


@dataclass(slots=True)
class PluginState:
    """One plugin: ``state`` is running, available (not enabled) or failed."""

    name: str
    interface: str
    module: str
    state: str
    error: str = ""

    def row(self) -> dict[str, str]:
        """As ``meshsvc plugins`` shows it."""
        return {
            "name": self.name,
            "interface": self.interface,
            "module": self.module,
            "state": self.state,
            "error": self.error,
        }


@implementer(ILogObserver)
class _Failures:
    """Collects the failures that are logged while it is registered."""

    def __init__(self) -> None:
        self.seen: list[Failure] = []

    def __call__(self, event: LogEvent) -> None:
        failure = event.get("log_failure") or event.get("failure")
        if failure is not None:
            self.seen.append(failure)


def find(interface: type[Interface]) -> tuple[list[Any], list[PluginState]]:
    """The plugins that provide an interface, and those that failed to import.

    Returns:
        the providers, and one failed ``PluginState`` per module that raised.
    """
    observer = _Failures()
    globalLogPublisher.addObserver(observer)
    try:
        found = list(getPlugins(interface))
    finally:
        globalLogPublisher.removeObserver(observer)
    failed = [
        PluginState(
            _culprit(failure), "", _culprit(failure), "failed", failure.getTraceback().strip()
        )
        for failure in observer.seen
    ]
    return found, failed


def _culprit(failure: Failure) -> str:
    """The file of ``twisted.plugins`` that the traceback goes through, else the error's type."""
    for _, filename, *_ in failure.frames:
        if "/plugins/" in filename:
            return str(filename).rsplit("/", 1)[-1].removesuffix(".py")
    return failure.type.__name__ if failure.type else "unknown"


class Applications(MultiService):
    """The application services of one shard; each starts, runs and fails for itself."""

    log = Logger()

    def __init__(
        self,
        context_of: Callable[[str], Any],
        enabled: str | Iterable[str],
        search: Callable[[type[Interface]], tuple[list[Any], list[PluginState]]] = find,
    ) -> None:
        """Build the service.

        Args:
            context_of: application name -> its ``MeshContext``.
            enabled: "all", or the names to start.
            search: finds the installed plugins.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self._context_of = context_of
        self._search = search
        self._enabled = enabled if enabled == "all" else frozenset(enabled)
        self.states: list[PluginState] = []

    def load(self) -> list[str]:
        """Find and build every enabled application; returns one warning per failure."""
        found, failed = self._search(IMeshApplication)
        self.states.extend(failed)
        for application in found:
            self._build(application)
        known = {state.name for state in self.states}
        if self._enabled != "all":
            for name in sorted(frozenset(self._enabled) - known):
                text = (
                    f"no installed plugin provides the application {name!r}:"
                    " install it, or drop it from [node] applications"
                )
                self.states.append(PluginState(name, "IMeshApplication", "", "failed", text))
        return [f"{s.name}: {s.error.splitlines()[-1]}" for s in self.states if s.state == "failed"]

    def _build(self, application: Any) -> None:
        name = str(getattr(application, "name", type(application).__name__))
        state = PluginState(name, "IMeshApplication", type(application).__module__, "available")
        self.states.append(state)
        if self._enabled != "all" and name not in self._enabled:
            return
        try:
            service = IService(application.make_service(self._context_of(name)))
        except Exception:
            self._failed(state, "make_service", Failure())
            return
        state.state = "running"
        service.setName(name)
        self.addService(service)  # type: ignore[no-untyped-call]

    def startService(self) -> None:
        """Start each application; one whose start raises is left out."""
        self.running = True
        for service in list(self.services):
            try:
                service.startService()
            except Exception:
                self.removeService(service)
                state = next(s for s in self.states if s.name == service.name)
                self._failed(state, "startService", Failure())

    def removeService(self, service: IService) -> None:
        """Take a service out without stopping it: it never started."""
        service.running = 0
        self.services.remove(service)

    def _failed(self, state: PluginState, where: str, failure: Failure) -> None:
        state.state = "failed"
        state.error = failure.getTraceback().strip()
        text = "application {name}: {where} failed: {error}; the node goes on without it"
        error = failure.getErrorMessage()
        self.log.failure(text, failure, name=state.name, where=where, error=error)
