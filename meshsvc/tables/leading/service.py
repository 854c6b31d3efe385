"""Leader operations: asked in every shard, decided in the seat that leads the table.

See ``quorum`` for when a leader may decide, and why that is safe.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, DeferredList

from meshsvc.errors import (
    CallError,
    Disconnected,
    Fenced,
    HandlerFailed,
    Indeterminate,
    TimedOut,
    UnknownVerb,
)
from meshsvc.messaging.dispatch import Call
from meshsvc.model import Epoch, LinkClass, NodeId, Roster, ShardAddress, ShardId
from meshsvc.tables.leading.quorum import (
    Answer,
    Config,
    Seal,
    gather,
    lacking,
    leader_of,
    majority,
)
from meshsvc.tables.replica import Replica
from meshsvc.tables.rows import Key, Row, Schema
from meshsvc.tables.writes import Entry

if TYPE_CHECKING:
    from meshsvc.tables.service import Tables

SEAL_S = 2.0
"""Seconds for an answer to a seal: it only looks at what is in memory."""

ROUNDS = 8
"""Rounds of seals in one attempt: each makes known a roster that none before did."""

_NONE = object()


class Asking:
    """The side of the caller, in every shard."""

    def __init__(self, host: Tables) -> None:
        self._host = host

    def lead(
        self, replica: Replica, verb: str, key: Key, value: Any, timeout_s: float | None
    ) -> Deferred[Any]:
        """Have the leader decide; answers [whether it is new, the value that is there]."""
        left_s = timeout_s or self._host.settings.write_timeout_s
        return Deferred.fromCoroutine(self._lead(replica, (verb, key, value), left_s))

    async def _lead(self, replica: Replica, what: tuple[Any, ...], left_s: float) -> Any:
        host, name = self._host, replica.schema.name
        leader = self._leader(name)
        owner = host.owner if replica.schema.owned else None
        epoch = [host.epoch.term, host.epoch.attempt]
        question = [replica.schema.wire(), epoch, *what, owner]
        try:
            return await host.ask(leader, "tables.lead", question, left_s)
        except UnknownVerb as error:
            raise Fenced(f"the leader of {name} is starting or stopping: try again") from error
        except (Disconnected, TimedOut, HandlerFailed) as error:
            raise Indeterminate(
                f"{what[0]} of {what[1]!r:.80}: the leader of {name} was lost before it answered"
                f" ({error}); look the key up, or ask again with insert_new_or_lookup"
            ) from error

    def _leader(self, name: str) -> ShardAddress:
        host, roster = self._host, self._host.roster
        if roster is None or roster.index(host.me.node_id) is None:
            raise Fenced(f"{host.me.name} is in no mesh, so nobody leads {name}")
        seen = sum(self._sees(node.node_id) for node in roster.members)
        if seen < majority(len(roster.members)):
            raise Fenced(
                f"{host.me.name} sees {seen} of the {len(roster.members)} members of epoch"
                f" {roster.epoch}: no majority, so nothing of {name} is decided here"
            )
        leader = leader_of(name, roster)
        up = leader == host.address or leader in host.siblings()
        if not (up if leader.node == host.me.node_id else self._sees(leader.node)):
            raise Fenced(f"the leader of {name} cannot be reached from {host.me.name}")
        return leader

    def _sees(self, node: NodeId) -> bool:
        ways, me = self._host.ways, self._host.me.node_id
        return node == me or ways.reachable(node, LinkClass.DATA)


class Leading:
    """The side of a seat: what it decides as a leader, and what it promises to others."""

    def __init__(self, host: Tables) -> None:
        self._host = host
        self._born: Epoch | None = None
        self._seals: dict[str, Seal] = {}
        self._active: dict[str, Epoch] = {}
        self._entering: dict[str, tuple[Epoch, list[Deferred[None]]]] = {}
        self._unsettled: dict[tuple[str, Key], Row] = {}
        self.verbs = {"tables.lead": self._led, "tables.seal": self._sealed}

    def adopted(self, roster: Roster) -> None:
        """Another epoch is in force: take office where this seat leads what it knows of."""
        if self._born is None:
            self._born = roster.epoch
        for name in list(self._seals):
            if name in self._host.replicas and leader_of(name, roster) == self._host.address:
                self._enter(name).addErrback(self._host.failed)

    def objection(self, name: str, epoch: Epoch) -> str:
        """Why what a leader of this epoch decided is not taken; empty when it is."""
        seal = self._seals.get(name)
        latest = max(self._host.epoch, seal.epoch) if seal is not None else self._host.epoch
        if epoch < latest:
            return f"sealed: {self._host.me.name} is at {latest}, the leader was of {epoch}"
        return ""

    def _seal(self, name: str) -> Seal:
        seal = self._seals.get(name)
        if seal is None:
            assert self._born is not None, "an epoch is in force"
            anew = self._host.shard_life > 1
            seal = self._seals[name] = Seal(self._born, anew)
        return seal

    # --- deciding ------------------------------------------------------------------------

    async def _led(self, call: Call) -> Any:
        host = self._host
        fields, (term, attempt), verb, key, value, owner = call.payload
        replica, epoch = host.replica(Schema.read(fields)), Epoch(term, attempt)
        name = replica.schema.name
        await self._enter(name)
        if epoch != host.epoch or self._active.get(name) != epoch:
            raise Fenced(f"{name}: asked under epoch {epoch}, {host.me.name} is at {host.epoch}")
        while verb == "insert_new":
            there = replica.values.get(key, _NONE)
            if there is _NONE:
                break
            row = self._unsettled.get((name, key))
            if row is None:
                return [False, there]
            await self._settle(replica, row, key, there, call)
        row = Row(host.clock.stamp(host.reactor.seconds()), host.origin, False,
                  host.reader.owner(owner))  # fmt: skip
        await self._settle(replica, row, key, value, call)
        return [True, value]

    async def _settle(self, replica: Replica, row: Row, key: Key, value: Any, call: Call) -> None:
        """Bring a row to a majority; what is not known to be there is not answered for."""
        host, name = self._host, replica.schema.name
        if self._active.get(name) != host.epoch or host.roster is None:
            raise Fenced(f"{name}: {host.me.name} does not lead it any more")
        enough = majority(len(host.roster.members)) - 1
        self._unsettled[name, key] = row
        left_s = max(0.05, 0.9 * (call.remaining_s or 1.0))
        entry = Entry(replica.schema, row, True, [key], [value])
        result = await host.sending.send(replica, entry, left_s, enough)
        if len(result.acked) < enough:
            why = "; ".join(f"{who}: {text}" for who, text in
                            {**result.lost, **result.rejected}.items())  # fmt: skip
            raise Indeterminate(
                f"{key!r:.80} of {name} is on {host.me.name} and {', '.join(result.acked) or 'no'}"
                f" other, which is no majority ({why}): it may stay or go"
            )
        if self._unsettled.get((name, key)) is row:
            del self._unsettled[name, key]

    # --- taking office -------------------------------------------------------------------

    def _enter(self, name: str) -> Deferred[None]:
        """Fires when this seat may decide about a table in the epoch in force."""
        done: Deferred[None] = Deferred()
        epoch = self._host.epoch
        if self._active.get(name) == epoch:
            done.callback(None)
            return done
        entering = self._entering.get(name)
        if entering is not None and entering[0] == epoch:
            entering[1].append(done)
            return done
        waiting = [done]
        self._entering[name] = (epoch, waiting)
        work = Deferred.fromCoroutine(self._take_office(name, epoch))
        work.addBoth(self._entered, name, waiting)
        return done

    def _entered(self, result: Any, name: str, waiting: list[Deferred[None]]) -> None:
        if name in self._entering and self._entering[name][1] is waiting:
            del self._entering[name]
        for done in waiting:
            if result is None:
                done.callback(None)
            else:
                done.errback(result.value)

    async def _take_office(self, name: str, epoch: Epoch) -> None:
        host, roster = self._host, self._host.roster
        if roster is None or leader_of(name, roster) != host.address:
            raise Fenced(f"{host.me.name} does not lead {name} in epoch {epoch}")
        if not host.upkeep.complete:
            raise Fenced(f"not all shards of {host.me.name}, which leads {name}, are up")
        mine = self._seal(name)
        config = Config(epoch, tuple(node.node_id for node in roster.members))
        if not mine.seal(config):
            raise Fenced(f"{name}: {host.me.name} sealed epoch {mine.epoch} already")
        answers = {host.me.node_id: mine.answer}
        for _ in range(ROUNDS):
            known = gather(mine.configs, answers.values())
            await self._ask_all(name, config, roster, answers)
            if gather(mine.configs, answers.values()) == known:
                break
        silent = [
            node
            for each in gather(mine.configs, answers.values())
            for node in lacking(each, answers, host.lives.departed)
        ]
        if silent:
            raise Fenced(
                f"{name}: {self._names(silent)} did not answer, and may know of rows that nobody"
                " else does: nothing is decided until it is back, or has left in order"
            )
        if host.epoch != epoch:
            raise Fenced(f"{name}: epoch {epoch} is over")
        mine.activated(config)
        self._active[name] = epoch

    async def _ask_all(
        self, name: str, config: Config, roster: Roster, answers: dict[NodeId, Answer]
    ) -> None:
        """Seal the members that have not answered, and take in what they hold."""
        host = self._host
        replica = host.replicas[name]
        asked = [n for n in roster.members if n.node_id not in answers]
        seats = [ShardAddress(n.node_id, ShardId(n.shards - 1)) for n in asked]
        question = [replica.schema.wire(), config.wire()]
        asks = [host.ask(seat, "tables.seal", question, SEAL_S) for seat in seats]
        results = await DeferredList(asks, consumeErrors=True)
        for seat, (ok, answer) in zip(seats, results, strict=True):
            if ok:
                try:
                    await host.exchange.repair(seat, replica)
                except CallError:
                    continue
                answers[seat.node] = Answer.read(answer)

    def _names(self, nodes: list[NodeId]) -> str:
        return ", ".join(map(self._host.lives.name, dict.fromkeys(nodes)))

    def _sealed(self, call: Call) -> Any:
        host = self._host
        fields, config = call.payload
        replica, theirs = host.replica(Schema.read(fields)), Config.read(config)
        if self._born is None or theirs.epoch != host.epoch or not host.upkeep.complete:
            raise Disconnected(f"{host.me.name} is not ready under epoch {theirs.epoch}")
        seal = self._seal(replica.schema.name)
        answer = seal.answer
        if not seal.seal(theirs):
            raise Disconnected(f"{host.me.name} sealed epoch {seal.epoch}")
        return answer.wire()
