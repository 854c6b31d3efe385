"""Every message that crosses a link, the bus or a shard's channel to its supervisor.

Codes are for ever: a message that is retired leaves its code unused. 1 to 19 travel between
nodes, 20 to 39 between the shards of a node, 40 to 59 between a shard and its supervisor.
Fields are positional on the wire; a new one goes at the end.
"""

from __future__ import annotations

from dataclasses import dataclass

from meshsvc.wire.registry import Role, message

PROTOCOL_MIN = 1
PROTOCOL_MAX = 1
"""The range of wire protocol versions this build speaks."""


# --- between nodes -----------------------------------------------------------------------


@message(1, Role.DIALER, Role.ACCEPTOR)
@dataclass(frozen=True, slots=True)
class Hello:
    """First message of both sides: who I am, what I speak, which link this is to be.

    ``term`` and ``attempt`` are the sender's epoch on a data link, 0.0 on a control link.
    ``dial`` counts this node's dials, so that of two links one side dialed the later wins;
    the acceptor echoes it. ``expected`` is the id the dialer wants to reach, or empty.
    """

    protocol_min: int
    protocol_max: int
    features: tuple[object, ...]
    cluster: str
    node_id: str
    name: str
    incarnation: int
    host: str
    port: int
    shards: int
    link_class: int
    term: int
    attempt: int
    dial: int
    expected: str


@message(2, Role.DIALER)
@dataclass(frozen=True, slots=True)
class Confirm:
    """The dialer accepts the acceptor's Hello: proof of data both ways."""

    dial: int


@message(3, Role.DIALER, Role.ACCEPTOR)
@dataclass(frozen=True, slots=True)
class Refusal:
    """Why there will be no link; ``heals`` tells whether trying again soon can help."""

    reason: str
    text: str
    term: int
    attempt: int
    heals: bool


@message(4, Role.PEER, Role.SHARD)
@dataclass(frozen=True, slots=True)
class Ping:
    """Asks for a Pong with the same number."""

    number: int


@message(5, Role.PEER, Role.SHARD)
@dataclass(frozen=True, slots=True)
class Pong:
    """Answers a Ping."""

    number: int


@message(6, Role.PEER)
@dataclass(frozen=True, slots=True)
class EpochIs:
    """From here on the sender is at this epoch; frames behind this one belong to it."""

    term: int
    attempt: int


@message(7, Role.PEER, Role.SHARD)
@dataclass(frozen=True, slots=True)
class Envelope:
    """A batch of calls from one shard to one shard; ``body`` is opaque to those between.

    An incarnation of 0 means "whichever life is current". ``seq`` rises with what a life of
    the source shard writes; 0 is for what somebody on the way writes in its place.
    """

    source: str
    source_shard: int
    source_incarnation: int
    target: str
    target_shard: int
    target_incarnation: int
    link_class: int
    term: int
    attempt: int
    seq: int
    body: bytes


@message(8, Role.PEER)
@dataclass(frozen=True, slots=True)
class ShardGone:
    """A shard process of the sending node ended: calls to that life of it are lost."""

    shard: int
    incarnation: int


@message(9, Role.PEER, Role.SHARD)
@dataclass(frozen=True, slots=True)
class Bye:
    """The sender closes this stream on purpose."""

    reason: str
    text: str


@message(10, Role.PEER)
@dataclass(frozen=True, slots=True)
class Relayed:
    """A control envelope on its way over nodes that have links where its source has none.

    ``path`` names the nodes it went through, its source first; a node that finds itself at
    the end of it gets the message back, because ``tried`` nodes knew no way on. The lives
    are incarnations of nodes; a ``target_life`` of 0 means whichever is current. ``body``
    is the encoded ``Envelope``.
    """

    path: tuple[object, ...]
    tried: tuple[object, ...]
    source_life: int
    target: str
    target_life: int
    body: bytes


@message(11, Role.PEER)
@dataclass(frozen=True, slots=True)
class RelayLost:
    """What was relayed over the sender to a node, or to one shard of it, may be lost.

    ``whole`` means every shard; otherwise it is the given life of the given shard.
    """

    node_id: str
    whole: bool
    shard: int
    incarnation: int


@message(12, Role.PEER)
@dataclass(frozen=True, slots=True)
class Cast:
    """A control broadcast: ``body`` (items, as in an envelope) for every shard of every node.

    ``number`` rises over the lives of a node's shard 0; with the source and its incarnation
    it names the broadcast. ``age_ms`` is how long ago it was sent, as far as nodes held it.
    ``uncovered`` lists the nodes (first 16 digits of their ids) that the sender knows and
    does not reach, or is ``("*",)`` when they are too many.
    """

    source: str
    source_shard: int
    source_life: int
    number: int
    age_ms: int
    uncovered: tuple[object, ...]
    body: bytes


@message(13, Role.PEER)
@dataclass(frozen=True, slots=True)
class CastsHeld:
    """Recent broadcasts the sender has, as rows [source, its incarnation, [number...]]."""

    rows: tuple[object, ...]


@message(14, Role.PEER)
@dataclass(frozen=True, slots=True)
class CastsWanted:
    """Those of them that the receiver of a ``CastsHeld`` lacks, in the same rows."""

    rows: tuple[object, ...]


# --- between the shards of a node --------------------------------------------------------


@message(20, Role.SHARD)
@dataclass(frozen=True, slots=True)
class BusHello:
    """First message of both sides of a bus connection; ``lane`` is 0 main, 1 replies."""

    version: int
    node_id: str
    node_incarnation: int
    shard: int
    incarnation: int
    lane: int


@message(21, Role.SHARD)
@dataclass(frozen=True, slots=True)
class BusFrame:
    """The wrapper of every frame on the bus; ``body`` is an encoded message."""

    source: int
    source_incarnation: int
    target: int
    target_incarnation: int
    seq: int
    body: bytes


@message(22, Role.SHARD)
@dataclass(frozen=True, slots=True)
class LinkState:
    """The shard that owns a link tells its siblings what became of it.

    ``up`` is false when the link ended. ``rtt_us`` is the last round trip in microseconds.
    """

    node_id: str
    incarnation: int
    link_class: int
    up: bool
    term: int
    attempt: int
    rtt_us: int
    state: str


@message(23, Role.SHARD)
@dataclass(frozen=True, slots=True)
class View:
    """From shard 0: rows of the membership view that end at ``index``.

    ``whole`` means the rows replace the view; otherwise ``index`` is the last one plus one
    and each row replaces the row of its node.
    """

    index: int
    whole: bool
    rows: tuple[object, ...]


@message(24, Role.SHARD)
@dataclass(frozen=True, slots=True)
class Mesh:
    """From shard 0: the epoch in force and its roster, as rows of NodeInfo fields."""

    term: int
    attempt: int
    members: tuple[object, ...]


@message(25, Role.SHARD)
@dataclass(frozen=True, slots=True)
class RemoteShardGone:
    """A link's owner passes on that a shard of another node ended."""

    node_id: str
    shard: int
    incarnation: int


@message(26, Role.SHARD)
@dataclass(frozen=True, slots=True)
class Detours:
    """From shard 0: all nodes that control messages reach only over others.

    A row is [node, its incarnation, turn]; when any of them changes, what was under way to
    the node is lost.
    """

    rows: tuple[object, ...]


# --- between a shard and its supervisor --------------------------------------------------


@message(40, Role.SHARD)
@dataclass(frozen=True, slots=True)
class ShardReady:
    """The shard serves; ``warnings`` names what it does without (a plugin that failed)."""

    warnings: tuple[object, ...]


@message(41, Role.SHARD)
@dataclass(frozen=True, slots=True)
class Beat:
    """Sent every second by a live reactor: its lag, and all its counters."""

    number: int
    lag_ms: float
    counters: tuple[object, ...]


@message(42, Role.SHARD)
@dataclass(frozen=True, slots=True)
class Listen:
    """Asks for a share of the connections of a listener: a configured name, or tcp:PORT."""

    request: int
    listener: str


@message(43, Role.SUPERVISOR)
@dataclass(frozen=True, slots=True)
class Listening:
    """Answers Listen with the bound address, or with why not in ``error``."""

    request: int
    listener: str
    host: str
    port: int
    error: str


@message(44, Role.SHARD)
@dataclass(frozen=True, slots=True)
class HandoffAck:
    """The socket of hand-over ``seq`` was adopted (or dropped, when ``taken`` is false)."""

    seq: int
    taken: bool


@message(45, Role.SUPERVISOR)
@dataclass(frozen=True, slots=True)
class Drain:
    """Stop serving within this many seconds, then exit."""

    budget_s: float


@message(46, Role.SUPERVISOR)
@dataclass(frozen=True, slots=True)
class ShardStates:
    """What every shard of the node does, each time it changes and every second.

    A row is [index, pid, state, incarnation, restarts, lag_ms, cpu, connections].
    """

    rows: tuple[object, ...]


@message(47, Role.SUPERVISOR)
@dataclass(frozen=True, slots=True)
class NodeCounters:
    """To shard 0, after every round of beats: [shard, counter rows] with dead lives added."""

    rows: tuple[object, ...]


@message(48, Role.SHARD)
@dataclass(frozen=True, slots=True)
class Fatal:
    """The shard cannot go on and restarting it will not help: end the node."""

    exit_code: int
    text: str
