"""Broadcast on the control plane: every member once, over any connected topology.

A node sends its broadcast over all its links, which in a healthy cluster is all: n - 1
messages, one hop. The message says whom that leaves out. Who gets it passes it on to those
of them it has a link to; of the common neighbours of the source and a node left out, two
chosen by the broadcast's number do, so that a single cut costs two messages and not one from
every member. Farther from the source everybody does. Nobody has to want a broadcast to pass
it on.

What members claim may be old, and outboxes full: so a broadcast is held for ``HOLD_S``, and
as long as a node holds any it tells ``PARTNERS`` of its neighbours a second which, in turn;
they ask for what they lack. Then everything falls silent.

Each is delivered at most once: the numbers seen of each source are remembered in a window.
One that is older than this process is not delivered: its node may have had it in an earlier
life, and who joins is not told what was said before. A shard 0 that was restarted leaves out
what may be older, too: the siblings have heard it. What the source itself sends over a link is
new, for links begin with the process; of all else the time on the way is not known. Pure, but
for ``hand`` and ``deliver``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from meshsvc.counters import Counters
from meshsvc.model import NodeId, Sent
from meshsvc.relay.claims import MAX_LISTED, SHORT
from meshsvc.relay.routes import Routes
from meshsvc.wire.messages import Cast, CastsHeld, CastsWanted

MAX_BODY = 64 * 1024
"""Bytes of one broadcast: it is copied to every node. Larger things are asked for."""

HOLD_S = 30.0
"""Long enough for a node with a hundred links to have told each of them once."""

REPAIR_S = 1.0
PARTNERS = 4
"""Neighbours told of what is held, each second: a hundred bytes to each."""

ON_THE_WAY_S = 6.0
"""A link that is silent for 5 s is cut, so a message was on its way for less."""

MAX_HELD = 512
MAX_HELD_BYTES = 4 * 1024 * 1024
"""Broadcasts held at once; beyond it the oldest is only passed on at once, not repaired."""

WINDOW = 1024
"""Numbers of one source that are told apart; twice as many as are held anywhere."""

MAX_SOURCES = 8192
"""Sources whose numbers are remembered: as many nodes as a cluster may have."""

COPIES = 2
"""Common neighbours that pass a broadcast on to one node: one of them may be wrong."""

ALL = "*"

Key = tuple[str, int, int]
"""(source, its incarnation, number)."""


@dataclass(slots=True)
class _Source:
    life: int
    top: int = 0
    numbers: set[int] = field(default_factory=set)


class Seen:
    """Which broadcasts were seen, of each source's newest life."""

    def __init__(self) -> None:
        self._sources: dict[str, _Source] = {}

    def __contains__(self, key: Key) -> bool:
        """Whether it was seen, or is too old to tell."""
        name, life, number = key
        source = self._sources.get(name)
        if source is None or life > source.life:
            return False
        return life < source.life or number <= source.top - WINDOW or number in source.numbers

    def add(self, key: Key) -> bool:
        """Note one; False when it was seen before."""
        if key in self:
            return False
        name, life, number = key
        source = self._sources.pop(name, None)
        if source is None or life > source.life:
            source = _Source(life)
        self._sources[name] = source
        if len(self._sources) > MAX_SOURCES:
            del self._sources[next(iter(self._sources))]
        source.top = max(source.top, number)
        source.numbers.add(number)
        if len(source.numbers) > 2 * WINDOW:
            source.numbers = {n for n in source.numbers if n > source.top - WINDOW}
        return True


@dataclass(frozen=True, slots=True)
class _Held:
    cast: Cast
    since: float

    def age_s(self, now: float) -> float:
        return self.cast.age_ms / 1000 + now - self.since


class Casts:
    """The broadcasts of one node."""

    def __init__(
        self,
        routes: Routes,
        life: tuple[int, int],
        hand: Callable[[NodeId, object], Sent],
        deliver: Callable[[Cast], object],
        counters: Counters,
        now: float,
    ) -> None:
        """Build it.

        Args:
            routes: of this node.
            life: the incarnations of this node and of its shard 0.
            hand: sends a message to a neighbour.
            deliver: takes each broadcast of others, and of this node, once.
            counters: of this shard.
            now: when this process began, in seconds.
        """
        self._routes = routes
        self._life, shard_life = life
        self._number = shard_life << 32
        self._doubt_s = ON_THE_WAY_S if shard_life > 1 else 0.0
        self._hand = hand
        self._deliver = deliver
        self._counters = counters
        self._began = now
        self._seen = Seen()
        self._held: dict[Key, _Held] = {}
        self._bytes = 0
        self._repair_at = 0.0
        self._told_last = routes.me

    # --- out -----------------------------------------------------------------------------

    def cast(self, shard: int, body: bytes, now: float) -> int:
        """Send a broadcast of a shard of this node; answers its number."""
        self._number += 1
        routes = self._routes
        uncovered = _short(routes.apart())
        message = Cast(routes.me, shard, self._life, self._number, 0, uncovered, body)
        self._take(message, now, new=True)
        for node in sorted(routes.linked):
            self._send(node, message, "sent")
        return self._number

    def _send(self, node: NodeId, message: Cast, what: str) -> None:
        sent = self._hand(node, message)
        self._count(what if sent is Sent.ACCEPTED else "unsent")

    # --- in ------------------------------------------------------------------------------

    def received(self, peer: NodeId, message: Cast, now: float) -> None:
        """A neighbour sent a broadcast."""
        if message.age_ms < 0 or len(message.body) > MAX_BODY or message.number <= 0:
            self._count("malformed")
        elif self._take(message, now, new=peer == message.source and message.age_ms == 0):
            self._pass_on(peer, message)
        else:
            self._count("again")

    def _take(self, message: Cast, now: float, new: bool) -> bool:
        """Note, hold and deliver one, unless it is known."""
        key = _key(message)
        if not self._seen.add(key):
            return False
        self._hold(key, _Held(message, now))
        if new or message.age_ms / 1000 + self._doubt_s <= now - self._began:
            self._count("delivered")
            self._deliver(message)
        else:
            self._count("before-us")
        return True

    def _hold(self, key: Key, held: _Held) -> None:
        if not self._held:
            self._repair_at = held.since + REPAIR_S
        self._held[key] = held
        self._bytes += len(held.cast.body)
        while len(self._held) > MAX_HELD or self._bytes > MAX_HELD_BYTES:
            self._drop(next(iter(self._held)))

    def _drop(self, key: Key) -> None:
        self._bytes -= len(self._held.pop(key).cast.body)

    def _pass_on(self, peer: NodeId, message: Cast) -> None:
        if not message.uncovered:
            return
        near = [node for node in self._left_out(message) if node != peer]
        if peer == message.source and message.uncovered != (ALL,):
            near = [node for node in near if self._chosen(message.number, peer, node)]
        if message.uncovered != (ALL,):
            sent = {node[:SHORT] for node in near}
            left = tuple(one for one in message.uncovered if one not in sent)
            message = replace(message, uncovered=left)
        for node in near:
            self._send(node, message, "passed")

    def _left_out(self, message: Cast) -> list[NodeId]:
        """The neighbours of this node that the sender did not reach."""
        linked = sorted(self._routes.linked - {NodeId(message.source)})
        if message.uncovered == (ALL,):
            reached = self._routes.neighbours(NodeId(message.source))
            return [node for node in linked if node not in reached]
        uncovered = frozenset(message.uncovered)
        return [node for node in linked if node[:SHORT] in uncovered]

    def _chosen(self, number: int, source: NodeId, node: NodeId) -> bool:
        routes = self._routes
        common = routes.neighbours(source) & routes.neighbours(node)
        able = sorted({*common, routes.me} - {source, node})
        first = number % len(able)
        return routes.me in [able[(first + turn) % len(able)] for turn in range(COPIES)]

    # --- repair --------------------------------------------------------------------------

    def link_up(self, node: NodeId) -> None:
        """A neighbour is there, or there again: it is told what it may have missed."""
        if self._held:
            self._hand(node, CastsHeld(_rows(self._held)))

    def held(self, peer: NodeId, message: CastsHeld) -> None:
        """A neighbour has these."""
        wanted = [key for key in _keys(message.rows) if key not in self._seen]
        if wanted:
            self._hand(peer, CastsWanted(_rows(wanted)))

    def wanted(self, peer: NodeId, message: CastsWanted, now: float) -> None:
        """A neighbour lacks these."""
        for key in _keys(message.rows):
            held = self._held.get(key)
            if held is not None:
                age_ms = round(held.age_s(now) * 1000)
                self._send(peer, replace(held.cast, age_ms=age_ms), "repaired")

    def deadline(self) -> float | None:
        """When ``tick`` is next wanted; None while nothing is held."""
        return self._repair_at if self._held else None

    def tick(self, now: float) -> None:
        """Forget what is old, and tell some neighbours what is held."""
        if not self._held or now < self._repair_at:
            return
        self._repair_at = now + REPAIR_S
        for key in [key for key, held in self._held.items() if held.age_s(now) > HOLD_S]:
            self._drop(key)
        if self._held:
            told = CastsHeld(_rows(self._held))
            for node in self._partners():
                self._hand(node, told)

    def _partners(self) -> list[NodeId]:
        """The next neighbours in turn."""
        linked = sorted(self._routes.linked)
        turned = [node for node in linked if node > self._told_last]
        turned += [node for node in linked if node <= self._told_last]
        partners = turned[:PARTNERS]
        if partners:
            self._told_last = partners[-1]
        return partners

    def _count(self, what: str) -> None:
        self._counters.add("cast_messages_total", what=what)


def _key(message: Cast) -> Key:
    return (message.source, message.source_life, message.number)


def _short(nodes: list[NodeId]) -> tuple[object, ...]:
    if len(nodes) > MAX_LISTED:
        return (ALL,)
    return tuple(node[:SHORT] for node in nodes)


def _rows(keys: Iterable[Key]) -> tuple[object, ...]:
    found: dict[tuple[str, int], list[int]] = {}
    for source, life, number in keys:
        found.setdefault((source, life), []).append(number)
    return tuple([*of, numbers] for of, numbers in found.items())


def _keys(rows: tuple[object, ...]) -> list[Key]:
    """The broadcasts in rows of a neighbour; rows that are none are passed over."""
    keys: list[Key] = []
    for row in rows:
        if type(row) is list and len(row) == 3 and type(row[2]) is list:
            source, life, numbers = row
            if type(source) is str and type(life) is int:
                keys += [(source, life, n) for n in numbers if type(n) is int]
    return keys[:MAX_HELD]
