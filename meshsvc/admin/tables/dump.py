"""A whole table as JSON lines, in bounded memory and slices of the reactor's time.

What is held for a dump is the list of its keys, 8 bytes a row; values are read when their turn
comes, so a row that is written meanwhile is dumped as it is then, and one that is deleted is
left out. The client's reading sets the pace: a slice is made when the last one is sent.

The first line describes the table, the last is ``{"end": rows}``: without it the dump is not
whole, since a node that dies in between ends the stream as well.
"""

# mypy: allow-untyped-calls

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import IPullProducer
from zope.interface import implementer

from meshsvc.admin.answers import to_json
from meshsvc.tables.rows import Kind

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall, IReactorTime
    from twisted.web.http import Request

    from meshsvc.tables.replica import Replica

SLICE_ROWS = 500
SLICE_BYTES = 64 * 1024
"""A slice ends with whichever is first: two milliseconds of encoding."""

STALLED_S = 30.0
"""A client that takes nothing for so long is cut: what a dump holds is not to be held for ever."""

MAX_DUMPS = 8
"""At once, in one node."""


class Dump:
    """The lines of one table, a slice at a time."""

    def __init__(
        self, replica: Replica, table: dict[str, Any], name_of: Callable[[str], str]
    ) -> None:
        self._replica, self._name_of = replica, name_of
        ordered = replica.schema.kind is Kind.ORDERED
        keys: Sequence[Any] = list(replica.scan(None, None) if ordered else replica.values)
        self._lines = self._each(keys, table)

    def _each(self, keys: Sequence[Any], table: dict[str, Any]) -> Iterator[bytes]:
        yield to_json({"table": table | {"keys": len(keys)}}) + b"\n"
        count = 0
        for key in keys:
            for row in rows_of(self._replica, key, self._name_of):
                yield to_json(row) + b"\n"
                count += 1
        yield to_json({"end": count}) + b"\n"

    def slice(self) -> bytes:
        """The next lines; empty at the end."""
        lines: list[bytes] = []
        size = 0
        for line in self._lines:
            lines.append(line)
            size += len(line)
            if size >= SLICE_BYTES or len(lines) >= SLICE_ROWS:
                break
        return b"".join(lines)


def rows_of(
    replica: Replica, key: Any, name_of: Callable[[str], str]
) -> Iterator[dict[str, object]]:
    """The rows of a key as they are shown: one, or in a bag one for each value."""
    bag = replica.schema.kind is Kind.BAG
    for rid in [(key, data) for data in replica.elements(key)] if bag else [key]:
        row = replica.rows.get(rid)
        if row is None or row.dead:
            continue
        shown = {"key": key, "value": replica.value_of(rid), "version": row.stamp}
        if row.owner is not None:
            shown["owner"] = name_of(row.owner.node)
        yield shown


@implementer(IPullProducer)
class DumpStream:
    """One client that is sent a dump; ``done`` is called once it is over, whichever way."""

    def __init__(
        self, dump: Dump, request: Request, reactor: IReactorTime, done: Callable[[], object]
    ) -> None:
        self._dump, self._request, self._reactor, self._done = dump, request, reactor, done
        self._stalled: IDelayedCall | None = None
        self._over = False

    def start(self, cut: Callable[[], None]) -> None:
        """Send the first slice, and the next whenever one is taken; ``cut`` drops the client."""
        self._cut = cut
        self._request.notifyFinish().addBoth(lambda _: self.stopProducing())
        self._request.registerProducer(self, False)

    def resumeProducing(self) -> None:
        """The client took what it was sent."""
        if self._over:
            return
        self._wait(False)
        data = self._dump.slice()
        if data:
            self._request.write(data)
            self._wait(True)
            return
        self._request.unregisterProducer()
        self._request.finish()

    def stopProducing(self) -> None:
        """It is over: sent, or the client has gone."""
        if not self._over:
            self._over = True
            self._wait(False)
            self._done()

    def _wait(self, on: bool) -> None:
        if self._stalled is not None and self._stalled.active():
            self._stalled.cancel()
        self._stalled = self._reactor.callLater(STALLED_S, self._stall) if on else None

    def _stall(self) -> None:
        self.stopProducing()
        self._cut()
