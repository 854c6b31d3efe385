"""The values around a session: what it is given, and what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from meshsvc.link.pairing import LinkKey
from meshsvc.model import Epoch, LinkClass, NodeInfo
from meshsvc.wire.messages import Envelope


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of one link's outbox; a megabyte is the largest frame."""

    max_frames: int = 16384
    max_bytes: int = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Intent:
    """What a dialer wants: the class, its count of dials, the node it expects or nothing."""

    link_class: LinkClass
    dial: int
    expect: str = ""


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is on the other end, as it said in its Hello."""

    info: NodeInfo
    link_class: LinkClass
    features: tuple[str, ...]
    key: LinkKey
    dialed_by_us: bool


@dataclass(frozen=True, slots=True)
class Up:
    """The link is up at this end."""

    peer: Peer


@dataclass(frozen=True, slots=True)
class Proven:
    """The link is up at the other end too: it spoke as only a link that is up does."""


@dataclass(frozen=True, slots=True)
class Received:
    """A message for those above the link."""

    message: object


@dataclass(frozen=True, slots=True)
class Dropped:
    """An envelope under an epoch other than the agreed one.

    ``reason`` is "stale-epoch" when its epoch is past, "ahead" when this side has yet to
    adopt it.
    """

    envelope: Envelope
    reason: str


@dataclass(frozen=True, slots=True)
class EpochAgreed:
    """Both ends announced this epoch, and envelopes flow."""

    epoch: Epoch


@dataclass(frozen=True, slots=True)
class EpochParted:
    """The ends announced different epochs, and envelopes do not flow."""

    mine: Epoch
    theirs: Epoch


@dataclass(frozen=True, slots=True)
class EpochSeen:
    """The peer is at an epoch greater than this side's."""

    epoch: Epoch


@dataclass(frozen=True, slots=True)
class Ended:
    """The link is no more (or never was, when no ``Up`` came before).

    ``remote`` when the other side ended it; ``heals`` when trying again soon can help.
    """

    reason: str
    text: str
    heals: bool
    remote: bool


Event = Up | Proven | Received | Dropped | EpochAgreed | EpochParted | EpochSeen | Ended


class Disposal(Enum):
    """What the driver of a session does with the connection."""

    KEEP = "keep"
    FLUSH = "write what there is, then close"
    RESET = "close at once"
