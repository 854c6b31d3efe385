"""What is told of every call, whatever carried it: counters, and faults for the log."""

from __future__ import annotations

from collections.abc import Callable

from meshsvc.counters import Counter, Counters, Histogram
from meshsvc.etcd.status import Code


class Observer:
    """Counts calls by procedure and status; ``log_fault`` gets what should not happen."""

    def __init__(
        self, counters: Counters, log_fault: Callable[[str, BaseException | None], None]
    ) -> None:
        self.counters = counters
        self._log_fault = log_fault
        self._ended: dict[tuple[str, int], Counter] = {}
        self._seconds: dict[str, Histogram] = {}

    def ended(self, path: str, code: int, seconds: float) -> None:
        """A call ended with a status, ``seconds`` after it began."""
        counter = self._ended.get((path, code))
        if counter is None:
            name = Code(code).name.lower() if code in Code.__members__.values() else str(code)
            counter = self.counters.counter("etcd_requests_total", method=path, code=name)
            self._ended[path, code] = counter
        counter.value += 1
        histogram = self._seconds.get(path)
        if histogram is None:
            histogram = self.counters.histogram("etcd_request_seconds", method=path)
            self._seconds[path] = histogram
        histogram.observe(seconds)

    def fault(self, path: str, error: BaseException | None) -> None:
        """A call failed in a way no client caused."""
        self.counters.add("etcd_faults_total", method=path)
        self._log_fault(path, error)

    def refused(self, reason: str) -> None:
        """A connection was not taken, or was ended for what it did."""
        self.counters.add("etcd_connections_refused_total", reason=reason)
