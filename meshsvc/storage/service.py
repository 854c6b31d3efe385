"""The journal of a shard as a service: changes go in, Deferreds fire after the fsync.

All work on files happens in one thread, one piece at a time: a join of all changes that
came while the last fsync ran, then one piece of other work (a chunk of a snapshot, a slice
of giving space back), then the next join. The reactor never waits for the disk.

The thread is an argument, ``run``: it calls a function where that may block and answers with
a Deferred. In the simulator it takes virtual time and no thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from meshsvc.counters import Counters
from meshsvc.errors import LocalError
from meshsvc.storage.failures import JournalClosed, JournalFailed, NoSpace, QueueFull
from meshsvc.storage.protocol import GroupLog
from meshsvc.storage.records import Change
from meshsvc.storage.store import Store
from meshsvc.storage.writer import CommitQueue, QueueLimits, Waiting

T = TypeVar("T")
Run = Callable[..., Deferred[Any]]

PROBE_S = 2.0
"""How often a full disk is asked for room: a probe costs at most a file of some mebibytes."""

MAX_WORK = 256
"""Pieces of other work that may wait: each snapshot being written or read has one at a time,
and a shard has far fewer of them."""

Ticket = Waiting[Deferred[None]]

EX_SOFTWARE = 70


@dataclass(frozen=True, slots=True)
class _Work:
    call: Callable[..., Any]
    args: tuple[Any, ...]
    done: Deferred[Any]


class WriterThread:
    """One thread for the work on files, as ``run`` of ``JournalService``.

    It is not the reactor's pool: look-ups of names can fill that for minutes, and handing a
    call to a pool and its result back takes as long as the fsync of a good disk.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._calls: SimpleQueue[_Work | None] = SimpleQueue()
        self._thread = Thread(target=self._work, name="journal")
        self._thread.start()
        # Also when nobody stops the service: the interpreter would wait for the thread.
        reactor.addSystemEventTrigger("after", "shutdown", self.stop)

    def __call__(self, call: Callable[..., T], *args: Any) -> Deferred[T]:
        """Call in the thread; fires in the reactor."""
        done: Deferred[T] = Deferred()
        self._calls.put(_Work(call, args, done))
        return done

    def stop(self) -> None:
        """End the thread once its last call is done."""
        self._calls.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (work := self._calls.get()) is not None:
            try:
                result = work.call(*work.args)
            except BaseException:  # whatever it is, who waits is told
                result = Failure()
            self._reactor.callFromThread(work.done.callback, result)
            del work, result  # nothing is held on to while there is nothing to do


class JournalService(Service):
    """Owns the store of a shard from ``opened`` to ``stopService``.

    Args:
        reactor: the clock.
        run: calls ``f(*args)`` in the writer thread and answers with a Deferred.
        open_store: opens the store; called once, in the writer thread.
        fatal: told (exit code, text) once, when the disk failed.
        counters: of the shard.
        limits: of what may wait.
    """

    log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        run: Run,
        open_store: Callable[[], Store],
        fatal: Callable[[int, str], object],
        counters: Counters,
        limits: QueueLimits | None = None,
    ) -> None:
        self.alarm = False
        """Whether the disk is full: appends wait, and the store should take no new writes."""
        self._reactor, self._run, self._open_store = reactor, run, open_store
        self._fatal, self._counters = fatal, counters
        self._queue: CommitQueue[Deferred[None]] = CommitQueue(limits or QueueLimits())
        self._work: deque[_Work] = deque()
        self._store: Store | None = None
        self._busy = self._work_next = self._untidy = False
        self._failure: Failure | None = None
        self._closing: Deferred[None] | None = None
        self._probe: Any = None
        self._observers: list[Callable[[bool], object]] = []
        self._latency = counters.histogram("journal_commit_seconds")
        self._batches = counters.counter("journal_batches_total")
        self._changes = counters.counter("journal_changes_total")

    # --- life ----------------------------------------------------------------------------

    def open(self) -> Deferred[None]:
        """Open the journal; nothing else may be asked before this fired.

        It ends with ``StartError`` when the journal cannot be opened.
        """
        done: Deferred[None] = Deferred()
        self._busy = True

        def opened(store: Store) -> None:
            self._store = store
            for warning in store.journal.warnings:
                self.log.warn("{warning}", warning=warning)
            self._untidy = store.journal.untidy
            self._idle()
            done.callback(None)

        def failed(failure: Failure) -> None:
            self._failure = failure
            self._idle()
            done.errback(failure)

        self._run(self._open_store).addCallbacks(opened, failed)
        return done

    def stopService(self) -> Deferred[None]:
        """Finish what waits, close the journal in an orderly way; what is held ends."""
        super().stopService()  # type: ignore[no-untyped-call]
        if self._closing is None:
            self._closing = Deferred()
            if self._probe is not None and self._probe.active():
                self._probe.cancel()
            self._pump()
        return self._closing

    def observe_alarm(self, observer: Callable[[bool], object]) -> None:
        """Call with True when the disk is found full, with False when it no longer is."""
        self._observers.append(observer)

    # --- what groups ask -----------------------------------------------------------------

    @property
    def store(self) -> Store:
        """The open store, for what was read at the start; all else goes through here.

        Raises:
            JournalClosed: it is not open.
        """
        if self._store is None:
            raise JournalClosed("the journal is not open yet")
        return self._store

    def group(self, group: int) -> GroupLog:
        """The log and the snapshots of a group."""
        return GroupLog(self, group)

    def submit(self, change: Change) -> Deferred[None]:
        """Make a change durable; fires after the fsync, in the order of submission."""
        refusal = self._refusal()
        if refusal is not None:
            return fail(refusal)
        done: Deferred[None] = Deferred()
        try:
            self._queue.offer(change, done)
        except LocalError as error:
            self._counters.add("journal_refused_total", reason=type(error).__name__)
            return fail(error)
        self._pump()
        return done

    def in_writer(self, call: Callable[..., T], *args: Any) -> Deferred[T]:
        """Do other work on files, between joins: ``call(store, *args)``."""
        refusal = self._refusal()
        if refusal is None and len(self._work) >= MAX_WORK:
            refusal = Failure(QueueFull(f"{MAX_WORK} pieces of work wait for the disk"))
        if refusal is not None:
            return fail(refusal)
        done: Deferred[T] = Deferred()
        self._work.append(_Work(call, args, done))
        self._pump()
        return done

    # --- the pump ------------------------------------------------------------------------

    def _refusal(self) -> Failure | None:
        if self._failure is not None:
            return self._failure
        if self._closing is not None or self._store is None:
            return Failure(JournalClosed("the journal is not open"))
        return None

    def _pump(self) -> None:
        if self._busy:
            return
        if self._failure is not None:
            self._end_all(self._failure)
        elif self._start_next():
            return
        if self._closing is not None:
            self._close()

    def _start_next(self) -> bool:
        if self._work_next and self._start_work():
            return True
        return self._start_commit() or self._start_work() or self._start_tidy()

    def _idle(self) -> None:
        self._busy = False
        self._pump()

    def _start_commit(self) -> bool:
        tickets = self._queue.take()
        if not tickets:
            return False
        changes = [ticket.change for ticket in tickets]
        begun = self._reactor.seconds()
        self._start(self._commit, changes).addCallbacks(
            self._committed, self._not_committed, (tickets, begun), {}, (tickets,), {}
        )
        self._work_next = True
        return True

    def _commit(self, changes: list[Change]) -> tuple[list[Exception | None], bool]:
        """In the writer thread."""
        store = self.store
        return store.commit(changes), store.journal.untidy

    def _committed(
        self,
        result: tuple[list[Exception | None], bool],
        tickets: list[Ticket],
        begun: float,
    ) -> None:
        outcomes, self._untidy = result
        self._latency.observe(self._reactor.seconds() - begun)
        self._batches.value += 1
        self._changes.value += len(tickets)
        for ticket, error in zip(tickets, outcomes, strict=True):
            if error is None:
                ticket.done.callback(None)
            else:
                ticket.done.errback(error)
        self._idle()

    def _not_committed(self, failure: Failure, tickets: list[Ticket]) -> None:
        self._queue.put_back(tickets)
        if failure.check(NoSpace):
            # What was taken from a full disk's queue was compaction: it waits for a probe too.
            self._queue.stuck = self._queue.full
            self._space_is_short()
        else:
            self._broken(failure)
        self._idle()

    def _start_work(self) -> bool:
        self._work_next = False
        if not self._work:
            return False
        work = self._work.popleft()

        def failed(failure: Failure) -> None:
            if failure.check(JournalFailed):
                self._broken(failure)
            work.done.errback(failure)

        done = self._start(work.call, self.store, *work.args)
        done.addCallbacks(work.done.callback, failed)
        done.addCallback(lambda _: self._idle())
        return True

    def _start_tidy(self) -> bool:
        if not self._untidy:
            return False
        self._untidy = False
        self._start(self.store.journal.tidy).addCallbacks(self._tidied, self._not_tidied)
        return True

    def _tidied(self, more: bool) -> None:
        self._untidy = more
        if self.alarm:
            self._ask_for_room()  # a segment may have gone
        self._idle()

    def _not_tidied(self, failure: Failure) -> None:
        if failure.check(NoSpace):
            self._space_is_short()
        else:
            self._broken(failure)
        self._idle()

    def _start(self, call: Callable[..., T], *args: Any) -> Deferred[T]:
        self._busy = True
        return self._run(call, *args)

    # --- a full disk ---------------------------------------------------------------------

    def _space_is_short(self) -> None:
        self._queue.full = True
        if not self.alarm:
            self.log.error(
                "the disk is full: writes wait until there is room, reads and compaction go on"
            )
            self._sound(True)
        if self._closing is None and (self._probe is None or not self._probe.active()):
            self._probe = self._reactor.callLater(PROBE_S, self._ask_for_room)

    def _ask_for_room(self) -> None:
        if self._refusal() is not None:
            return
        if len(self._work) >= MAX_WORK:
            self._space_is_short()  # asked again a little later
            return
        asked = self.in_writer(lambda store: store.journal.probe())
        asked.addCallbacks(self._probed, lambda _: None)  # what failed is known by then

    def _probed(self, room: bool) -> None:
        self._queue.stuck = False
        self._untidy = self.store.journal.untidy
        if not room:
            self._space_is_short()
        elif self.alarm:
            if self._probe is not None and self._probe.active():
                self._probe.cancel()
            self._queue.full = False
            self.log.info("there is room on the disk again: writes go on")
            self._sound(False)

    def _sound(self, alarm: bool) -> None:
        self.alarm = alarm
        self._counters.gauge("journal_full", int(alarm))
        for observer in self._observers:
            observer(alarm)

    # --- the end -------------------------------------------------------------------------

    def _broken(self, failure: Failure) -> None:
        """The disk failed, or this code did: nothing is acknowledged from here on."""
        if self._failure is not None:
            return
        self._failure = failure
        code = getattr(failure.value, "exit_code", EX_SOFTWARE)
        if code == EX_SOFTWARE:
            self.log.failure("the journal cannot go on", failure)
        self._fatal(code, failure.getErrorMessage())

    def _end_all(self, failure: Failure) -> None:
        for ticket in self._queue.clear():
            ticket.done.errback(failure)
        work, self._work = self._work, deque()
        for piece in work:
            piece.done.errback(failure)

    def _close(self) -> None:
        assert self._closing is not None
        closing = self._closing
        self._end_all(Failure(JournalClosed("the journal was closed")))
        store, self._store = self._store, None
        if closing.called or self._busy:
            return
        if store is None:
            closing.callback(None)
            return
        self._busy = True
        self._run(store.close).addErrback(
            lambda failure: self.log.failure("the journal did not close", failure)
        ).chainDeferred(closing)
