"""The seat of a node: joins its tables with those of other members, one join at a time.

Of two nodes the one with the lower id leads. It makes both sides send each other their live
writes, compares the copies, and when they differ takes the cluster's lock, stages on both
sides what each lacks, has conflicts resolved, and lets both merge. From then on each waits
for the other's answer to its writes, and now and then compares the copies again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from random import Random
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from meshsvc.errors import CallError, Disconnected, TimedOut
from meshsvc.messaging.dispatch import Call
from meshsvc.model import LinkClass, NodeId, Roster, ShardAddress, ShardId
from meshsvc.retry import exponential
from meshsvc.tables.columns import Rows
from meshsvc.tables.conflicts import weigh
from meshsvc.tables.difference import Gathered
from meshsvc.tables.digest import COUNT
from meshsvc.tables.join import Join, Phase, Step
from meshsvc.tables.joining.following import Following, Refused
from meshsvc.tables.joining.peers import Greeting, Lock, Peer, views
from meshsvc.tables.joining.protocol import Telling
from meshsvc.tables.protocol import SLICE_ROWS
from meshsvc.tables.replica import Replica
from meshsvc.tables.rows import Schema

if TYPE_CHECKING:
    from meshsvc.tables.service import Tables

ASK_S = 5.0
GREET_S = 2.0
"""How often seats compare what they think they have joined."""

COMMIT_S = 60.0
"""A million rows are merged, and passed on, in some seconds; a lost link ends it at once."""

BACKOFF_S = (0.2, 5.0)
"""The first and the longest wait of a join that failed; jittered."""


class Joining:
    """See the module's docstring; ``host`` is the tables of this shard, a seat."""

    log = Logger()

    def __init__(self, host: Tables, rng: Random, resolvers: dict[str, Any]) -> None:
        self.host, self.rng, self.resolvers = host, rng, resolvers
        self.peers: dict[NodeId, Peer] = {}
        self.lock = Lock()
        self._dirty = False
        self._telling = Telling(host)
        self._policy = exponential(BACKOFF_S[0], 2.0, BACKOFF_S[1], rng.random)
        self._queue: deque[tuple[Peer, str]] = deque()
        self._working = self._again = False
        self.ready = False
        self._greet_at = 0.0
        self._staged: dict[tuple[NodeId, str], tuple[int, deque[Rows]]] = {}
        self.verbs = {
            "tables.hello": self._greeted,
            "tables.check": lambda call: self.check(),
            **Following(self).verbs,
        }

    # --- who is there --------------------------------------------------------------------

    def adopted(self, roster: Roster) -> None:
        """Another epoch is in force."""
        listed = {n.node_id: n for n in roster.members if n.node_id != self.host.me.node_id}
        for node_id in [n for n in self.peers if n not in listed]:
            self._part(self.peers.pop(node_id), "it is no member any more")
        for node_id, info in listed.items():
            peer = self.peers.get(node_id)
            if peer is None:
                self.peers[node_id] = Peer(info)
            elif peer.info.incarnation != info.incarnation:
                self._part(peer, "it lives anew")
                self.peers[node_id] = Peer(info)
            else:
                peer.info = info
        self._greet_at = 0.0
        self.changed()

    def opened(self, schema: Schema) -> None:
        """This node holds another table: tell the others in the next turn, not the next tick."""
        self._greet_at = 0.0
        self.changed()
        if self.ready:
            self.host.reactor.callLater(0, self.tick, True)

    def tick(self, ready: bool) -> None:
        """Look who can be reached, greet them, and begin what is due."""
        host, now = self.host, self.host.reactor.seconds()
        self.ready = ready
        host.exchange.drop_old()
        for peer in self.peers.values():
            reachable = host.ways.reachable(peer.info.node_id, LinkClass.DATA)
            if peer.reachable and not reachable:
                self._part(peer, f"{peer.info.name} cannot be reached")
            elif reachable and not peer.reachable:
                self._greet_at = 0.0
                self.changed()
            peer.reachable = reachable
        holder = self.lock.holder
        if holder is not None and holder != host.me.node_id:
            held_by = self.peers.get(holder)
            if held_by is None or not held_by.reachable:
                self.lock.give_back(holder)
        if ready and host.replicas and now >= self._greet_at:
            self._greet_at = now + GREET_S * (0.5 + self.rng.random())
            for peer in list(self.peers.values()):
                if peer.reachable:
                    self._greet(peer)
        for peer in self.peers.values():
            self._look(peer, now)
        if self._telling.behind:
            self.changed()

    def _greeting(self, peer: Peer) -> Greeting:
        host = self.host
        schemas = {name: replica.schema for name, replica in host.replicas.items()}
        life = (host.me.incarnation, host.shard_life)
        return Greeting(life, schemas, [name for name in schemas if peer.joined(name)])

    def _greet(self, peer: Peer) -> None:
        asked = self.host.ask(peer.seat, "tables.hello", self._greeting(peer).wire(), ASK_S)
        sent_at = self.host.reactor.seconds()
        asked.addCallback(lambda reply: self._met(peer, Greeting.read(reply), sent_at))
        asked.addErrback(self.host.failed)

    def _greeted(self, call: Call) -> Any:
        peer = self.peers.get(call.source.node)
        if peer is None or not self.ready:
            raise Disconnected(f"{self.host.me.name} is not ready to join tables")
        self._met(peer, Greeting.read(call.payload), None)
        return self._greeting(peer).wire()

    def _met(self, peer: Peer, greeting: Greeting, sent_at: float | None) -> None:
        if peer.greeted and peer.life != greeting.life:
            self._part(peer, "its seat lives anew")
        news = not peer.greeted or peer.life != greeting.life or peer.schemas != greeting.schemas
        peer.life, peer.schemas, peer.greeted = greeting.life, greeting.schemas, True
        now = self.host.reactor.seconds()
        for name, join in peer.joins.items():
            # What was joined since the question left is not in the answer.
            old = sent_at is not None and join.since < sent_at
            if old and join.phase is Phase.JOINED and name not in greeting.joined:
                join.lost(f"{peer.info.name} does not hold it for joined")
                self._run(peer, name, join)
        self._look(peer, now)
        if news:
            self.changed()

    def _look(self, peer: Peer, now: float) -> None:
        """Begin the joins with a node that this one leads, and go on with those that wait."""
        if not (peer.reachable and peer.greeted and self.ready):
            return
        if self.host.me.node_id < peer.info.node_id:
            for name in peer.schemas:
                if name in self.host.replicas:
                    join = peer.joins.get(name)
                    if join is None:
                        join = peer.joins[name] = Join(self._policy)
                    if join.phase is Phase.APART:
                        join.met(now)
                    join.tick(now)
                    self._run(peer, name, join)
        for name, schema in peer.schemas.items():
            mine = self.host.replicas.get(name)
            if mine is None or mine.schema == schema:
                continue
            why = f"{peer.info.name} holds another table {name}: {mine.schema.objection(schema)}"
            if peer.refusals.get(name) != why:
                peer.refusals[name] = why
                self.changed()

    def _part(self, peer: Peer, why: str) -> None:
        peer.greeted = False
        peer.follows.clear()
        for name, join in peer.joins.items():
            join.lost(why)
            self._run(peer, name, join)
        self.changed()

    # --- leading -------------------------------------------------------------------------

    def _run(self, peer: Peer, name: str, join: Join) -> None:
        """Put a join in the queue when it has something to do."""
        if join.has_steps and (peer, name) not in self._queue:
            self._queue.append((peer, name))
            if not self._working:
                self._working = True
                Deferred.fromCoroutine(self._work()).addErrback(self.host.failed)

    async def _work(self) -> None:
        try:
            while self._queue:
                await self._drive(*self._queue.popleft())
        finally:
            self._working = False
        if self._again:
            self._again = False
            self.check()

    def check(self) -> None:
        """Try at once whatever is not joined; while joins run, once more when they are done."""
        if self._working:
            self._again = True
            return
        now = self.host.reactor.seconds()
        self._greet_at = 0.0
        for peer in self.peers.values():
            for join in peer.joins.values():
                join.hurry(now)
            self._look(peer, now)

    async def _drive(self, peer: Peer, name: str) -> None:
        join = peer.joins[name]
        while steps := join.take_steps():
            for step in steps:
                try:
                    await _STEPS[step](self, peer, name, join)
                except Exception as error:
                    self._failed(peer, name, join, error)
        self.changed()

    def _failed(self, peer: Peer, name: str, join: Join, error: Exception) -> None:
        why = str(error) or type(error).__name__
        if not isinstance(error, Disconnected | TimedOut) and why != join.why:
            self.log.warn("{table} is not joined with {node}: {why}",
                          table=name, node=peer.info.name, why=why)  # fmt: skip
        self.host.counters.add("tables_joins_total", outcome=type(error).__name__)
        join.failed(why, self.host.reactor.seconds())

    async def _ask(self, peer: Peer, name: str, join: Join) -> None:
        host, replica = self.host, self.host.replicas[name]
        await self.publish()
        joined = [p.info.node_id for p in self.peers.values() if p.joined(name)]
        question = [replica.schema.wire(), host.now(), joined]
        stamp, theirs = await host.ask(peer.seat, "tables.begin", question, ASK_S)
        if not host.clock.observe(stamp, host.reactor.seconds()):
            raise Refused(f"the clock of {peer.info.name} is over a day ahead of {host.me.name}'s")
        self.check_reach(peer, theirs)
        buckets, _ = await host.exchange.compare(peer.seat, replica)
        if buckets:
            join.differ()
        else:
            await self._tell_joined(peer, name)
            join.equal(host.reactor.seconds())

    def check_reach(self, peer: Peer, theirs: Sequence[NodeId]) -> None:
        """A join brings two groups together: all of them have to reach each other."""
        out = [p.info.name for n in theirs if (p := self.peers.get(n)) and not p.reachable]
        if out:
            raise Refused(
                f"{self.host.me.name} cannot reach {', '.join(out)}, which {peer.info.name} has"
                " joined"
            )

    async def _lock(self, peer: Peer, name: str, join: Join) -> None:
        keeper = self._keeper()
        held_by = await self.host.ask(keeper, "tables.lock", None, ASK_S)
        if held_by:
            raise Refused(f"{held_by} is joining tables: one at a time")
        join.granted()

    def _keeper(self) -> ShardAddress:
        roster = self.host.roster
        assert roster is not None, "whom one joins with is on a roster"
        first = roster.members[0]
        return ShardAddress(first.node_id, ShardId(first.shards - 1))

    async def _stage(self, peer: Peer, name: str, join: Join) -> None:
        host, replica = self.host, self.host.replicas[name]
        buckets, rows = await host.exchange.compare(peer.seat, replica)
        found = Gathered()
        join.begun(max(rows, len(replica.rows)) * len(buckets) // COUNT)
        if buckets:

            def told(done: int) -> None:
                join.moved = join.of * done // len(buckets)

            found = await host.exchange.gather(peer.seat, replica, buckets, rows, told)
        incoming, scratch = await self._sort(replica, found)
        stage = await host.ask(peer.seat, "tables.open_stage", replica.schema.wire(), ASK_S)
        give = host.exchange.give
        for rids in found.wanted:
            await give(peer.seat, replica, rids, "tables.stage", stage)
        await give(peer.seat, scratch, scratch.rids(), "tables.stage", stage)
        self._staged[peer.info.node_id, name] = (stage, incoming)
        join.staged()

    async def _sort(self, replica: Replica, found: Gathered) -> tuple[deque[Rows], Replica]:
        """What is to be merged here, and what was resolved; the rest is for the other side."""
        host, incoming = self.host, deque[Rows]()
        scratch = host.blank(replica.schema)
        resolver = self.resolvers.get(replica.schema.resolver)
        if resolver is None:
            raise Refused(f"no resolver called {replica.schema.resolver} is installed")
        for rows in found.rows:
            for at in range(0, len(rows), SLICE_ROWS):
                part = rows.part(at, SLICE_ROWS)
                if not replica.rows.keys().isdisjoint(part.rids):
                    part, made, wanted = weigh(replica, part, resolver, host.origin, host.max_row)
                    scratch.merge(made, host.now())
                    found.wanted.append(wanted)
                incoming.append(part)
                await host.exchange.breathe()
        return incoming, scratch

    async def _commit(self, peer: Peer, name: str, join: Join) -> None:
        host, replica = self.host, self.host.replicas[name]
        stage, incoming = self._staged.pop((peer.info.node_id, name))
        await host.ask(peer.seat, "tables.commit", stage, COMMIT_S)
        await self.pass_on(replica, await host.exchange.merge_all(replica, incoming), peer)
        await self._tell_joined(peer, name)
        join.committed(host.reactor.seconds())
        await self._unlock()

    async def pass_on(self, replica: Replica, parts: list[list[Any]], source: Peer) -> None:
        """Give what a join brought to the members that are joined already: the next join, which
        waits for the lock, is to find no difference that was resolved a moment ago.
        """
        give = self.host.exchange.give
        for peer in list(self.peers.values()):
            if peer is not source and peer.joined(replica.schema.name):
                with suppress(CallError):  # anti-entropy brings it there
                    for rids in parts:
                        await give(peer.seat, replica, rids, "tables.rows", spread=True)

    async def _tell_joined(self, peer: Peer, name: str) -> None:
        await self.host.ask(peer.seat, "tables.joined", name, ASK_S)

    async def _unlock(self) -> None:
        if self.host.roster is not None:
            self.host.messaging.tell(self._keeper(), "tables.unlock", None)

    async def _abandon(self, peer: Peer, name: str, join: Join) -> None:
        self._staged.pop((peer.info.node_id, name), None)
        await self._unlock()
        await self.publish()

    async def _celebrate(self, peer: Peer, name: str, join: Join) -> None:
        join.since = self.host.reactor.seconds()
        peer.refusals.pop(name, None)
        self.host.counters.add("tables_joins_total", outcome="joined")
        await self.publish()

    # --- telling the siblings ------------------------------------------------------------

    def changed(self) -> None:
        """Who gets writes may be others from now on."""
        if not self._dirty:
            self._dirty = True
            later = Deferred.fromCoroutine(self._publish_later())
            later.addErrback(self.host.failed)

    async def _publish_later(self) -> None:
        await self.host.exchange.breathe()
        await self.publish()

    async def publish(self) -> None:
        """Tell every shard of this node who gets writes; done when those that are up know."""
        self._dirty, host = False, self.host
        view = views(host.replicas, self.peers.values())
        host.set_view(view)
        await self._telling.tell(view)


_STEPS: dict[Step, Any] = {
    Step.ASK: Joining._ask,
    Step.LOCK: Joining._lock,
    Step.STAGE: Joining._stage,
    Step.COMMIT: Joining._commit,
    Step.ABANDON: Joining._abandon,
    Step.PART: Joining._abandon,
    Step.CELEBRATE: Joining._celebrate,
}
