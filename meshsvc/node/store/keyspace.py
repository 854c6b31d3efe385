"""Between the store and Raft: one keyspace's service, its group, and the way to its leader.

The group starts only once the store is founded, the service at once: until then every request
ends in what etcd's clients know as an unavailable server, and try again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure

from meshsvc.counters import Counters
from meshsvc.errors import Disconnected, HandlerFailed
from meshsvc.kv import errors
from meshsvc.kv.protocol import GroupStatus
from meshsvc.messaging.service import Messaging
from meshsvc.model import LinkClass, ShardAddress, ShardId
from meshsvc.node.store.directory import StoreDirectory
from meshsvc.raft.service import LeaderObserver, RaftGroup
from meshsvc.raft.status import Status

ASK_LEADER = "store.lead"


@dataclass(frozen=True, slots=True)
class _NoGroup:
    """The status of a replica that has not started."""

    leader_id: int = 0
    term: int = 0
    commit_index: int = 0
    applied_index: int = 0
    is_learner: bool = True


class GroupSlot:
    """A group that may not be there yet; what is asked of it before fails as ``NoLeader``."""

    def __init__(self, counters: Counters, name: str) -> None:
        self.group: RaftGroup | None = None
        self.name = name
        self._proposals = counters.counter("raft_proposals_total", group=name)
        self._changes = counters.counter("raft_leader_changes_total", group=name)
        self._observers: list[LeaderObserver] = [self._leader_is]

    def fill(self, group: RaftGroup) -> None:
        """The group has started."""
        self.group = group
        for observer in self._observers:
            group.add_leader_observer(observer)

    def propose(self, data: bytes, timeout_s: float) -> Deferred[Any]:
        """See ``RaftGroup.propose``."""
        self._proposals.value += 1
        return self.group.propose(data, timeout_s) if self.group else fail(errors.NoLeader())

    def read_index(self, timeout_s: float) -> Deferred[int]:
        """See ``RaftGroup.read_index``."""
        return self.group.read_index(timeout_s) if self.group else fail(errors.NoLeader())

    def _leader_is(self, leader: int, term: int) -> None:
        self._changes.value += bool(leader)

    def status(self) -> GroupStatus:
        """See ``RaftGroup.status``."""
        return self.raft_status() or _NoGroup()

    def raft_status(self) -> Status | None:
        """All that the replica knows of the group; None while it does not run."""
        try:
            return self.group.status() if self.group is not None else None
        except Disconnected:  # it stops
            return None

    def add_leader_observer(self, observer: Callable[[int, int], None]) -> None:
        """See ``RaftGroup.add_leader_observer``."""
        self._observers.append(observer)
        if self.group is not None:
            self.group.add_leader_observer(observer)

    def hand_over(self) -> Deferred[None]:
        """See ``RaftGroup.hand_over``; nothing to do before there is a group."""
        return Deferred.fromCoroutine(self.group.hand_over()) if self.group else succeed(None)

    def stop(self) -> Deferred[None]:
        """Take part no more, at once."""
        return self.group.stopService() if self.group else succeed(None)

    def transfer(self, target_id: int, timeout_s: float) -> Deferred[None]:
        """See ``RaftGroup.transfer``."""
        return self.group.transfer(target_id, timeout_s) if self.group else fail(errors.NoLeader())


class Line:
    """The way to ask whichever node's replica leads a group something that is no command.

    Args:
        slot: the group.
        number: of the group; both ends look their service up by it.
    """

    def __init__(
        self, messaging: Messaging, directory: StoreDirectory, slot: GroupSlot, number: int
    ) -> None:
        self._messaging, self._directory = messaging, directory
        self._slot, self._number = slot, number

    def ask_leader(self, payload: list[Any], timeout_s: float) -> Deferred[Any]:
        """Have the leader answer; fails with a ``CallError`` or the ``KvError`` it failed with."""
        place = self._directory.place(self._slot.status().leader_id)
        if place is None:
            return fail(errors.NotLeader())
        target = ShardAddress(place.node, ShardId(0))
        asked = self._messaging.ask(
            target, ASK_LEADER, [self._number, payload], timeout_s, LinkClass.CONTROL
        )
        return asked.addErrback(kv_error)


def kv_error(failure: Failure) -> Failure:
    """The ``KvError`` that a handler at the other end failed with, as it was there."""
    error = failure.value
    kind = errors.KV_ERRORS.get(error.text) if isinstance(error, HandlerFailed) else None
    return Failure(kind()) if kind is not None else failure
