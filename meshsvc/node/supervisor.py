"""The process that holds a node together: it starts shards, watches them, starts them again,
hands connections to them, and ends when they cannot go on.

No data passes through it, so that it has little to fail on; what it decides is decided in
pure modules (``worker``, ``beats``, ``handover``, ``ledger``), what it does is here. It wakes
once a second, and when something happens.
"""

from __future__ import annotations

import os
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from meshsvc.counters import Counters
from meshsvc.errors import LocalError, StartError, WireError
from meshsvc.model import Incarnation, Sent, ShardId
from meshsvc.node import exits, signals
from meshsvc.node.accept import Acceptor
from meshsvc.node.beats import TICK_S, BeatWatch
from meshsvc.node.exits import ExitStatus
from meshsvc.node.intensity import RestartIntensity
from meshsvc.node.ledger import CounterLedger
from meshsvc.node.notify import Notifier
from meshsvc.node.reports import node_counters, state_row
from meshsvc.node.spawn import Launch, Life
from meshsvc.node.start import Prepared
from meshsvc.node.worker import Effect, GaveUp, Kill, SendDrain, Spawn, Worker
from meshsvc.retry import exponential
from meshsvc.wire import messages

FAILURE_DRAIN_S = 5.0
"""What the other shards get when one cannot go on: enough to answer what they have begun."""

SILENCED_S = 1.0
"""A process that lost its channel is about to end; after this it is taken for wedged."""

REAP_S = 2.0
"""After SIGKILL a process ends at once, or hangs in the kernel and is not waited for."""

_RESTART_PAUSE = exponential(0.1, 2.0, 5.0, jitter=lambda: 1.0)
"""Without jitter: the shards of one node do not compete for anything when they start."""


class Supervisor(Service):
    """The service that ``twistd meshsvc run`` runs."""

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        prepared: Prepared,
        launch: Launch,
        status: ExitStatus,
        notifier: Notifier,
    ) -> None:
        shards = prepared.config.shards
        self._reactor = reactor
        self._prepared = prepared
        self._launch = launch
        self._status = status
        self._notifier = notifier
        self._counters = Counters()
        self._acceptor = Acceptor(reactor, prepared.shards, self._counters, self._pass)
        self._beats = BeatWatch(shards.heartbeat_timeout_s)
        self._ledger = CounterLedger()
        self._lives: dict[ShardId, Life] = {}
        self._workers = [
            Worker(
                ShardId(i),
                RestartIntensity(_RESTART_PAUSE, shards.restarts, shards.restart_window_s),
            )
            for i in range(prepared.shards)
        ]
        self._ticking = LoopingCall(self._tick)
        self._ticking.clock = reactor
        self._wake_call: IDelayedCall | None = None
        self._served = False
        self._stopping = False
        self._finished = False
        self._all_over: list[Deferred[None]] = []

    # begin and end

    def startService(self) -> None:
        """Take over the ports; the shards are started as soon as the reactor runs."""
        super().startService()  # type: ignore[no-untyped-call]
        self._prepared.identity.lock.note(str(os.getpid()))  # twistd has forked since
        for name, bound in self._prepared.sockets.items():
            self._acceptor.add(name, bound, self._prepared.addresses[name])
        self._catch_signals()
        self._reactor.callWhenRunning(self._begin)

    def stopService(self) -> Deferred[None]:
        """Drain the shards, unless that is done; fires when no process is left."""
        super().stopService()  # type: ignore[no-untyped-call]
        self.stop(self._prepared.config.shards.drain_s)
        return self._when_over()

    def stop(self, budget_s: float) -> None:
        """Accept no more and have the shards drain; they are killed when the time is over."""
        if self._stopping:
            return
        self._stopping = True
        self._notifier.send("STOPPING=1", "STATUS=draining")
        self._acceptor.close()
        now = self._now()
        for worker in self._workers:
            worker.drain(now, now + budget_s)
        self._carry_out_all()

    def stop_at_once(self) -> None:
        """Kill the shards."""
        self._stopping = True
        self._acceptor.close()
        for worker in self._workers:
            worker.kill(self._now())
        self._carry_out_all()
        self._reactor.callLater(REAP_S, self._finish)

    def fail(self, code: int, text: str) -> None:
        """End the node with an exit code; the first reason is the one that is told."""
        if self._status.note(code, text):
            self._log.critical("the node ends (exit code {code}): {text}", code=code, text=text)
            self._notifier.send(f"STATUS=failed: {text}")
        self.stop(FAILURE_DRAIN_S)

    # what the shards say

    def life_said(self, life: Life, message: Any) -> None:
        """A shard sent a message."""
        if self._lives.get(life.shard) is not life:
            return
        if isinstance(message, messages.Beat):
            life.lag_ms = message.lag_ms
            self._beats.beat(life.shard)
            self._ledger.report(life.shard, life.incarnation, message.counters)
        elif isinstance(message, messages.HandoffAck):
            life.connections += message.taken
            self._acceptor.settled(life.shard, message.seq, message.taken)
        elif isinstance(message, messages.Listen):
            life.channel.send(self._listen(life, message))
        elif isinstance(message, messages.ShardReady):
            self._ready(life, message.warnings)
        elif isinstance(message, messages.Fatal) and self._stopping:
            # A shard that was starting finds the ports closed, say: the node ends anyway.
            self._log.info("shard {shard}: {text}", shard=life.shard, text=message.text)
        elif isinstance(message, messages.Fatal):
            code = message.exit_code if 0 < message.exit_code < 256 else exits.SOFTWARE
            self.fail(code, f"shard {life.shard}: {message.text}")
        else:
            raise WireError(f"a shard does not send {type(message).__name__} to its supervisor")

    def life_silenced(self, life: Life) -> None:
        """A shard's channel closed; most likely its process is ending."""
        self._reactor.callLater(SILENCED_S, self._kill_if_same, life)

    def life_over(self, life: Life, cause: str) -> None:
        """A shard's process is gone."""
        worker = self._workers[life.shard]
        expected = worker.state in ("draining", "ending")
        level = self._log.info if expected else self._log.error
        level(
            "shard {shard} (pid {pid}) ended: {cause}", shard=life.shard, pid=life.pid, cause=cause
        )
        del self._lives[life.shard]
        self._beats.forget(life.shard)
        self._ledger.ended(life.shard)
        self._acceptor.left(life.shard)
        worker.exited(self._now(), cause)
        self._carry_out(worker)

    # what is decided

    def _begin(self) -> None:
        self._catch_signals()
        self._ticking.start(TICK_S, now=False)
        if self._stopping:
            return self._finish_if_over()
        for worker in self._workers:
            worker.start(self._now())
        return self._carry_out_all()

    def _carry_out_all(self) -> None:
        for worker in self._workers:
            self._carry_out(worker)

    def _carry_out(self, worker: Worker) -> None:
        for effect in worker.take_effects():
            self._do(worker, effect)
        self._arm()
        self._tell_states()
        self._finish_if_over()

    def _do(self, worker: Worker, effect: Effect) -> None:
        life = self._lives.get(worker.shard)
        if isinstance(effect, Spawn):
            self._spawn(worker, effect.incarnation)
        elif isinstance(effect, GaveUp):
            self.fail(exits.SOFTWARE, effect.text)
        elif life is None:
            return
        elif isinstance(effect, SendDrain):
            life.channel.send_urgent(messages.Drain(effect.budget_s))
        else:
            self._kill(worker, life, effect)

    def _kill(self, worker: Worker, life: Life, effect: Kill) -> None:
        self._log.error(
            "shard {shard} (pid {pid}) is killed: {why}",
            shard=life.shard,
            pid=life.pid,
            why=effect.why,
        )
        self._beats.forget(life.shard)
        life.kill()
        if worker.state == "killed" and not self._served:
            self.fail(exits.SOFTWARE, f"shard {life.shard} did not start: {effect.why}")

    def _spawn(self, worker: Worker, incarnation: Incarnation) -> None:
        life = Life(self._reactor, self._prepared.boot(worker.shard, incarnation), self)
        try:
            life.start(self._launch)
        except OSError as error:
            worker.exited(self._now(), f"its process could not be started: {error}")
            self._reactor.callLater(0, self._carry_out, worker)
            return
        self._lives[worker.shard] = life
        self._log.info(
            "shard {shard} started: pid {pid}, incarnation {incarnation}",
            shard=life.shard,
            pid=life.pid,
            incarnation=incarnation,
        )

    def _kill_if_same(self, life: Life) -> None:
        if self._lives.get(life.shard) is life:
            worker = self._workers[life.shard]
            worker.silent(self._now())
            self._carry_out(worker)

    def _ready(self, life: Life, warnings: tuple[object, ...]) -> None:
        for warning in warnings:
            self._log.warn("shard {shard}: {warning}", shard=life.shard, warning=warning)
        worker = self._workers[life.shard]
        worker.ready(self._now())
        self._beats.watch(life.shard)
        if not self._served and all(each.state == "running" for each in self._workers):
            self._served = True
            self._acceptor.open()
            self._log.info("all {shards} shards are ready", shards=len(self._workers))
            self._notifier.send("READY=1", f"STATUS=serving with {len(self._workers)} shards")
        self._carry_out(worker)

    def _listen(self, life: Life, asked: messages.Listen) -> messages.Listening:
        try:
            at = self._acceptor.listen(life.shard, asked.listener)
        except StartError as error:
            if asked.listener in self._prepared.addresses:
                self.fail(error.exit_code, str(error))
            return messages.Listening(asked.request, asked.listener, "", 0, str(error))
        except LocalError as error:
            return messages.Listening(asked.request, asked.listener, "", 0, str(error))
        return messages.Listening(asked.request, asked.listener, at.host, at.port, "")

    def _pass(self, shard: ShardId, packet: bytes, fd: int) -> Sent:
        life = self._lives.get(shard)
        return Sent.DISCONNECTED if life is None else life.pass_connection(packet, fd)

    # time

    def _now(self) -> float:
        return float(self._reactor.seconds())

    def _tick(self) -> None:
        for shard in self._beats.tick():
            self._workers[shard].silent(self._now())
            self._carry_out(self._workers[shard])
        self._tell_states()
        first = self._lives.get(ShardId(0))
        if first is not None and not first.channel.blocked:
            for message in node_counters(self._ledger, self._counters.snapshot()):
                first.channel.send(message)
        if self._notifier.watched and self._beats.all_beat:
            self._notifier.send("WATCHDOG=1")

    def _tell_states(self) -> None:
        rows = tuple(
            state_row(worker, self._lives.get(worker.shard), self._prepared.cpus[worker.shard])
            for worker in self._workers
        )
        for life in self._lives.values():
            if not life.channel.blocked:  # it reads nothing: newer rows will come
                life.channel.send(messages.ShardStates(rows))

    def _arm(self) -> None:
        if self._wake_call is not None and self._wake_call.active():
            self._wake_call.cancel()
        due = [at for worker in self._workers if (at := worker.deadline()) is not None]
        if due:
            wait_s = max(0.0, min(due) - self._now())
            self._wake_call = self._reactor.callLater(wait_s, self._wake)

    def _wake(self) -> None:
        for worker in self._workers:
            worker.tick(self._now())
            self._carry_out(worker)

    # the end

    def _catch_signals(self) -> None:
        signals.on_stop(self._reactor, self._stop_signal, self._reload_signal)

    def _stop_signal(self, name: str) -> None:
        if self._stopping:
            self._log.warn("{name} again: the shards are killed", name=name)
            self._status.note(exits.CUT_SHORT, f"a second {name} cut the drain short")
            self.stop_at_once()
        else:
            self._log.info("{name}: draining", name=name)
            self.stop(self._prepared.config.shards.drain_s)

    def _reload_signal(self) -> None:
        self._log.warn("SIGHUP: the config is not read again; restart the node to change it")

    def _when_over(self) -> Deferred[None]:
        if all(worker.over for worker in self._workers):
            return succeed(None)
        self._all_over.append(Deferred())
        return self._all_over[-1]

    def _finish_if_over(self) -> None:
        if self._stopping and all(worker.over for worker in self._workers):
            self._finish()

    def _finish(self) -> None:
        wedged = [str(worker.shard) for worker in self._workers if worker.wedged]
        if wedged:
            text = f"shard {', '.join(wedged)} did not stop in time and was killed"
            self._status.note(exits.SOFTWARE, text)
        if self._ticking.running:
            self._ticking.stop()
        if self._wake_call is not None and self._wake_call.active():
            self._wake_call.cancel()
        self._all_over, waiting = [], self._all_over
        for deferred in waiting:
            deferred.callback(None)
        # Called again, or while twistd stops the services, the reactor is stopping already.
        if self._reactor.running and self.running and not self._finished:
            self._reactor.stop()
        self._finished = True
