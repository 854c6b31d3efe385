"""The Twisted side of the mesh: ``DataLinks`` in every shard, ``MeshService`` on shard 0.

Both are thin: a pure core decides (``plane``, ``controller``), this module carries its
inputs in and its decisions out, and keeps one delayed call armed for each core. What it
works with is handed in and described by the protocols below.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from meshsvc.counters import Counters
from meshsvc.errors import (
    EpochSuperseded,
    LocalError,
    MeshsvcError,
    Overloaded,
    TimedOut,
    WireError,
)
from meshsvc.mesh import controller as decisions
from meshsvc.mesh import epoch as epochs
from meshsvc.mesh import formation, plane
from meshsvc.mesh import roster as rosters
from meshsvc.mesh.alarm import Alarm
from meshsvc.mesh.observers import BusEvents, LinkEvents
from meshsvc.mesh.protocol import Bus, Links, Members, Messaging
from meshsvc.model import (
    Epoch,
    LinkClass,
    NodeId,
    NodeInfo,
    Roster,
    Sent,
    ShardAddress,
    ShardId,
)
from meshsvc.shards.placement import link_owner

CREATE = "mesh.create"
STATUS = "mesh.status"

ASK_S = 2.0
"""Seconds a member has to answer: it only compares epochs, so longer means it is stuck."""

FORM_S = 10.0
"""Seconds until a mesh formed by hand is reported as incomplete; sending goes on."""

MAX_WAITERS = 16
"""People who wait for one mesh formed by hand."""


class DataLinks(Service):
    """The data links of one shard, as the mesh in force asks for them.

    It listens to ``links`` and ``bus`` from its construction on, so that nothing that
    happens while services start is missed.
    """

    log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        me: NodeInfo,
        shard: ShardId,
        links: Links,
        bus: Bus,
        counters: Counters,
    ) -> None:
        self.core = plane.ShardPlane(me, shard, link_owner)
        self.counters = counters
        self._reactor = reactor
        self._links = links
        self._bus = bus
        self._alarm = Alarm(reactor, self._tick)
        self._observers: list[Callable[[epochs.EpochEvent], None]] = []
        self._draining = False
        self._stopped = False
        links.add_observer(LinkEvents(self.run))
        bus.add_observer(BusEvents(self.run))

    def add_observer(self, observer: Callable[[epochs.EpochEvent], None]) -> None:
        """Call ``observer`` with each ``Adopted``, ``Sighted``, ``Superseded`` and ``Became``.

        ``Adopted`` comes before the links are moved to the epoch it tells of.
        """
        self._observers.append(observer)

    def offer(self, roster: Roster) -> epochs.Answer:
        """Judge a ``CreateMesh`` and act on it."""
        answer = self.core.offer(roster)
        if not answer.accepted:
            self._count("refused")
        self._drain()
        return answer

    def status(self) -> dict[str, object]:
        """The mesh as people are shown it: epoch, state, roster (names), links (rows)."""
        roster = self.core.roster
        return {
            "epoch": str(self.core.epoch.epoch),
            "state": self.core.state.value,
            "roster": [member.name for member in roster.members] if roster else [],
            "links": self.core.rows(),
        }

    def run(self, step: Callable[[plane.ShardPlane], None]) -> None:
        """Hand the core one input and act on what comes of it."""
        if not self._stopped:
            step(self.core)
            self._drain()

    def startService(self) -> None:
        """Begin to report round-trip times."""
        super().startService()  # type: ignore[no-untyped-call]
        self.run(lambda core: core.start(self._reactor.seconds()))

    def stopService(self) -> None:
        """Leave the links as they are and do nothing more."""
        super().stopService()  # type: ignore[no-untyped-call]
        self._stopped = True
        self._alarm.set(None)

    def _tick(self) -> None:
        self.run(lambda core: core.tick(self._reactor.seconds()))

    def _drain(self) -> None:
        # Links and observers may call back in from within an effect: that only adds effects,
        # which the outer loop takes in order.
        if self._draining:
            return
        self._draining = True
        try:
            while effects := self.core.take_effects():
                for effect in effects:
                    self._perform(effect)
        finally:
            self._draining = False
        if not self._stopped:
            self._alarm.set(self.core.deadline())

    def _perform(self, effect: plane.PlaneEffect) -> None:
        match effect:
            case formation.SetEpoch(epoch, roster):
                self._links.set_epoch(epoch, roster)
            case formation.Keep(address, node_id):
                self._links.keep(address, LinkClass.DATA, node_id)
            case formation.Forget(address):
                self._links.forget(address, LinkClass.DATA)
            case plane.ToShard(shard, message):
                if self._bus.send(shard, message) is not Sent.ACCEPTED:
                    self.core.undelivered(shard, message, self._reactor.seconds())
            case plane.Disputed(shard, reason):
                self._count("disputed")
                self.log.warn("shard {shard} sent a mesh: {reason}", shard=shard, reason=reason)
            case _:
                self._announce(effect)

    def _announce(self, event: epochs.EpochEvent) -> None:
        if isinstance(event, epochs.Adopted):
            self._count("adopted")
        elif isinstance(event, epochs.Superseded):
            self._count("superseded")
            # Ordinary when a peer was told first; its CreateMesh should be under way here as well.
            self.log.info("{error}", error=event.error())
        for observer in self._observers:
            try:
                observer(event)
            except Exception:
                self.log.failure("an observer of the mesh failed on {event}", event=event)

    def _count(self, outcome: str) -> None:
        self.counters.add("mesh_epochs_total", outcome=outcome)


class MeshService(Service):
    """Shard 0's part: takes ``CreateMesh``, and sends it where this node is the controller."""

    log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        data_links: DataLinks,
        controller: decisions.StaticController,
        messaging: Messaging,
        members: Members,
        persist: Callable[[Epoch], Deferred[Any]],
    ) -> None:
        """Build it.

        Args:
            reactor: tells the time.
            data_links: the data links of shard 0.
            controller: decides; acts by itself only where it is ``automatic``.
            messaging: asks the members, takes their asks.
            members: who is alive, and at which epoch.
            persist: saves an epoch; its Deferred fires when that is durable.
        """
        self._reactor = reactor
        self._data_links = data_links
        self._controller = controller
        self._messaging = messaging
        self._members = members
        self._persist = persist
        self._alarm = Alarm(reactor, self._tick)
        self._asks: dict[tuple[NodeId, Epoch], Deferred[Any]] = {}
        self._waiters: list[tuple[Epoch, Deferred[Roster]]] = []
        self._draining = False
        self._unsaved = False
        data_links.add_observer(self._epoch_event)

    def startService(self) -> None:
        """Register the verbs and let the controller begin."""
        super().startService()  # type: ignore[no-untyped-call]
        self._messaging.register(CREATE, self._create)
        self._messaging.register(STATUS, lambda _: self.status())
        self._members.publish_epoch(self._data_links.core.epoch.in_force)
        self.members_changed()
        self._controller.start(self._now())
        self._drain()

    def stopService(self) -> None:
        """Cancel what is under way: no ask, timer or waiter is left."""
        super().stopService()  # type: ignore[no-untyped-call]
        self._alarm.set(None)
        self._messaging.unregister(CREATE)
        self._messaging.unregister(STATUS)
        for ask in list(self._asks.values()):
            ask.cancel()
        for _, waiter in self._waiters[:]:
            waiter.cancel()

    def members_changed(self) -> None:
        """Call this after any change of membership or of a member's shown epoch."""
        if not self.running:
            return
        now = self._now()
        self._controller.members_changed(self._members.alive(), now)
        for node, epoch in self._members.epochs().items():
            self._controller.epoch_shown(node, epoch, now)
        self._drain()

    def form(self, epoch: Epoch) -> Deferred[Roster]:
        """Form a mesh of the nodes alive, by hand.

        Returns:
            a Deferred of the roster once every member accepted it; fails with
            ``EpochUsed`` or ``EpochConflict`` at once, with ``EpochSuperseded`` when a
            greater epoch takes over, with ``TimedOut`` naming who did not accept in 10 s.
        """
        if len(self._waiters) >= MAX_WAITERS:
            return fail(Overloaded(f"{MAX_WAITERS} others wait for a mesh to form: try again"))
        try:
            roster = self._controller.form(epoch, self._now())
        except LocalError:
            return fail(Failure())
        if self._controller.delivered:
            return succeed(roster)
        waiter: Deferred[Roster] = Deferred(self._forget_waiter)
        waiter.addTimeout(FORM_S, self._reactor, lambda _, __: self._unformed(epoch))
        self._waiters.append((epoch, waiter))
        self._drain()
        return waiter

    def status(self) -> dict[str, object]:
        """The mesh as ``meshsvc mesh -o json`` shows it."""
        return self._data_links.status()

    # --- the core ------------------------------------------------------------------------

    def _now(self) -> float:
        return self._reactor.seconds()

    def _tick(self) -> None:
        self._controller.tick(self._now())
        self._drain()

    def _drain(self) -> None:
        if self._draining or not self.running:
            return
        self._draining = True
        try:
            while events := self._controller.take_events():
                for event in events:
                    self._perform(event)
        finally:
            self._draining = False
        self._alarm.set(self._controller.deadline())

    def _perform(self, event: decisions.ControllerEvent) -> None:
        match event:
            case decisions.PersistEpoch(epoch):
                self._save(epoch)
            case decisions.SendCreateMesh(node_id, roster):
                self._send(node_id, roster)
            case decisions.Delivered(roster):
                self.log.info("mesh {epoch}: every member accepted it", epoch=roster.epoch)
                self._settle(roster.epoch, roster)
            case decisions.Abandoned(epoch, by):
                for key in [key for key in self._asks if key[1] == epoch]:
                    self._asks[key].cancel()
                self._settle(epoch, Failure(EpochSuperseded(epoch, by)))
            case decisions.MemberRefused(node_id, epoch, answer):
                self.log.warn(
                    "node {node} refused mesh {epoch}: {reason}",
                    node=node_id,
                    epoch=epoch,
                    reason=answer.reason,
                )

    def _epoch_event(self, event: epochs.EpochEvent) -> None:
        """The epoch of this node changed, or a greater one was seen by one of its links."""
        if not self.running:
            return
        if isinstance(event, epochs.Adopted):
            self._members.publish_epoch(self._data_links.core.epoch.in_force)
            self._controller.adopted(event.roster, self._now())
        elif isinstance(event, epochs.Sighted):
            self._members.publish_epoch(self._data_links.core.epoch.in_force)
            self._controller.epoch_seen(event.epoch, self._now())
        self._drain()

    # --- saving and sending --------------------------------------------------------------

    def _save(self, epoch: Epoch) -> None:
        def failed(failure: Failure) -> None:
            if failure.check(MeshsvcError):  # no quorum, or another leads by now
                self.log.info("epoch {epoch}: {why}", epoch=epoch, why=failure.getErrorMessage())
            elif not self._unsaved:  # once: a full disk stays full for many tries
                self._unsaved = True
                text = "epoch {epoch} could not be saved; until it is, no mesh forms"
                self.log.failure(text, failure=failure, epoch=epoch)
            self._controller.persist_failed(epoch, self._now())

        def saved(_: object) -> None:
            self._unsaved = False
            self._controller.persisted(epoch, self._now())

        saving = maybeDeferred(self._persist, epoch)
        saving.addCallback(saved)
        saving.addErrback(failed)
        saving.addCallback(lambda _: self._drain())

    def _send(self, node: NodeId, roster: Roster) -> None:
        epoch = roster.epoch
        if node == self._data_links.core.me.node_id:
            answer = self._data_links.offer(roster)
            self._controller.answered(node, epoch, answer, self._now())
            return
        payload = [epoch.term, epoch.attempt, list(rosters.rows(roster.members))]
        target = ShardAddress(node, ShardId(0))
        ask = maybeDeferred(self._messaging.ask, target, CREATE, payload, ASK_S, LinkClass.CONTROL)
        self._asks[node, epoch] = ask
        ask.addCallback(lambda reply: self._answered(node, epoch, reply))
        ask.addErrback(lambda _: self._unanswered(node, epoch))
        ask.addCallback(lambda _: self._drain())

    def _answered(self, node: NodeId, epoch: Epoch, reply: object) -> None:
        answer = epochs.Answer.from_wire(reply)
        self._asks.pop((node, epoch), None)
        self._controller.answered(node, epoch, answer, self._now())

    def _unanswered(self, node: NodeId, epoch: Epoch) -> None:
        # Whatever went wrong on the way, the member has to be asked again.
        self._asks.pop((node, epoch), None)
        self._controller.unanswered(node, epoch, self._now())

    def _create(self, call: Any) -> list[object]:
        """Answer ``mesh.create``: [accepted, the greatest epoch known here, reason]."""
        try:
            term, attempt, members = call.payload
            roster = rosters.from_wire(term, attempt, members)
        except (WireError, TypeError, ValueError) as error:
            greatest = self._data_links.core.epoch.greatest
            return epochs.Answer(False, greatest, f"malformed: {error}").to_wire()
        return self._data_links.offer(roster).to_wire()

    # --- people who wait -----------------------------------------------------------------

    def _settle(self, epoch: Epoch, result: Roster | Failure) -> None:
        done = [waiter for waited, waiter in self._waiters if waited == epoch]
        self._waiters = [entry for entry in self._waiters if entry[0] != epoch]
        for waiter in done:
            waiter.callback(result)

    def _forget_waiter(self, gone: Deferred[Roster]) -> None:
        self._waiters = [entry for entry in self._waiters if entry[1] is not gone]

    def _unformed(self, epoch: Epoch) -> Failure:
        names = ", ".join(node.name for node in self._controller.unacknowledged)
        return Failure(TimedOut(f"mesh {epoch} was not accepted by {names} yet: they are asked on"))
