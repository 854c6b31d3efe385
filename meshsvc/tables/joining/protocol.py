"""The other shards of a node are told whom its tables are joined with, when that changed.

Who has a view, or was just sent it, is not sent the same again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, DeferredList
from twisted.python.failure import Failure

from meshsvc.model import Incarnation, ShardAddress, ShardId

if TYPE_CHECKING:
    from meshsvc.tables.service import Tables

ASK_S = 2.0
"""A sibling that does not answer is busy or gone; the next look at who is up tries again."""

SiblingLife = tuple[ShardId, Incarnation]


@dataclass(slots=True)
class _Told:
    """The last view a sibling was sent, and when it answered; ``failed`` when it did not."""

    view: dict[str, Any]
    failed: bool = False
    known: Deferred[None] = field(default_factory=Deferred)

    def fail(self, failure: Failure) -> None:
        self.failed = True


class Telling:
    """See the module's docstring; ``host`` is the tables of this shard, a seat."""

    def __init__(self, host: Tables) -> None:
        self._host = host
        self._told: dict[SiblingLife, _Told] = {}

    async def tell(self, view: dict[str, Any]) -> None:
        """Done when every sibling that is up has the view, or does not answer."""
        up = self._host.ways.siblings()
        self._told = {life: told for life, told in self._told.items() if life in up}
        await DeferredList([self._send(life, view) for life in up])

    @property
    def behind(self) -> bool:
        """Whether a sibling that is up was not told, or did not answer."""
        told = map(self._told.get, self._host.ways.siblings())
        return any(each is None or each.failed for each in told)

    def _send(self, life: SiblingLife, view: dict[str, Any]) -> Deferred[None]:
        told = self._told.get(life)
        if told is None or told.failed or told.view != view:
            told = self._told[life] = _Told(view)
            sibling = ShardAddress(self._host.me.node_id, life[0])
            asked = self._host.ask(sibling, "tables.view", view, ASK_S)
            told.known = asked.addCallbacks(lambda _: None, told.fail)
        return told.known
