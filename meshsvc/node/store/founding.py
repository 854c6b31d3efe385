"""Founding the store, or joining the one that is there: drives ``raft.founding``.

Asks go over control links; what a node has promised is on its disk before anybody is told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from meshsvc.errors import CallError, Disconnected, WireError
from meshsvc.messaging.service import Messaging
from meshsvc.model import LinkClass, NodeId, ShardAddress, ShardId
from meshsvc.node.store.record import RecordFile
from meshsvc.node.surroundings import Surroundings
from meshsvc.raft.founding import Founding
from meshsvc.raft.founding_terms import (
    Announcement,
    Answer,
    Ask,
    Conflict,
    Effect,
    Founder,
    Persist,
    Plan,
    Record,
    Start,
)
from meshsvc.storage.files import EX_IOERR

VERB = "store.found"
ASK_S = 2.0
"""A node that takes longer for one fsync is asked again."""


@dataclass(frozen=True, slots=True)
class FoundingMeans:
    """What a node founds with.

    Attributes:
        reactor: the clock.
        messaging: to ask the others.
        surroundings: disk and chance.
        started: called with (cluster, config or None) once this node may take part.
        announce: called whenever what this node announces has changed.
        fatal: called with (exit code, text) when its promises cannot be saved.
    """

    reactor: Any
    messaging: Messaging
    surroundings: Surroundings
    started: Callable[[Start], object]
    announce: Callable[[Announcement], object]
    fatal: Callable[[int, str], object]


class FoundingDriver:
    """Runs a ``Founding``: one delayed call, effects in order, each save before what follows."""

    log = Logger()

    def __init__(self, means: FoundingMeans, me: Founder, expect: int, file: RecordFile) -> None:
        self._means, self._file = means, file
        now = means.reactor.seconds()
        self.core = Founding(me, expect, file.load(), means.surroundings.rng, now)
        self._waiting: list[Effect | Deferred[None]] = []
        self._busy = self._stopped = False
        self._timer: IDelayedCall | None = None
        self._announced: Announcement | None = None

    def start(self) -> None:
        """Answer the others, and begin."""
        self._means.messaging.register(VERB, self._asked)
        self._drain()

    def stop(self) -> None:
        """Answer nobody, do nothing more."""
        self._stopped = True
        self._means.messaging.unregister(VERB)
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        for each in self._waiting:
            if isinstance(each, Deferred):
                each.errback(Disconnected("this node is stopping"))

    def seen(self, others: Mapping[str, Announcement]) -> None:
        """What the other nodes announce."""
        if not self._stopped:
            self.core.seen(others, self._now())
            self._drain()

    # --- asks ----------------------------------------------------------------------------

    def _now(self) -> float:
        return float(self._means.reactor.seconds())

    def _asked(self, call: Any) -> Deferred[list[object]]:
        kind, row = call.payload
        answer = self.core.asked(kind, Plan.read(row), self._now())
        saved: Deferred[None] = Deferred()
        self._waiting += self.core.take_events()
        self._waiting.append(saved)
        self._drain()
        return saved.addCallback(lambda _: answer.row())

    def _ask(self, ask: Ask) -> None:
        target = ShardAddress(NodeId(ask.node), ShardId(0))
        asked = self._means.messaging.ask(
            target, VERB, [ask.kind, ask.plan.row()], ASK_S, LinkClass.CONTROL
        )
        asked.addCallback(self._answered, ask)
        asked.addErrback(self._unanswered)

    def _answered(self, reply: Any, ask: Ask) -> None:
        if self._stopped:
            return
        answer = Answer.read(reply)
        if answer.objection:
            text = "node {node} does not found the store by this plan: {why}"
            self.log.info(text, node=ask.node[:8], why=answer.objection)
        self.core.answered(ask.node, ask.plan.ballot, answer, self._now())
        self._drain()

    def _unanswered(self, failure: Failure) -> None:
        failure.trap(CallError, WireError)  # it is asked again

    # --- effects -------------------------------------------------------------------------

    def _drain(self) -> None:
        self._waiting += self.core.take_events()
        while self._waiting and not self._busy and not self._stopped:
            self._perform(self._waiting.pop(0))
        if self._stopped:
            return
        announcement = self.core.announcement()
        if not self._busy and announcement != self._announced:
            self._announced = announcement
            self._means.announce(announcement)
        self._arm()

    def _perform(self, effect: Effect | Deferred[None]) -> None:
        match effect:
            case Deferred():
                effect.callback(None)
            case Persist(record):
                self._save(record)
            case Ask():
                self._ask(effect)
            case Start(cluster):
                self.log.info("this node takes part in the store {cluster:x}", cluster=cluster)
                self._means.started(effect)
            case Conflict():
                self.log.error("{why}", why=self.core.waits_for)

    def _save(self, record: Record) -> None:
        self._busy = True

        def saved(_: object) -> None:
            self._busy = False
            self._drain()

        def failed(failure: Failure) -> None:
            text = f"what this node has promised cannot be saved: {failure.getErrorMessage()}"
            self._means.fatal(EX_IOERR, text)

        saving = self._means.surroundings.off_reactor(self._file.save, record)
        saving.addCallbacks(saved, failed)

    def _arm(self) -> None:
        due = self.core.deadline()
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        if due is not None:
            self._timer = self._means.reactor.callLater(max(0.0, due - self._now()), self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.core.tick(self._now())
        self._drain()
