"""Verbs that take load and verbs that drive it; a figure is measured where it happens."""

from __future__ import annotations

from pathlib import Path
from time import monotonic_ns, perf_counter

from twisted.application.service import Service
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater

from benchapp.payload import payload
from benchapp.tables import TableVerbs
from meshsvc.errors import CallError
from meshsvc.kv.api import Put
from meshsvc.model import LinkClass, Sent

TURN = 1000
"""Tells in one turn of the reactor, so that the sender also reads and writes."""

ASK_S = 60.0

LAG_S = 0.002
"""Between two looks at the reactor."""

VERBS = ("counted", "echo", "swallow", "push", "asks", "bulk", "probe", "puts", "fill", "lag")


class BenchService(Service):
    """One a shard; the load runs between shards 0 of two nodes."""

    def __init__(self, mesh) -> None:
        self.mesh = mesh
        self.count, self.first = 0, 0.0
        self._events = None
        self._tables = TableVerbs(mesh)

    def startService(self) -> None:
        """Register the verbs and begin to note events."""
        super().startService()
        verbs = self.mesh.verbs
        verbs.register_oneway("bench.sink", self.sink)
        for name in VERBS:
            verbs.register(f"bench.{name}", getattr(self, name))
        for name in TableVerbs.NAMES:
            verbs.register(f"bench.t_{name}", self._tables[name])
        where = self.mesh.options.get("events")
        if where and self.mesh.shard == 0:
            self._events = Path(where).open("a", buffering=1)  # noqa: SIM115 - open as long as it runs
            self._note("started", self.mesh.name)
            self.mesh.members.on_change(lambda e: self._note(e.name, e.member.name))

    def stopService(self):
        """Fires when nothing runs any more."""
        super().stopService()
        names = ("sink", *VERBS, *(f"t_{name}" for name in TableVerbs.NAMES))
        return gatherResults([self.mesh.verbs.unregister(f"bench.{name}") for name in names])

    def _note(self, event: str, node: str) -> None:
        self._events.write(f"{monotonic_ns()} {event} {node}\n")

    # --- taking load ---------------------------------------------------------------------

    def sink(self, call) -> None:
        """Count a one-way verb."""
        if not self.count:
            self.first = perf_counter()
        self.count += 1

    def counted(self, _) -> list[float]:
        """[how many came, seconds since the first], and start over."""
        seen = [self.count, perf_counter() - self.first]
        self.count = 0
        return seen

    def echo(self, call) -> object:
        """Answer with what came."""
        return call.payload

    def swallow(self, call) -> int:
        """Answer with the length of what came."""
        return len(call.payload)

    # --- driving it ----------------------------------------------------------------------

    async def puts(self, call) -> float:
        """``[count, depth]`` puts of 100 bytes, ``depth`` at a time; puts a second."""
        count, depth = call.payload
        kv = self.mesh.kv()
        left = [count]

        async def work(number: int) -> None:
            while left[0] > 0:
                left[0] -= 1
                await kv.put(f"native/{number}", b"v" * 100)

        began = perf_counter()
        await gatherResults([Deferred.fromCoroutine(work(n)) for n in range(depth)])
        return count / (perf_counter() - began)

    async def fill(self, call) -> float:
        """``[first, count]`` keys of 100-byte values, 100 a transaction; puts a second."""
        first, count = call.payload
        kv, began = self.mesh.kv(), perf_counter()
        starts = iter(range(first, first + count, 100))

        async def work() -> None:
            for start in starts:
                puts = [Put(b"fill/%09d" % n, b"v" * 100) for n in range(start, start + 100)]
                await kv.txn([], puts)

        await gatherResults([Deferred.fromCoroutine(work()) for _ in range(16)])
        return count / (perf_counter() - began)

    async def lag(self, call) -> list[float]:
        """For ``seconds``: how late the reactor of this shard is; [p99.9, most] in ms."""
        late, until = [], perf_counter() + call.payload
        while perf_counter() < until:
            due = perf_counter() + LAG_S
            await deferLater(self.mesh.clock, LAG_S)
            late.append(max(0.0, perf_counter() - due) * 1000)
        late.sort()
        return [late[int(len(late) * 0.999)], late[-1]]

    async def push(self, call) -> dict[str, float]:
        """``{"node", "count", "kind"}`` one-way verbs; verbs per second at the receiver."""
        target = self.mesh.node(call.payload["node"]).shard(0)
        left, data = call.payload["count"], payload(call.payload["kind"])
        await target.ask("bench.counted", None, timeout_s=ASK_S)
        tell, full = target.tell, 0
        while left:
            for _ in range(min(TURN, left)):
                if tell("bench.sink", data) is not Sent.ACCEPTED:
                    full += 1
                    break
                left -= 1
            await deferLater(self.mesh.clock, 0)
        count, seconds = await target.ask("bench.counted", None, timeout_s=ASK_S)
        return {"count": count, "per_s": count / seconds, "full": full}

    def asks(self, call) -> Deferred[dict[str, float]]:
        """``{"node", "count", "kind", "depth"}`` echoes; rate, and percentiles in us."""
        run = _Asks(self.mesh.node(call.payload["node"]).shard(0), call.payload)
        return run.start()

    async def bulk(self, call) -> dict[str, float]:
        """``{"node", "bytes", "chunk", "depth"}`` over the data link; bytes per second."""
        target = self.mesh.node(call.payload["node"]).shard(0)
        chunk = b"x" * call.payload["chunk"]
        left = [call.payload["bytes"] // len(chunk)]
        retries = [0]

        async def lane() -> None:
            while left[0] > 0:
                left[0] -= 1
                try:
                    await target.ask("bench.swallow", chunk, timeout_s=ASK_S)
                except CallError as error:
                    if not error.retriable:
                        raise
                    left[0] += 1
                    retries[0] += 1
                    await deferLater(self.mesh.clock, 0.01)

        begun = perf_counter()
        lanes = [Deferred.fromCoroutine(lane()) for _ in range(call.payload["depth"])]
        await gatherResults(lanes, consumeErrors=True)
        seconds = perf_counter() - begun
        return {"seconds": seconds, "per_s": call.payload["bytes"] / seconds, "full": retries[0]}

    async def probe(self, call) -> dict[str, object]:
        """``{"node", "seconds", "every_s"}`` echoes over the control link; latencies in ms.

        An echo is timed from when it was due, so that a stalled sender shows too.
        """
        target = self.mesh.node(call.payload["node"]).shard(0).over(LinkClass.CONTROL)
        every, seen, failed, waiting = call.payload["every_s"], [], [], []
        begun = perf_counter()
        for number in range(int(call.payload["seconds"] / every)):
            due = begun + number * every
            if (early := due - perf_counter()) > 0:
                await deferLater(self.mesh.clock, early)
            asked = target.ask("bench.echo", b"x" * 100, timeout_s=10)
            asked.addCallback(lambda _, due=due: seen.append(perf_counter() - due))
            asked.addErrback(failed.append)
            waiting.append(asked)
        await gatherResults(waiting)
        return {"ms": [1e3 * took for took in seen], "failed": len(failed)}


class _Asks:
    """A number of asks, ``depth`` of them in flight at any moment."""

    def __init__(self, target, load) -> None:
        self._ask, self._data = target.ask, payload(load["kind"])
        self._count, self._depth = load["count"], load["depth"]
        self._sent = self._done = 0
        self._took: list[float] = []
        self._finished: Deferred[dict[str, float]] = Deferred()

    def start(self) -> Deferred[dict[str, float]]:
        """Fires with the figures; fails with the first error."""
        self._begun = perf_counter()
        for _ in range(self._depth):
            self._next()
        return self._finished

    def _next(self) -> None:
        self._sent += 1
        begun = perf_counter()
        asked = self._ask("bench.echo", self._data, timeout_s=ASK_S)
        asked.addCallback(self._answered, begun)
        asked.addErrback(self._failed)

    def _answered(self, _: object, begun: float) -> None:
        now = perf_counter()
        self._took.append(now - begun)
        self._done += 1
        if self._sent < self._count:
            self._next()
        elif self._done == self._count:
            seconds = now - self._begun
            self._took.sort()
            p50, p99 = (1e6 * _share(self._took, share) for share in (0.5, 0.99))
            self._finished.callback({"per_s": self._count / seconds, "p50": p50, "p99": p99})

    def _failed(self, failure) -> None:
        if not self._finished.called:
            self._finished.errback(failure)


def _share(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
