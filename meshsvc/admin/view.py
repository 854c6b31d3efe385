"""What the admin side asks of a running node: one protocol, provided by the node itself.

Every answer is made of what JSON carries, plus bytes; ``None`` stands for "not known". All
methods are called on the reactor thread and return at once, except where a Deferred is
named. Keys that are not listed may be added freely: they are shown as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from meshsvc.model import Epoch

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from meshsvc.tables.service import Tables

Row = dict[str, Any]
Event = dict[str, Any]

MetricRows = tuple[dict[str, str], Sequence[Sequence[object]]]
"""(labels to add to each row, rows of ``Counters.snapshot()``)."""


class NodeView(Protocol):
    """One node as its operators see it."""

    @property
    def tables(self) -> Tables:
        """The tables of shard 0: its copies, which are those of the node."""
        ...

    def status(self) -> Row:
        """The node in one row.

        ``name``, ``id``, ``cluster``, ``generation``, ``pid`` (of the supervisor),
        ``version``, ``epoch`` ("T.A"), ``state`` (of the mesh), ``uptime_s`` and
        ``addresses`` ({listener: "host:port"}); ``ready`` and ``reasons`` are added.
        """
        ...

    def members(self) -> list[Row]:
        """One row per known node, this one included.

        ``name``, ``id``, ``status`` (alive, suspect, dead, left or removed), ``generation``,
        ``address``, ``shards``, ``rtt_ms``.
        """
        ...

    def mesh(self) -> Row:
        """``epoch`` ("T.A"), ``state``, ``roster`` and ``links``.

        A link has ``peer`` (its name), ``state``, ``epoch``, ``owner_shard`` and ``rtt_ms``.
        """
        ...

    def shards(self) -> list[Row]:
        """One row per shard: ``index``, ``pid``, ``state``, ``incarnation``, ``restarts``."""
        ...

    def plugins(self) -> list[Row]:
        """One row per plugin found: ``name``, ``interface``, ``state``, ``error`` or None."""
        ...

    def discovery(self) -> Deferred[Row]:
        """Where this node looks for peers, and how it stands with them.

        Fires within some seconds, whoever is silent, with the fields of
        ``meshsvc.discovery.status.Status`` and those of ``DiscoveryService.info``, and
        ``missing``, what the node waits for before it is ready. Never fails.
        """
        ...

    def ready(self) -> tuple[bool, list[str]]:
        """Whether the node serves, and what it waits for when not."""
        ...

    def live(self) -> tuple[bool, list[str]]:
        """Whether the node makes progress, and what is stuck when not."""
        ...

    def metrics(self) -> list[MetricRows]:
        """The counters of each process of the node, with the labels that tell them apart."""
        ...

    def call(self, target: str, verb: str, payload: object, timeout_s: float) -> Deferred[object]:
        """Ask a verb of a target as ``meshsvc.admin.targets`` reads it.

        Fires with the reply; for "all" with a list of ``{"node", "reply"}`` and
        ``{"node", "error": {"kind", "text"}}``. Fails with a ``CallError`` or ``LocalError``.
        """
        ...

    def query(
        self,
        name: str,
        payload: object,
        timeout_s: float,
        nodes: Sequence[str] | None,
        tags: Mapping[str, object] | None,
    ) -> Deferred[Row]:
        """Ask every node alive, the named ones, or those with these tags.

        Fires with ``answers``, a list as for ``call`` of "all", and ``missing``, the names
        of the nodes that did not answer. Fails with a ``LocalError``.
        """
        ...

    def send_event(self, name: str, payload: object, coalesce: bool) -> Deferred[None]:
        """Send a user event to all nodes. Fails with a ``CallError`` or ``LocalError``."""
        ...

    def form_mesh(self, epoch: Epoch) -> Deferred[Row]:
        """Form the mesh under an epoch by hand.

        Fires with what ``mesh()`` then says. Fails with ``EpochConflict``,
        ``EpochSuperseded`` or another ``LocalError``.
        """
        ...

    def store(self) -> Deferred[Row]:
        """The consistent store: see ``StoreView.status``.

        Fires within a second or so. Fails with ``NoStore`` when this node holds none.
        """
        ...

    def transfer_store(self, node: str, timeout_s: float) -> Deferred[Row]:
        """Hand the leadership of the store to a node, by its name or id.

        Fires with what ``store()`` then says. Fails with ``NoStore``, ``NoSuchTarget``, a
        ``CallError`` or a ``KvError``.
        """
        ...

    def add_event_listener(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        """Call back with each event from now on; returns what ends that.

        An event has ``type`` and ``at`` (unix seconds), most have ``node``.
        """
        ...
