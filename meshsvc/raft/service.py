"""A replica, running: it does the duties of its core and answers who proposes and reads.

The core decides, the journal remembers, the state machine does; here they are connected, and
nothing is decided but when to ask again. All that callers ask within one turn of the reactor
goes to the core together; there is one delayed call, for whatever is due next.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from meshsvc.errors import CallError, Cancelled, Disconnected, Overloaded, TimedOut, WireError
from meshsvc.raft.asking import Asking
from meshsvc.raft.messages import decode_message
from meshsvc.raft.protocol import StateMachine, Surroundings, Transport
from meshsvc.raft.quorum import NOBODY, Config, Member
from meshsvc.raft.raft import Raft
from meshsvc.raft.replica import Replica, Then
from meshsvc.raft.sessions import SESSION_BYTES, Command, Verdict
from meshsvc.raft.settings import Settings
from meshsvc.raft.status import Status
from meshsvc.raft.waits import (
    MAX_PROPOSALS,
    MAX_READS,
    Deadlines,
    Proposal,
    Read,
    ReadWaits,
    Wait,
)
from meshsvc.storage.protocol import ReplicaLog

LeaderObserver = Callable[[int, int], object]

EX_SOFTWARE = 70


class RaftGroup(Service):
    """One member of one group.

    Args:
        around: what the process gives it.
        log: of this member and group.
        machine: driven by the log and by nothing else.
        transport: to the other members.
        settings: the same at all members.
    """

    log = Logger()

    def __init__(
        self,
        around: Surroundings,
        log: ReplicaLog,
        machine: StateMachine,
        transport: Transport,
        settings: Settings | None = None,
    ) -> None:
        self._around, self._reactor = around, around.reactor
        self._member, self._transport = log, transport
        self.send, self.flush = transport.send, transport.flush
        self._settings = settings or Settings()
        self._replica = Replica(self, log, machine, self._settings)
        self._asking = Asking(self._settings.election_s, self._new_session)
        self._deadlines = Deadlines()
        self._stopped = False
        self._turn: IDelayedCall | None = None
        self._timer: IDelayedCall | None = None
        self._led: tuple[int, int] = (NOBODY, 0)
        self._observers: list[LeaderObserver] = []
        self._until: list[tuple[Callable[[], bool], Wait]] = []

    @property
    def _raft(self) -> Raft | None:
        return self._replica.raft if self._replica.started and not self._stopped else None

    def _new_session(self) -> bytes:
        return self._around.rng.getrandbits(8 * SESSION_BYTES).to_bytes(SESSION_BYTES, "big")

    # --- life ----------------------------------------------------------------------------

    def start(self, founding: Config | None = None) -> Deferred[None]:
        """Take up what the disk holds and begin to take part; fires when it does.

        Args:
            founding: the agreed members, when this is one of them. It has effect only on a
                disk that never held anything of this group.
        """
        super().startService()  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._begin(founding))

    async def _begin(self, founding: Config | None) -> None:
        await self._replica.start(founding, self._around.rng)
        if not self._stopped:
            self._transport.attach(self)
            self._replica.drain()

    def stop(self) -> Deferred[None]:
        """Hand leadership over if this member has it, then take part no more."""
        handed = Deferred.fromCoroutine(self.hand_over())
        return handed.addCallback(lambda _: self.stopService())

    async def hand_over(self) -> None:
        """Give leadership away if it is here; ends after an election time-out at the latest."""
        heir = self._raft.heir if self._raft is not None else NOBODY
        if heir == NOBODY:
            return
        try:
            await self.transfer(heir, self._settings.election_s)
        except CallError as error:
            self.log.info("leadership was not handed over: {error}", error=error)

    def stopService(self) -> Deferred[None]:
        """Take part no more, at once; whatever waits ends in ``Disconnected``."""
        if not self._stopped:
            super().stopService()  # type: ignore[no-untyped-call]
            self._stopped = True
            self._transport.detach()
            for call in (self._turn, self._timer):
                if call is not None and call.active():
                    call.cancel()
            self._end_all(Disconnected("this replica is stopping"))
        return Deferred.fromCoroutine(self._replica.stop())

    def _end_all(self, error: CallError) -> None:
        waits: list[Wait] = [*self._asking.proposals.pending.values(), *self._asking.reads.all()]
        waits += [wait for _, wait in self._until if not wait.ended]
        self._asking.proposals.pending.clear()
        self._asking.reads, self._until = ReadWaits(), []
        for wait in waits:
            wait.ended = True
            wait.waiter.errback(error)

    # --- what is asked -------------------------------------------------------------------

    def propose(self, data: bytes, timeout_s: float) -> Deferred[Any]:
        """Have a command applied once; fires with what applying it here returned.

        Cancelling stops the waiting. Then, as after a time-out, it may be applied or not,
        but never twice.

        Returns:
            a Deferred that fails with TimedOut, Overloaded, Cancelled or Disconnected.
        """
        if self._stopped or self._asking.proposals.full:
            return fail(self._refusal(f"{MAX_PROPOSALS} proposals are pending"))
        waiter: Deferred[Any] = Deferred(lambda _: self._cancelled(proposal))
        proposal = self._asking.proposals.add(data, waiter, self._reactor.seconds() + timeout_s)
        self._deadlines.add(proposal)
        self._soon()
        return waiter

    def read_index(self, timeout_s: float) -> Deferred[int]:
        """Fires when all that was committed before the call is applied here, with its index.

        A read of this replica's state is linearizable then.
        """
        if self._stopped or self._asking.reads.full:
            return fail(self._refusal(f"{MAX_READS} reads are pending"))
        waiter: Deferred[int] = Deferred(lambda _: self._cancelled(wait))
        wait = self._asking.reads.add(waiter, self._reactor.seconds() + timeout_s)
        self._deadlines.add(wait)
        self._soon()
        return waiter

    def _refusal(self, too_many: str) -> CallError:
        if self._stopped:
            return Disconnected("this replica is stopping")
        return Overloaded(f"{too_many} in this replica: try again later")

    def _cancelled(self, wait: Wait) -> None:
        self._forget(wait)
        wait.waiter.errback(Cancelled("the caller cancelled"))

    def _forget(self, wait: Wait) -> None:
        wait.ended = True
        if isinstance(wait, Proposal):
            self._asking.proposals.end(wait.sequence)
        elif isinstance(wait, Read):
            self._asking.reads.given_up()

    def transfer(self, target_id: Member, timeout_s: float) -> Deferred[None]:
        """Hand leadership to a voter; any member may be asked. Fires when it leads."""
        raft = self._raft
        if raft is None or not raft.transfer(target_id, self._reactor.seconds()):
            return fail(Disconnected(f"leadership cannot be handed to member {target_id:x} now"))
        self._replica.drain()
        return self._when(lambda: raft.leader == target_id, timeout_s)

    def change(
        self, voters: set[Member], learners: set[Member], timeout_s: float
    ) -> Deferred[None]:
        """Change the members, at the leader; fires when the change is committed.

        Raises:
            ChangeRefused: at once, when it cannot be begun.
        """
        if self._raft is None:
            return fail(Disconnected("this replica has not started"))
        raft = self._raft
        raft.change(voters, learners, self._reactor.seconds())
        wanted = (tuple(sorted(voters)), (), tuple(sorted(learners)))
        self._replica.drain()

        def done() -> bool:
            status = self.status()
            now = raft.config_at(status.commit)
            return (now.voters, now.outgoing, now.learners) == wanted

        return self._when(done, timeout_s)

    def _when(self, done: Callable[[], bool], timeout_s: float) -> Deferred[None]:
        waiter: Deferred[None] = Deferred(lambda _: self._cancelled(wait))
        wait = Wait(waiter, self._reactor.seconds() + timeout_s)
        self._until.append((done, wait))
        self._deadlines.add(wait)
        self._notice()
        self._arm()
        return waiter

    def status(self) -> Status:
        """How this member and its group are.

        Raises:
            Disconnected: when it has not started.
        """
        if self._raft is None:
            raise Disconnected("this replica has not started")
        return self._raft.status(self._reactor.seconds())

    def add_leader_observer(self, observer: LeaderObserver) -> None:
        """Call with (leader, term) at each change; leader 0 is none. This member's own
        leadership is told once everything of earlier terms has been applied.
        """
        self._observers.append(observer)

    @property
    def pending(self) -> int:
        """Proposals and reads that wait."""
        return len(self._asking)

    # --- the way in ----------------------------------------------------------------------

    def received(self, source: Member, messages: Sequence[bytes]) -> None:
        """Messages from a member. One that makes no sense is counted and dropped."""
        if self._raft is None or self._stopped:
            return
        now = self._reactor.seconds()
        for data in messages:
            try:
                self._raft.step(source, decode_message(data), now)
            except WireError as error:
                self._around.counters.add("raft_bad_messages_total")
                self.log.warn("member {source:x}: {error}", source=source, error=error)
            except Exception:
                self._broken(Failure())
                return
        self._replica.drain()

    def unreachable(self, member: Member) -> None:
        """There is no way to a member now."""
        if self._raft is not None and not self._stopped:
            self._raft.unreachable(member)
            self._arm()

    # --- turns ---------------------------------------------------------------------------

    def _soon(self) -> None:
        if self._turn is None and not self._stopped:
            self._turn = self._reactor.callLater(0, self._in_turn)

    def _in_turn(self) -> None:
        self._turn = None
        if self._raft is not None:
            self._asking.fresh(self._raft, self._reactor.seconds())
            self._replica.go_on()
            self.flush()
        self._arm()

    def _wake(self) -> None:
        self._timer = None
        now = self._reactor.seconds()
        for wait in self._deadlines.expired(now):
            self._forget(wait)
            wait.waiter.errback(TimedOut("the group did not answer in time: is there a quorum?"))
        if self._raft is not None and now >= self._raft.deadline():
            self._raft.tick(now)
        if self._raft is not None and now >= self._asking.look_at:
            self._asking.look(self._raft, now)
        if self._raft is not None:
            self._replica.drain()
        self._arm()

    def _arm(self) -> None:
        if self._stopped:
            return
        at = self._deadlines.next()
        if self._raft is not None:
            at = min(at, self._raft.deadline(), self._asking.look_at)
        elif at == float("inf"):
            return
        if self._timer is not None and self._timer.active():
            if self._timer.getTime() <= at:
                return  # early is harmless: it looks and is armed anew
            self._timer.cancel()
        self._timer = self._reactor.callLater(max(0.0, at - self._reactor.seconds()), self._wake)

    # --- what the replica calls ------------------------------------------------------------

    def now(self) -> float:
        """Seconds on the reactor's clock."""
        return float(self._reactor.seconds())

    def soon(self) -> None:
        """Go on in another turn of the reactor: this one has done enough."""
        self._soon()

    def run(self, work: Coroutine[Deferred[Any], Any, Any], then: Then) -> None:
        """Do work that waits for the disk."""

        def ended(result: Any) -> None:
            if not isinstance(result, Failure):
                then(result, None)
            elif isinstance(result.value, Exception):
                then(None, result.value)

        Deferred.fromCoroutine(work).addBoth(ended).addErrback(self._broken)

    def warn(self, text: str) -> None:
        """Something went wrong that will be tried again."""
        self.log.warn("{text}", text=text)

    def read_known(self, read: int, index: int) -> None:
        """A read may be served from an index on."""
        self._asking.reads.answered(read, index)

    def command_done(self, command: Command, verdict: Verdict, answer: Any) -> None:
        """Answer whoever proposed a command, if that was here."""
        proposal = self._asking.done(command, verdict)
        if proposal is not None:
            proposal.waiter.callback(answer)

    def _serve(self, index: int) -> None:
        for wait in self._asking.reads.applied(index):
            wait.waiter.callback(index)

    def snapshot_installed(self) -> None:
        """What a snapshot has applied for us is done, and its answer is not known."""
        for proposal in self._asking.unseen(self._replica.sessions):
            proposal.waiter.errback(TimedOut("it was applied, and its answer was lost"))

    def failed(self, error: Exception) -> None:
        """What the replica knows may be wrong, or cannot be kept: it must not go on."""
        self._broken(Failure(error))

    def _broken(self, failure: Failure) -> None:
        if not self._stopped:
            text = failure.getErrorMessage()
            self.log.error(
                "a Raft replica stops: {text}\n{trace}", text=text, trace=failure.getTraceback()
            )
            self.stopService()
            self._around.fatal(EX_SOFTWARE, f"a Raft replica cannot go on: {text}")

    # --- news ----------------------------------------------------------------------------

    def drained(self) -> None:
        """All duties are done for now: serve the reads that waited for what is applied."""
        self._serve(self._replica.applied)
        self._notice()
        self._arm()

    def _notice(self) -> None:
        """Tell who waits for a change of leader or of anything else."""
        raft = self._raft
        if raft is None or self._stopped:
            return
        leader = raft.leader
        if leader != NOBODY and not raft.in_charge and leader == self._member.replica:
            leader = NOBODY
        if (leader, raft.term) != self._led:
            if leader not in (NOBODY, self._led[0]):
                self._asking.new_leader()
            self._led = (leader, raft.term)
            for observer in self._observers:
                observer(*self._led)
        if self._until:
            self._until = [(done, wait) for done, wait in self._until if not wait.ended]
            for wait in [wait for done, wait in self._until if done()]:
                wait.ended = True
                wait.waiter.callback(None)
