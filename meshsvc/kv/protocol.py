"""What the service stands on: the Raft group as it needs it, and work in turns of the reactor."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from meshsvc.errors import CallError
from meshsvc.kv import upkeep
from meshsvc.kv.errors import NotLeader, TimedOut
from meshsvc.kv.ports import REQUEST_S

T = TypeVar("T")


class GroupStatus(Protocol):
    """What a replica knows of its group."""

    @property
    def leader_id(self) -> int:
        """The member that leads, 0 when unknown."""

    @property
    def term(self) -> int:
        """The Raft term."""

    @property
    def commit_index(self) -> int:
        """The last entry known to be committed."""

    @property
    def applied_index(self) -> int:
        """The last entry applied here."""

    @property
    def is_learner(self) -> bool:
        """Whether this replica has no vote."""


class RaftGroup(Protocol):
    """The group of replicas that orders the commands of one keyspace.

    Every Deferred ends within its ``timeout_s``. It fails with a ``meshsvc.errors`` kind
    (``TimedOut``, ``Disconnected``, ``Overloaded``), or with a ``KvError`` that is passed on.
    """

    def propose(self, data: bytes, timeout_s: float) -> Deferred[Any]:
        """Have a command committed and applied; fires with what applying it here returned."""

    def read_index(self, timeout_s: float) -> Deferred[int]:
        """Fires when all that was committed at the time of the call is applied here."""

    def status(self) -> GroupStatus:
        """How the group is, as far as this replica knows."""

    def add_leader_observer(self, observer: Callable[[int, int], None]) -> None:
        """Call with (leader, term) at each change; leader 0 is none. This replica's own
        leadership is told once everything of earlier terms has been applied.
        """

    def transfer(self, target_id: int, timeout_s: float) -> Deferred[None]:
        """Hand leadership over."""


class Membership(Protocol):
    """Who belongs to the group: what etcd's Cluster service shows and changes."""

    def members(self) -> tuple[upkeep.KvMember, ...]:
        """The members as this node knows them."""

    def change(self, request: object, timeout_s: float) -> Deferred[upkeep.KvMember | None]:
        """Do a ``MemberAdd``, ``MemberRemove``, ``MemberUpdate`` or ``MemberPromote``."""


class LeaderLine(Protocol):
    """A way to ask the replica that leads something that is not a command."""

    def ask_leader(self, payload: list[Any], timeout_s: float) -> Deferred[Any]:
        """Have the leader's ``KvService.answer`` take a payload; its answer comes back.

        Fails with a ``CallError``, or with the ``KvError`` that the answer failed with.
        """


Steps = Generator[None, None, T]


class Turns:
    """Work that is too much for one turn of the reactor, done a slice a turn.

    Each kind of work is under a name and is there at most once, however often it is asked for.
    """

    log = Logger()

    def __init__(self, reactor: IReactorTime) -> None:
        self._reactor = reactor
        self._work: dict[object, Callable[[], bool]] = {}
        self._call: IDelayedCall | None = None
        self._stopped = False

    def soon(self, name: object, work: Callable[[], bool]) -> None:
        """Call ``work`` in the next turn and each one after it, until it returns False."""
        if self._stopped:
            return
        self._work.setdefault(name, work)
        if self._call is None:
            self._call = self._reactor.callLater(0, self._turn)

    def run(self, steps: Steps[T]) -> Deferred[T]:
        """Take one step a turn; fires with what the steps return. Cancel to stop."""
        done: Deferred[T] = Deferred(lambda _: self._drop(steps))

        def step() -> bool:
            try:
                next(steps)
            except StopIteration as stop:
                done.callback(stop.value)
            except Exception:
                done.errback(Failure())
            else:
                return True
            return False

        self.soon(steps, step)
        return done

    def stop(self) -> None:
        """Drop all work."""
        self._stopped = True
        self._work.clear()
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _drop(self, steps: Steps[Any]) -> None:
        self._work.pop(steps, None)
        steps.close()

    def _turn(self) -> None:
        self._call = None
        work, self._work = self._work, {}
        for name, step in work.items():
            try:
                more = step()
            except Exception:
                self.log.failure("a slice of work on the store failed: {name}", name=name)
                more = False
            if more:
                self._work.setdefault(name, step)
        if self._work and self._call is None:
            self._call = self._reactor.callLater(0, self._turn)


class Reads:
    """Linearizable reads: all of one turn share one confirmation that this replica is current."""

    def __init__(self, turns: Turns, group: RaftGroup, timeout_s: float) -> None:
        self._turns = turns
        self._group = group
        self._timeout_s = timeout_s
        self._waiting: list[Deferred[None]] = []

    def current(self) -> Deferred[None]:
        """Fires when a read here sees everything that was committed before this call."""
        waiter: Deferred[None] = Deferred()
        self._waiting.append(waiter)
        self._turns.soon(self, self._confirm)
        return waiter

    def stop(self, error: Exception) -> None:
        """Fail those who wait for a turn that will not come."""
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            _settle(waiter, Failure(error))

    def _confirm(self) -> bool:
        waiting, self._waiting = self._waiting, []

        def settle(result: int | Failure) -> None:
            outcome = result if isinstance(result, Failure) else None
            for waiter in waiting:
                _settle(waiter, outcome)

        self._group.read_index(self._timeout_s).addBoth(settle)
        return False


def _settle(waiter: Deferred[None], outcome: Failure | None) -> None:
    if not waiter.called:
        waiter.callback(outcome)  # a Failure fails it


ASK_AGAIN_S = 0.1
"""Between two questions to the leader, while there is none or it does not know yet."""

Answer = Callable[[list[Any]], Deferred[list[Any]] | None]


class LeaderCalls:
    """Asks whoever leads, again and again for as long as a request may take.

    Args:
        line: the way to another replica that leads.
        own: this replica's own answer, None when it does not lead.
    """

    def __init__(self, reactor: IReactorTime, line: LeaderLine, own: Answer) -> None:
        self._reactor = reactor
        self._line = line
        self._own = own
        self._asking: dict[Deferred[list[Any]], None] = {}

    def ask(self, payload: list[Any]) -> Deferred[list[Any]]:
        """The leader's answer. Fails with ``TimedOut``, or what the leader failed with."""
        asking: Deferred[list[Any]] = Deferred.fromCoroutine(self._ask(payload))
        self._asking[asking] = None

        def done(result: T) -> T:
            self._asking.pop(asking, None)
            return result

        return asking.addBoth(done)

    def stop(self) -> None:
        """Ask no more."""
        for asking in list(self._asking):
            asking.cancel()

    async def _ask(self, payload: list[Any]) -> list[Any]:
        deadline = self._reactor.seconds() + REQUEST_S
        while (left := deadline - self._reactor.seconds()) > 0:
            try:
                own = self._own(payload)
                return await (own or self._line.ask_leader(payload, left))
            except NotLeader:
                pass
            except CallError as error:
                if not error.retriable:
                    raise
            await deferLater(self._reactor, ASK_AGAIN_S)
        raise TimedOut
