"""The membership as an application sees it, in whichever shard it runs.

Gossip runs on shard 0; every shard holds a copy of the view, brought up to date in order by
rows with an applied index. What happened between two states of a row is read off the rows,
so that all shards tell the same story, shard 0 included.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from meshsvc.errors import NoSuchTarget, TimedOut
from meshsvc.gossip.events import (
    Alive,
    Changed,
    Dead,
    Event,
    Joined,
    Left,
    Removed,
    Restarted,
    Resync,
    Suspect,
)
from meshsvc.gossip.members import Member, Status

MAX_UNREAD = 256
"""Events one watcher may leave unread; beyond it gets one Resync in their place."""

SHOWN = 20
"""Names that an error lists: a screen's worth."""

_HAPPENED: dict[Status, type[Event]] = {
    Status.ALIVE: Alive,
    Status.SUSPECT: Suspect,
    Status.DEAD: Dead,
    Status.LEFT: Left,
    Status.REMOVED: Removed,
}


def difference(old: Member | None, new: Member, at: float) -> Iterator[Event]:
    """What happened to a node between two of its rows, oldest first."""
    if old is not None and new.generation > old.generation:
        yield Restarted(new, at, old)
        old = None
    if old is None or old.status is Status.JOINING:
        if new.alive:
            yield Joined(new, at)
        if new.status in (Status.JOINING, Status.ALIVE):
            return
        old = new if old is None and new.alive else old
    if old is None or old.status is not new.status:
        happened = _HAPPENED.get(new.status)
        if happened is not None:
            yield happened(new, at)
    if old is not None and old.values != new.values:
        yield Changed(new, at, changed_values(old, new))


def changed_values(old: Member, new: Member) -> dict[str, Any]:
    """The values that differ; None for those that are gone."""
    changed = {key: value for key, value in new.values.items() if old.values.get(key) != value}
    changed.update(dict.fromkeys(set(old.values) - set(new.values)))
    return changed


class Watch:
    """An endless ``async for`` over events; bounded, so one that does not read gets a Resync."""

    def __init__(self, members: Members) -> None:
        self._members = members
        self._unread: deque[Event | Resync] = deque()
        self._waiting: Deferred[Event | Resync] | None = None

    def __aiter__(self) -> Watch:
        return self

    def __anext__(self) -> Deferred[Event | Resync]:
        waiting: Deferred[Event | Resync] = Deferred()
        if self._unread:
            waiting.callback(self._unread.popleft())
        else:
            self._waiting = waiting
        return waiting

    def take(self, event: Event) -> None:
        """Another event happened."""
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            waiting.callback(event)
            return
        if len(self._unread) >= MAX_UNREAD:
            self._unread.clear()
            self._unread.append(Resync(self._members.all, event.at))
        else:
            self._unread.append(event)

    def close(self) -> None:
        """Watch no longer."""
        self._members.unwatch(self)


class Members:
    """Who is there: a frozen snapshot at any moment, and what changes."""

    log = Logger()

    def __init__(
        self, clock: IReactorTime, set_tag: Callable[[str, object], Deferred[Any]]
    ) -> None:
        self.index = 0
        self._clock = clock
        self._set_tag = set_tag
        self._by_id: dict[str, Member] = {}
        self._watches: list[Watch] = []
        self._callbacks: list[Callable[[Event], object]] = []

    # --- reading -------------------------------------------------------------------------

    @property
    def all(self) -> tuple[Member, ...]:
        """Every node that is listed, whatever its status, by name."""
        return tuple(sorted(self._by_id.values(), key=lambda m: (m.name, m.node_id)))

    @property
    def alive(self) -> tuple[Member, ...]:
        """The nodes that may be counted on, by name."""
        return tuple(member for member in self.all if member.alive)

    def get(self, name: str) -> Member | None:
        """A node by name or id; of two of one name the one that is alive, or the later."""
        found = self._by_id.get(name)
        if found is not None:
            return found
        named = [member for member in self._by_id.values() if member.name == name]
        return max(named, key=lambda m: (m.alive, m.generation), default=None)

    def __getitem__(self, name: str) -> Member:
        member = self.get(name)
        if member is None:
            known = ", ".join(each.name for each in self.all[:SHOWN])
            more = ", ..." if len(self) > SHOWN else ""
            raise NoSuchTarget(f"no member is called {name!r:.80}; members: {known}{more}")
        return member

    def __iter__(self) -> Iterator[Member]:
        return iter(self.all)

    def __len__(self) -> int:
        return len(self._by_id)

    # --- following -----------------------------------------------------------------------

    def watch(self) -> Watch:
        """Every event from now on, as an asynchronous iterator."""
        watch = Watch(self)
        self._watches.append(watch)
        return watch

    def unwatch(self, watch: Watch) -> None:
        """End a watch."""
        if watch in self._watches:
            self._watches.remove(watch)

    def on_change(self, callback: Callable[[Event], object]) -> Callable[[], None]:
        """Call ``callback`` with every event; returns what ends that.

        A callback that raises is logged, and called again at the next event.
        """
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback)

    def wait_alive(self, names: Sequence[str], timeout_s: float) -> Deferred[None]:
        """Fires when all the named nodes are alive; fails with TimedOut naming those missing."""
        done: Deferred[None] = Deferred()
        timer: list[IDelayedCall] = []

        def missing() -> list[str]:
            return [n for n in names if (m := self.get(n)) is None or not m.alive]

        def check(_: object = None) -> None:
            if not done.called and not missing():
                timer[0].cancel()
                end()
                done.callback(None)

        def expire() -> None:
            end()
            done.errback(TimedOut(f"not alive after {timeout_s} s: {', '.join(missing())}"))

        end = self.on_change(check)
        timer.append(self._clock.callLater(timeout_s, expire))
        check()
        return done

    def tag(self, key: str, value: object) -> Deferred[Any]:
        """Set a label of this node, gossiped to all; None takes it away."""
        return self._set_tag(key, value)

    # --- being told ----------------------------------------------------------------------

    def apply(self, index: int, whole: bool, rows: Sequence[Any]) -> bool:
        """Bring the copy up to ``index``; False when rows are missing in between."""
        if not whole and not self.index:
            return False
        for row in rows:
            new = Member.from_row(list(row))
            old = self._by_id.get(new.node_id)
            self._by_id[new.node_id] = new
            for event in difference(old, new, self._clock.seconds()):
                self._tell(event)
        self.index = index
        return True

    def _tell(self, event: Event) -> None:
        for watch in list(self._watches):
            watch.take(event)
        for callback in list(self._callbacks):
            try:
                callback(event)
            except Exception:
                self.log.failure("a callback on members failed")
