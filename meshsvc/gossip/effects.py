"""What the membership asks its driver to do; the driver reports back what came of it."""

from __future__ import annotations

from dataclasses import dataclass

from meshsvc.gossip.events import Event
from meshsvc.model import Address, NodeId


@dataclass(frozen=True, slots=True)
class Tell:
    """Send ``payload`` one way to ``verb`` of a node; nothing is expected back."""

    node: NodeId
    verb: str
    payload: object


@dataclass(frozen=True, slots=True)
class Echo:
    """Ask ``gossip.echo`` of a node; report with ``echo_done(token, answer or None)``."""

    node: NodeId
    token: int
    timeout_s: float


@dataclass(frozen=True, slots=True)
class EchoVia:
    """Ask ``gossip.echo_via`` of ``helper``: [target, seconds]; reported as for ``Echo``."""

    helper: NodeId
    target: NodeId
    token: int
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Notify:
    """Hand an event to every subscriber."""

    event: Event


@dataclass(frozen=True, slots=True)
class ViewChanged:
    """The view has reached ``index``."""

    index: int


@dataclass(frozen=True, slots=True)
class Keep:
    """Keep a control link to an address; ``node`` is who is expected there, None for any."""

    address: Address
    node: NodeId | None


@dataclass(frozen=True, slots=True)
class Forget:
    """Dial an address no longer."""

    address: Address


@dataclass(frozen=True, slots=True)
class Entered:
    """The first contact is over, gossip runs; ``alone`` when no contact answered."""

    alone: bool


@dataclass(frozen=True, slots=True)
class NotEntered:
    """No contact answered although one had to; ``contacts`` are those tried."""

    contacts: tuple[str, ...]


Effect = Tell | Echo | EchoVia | Notify | ViewChanged | Keep | Forget | Entered | NotEntered
