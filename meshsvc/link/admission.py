"""Whether a peer that says Hello may have a link, and if not, why, in words for both sides.

``judge`` is one pure function over three values: who I am, what the peer says, what I know.
Both ends run it, so each refusal is seen from both sides. A refusal ``heals`` when trying
again soon can help; the others are retried after a long wait only (LINK-2).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from string import hexdigits

from meshsvc.link.pairing import LinkKey, survivor
from meshsvc.model import (
    MAX_SHARDS,
    NO_EPOCH,
    Address,
    Epoch,
    Incarnation,
    LinkClass,
    NodeId,
    NodeInfo,
    Roster,
)
from meshsvc.wire.messages import PROTOCOL_MAX, PROTOCOL_MIN, Hello, Refusal

LASTING = frozenset(
    {"wrong-cluster", "version", "self-dial", "wrong-node", "removed"}
    | {"stale-incarnation", "feature", "malformed", "frame-too-large", "trailing-bytes"}
    | {"tag", "unknown-code", "wrong-role"}
)
"""Reasons that stay until a person or another process acts; all others heal. So does a
name-collision: the other node of the name may be one that died a moment ago."""

MAX_NAME = 255
MAX_FEATURES = 64
MAX_NUMBER = 2**63
"""Bounds of what a Hello may hold, so that it can be kept and printed."""


def heals(reason: str) -> bool:
    """Whether trying again soon can help against a refusal or an end with this reason."""
    return reason not in LASTING


@dataclass(frozen=True, slots=True)
class Local:
    """Who this node is on its links."""

    cluster: str
    node_id: NodeId
    name: str
    incarnation: Incarnation
    address: Address
    shards: int
    features: tuple[str, ...] = ()
    protocol_min: int = PROTOCOL_MIN
    protocol_max: int = PROTOCOL_MAX


@dataclass(frozen=True, slots=True)
class Live:
    """A link that is up: its peer, and what orders it among its duplicates."""

    info: NodeInfo
    key: LinkKey
    proven: bool = True


@dataclass(slots=True)
class Known:
    """What this node knows of others when it judges one.

    ``names`` are the names of nodes known to be alive; ``enabled`` the features every
    member must have; ``incarnations`` the latest life heard of, by node.
    """

    epoch: Epoch = NO_EPOCH
    roster: Roster | None = None
    removed: frozenset[NodeId] = frozenset()
    names: Mapping[str, NodeId] = field(default_factory=dict)
    enabled: frozenset[str] = frozenset()
    incarnations: Mapping[NodeId, Incarnation] = field(default_factory=dict)
    live: Callable[[NodeId, LinkClass], Live | None] = lambda node, link_class: None

    def latest(self, node: NodeId) -> Incarnation | None:
        """The latest life of a node that was heard of."""
        return self.incarnations.get(node)


@dataclass(frozen=True, slots=True)
class Plea:
    """One judgement: the peer's Hello, what this side knows, and how the link came about.

    ``epoch`` is what this side's own Hello says (or will say); ``dialing`` tells whether
    this side dialed, ``expect`` whom it expects then.
    """

    me: Local
    peer: Hello
    known: Known
    epoch: Epoch
    dialing: bool
    expect: str = ""

    def refuse(self, reason: str, text: str) -> Refusal:
        """The refusal, with this side's epoch and whether the reason heals."""
        epoch = self.known.epoch
        return Refusal(reason, text, epoch.term, epoch.attempt, heals(reason))

    @property
    def who(self) -> str:
        """The peer, for people."""
        return describe(self.peer.name, self.peer.node_id)


def describe(name: str, node_id: str) -> str:
    """How logs and refusals name a node."""
    return f"{name} ({node_id[:8]})"


def malformed(peer: Hello) -> str | None:
    """What is wrong with the values of a Hello, before any of them is used."""
    checks = (
        (_is_node_id(peer.node_id), "node_id is not 32 lowercase hex digits"),
        (not peer.expected or _is_node_id(peer.expected), "expected is not a node id"),
        (0 < len(peer.name) <= MAX_NAME and peer.name.isprintable(), "name is not a name"),
        (len(peer.cluster) <= MAX_NAME and peer.cluster.isprintable(), "cluster is not a name"),
        (len(peer.host) <= MAX_NAME and peer.host.isprintable(), "host is not a host"),
        (0 <= peer.port <= 65535, "port is out of range"),
        (0 < peer.incarnation < MAX_NUMBER, "incarnation is out of range"),
        (0 < peer.shards <= MAX_SHARDS, "shards is out of range"),
        (peer.link_class in (LinkClass.CONTROL, LinkClass.DATA), "link_class is unknown"),
        (0 <= peer.term < MAX_NUMBER and 0 <= peer.attempt < MAX_NUMBER, "epoch is no epoch"),
        (0 <= peer.dial < MAX_NUMBER, "dial is out of range"),
        (0 < peer.protocol_min <= peer.protocol_max, "the protocol range is empty"),
        (len(peer.features) <= MAX_FEATURES, "there are too many features"),
        (all(isinstance(each, str) for each in peer.features), "a feature is not a name"),
    )
    return next((text for good, text in checks if not good), None)


def _is_node_id(text: str) -> bool:
    return len(text) == 32 and all(c in hexdigits for c in text) and text == text.lower()


def judge(plea: Plea) -> Refusal | None:
    """Why there can be no link, or None; the first reason in a fixed order."""
    for rule in (*_IDENTITY, _incarnation, _features, _epoch, _roster, _duplicate):
        refusal = rule(plea)
        if refusal is not None:
            return refusal
    return None


def judge_again(plea: Plea) -> Refusal | None:
    """The same when Confirm comes, a moment later, for what may have changed meanwhile.

    The epoch is left out: if it moved, the ends agree on the new one in band, as links that
    are up do. Duplicates are left out: the link is up at the peer, its farewell is a Bye.
    """
    for rule in (*_IDENTITY, _incarnation, _roster):
        refusal = rule(plea)
        if refusal is not None:
            return refusal
    return None


def _version(plea: Plea) -> Refusal | None:
    me, peer = plea.me, plea.peer
    if max(me.protocol_min, peer.protocol_min) <= min(me.protocol_max, peer.protocol_max):
        return None
    return plea.refuse(
        "version",
        f"{plea.who} speaks protocol {peer.protocol_min} to {peer.protocol_max}, {me.name}"
        f" speaks {me.protocol_min} to {me.protocol_max}: upgrade the older one",
    )


def _cluster(plea: Plea) -> Refusal | None:
    me, peer = plea.me, plea.peer
    if peer.cluster == me.cluster:
        return None
    return plea.refuse(
        "wrong-cluster",
        f"{plea.who} is of cluster {peer.cluster!r}, {me.name} of {me.cluster!r}:"
        " check [node] cluster and the seeds of both",
    )


def _self(plea: Plea) -> Refusal | None:
    me, peer = plea.me, plea.peer
    if peer.node_id != me.node_id:
        return None
    if peer.incarnation == me.incarnation:
        return plea.refuse(
            "self-dial",
            f"{me.name} dialed itself: one of its seeds is its own address {me.address}",
        )
    return plea.refuse(
        "stale-incarnation",
        f"{plea.who} runs twice, incarnations {peer.incarnation} and {me.incarnation}:"
        " its data directory was copied, stop one and give it an empty one",
    )


def _expected(plea: Plea) -> Refusal | None:
    expect, have = plea.expect, plea.peer.node_id
    if not plea.dialing:
        expect, have = plea.peer.expected, plea.me.node_id
    if not expect or expect == have:
        return None
    dialed = "the dialed address" if plea.dialing else str(plea.me.address)
    return plea.refuse("wrong-node", f"{dialed} is node {have[:8]}, not {expect[:8]} any more")


def _removed(plea: Plea) -> Refusal | None:
    if plea.peer.node_id not in plea.known.removed:
        return None
    return plea.refuse(
        "removed",
        f"{plea.who} was removed from the cluster: start it with an empty data directory",
    )


def _name(plea: Plea) -> Refusal | None:
    me, peer = plea.me, plea.peer
    holder = me.node_id if peer.name == me.name else plea.known.names.get(peer.name)
    if holder is None or holder == peer.node_id:
        return None
    return plea.refuse(
        "name-collision",
        f"the name {peer.name!r} of {peer.node_id[:8]} belongs to {holder[:8]}, which is"
        " alive: give one of them another [node] name",
    )


_IDENTITY = (_version, _cluster, _self, _expected, _removed, _name)


def _incarnation(plea: Plea) -> Refusal | None:
    peer = plea.peer
    node = NodeId(peer.node_id)
    live = plea.known.live(node, LinkClass(peer.link_class))
    latest = max(plea.known.latest(node) or 0, live.info.incarnation if live else 0)
    if peer.incarnation >= latest:
        return None
    return plea.refuse(
        "stale-incarnation",
        f"incarnation {peer.incarnation} of {plea.who} is over, {latest} is known:"
        " two processes run on copies of one data directory, or an old one lingers",
    )


def _features(plea: Plea) -> Refusal | None:
    missing = plea.known.enabled.difference(map(str, plea.peer.features))
    if not missing:
        return None
    names = ", ".join(sorted(missing))
    return plea.refuse(
        "feature", f"{plea.who} lacks what the cluster has enabled ({names}): upgrade it"
    )


def _epoch(plea: Plea) -> Refusal | None:
    if plea.peer.link_class != LinkClass.DATA:
        return None
    mine, theirs = plea.epoch, Epoch(plea.peer.term, plea.peer.attempt)
    if theirs == mine and mine.minted:
        return None
    if theirs > mine and theirs.minted:
        text = f"epoch {theirs} of {plea.who} is ahead of {mine} here: CreateMesh is awaited"
        return plea.refuse("epoch-high", text)
    text = f"epoch {theirs} of {plea.who} is behind {mine} here: it must wait for its CreateMesh"
    if not mine.minted:
        text = f"epoch {theirs} of {plea.who}, {mine} here: no mesh was formed yet"
    return plea.refuse("epoch-low", text)


def _roster(plea: Plea) -> Refusal | None:
    roster, peer = plea.known.roster, plea.peer
    if roster is None or peer.link_class != LinkClass.DATA:
        return None
    member = roster.get(NodeId(peer.node_id))
    if member is None:
        text = f"the roster of epoch {roster.epoch} leaves {plea.who} out"
        return plea.refuse("not-in-roster", text)
    if member.incarnation > peer.incarnation:
        text = (
            f"incarnation {peer.incarnation} of {plea.who} is over, the roster of epoch"
            f" {roster.epoch} lists {member.incarnation}"
        )
        return plea.refuse("stale-incarnation", text)
    if member.incarnation < peer.incarnation:
        text = (
            f"{plea.who} restarted as incarnation {peer.incarnation}, the roster of epoch"
            f" {roster.epoch} lists {member.incarnation}: a new epoch is awaited"
        )
        return plea.refuse("not-in-roster", text)
    return None


def _duplicate(plea: Plea) -> Refusal | None:
    peer, me = plea.peer, plea.me
    node = NodeId(peer.node_id)
    live = plea.known.live(node, LinkClass(peer.link_class))
    if live is None or live.info.incarnation != peer.incarnation or not live.proven:
        return None
    text = f"{me.name} and {plea.who} have a link of this class"
    if plea.dialing:
        return plea.refuse("duplicate", text)
    # A dialer that does not know whom it dialed learns it from our Hello, then decides.
    offered = LinkKey(node, me.node_id, peer.dial)
    if not peer.expected or survivor(live.key, offered) == offered:
        return None
    return plea.refuse("duplicate", text)
