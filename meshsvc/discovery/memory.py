"""Which peers a node remembers for its next life, and where it looks for them then.

A cluster that lost every process at once finds itself again by these alone (GSP-11). One
node of it need not remember all others: half of what it keeps are the nodes that come next
after it in the order of ids, which link all memories into a ring, the other half are the
first by id, which are the same for everybody.
"""

from __future__ import annotations

from collections.abc import Iterable

from meshsvc.gossip.members import Member, Status
from meshsvc.model import Address, NodeId

MAX_REMEMBERED = 64
"""Each is dialed from the first moment of the next life on, until it answers."""

FORGOTTEN = (Status.JOINING, Status.REMOVED)
"""Not proven yet, or never to come back. The dead and those that left may be restarted."""


def remembered(me: NodeId, members: Iterable[Member]) -> tuple[Address, ...]:
    """The addresses to keep on disk, sorted, at most ``MAX_REMEMBERED``."""
    others = [m for m in members if m.node_id != me and m.status not in FORGOTTEN]
    # The living first: the dead may be dead for good.
    others.sort(key=lambda m: (not m.alive, m.node_id < me, m.node_id))
    ring = others[: MAX_REMEMBERED // 2]
    first = sorted(others, key=lambda m: (not m.alive, m.node_id))
    kept = dict.fromkeys(member.address for member in (*ring, *first))
    return tuple(sorted(list(kept)[:MAX_REMEMBERED]))
