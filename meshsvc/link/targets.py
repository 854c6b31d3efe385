"""Every target that a shard keeps a link to, each with its own ``Dial``.

A target is an address and a class; the node behind it is expected, or learned from its first
Hello. All links to that node serve the target, so events are told by node here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from meshsvc.link.dial import Dial, Effect
from meshsvc.link.events import Ended
from meshsvc.model import Address, LinkClass, NodeId
from meshsvc.retry import Policy, exponential

FIRST_WAIT_S = 0.2
MOST_WAIT_S = 5.0
"""A peer that comes back is found within this; a thousand waiting nodes cost it 200 dials a
second."""


@dataclass(frozen=True, slots=True)
class Dialed:
    """What is known of whoever is at an address.

    ``node`` answered there last, None when nobody ever did. ``trouble`` says why there is no
    link, its ``reason`` is typed; both are empty while there is one, and before the first
    dial ended.
    """

    node: NodeId | None
    trouble: str
    reason: str = ""


@dataclass(slots=True)
class Target:
    """One address to keep a link to; ``node`` is None until it is known."""

    address: Address
    link_class: LinkClass
    expect: NodeId | None
    node: NodeId | None
    dial: Dial
    end: Ended | None = None

    def __str__(self) -> str:
        return f"{self.link_class.name.lower()} {self.address}"


class Targets:
    """The targets; ``jitter`` answers numbers in [0, 1) and spreads the waits."""

    def __init__(self, jitter: Callable[[], float]) -> None:
        self._policy: Policy = exponential(FIRST_WAIT_S, 2.0, MOST_WAIT_S, jitter)
        self._targets: dict[tuple[Address, LinkClass], Target] = {}
        self._effects: list[tuple[Target, Effect]] = []

    def keep(
        self,
        address: Address,
        link_class: LinkClass,
        expect: NodeId | None,
        *,
        linked: bool,
        now: float,
    ) -> None:
        """Keep a link there; ``linked`` when there is one to the expected node already."""
        known = self._targets.get((address, link_class))
        if known is not None and (expect is None or known.expect in (expect, None)):
            known.expect = expect or known.expect
            known.node = known.expect or known.node
            if linked:
                known.dial.linked(now)
            return
        if known is not None:
            self.forget(address, link_class)
        target = Target(address, link_class, expect, expect, Dial(self._policy))
        self._targets[(address, link_class)] = target
        if linked:
            target.dial.linked(now)
        else:
            target.dial.keep(now)
        self._collect(target)

    def forget(self, address: Address, link_class: LinkClass) -> None:
        """Dial there no more; a link that is up stays."""
        target = self._targets.pop((address, link_class), None)
        if target is not None:
            self._effects = [each for each in self._effects if each[0] is not target]
            target.dial.forget()
            self._collect(target)

    def forget_all(self) -> None:
        """Dial nowhere any more."""
        for address, link_class in list(self._targets):
            self.forget(address, link_class)

    def linked(self, node: NodeId, link_class: LinkClass, now: float) -> None:
        """A link of a class to a node is up."""
        for target in self._of(node, link_class):
            target.end = None
            target.dial.linked(now)

    def link_lost(self, node: NodeId, link_class: LinkClass, now: float, *, heals: bool) -> None:
        """The link of a class to a node is gone."""
        for target in self._of(node, link_class):
            target.dial.link_lost(now, heals=heals)
            self._collect(target)

    def learned(self, target: Target, node: NodeId) -> None:
        """The Hello of whoever answers at a target told its node id."""
        if target.expect is None:
            target.node = node

    def over(self, target: Target, end: Ended, now: float, *, linked: bool) -> None:
        """A dial ended; ``linked`` when there is a link to the target's node."""
        target.end = None if linked or end.reason == "duplicate" else end
        if linked:
            target.dial.linked(now)
        elif end.reason == "duplicate":
            target.dial.duplicate(now)
        elif end.heals:
            target.dial.failed(now)
        else:
            target.dial.refused(now)

    def dialed(self, address: Address, link_class: LinkClass) -> Dialed | None:
        """What is known of an address; None for one that is not kept."""
        target = self._targets.get((address, link_class))
        if target is None:
            return None
        end = target.end
        return Dialed(target.node, *((end.text, end.reason) if end is not None else ("", "")))

    def deadline(self) -> float | None:
        """When ``tick`` is wanted, in seconds, or None."""
        waits = [target.dial.deadline() for target in self._targets.values()]
        return min((wait for wait in waits if wait is not None), default=None)

    def tick(self, now: float) -> None:
        """Dial what is due."""
        for target in self._targets.values():
            target.dial.tick(now)
            self._collect(target)

    def take_effects(self) -> list[tuple[Target, Effect]]:
        """What is to be done with which target, in order."""
        effects, self._effects = self._effects, []
        return effects

    def _of(self, node: NodeId, link_class: LinkClass) -> list[Target]:
        return [
            target
            for target in self._targets.values()
            if target.node == node and target.link_class is link_class
        ]

    def _collect(self, target: Target) -> None:
        self._effects += [(target, effect) for effect in target.dial.take_effects()]
