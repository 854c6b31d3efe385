"""What this node says of itself, and when: changes at once, a beat when it is suspected.

Only the node itself ever makes its versions rise. If somebody believes it said more than it
remembers, it says everything again above that; if somebody believes in a later life of it,
another process uses its identity, which is counted and left to the handshake to settle.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from meshsvc.gossip.announcer import Announcer
from meshsvc.gossip.endpoints import Endpoints
from meshsvc.gossip.members import Status
from meshsvc.gossip.own import OwnState
from meshsvc.gossip.rumors import Rumors
from meshsvc.gossip.states import Delta, EndpointState

BEAT_PAUSE_S = 0.1
"""Accusations within this time are refuted by one beat: the first reaches all of them."""


class Voice:
    """This node's own state, published to its own view and to the rumors once it may speak."""

    def __init__(
        self, own: OwnState, endpoints: Endpoints, rumors: Rumors, announcer: Announcer
    ) -> None:
        self._own = own
        self._endpoints = endpoints
        self._rumors = rumors
        self._announcer = announcer
        self._beat_at = 0.0
        self._status = Status.JOINING
        announcer.show(own.state, self._status)

    @property
    def speaking(self) -> bool:
        """Whether what it says is published: after it entered, until its goodbye."""
        return self._status is Status.ALIVE

    @property
    def state(self) -> EndpointState:
        """What it says now."""
        return self._own.state

    def speak_up(self) -> None:
        """From now on the state of this node is published."""
        self._status = Status.ALIVE
        self._endpoints.put(self._own.state)
        self._announcer.show(self._own.state, self._status)

    def say_goodbye(self) -> None:
        """The last thing this node says of itself."""
        self._own.update({"status": "left"})
        self._endpoints.put(self._own.state)
        self._status = Status.LEFT
        self._announcer.show(self._own.state, self._status)

    def say(self, values: Mapping[str, Any], now: float) -> None:
        """Set several keys as one update.

        Raises:
            BadValue: as ``OwnState.update``.
        """
        old = self._own.state
        self._own.update(values)
        self._publish(old, now)

    def beat(self, now: float) -> bool:
        """Say that this node lives; False when that was said a moment ago."""
        if now - self._beat_at < BEAT_PAUSE_S:
            return False
        self._beat_at = now
        old = self._own.state
        self._own.beat()
        self._publish(old, now)
        return True

    def overheard(self, delta: Delta, now: float) -> bool:
        """What others believe this node said; False when it speaks of a later life."""
        mine, theirs = self._own.state, delta.state
        if theirs.generation == mine.generation and theirs.version > mine.version:
            self._own.outrun(theirs.version)
            self._publish(mine, now)
        return theirs.generation <= mine.generation

    def clock_set_back(self, now: float) -> None:
        """The clock jumped back to ``now``."""
        self._beat_at = min(self._beat_at, now)

    def _publish(self, old: EndpointState, now: float) -> None:
        state = self._own.state
        self._announcer.show(state, self._status)
        if self.speaking:
            self._endpoints.put(state)
            self._rumors.add(state.node_id, old.version, now)
            self._announcer.changed(old, state, now)
