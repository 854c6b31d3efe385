"""Getting one ``CreateMesh`` to every member: asked again until acknowledged or superseded.

A member that acknowledged but shows an older epoch in gossip afterwards (its shard 0 was
restarted) is asked again too. That costs nothing when gossip was merely late, because a
verbatim repeat changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from meshsvc.model import NodeId, Roster

BEHIND_S = 3.0
"""Seconds between repeats to a member that shows an older epoch: gossip needs some rounds."""


def resend_after(attempt: int) -> float:
    """Seconds to wait after failure number ``attempt``: 0.1 doubling to 2.

    The bound keeps a member that comes back from waiting; the asks themselves time out.
    """
    return float(min(2.0, 0.1 * 2 ** min(attempt - 1, 10)))


@dataclass(slots=True)
class _Send:
    at: float | None
    failures: int = 0
    flying: bool = False
    acked: bool = False
    behind: bool = False


class Delivery:
    """The sends of one roster; at most one is in flight to each member."""

    def __init__(self, resend: Callable[[int], float] = resend_after) -> None:
        self._resend = resend
        self._sends: dict[NodeId, _Send] = {}

    @property
    def done(self) -> bool:
        """Whether every member acknowledged."""
        return all(send.acked for send in self._sends.values())

    @property
    def missing(self) -> tuple[NodeId, ...]:
        """Who has not acknowledged."""
        return tuple(node for node, send in self._sends.items() if not send.acked)

    def start(self, roster: Roster, now: float) -> None:
        """Begin anew: every member is due at once."""
        self._sends = {member.node_id: _Send(now) for member in roster.members}

    def clear(self) -> None:
        """Stop: what is in flight no longer matters."""
        self._sends = {}

    def acked(self, node: NodeId, now: float) -> bool:
        """A member accepted; tell whether it was the last one missing."""
        send = self._sends.get(node)
        if send is None:
            return False
        first, send.acked, send.flying, send.failures = not send.acked, True, False, 0
        send.at = now + BEHIND_S if send.behind else None
        return first and self.done

    def failed(self, node: NodeId, now: float) -> None:
        """A member refused or did not answer: it is asked again later."""
        send = self._sends.get(node)
        if send is not None:
            send.flying = False
            send.failures += 1
            send.at = now + self._resend(send.failures)

    def shown(self, node: NodeId, behind: bool, now: float) -> None:
        """Gossip shows whether a member holds an older epoch than the roster's."""
        send = self._sends.get(node)
        if send is None or not send.acked:
            return
        send.behind = behind
        if not behind:
            send.at = None
        elif send.at is None and not send.flying:
            send.at = now + BEHIND_S

    def deadline(self) -> float | None:
        """When ``due`` next has something to say."""
        return min((send.at for send in self._sends.values() if send.at is not None), default=None)

    def due(self, now: float) -> list[NodeId]:
        """The members to send to now; each counts as in flight until told otherwise."""
        ready = [
            node
            for node, send in self._sends.items()
            if send.at is not None and send.at <= now and not send.flying
        ]
        for node in ready:
            self._sends[node].at = None
            self._sends[node].flying = True
        return ready
