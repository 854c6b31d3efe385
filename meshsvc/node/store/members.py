"""The members of a keyspace's group: shown as etcd shows them, changed by hand and by itself.

By itself: the leader takes in every node that holds the store and has joined its cluster, as a
learner first and as a voter once it has caught up; a member that says it replaces an older
one takes that one's place. By hand: a member is removed, and stays so until it is added again.

Both groups have the same members, but may have different leaders: each leader brings its own
group to what is wanted, and a change by hand is done when it is done in the keyspace.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, DeferredLock, fail, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from meshsvc.errors import CallError
from meshsvc.kv import errors, upkeep
from meshsvc.messaging.service import Messaging
from meshsvc.model import LinkClass, NodeId, ShardAddress, ShardId
from meshsvc.node.store import system
from meshsvc.node.store.directory import Place, StoreDirectory
from meshsvc.node.store.keyspace import GroupSlot, kv_error
from meshsvc.node.store.system import House, SystemState
from meshsvc.raft.founding_terms import JOINED, Announcement
from meshsvc.raft.membership import ChangeRefused
from meshsvc.raft.promotion import next_change
from meshsvc.raft.quorum import Config, Member
from meshsvc.raft.settings import Settings

CHANGE = "store.change"

TEND_S = 0.5
"""How often the leader looks whether the members should change."""

CHANGE_S = 10.0
"""How long one change may take: two rounds to a quorum, and a new leader in between."""

MAX_VOTERS = 7
"""More make every write slower, and survive nothing that happens in earnest."""


def _scheme(addresses: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"http://{each}" for each in addresses if each)


class StoreMembers:
    """Who belongs to one group (``kv.protocol.Membership``)."""

    log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        messaging: Messaging,
        directory: StoreDirectory,
        slots: tuple[GroupSlot, GroupSlot],
        state: SystemState,
        settings: Settings,
    ) -> None:
        """``slots`` are the system group and the keyspace, which have the same members."""
        self.cluster = 0
        self._reactor, self._messaging, self._directory = reactor, messaging, directory
        self._system, self._keyspace = slots
        self._state, self._settings = state, settings
        self._changing = DeferredLock()

    # --- shown ---------------------------------------------------------------------------

    def _config(self) -> Config:
        status = self._keyspace.raft_status()
        return status.config if status is not None else Config()

    def members(self) -> tuple[upkeep.KvMember, ...]:
        """The members as this node knows them."""
        config = self._config()
        return tuple(self._row(member, config) for member in config.members)

    def _row(self, member: Member, config: Config) -> upkeep.KvMember:
        place = self.place(member)
        learner = not config.votes(member)
        if place is None:
            return upkeep.KvMember(member, is_learner=learner)
        peers, clients = _scheme((place.peer,)), _scheme((place.client,))
        return upkeep.KvMember(member, place.name, peers, clients, learner)

    def place(self, member: Member) -> Place | None:
        """Where a member lives or last lived, as it says itself or as the group remembers it."""
        found = self._directory.place(member)
        where = self._state.houses.get(member)
        if found is not None or where is None:
            return found
        # A life of this node that began later never heard of that member itself.
        announced = Announcement(member, JOINED, self.cluster, 0)
        return Place(NodeId(where[0]), where[1], where[2], where[3], 0, announced)

    # --- changed by hand -----------------------------------------------------------------

    def change(self, request: object, timeout_s: float) -> Deferred[upkeep.KvMember | None]:
        """Do a request of etcd's Cluster service, at whichever node leads."""
        match request:
            case upkeep.MemberAdd(peer_urls, is_learner):
                return self._add(peer_urls, is_learner, timeout_s)
            case upkeep.MemberRemove(member):
                return self._at_leader("remove", member, timeout_s)
            case upkeep.MemberPromote(member):
                return self._at_leader("promote", member, timeout_s)
            case upkeep.MemberUpdate(member, _):
                # Where a node is dialed is what it announces: there is nothing to change here.
                known = member in self._config().members
                return succeed(None) if known else fail(errors.MemberNotFound())
        return fail(errors.InvalidArgument())

    def _add(
        self, peer_urls: tuple[str, ...], is_learner: bool, timeout_s: float
    ) -> Deferred[upkeep.KvMember | None]:
        """Take in a node that runs and was removed; the others come in by themselves."""
        for url in peer_urls:
            place = self._directory.by_peer(url.partition("://")[2].rstrip("/"))
            if place is None:
                continue
            member = place.announcement.member
            if member in self._config().members:
                return fail(errors.PeerUrlExists())
            return self._at_leader("learn" if is_learner else "add", member, timeout_s)
        return fail(errors.MemberBadUrls())

    def _at_leader(
        self, what: str, member: Member, timeout_s: float
    ) -> Deferred[upkeep.KvMember | None]:
        status = self._keyspace.raft_status()
        place = self._directory.place(self._keyspace.status().leader_id)
        if status is not None and status.leader == status.me:
            asked: Deferred[Any] = Deferred.fromCoroutine(self.lead(what, member))
        elif place is None:
            return fail(errors.NoLeader())
        else:
            target = ShardAddress(place.node, ShardId(0))
            payload = [what, member]
            asked = self._messaging.ask(target, CHANGE, payload, timeout_s, LinkClass.CONTROL)
        asked.addErrback(kv_error)
        return asked.addCallback(lambda _: self._row(member, self._config()))

    async def lead(self, what: str, member: Member) -> None:
        """Do a change; this node leads the keyspace's group, or the change fails.

        Raises:
            KvError: it cannot be done, as etcd says it.
        """
        config = self._config()
        voters, learners = set(config.voters), set(config.learners)
        if what in ("remove", "promote") and member not in voters | learners:
            raise errors.MemberNotFound
        if what == "promote" and member not in learners:
            raise errors.MemberNotLearner
        command = system.remove(member) if what == "remove" else system.admit(member)
        await self._system.propose(command, CHANGE_S)
        await self._changing.run(lambda: Deferred.fromCoroutine(self._lead(what, member)))

    async def _lead(self, what: str, member: Member) -> None:
        group = self._keyspace.group
        if group is None:
            raise errors.NoLeader
        config = group.status().config
        voters, learners = set(config.voters), set(config.learners)
        if what == "remove":
            voters, learners = voters - {member}, learners - {member}
        elif what == "promote":
            voters, learners = voters | {member}, learners - {member}
        elif member not in voters:
            learners = learners | {member}
        if (set(config.voters), set(config.learners)) == (voters, learners):
            return  # the leader did it by itself meanwhile
        try:
            await group.change(voters, learners, CHANGE_S)
        except ChangeRefused as error:
            self.log.info("the members were not changed: {why}", why=error)
            raise errors.Unhealthy from error

    # --- changed by itself ---------------------------------------------------------------

    def tend(self) -> None:
        """Take the next step in each group that this node leads, if there is one."""
        if self._changing.locked:
            return

        def ended(failure: Failure) -> None:
            if not failure.check(CallError, ChangeRefused):
                self.log.failure("the members of the store could not be changed", failure)

        self._changing.run(lambda: Deferred.fromCoroutine(self._step())).addErrback(ended)

    async def _step(self) -> None:
        joined = self._directory.joined(self.cluster)
        if self._leads(self._system):
            await self._remember(joined)
        removed = self._state.removed
        wanted = {member for member in joined if member not in removed}
        for slot in (self._keyspace, self._system):
            group, status = slot.group, slot.raft_status()
            if group is None or status is None or status.leader != status.me:
                continue
            change = next_change(status, wanted, MAX_VOTERS, self._settings)
            voters = set(change.voters if change else status.config.voters)
            learners = set(change.learners if change else status.config.learners)
            gone = self._replaced(joined, voters, learners) or self._dismissed(voters | learners)
            if change is not None or (gone and not status.config.joint):
                await group.change(voters - gone, learners - gone, CHANGE_S)

    def _leads(self, slot: GroupSlot) -> bool:
        status = slot.raft_status()
        return status is not None and status.leader == status.me

    async def _remember(self, joined: dict[Member, Place]) -> None:
        """Write down where members live: who comes back on an empty disk is known by that."""
        for member, place in sorted(joined.items()):
            where: House = (str(place.node), place.name, place.peer, place.client)
            if self._state.houses.get(member) != where:
                await self._system.propose(system.house(member, where), CHANGE_S)

    def _dismissed(self, members: set[Member]) -> set[Member]:
        """One member that was removed by hand, and is left to be dropped from this group."""
        return set(sorted(member for member in members if member in self._state.removed)[:1])

    def _replaced(
        self, joined: dict[Member, Place], voters: set[Member], learners: set[Member]
    ) -> set[Member]:
        """One member whose node is back as another one, which is a voter by now."""
        for member, place in sorted(joined.items()):
            if member not in voters:
                continue
            for old in sorted(voters | learners):
                before = self.place(old)
                same = before is not None and before.name == place.name and old not in joined
                if old != member and (old == place.replaces or same):
                    return {old}
        return set()
