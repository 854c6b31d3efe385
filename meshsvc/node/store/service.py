"""The store of a node: its journal, the founding, two Raft groups, the keyspace and etcd's API.

In this order: the journal is opened, for it says which member this node is; the founding says
when that member takes part, and in what; then both groups start from the journal, ``system``
(what the cluster knows of itself) and ``default`` (what etcd's clients see). The API listens
from the start, and answers as an etcd without a leader does until there is one.
"""

from __future__ import annotations

from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail, maybeDeferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from meshsvc.errors import NoSuchTarget, StartError
from meshsvc.gossip.service import GossipService
from meshsvc.kv import errors
from meshsvc.kv.machine import Machine
from meshsvc.kv.service import KvService
from meshsvc.model import LinkClass, ShardId
from meshsvc.node.shard import Shard
from meshsvc.node.store.directory import KEY, StoreDirectory, announcement_row
from meshsvc.node.store.founding import FoundingDriver, FoundingMeans
from meshsvc.node.store.keyspace import ASK_LEADER, GroupSlot, Line
from meshsvc.node.store.members import CHANGE, TEND_S, StoreMembers
from meshsvc.node.store.record import DEFAULT, SYSTEM, RecordFile
from meshsvc.node.store.remote import Holder
from meshsvc.node.store.showing import PROGRESS, Seen, StoreView
from meshsvc.node.store.system import SystemState
from meshsvc.raft.founding_terms import Announcement, Founder, Start
from meshsvc.raft.protocol import StateMachine, Surroundings
from meshsvc.raft.quorum import Config, Member
from meshsvc.raft.service import RaftGroup
from meshsvc.raft.settings import Settings
from meshsvc.raft.transport import MeshTransport
from meshsvc.storage.service import JournalService
from meshsvc.storage.store import open_store

HAND_OVER_S = 2.0
"""How long a stopping node may take to hand leadership over, and then to stop, each group."""

DRAIN_S = 3.0
"""How long clients may take to go: a request that was sent is answered in milliseconds."""

_FIRST = ShardId(0)


class StoreService(Service):
    """See the module's docstring.

    Args:
        shard: shard 0, which holds the store.
        gossip: says who else holds it, and tells them that this node does.
    """

    log = Logger()

    def __init__(self, shard: Shard, gossip: GossipService) -> None:
        boot, config = shard.boot, shard.config.store
        self._shard, self._gossip = shard, gossip
        self._client = str(boot.listeners.get("etcd", ""))
        self.settings = Settings(election_s=config.election_s, heartbeat_s=config.heartbeat_s)
        surroundings, reactor = shard.surroundings, shard.reactor
        self.transport = MeshTransport(shard.messaging, reactor.callLater, shard.counters, _FIRST)
        self.directory = StoreDirectory(boot.node_id, self.transport.learn)
        self.journal = JournalService(
            reactor,
            surroundings.writer(reactor),
            self._open_store,
            self._fatal,
            shard.counters,
        )
        self.state = SystemState()
        self.system = GroupSlot(shard.counters, "system")
        self.keyspace = GroupSlot(shard.counters, "default")
        self.machine = Machine()
        self.kv = KvService(reactor, self.machine, shard.counters, shard.rng, config.quota)
        self.members = StoreMembers(
            *(reactor, shard.messaging, self.directory, (self.system, self.keyspace)),
            *(self.state, self.settings),
        )
        self.journal.observe_alarm(self._disk_is)
        shard.counters.gauge("journal_full", 0)
        slots = (self.system, self.keyspace)
        self.view = StoreView(Seen(shard.messaging, self.members, self.kv, slots))
        line = Line(shard.messaging, self.directory, self.keyspace, DEFAULT)
        self.kv.attach(self.keyspace, self.members, line)
        self.holder = Holder(reactor, shard.messaging, self.kv)
        shard.store_access.local = self.kv
        self.founding: FoundingDriver | None = None
        self._etcd: Any = None
        self._tending: IDelayedCall | None = None
        self._stopping: Deferred[None] | None = None
        gossip.observe_view(lambda _: self._view_changed())
        shard.traffic.hear_losses(self._link_lost)

    # --- life ----------------------------------------------------------------------------

    def startService(self) -> None:
        """Serve, then open the journal and see what it says."""
        super().startService()  # type: ignore[no-untyped-call]
        messaging = self._shard.messaging
        messaging.register(ASK_LEADER, self._asked_as_leader)
        messaging.register(CHANGE, self._asked_to_change)
        messaging.register(PROGRESS, lambda call: self.view.progress(call.payload))
        self._shard.every_second.append(lambda: self.view.gauges(self._shard.counters))
        self.transport.start()
        self.holder.start()
        self.kv.startService()
        if self._client:
            self._serve()
        opening = self.journal.open()
        opening.addCallback(lambda _: self._opened())
        opening.addErrback(self._cannot_start)

    def _open_store(self) -> Any:
        boot, surroundings = self._shard.boot, self._shard.surroundings
        return open_store(
            *(surroundings.fs, boot.data_dir, boot.node_id, boot.shard),
            lambda: surroundings.rng.getrandbits(64),
        )

    def _serve(self) -> None:
        # Only a node that serves the API pays for importing it.
        from meshsvc.etcd.protocol import EtcdFactory  # noqa: PLC0415

        shard = self._shard
        self._etcd = EtcdFactory(self.kv, shard.reactor, shard.counters)
        listening = shard.listeners.listen("etcd", self._etcd)
        listening.addErrback(self._not_served)

    def _not_served(self, failure: Failure) -> None:
        if self._stopping is None:
            self.log.error("etcd's API is not served: {why}", why=failure.getErrorMessage())

    def _opened(self) -> None:
        if self._stopping is not None:
            return
        shard, boot = self._shard, self._shard.boot
        member = self.journal.group(SYSTEM).replica
        self.machine.member_id = member
        means = FoundingMeans(
            *(shard.reactor, shard.messaging, shard.surroundings),
            *(self._start_groups, self._announce, self._fatal),
        )
        held = bool(self.journal.store.journal.groups())
        file = RecordFile(shard.surroundings.fs, boot.data_dir, member, held)
        me = Founder(boot.node_id, member)
        self.founding = FoundingDriver(means, me, shard.config.store.expect, file)
        self.view.founding = self.founding
        self.founding.start()
        self._view_changed()

    def _cannot_start(self, failure: Failure) -> None:
        if self._stopping is not None:
            return
        code = failure.value.exit_code if isinstance(failure.value, StartError) else 70
        if not isinstance(failure.value, StartError):
            self.log.failure("the store cannot start", failure)
        self._fatal(code, f"the store: {failure.getErrorMessage()}")

    def _fatal(self, code: int, text: str) -> None:
        self._shard.channel.fatal(code, text)

    def _start_groups(self, start: Start) -> None:
        if self._stopping is not None:
            return
        self.machine.cluster_id = self.members.cluster = start.cluster
        starting = Deferred.fromCoroutine(self._start_both(start.config))
        starting.addErrback(self._cannot_start)

    async def _start_both(self, config: Config | None) -> None:
        for slot, number, machine in (
            (self.system, SYSTEM, self.state),
            (self.keyspace, DEFAULT, self.kv.state_machine),
        ):
            group = self._group(number, machine)
            await group.start(config)
            if self._stopping is not None:
                await maybeDeferred(group.stopService)
                return
            slot.fill(group)
        self._tend()

    def _group(self, number: int, machine: StateMachine) -> RaftGroup:
        shard = self._shard
        around = Surroundings(shard.reactor, shard.rng, shard.counters, self._fatal)
        log = self.journal.group(number)
        transport = self.transport.group(number, log.replica)
        return RaftGroup(around, log, machine, transport, self.settings)

    def stopService(self) -> Deferred[None]:
        """Take no more clients, hand leadership over, close the journal."""
        if self._stopping is None:
            super().stopService()  # type: ignore[no-untyped-call]
            self._stopping = Deferred.fromCoroutine(self._stop())
        waiter: Deferred[None] = Deferred()

        def stopped(result: Any) -> Any:
            waiter.callback(None)
            return result

        self._stopping.addBoth(stopped)
        return waiter

    async def _stop(self) -> None:
        if self._tending is not None and self._tending.active():
            self._tending.cancel()
        # First leadership goes, while this node answers as ever: what its clients have asked is
        # done by the next leader. Then the clients go, and only then what they were served by.
        for slot in (self.keyspace, self.system):
            await self._in_time(slot.hand_over(), "leadership was not handed over")
        if self._etcd is not None:
            await self._etcd.drain(DRAIN_S)
        for slot in (self.keyspace, self.system):
            await self._in_time(slot.stop(), "a group of the store did not stop in order")
        if self.founding is not None:
            self.founding.stop()
        self.holder.stop()
        await maybeDeferred(self.kv.stopService)
        self.transport.stop()
        for verb in (ASK_LEADER, CHANGE, PROGRESS):
            self._shard.messaging.unregister(verb)
        await self.journal.stopService()

    async def _in_time(self, ending: Deferred[None], text: str) -> None:
        try:
            await ending.addTimeout(HAND_OVER_S, self._shard.reactor)
        except Exception:
            self.log.failure("{text}", text=text)

    def _disk_is(self, full: bool) -> None:
        """A node whose disk is full only reads, and leaves leading to one that has room."""
        self.kv.disk_is(full)
        if full:
            for slot in (self.keyspace, self.system):
                handing = slot.hand_over()
                handing.addErrback(
                    lambda failure: self.log.failure("leadership was not handed over", failure)
                )

    # --- the others ----------------------------------------------------------------------

    def _link_lost(self, link: Any) -> None:
        if link.link_class is LinkClass.CONTROL:
            self.transport.way_lost(link.peer.node_id)

    def _view_changed(self) -> None:
        self.directory.update(self._gossip.members())
        if self.founding is not None and self._stopping is None:
            self.founding.seen(self.directory.others())

    def _announce(self, announcement: Announcement) -> None:
        replaces = self.journal.group(SYSTEM).replaces
        row = announcement_row(announcement, replaces, self._client)
        self._gossip.set_values({KEY: row})

    def _asked_as_leader(self, call: Any) -> Deferred[list[Any]]:
        number, payload = call.payload
        if number != DEFAULT:
            raise errors.NotLeader
        return self.kv.answer(payload)

    def _asked_to_change(self, call: Any) -> Deferred[None]:
        what, member = call.payload
        return Deferred.fromCoroutine(self.members.lead(str(what), member))

    def _tend(self) -> None:
        if self._stopping is None:
            self.members.tend()
            self._tending = self._shard.reactor.callLater(TEND_S, self._tend)

    def now(self) -> float:
        """Seconds, by the clock of this shard."""
        return float(self._shard.reactor.seconds())

    # --- what people ask -----------------------------------------------------------------

    def transfer(self, name: str, timeout_s: float) -> Deferred[None]:
        """Hand the leadership of both groups to a node.

        Fails with ``NoSuchTarget``, a ``KvError`` or a ``CallError`` that says why not.
        """
        place = self.directory.by_name(name)
        if place is None:
            text = f"no node {name!r} that holds the store is alive: see `meshsvc raft status`"
            return fail(NoSuchTarget(text))
        return Deferred.fromCoroutine(self._transfer(place.announcement.member, timeout_s))

    async def _transfer(self, member: Member, timeout_s: float) -> None:
        for slot in (self.system, self.keyspace):
            status = slot.raft_status()
            if status is None or not status.leader:
                raise errors.NoLeader
            if not status.config.votes(member):
                raise errors.BadLeaderTransferee
            if status.leader != member:
                await slot.transfer(member, timeout_s)
