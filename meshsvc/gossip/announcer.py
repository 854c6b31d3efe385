"""Turns what is said of nodes into rows of the view and events, in that order.

A subscriber that reads the view while it is told of an event finds there what the event
says, and all values of the update it belongs to.
"""

from __future__ import annotations

from collections.abc import Callable

from meshsvc.counters import Counters
from meshsvc.gossip import events
from meshsvc.gossip.effects import Effect, Notify, ViewChanged
from meshsvc.gossip.liveness import Said
from meshsvc.gossip.members import Member, Status, View, member_of
from meshsvc.gossip.states import EndpointState, changed
from meshsvc.model import NodeId

_STATUS = {
    Said.JOINED: Status.ALIVE,
    Said.ALIVE: Status.ALIVE,
    Said.SUSPECT: Status.SUSPECT,
    Said.DEAD: Status.DEAD,
    Said.LEFT: Status.LEFT,
    Said.REMOVED: Status.REMOVED,
    Said.RESTARTED: Status.JOINING,
}

_EVENTS: dict[Said, type[events.Event]] = {
    Said.JOINED: events.Joined,
    Said.ALIVE: events.Alive,
    Said.SUSPECT: events.Suspect,
    Said.DEAD: events.Dead,
    Said.LEFT: events.Left,
    Said.REMOVED: events.Removed,
}


class Announcer:
    """Owns the view; appends ``Notify`` and ``ViewChanged`` to the list it is given."""

    def __init__(
        self,
        out: list[Effect],
        counters: Counters,
        rtt_ms: Callable[[NodeId], float | None],
    ) -> None:
        self.view = View(rtt_ms)
        self._out = out
        self._counters = counters
        self._told_index = 0
        self._replaced: dict[NodeId, Member] = {}

    def show(self, state: EndpointState, status: Status) -> None:
        """Put a state into the view."""
        old = self.view.get(state.node_id)
        if old is not None and old.generation < state.generation:
            self._replaced[state.node_id] = old
        self.view.put(member_of(state, status))

    def said(self, node: NodeId, what: Said, now: float) -> None:
        """A node has become something; subscribers hear of it."""
        member = self._restate(node, what)
        if member is None:
            return
        if what is Said.RESTARTED:
            old = self._replaced.pop(node, member)
            self._notify(events.Restarted(member, now, old))
        else:
            self._notify(_EVENTS[what](member, now))

    def said_quietly(self, node: NodeId, what: Said) -> None:
        """A node that subscribers never heard of has become something."""
        self._restate(node, what)
        self._replaced.pop(node, None)

    def changed(self, old: EndpointState, new: EndpointState, now: float) -> None:
        """The values of a node changed; all of them are in the view already."""
        keys = changed(old, new)
        member = self.view.get(new.node_id)
        if keys and member is not None:
            self._notify(events.Changed(member, now, keys))

    def flush(self) -> None:
        """Say that the view changed, if it did since the last time."""
        if self.view.index != self._told_index:
            self._told_index = self.view.index
            self._out.append(ViewChanged(self.view.index))

    def _restate(self, node: NodeId, what: Said) -> Member | None:
        return self.view.restate(node, _STATUS[what])

    def _notify(self, event: events.Event) -> None:
        self._counters.add("gossip_events_total", event=event.name)
        self._out.append(Notify(event))
