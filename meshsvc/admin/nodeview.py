"""What shard 0 shows to those who look in: the ``NodeView`` of the admin floor.

Nothing is computed for it that the node does not keep anyway.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred, fail, maybeDeferred
from twisted.python.failure import Failure

from meshsvc import __version__
from meshsvc.admin.answers import NoStore
from meshsvc.admin.targets import parse_target
from meshsvc.discovery.status import Status
from meshsvc.errors import Disconnected, LocalError, NoSuchTarget
from meshsvc.gossip.events import Event, Resync
from meshsvc.gossip.members import Member
from meshsvc.gossip.members import Status as MemberStatus
from meshsvc.model import Epoch
from meshsvc.node.members import Members
from meshsvc.node.shard import Shard
from meshsvc.node.shardzero import ShardZero
from meshsvc.node.targets import Answers
from meshsvc.node.userevents import UserEvent
from meshsvc.tables.service import Tables

Row = dict[str, Any]

RECENT_S = 120.0
"""A refusal of a link that is older than this says nothing about now."""

STUCK_LAG_MS = 5000.0
"""A shard whose reactor was late by this much is not making progress."""


class ShardZeroView:
    """The node as its operators see it."""

    def __init__(self, shard: Shard, zero: ShardZero, wall: Callable[[], float]) -> None:
        """Build the view of shard 0; ``wall`` tells unix seconds."""
        self._boot = shard.boot
        self._clock = shard.reactor
        self._wall = wall
        self._started = self._clock.seconds()
        self._channel = shard.channel
        self._mesh = zero.mesh
        self._data_links = shard.data_links
        self._context = shard.context("")
        self._shard = shard
        self._zero = zero

    @property
    def _members(self) -> Members:
        return self._context.members

    @property
    def tables(self) -> Tables:
        """The tables of this shard."""
        return self._shard.tables

    def status(self) -> Row:
        """The node in one row."""
        boot, mesh = self._boot, self._data_links.status()
        alive = self._members.alive
        addresses = {name: str(at) for name, at in boot.listeners.items()}
        return {
            "name": boot.name,
            "id": boot.node_id,
            "cluster": boot.cluster,
            "generation": boot.incarnation,
            "pid": os.getppid(),
            "version": __version__,
            "epoch": mesh["epoch"],
            "state": mesh["state"],
            "members_alive": len(alive),
            "members": len(self._members),
            "uptime_s": round(self._clock.seconds() - self._started, 1),
            "addresses": addresses,
            **({} if self._zero.store is None else {"store": self._zero.store.view.summary()}),
        }

    def members(self) -> list[Row]:
        """One row per known node."""
        rows = []
        for member in self._zero.gossip.members():
            rows.append(
                {
                    "name": member.name,
                    "id": member.node_id,
                    "status": _shown(member.status),
                    "generation": member.generation,
                    "address": str(member.address),
                    "shards": member.shards,
                    "epoch": member.values.get("epoch"),
                    "rtt_ms": None if member.rtt_ms is None else round(member.rtt_ms, 3),
                    "tags": dict(member.tags),
                }
            )
        return rows

    def mesh(self) -> Row:
        """The mesh, with peers by name."""
        status = self._data_links.status()
        links = [dict(row) for row in status["links"]]  # type: ignore[attr-defined]
        for link in links:
            member = self._members.get(str(link["peer"]))
            link["peer"] = member.name if member is not None else link["peer"]
        return {**status, "links": links}

    def shards(self) -> list[Row]:
        """One row per shard."""
        return [shard_row(row) for row in self._channel.shard_states]

    def plugins(self) -> list[Row]:
        """One row per plugin found."""
        states = (*self._zero.plugins, *self._shard.applications.states)
        return [state.row() for state in states]

    def discovery(self) -> Deferred[Row]:
        """Where this node looks for peers, and how it stands with them."""
        discovery = self._zero.discovery

        def whole(status: Status) -> Row:
            return {**discovery.info(), **status.row(), "missing": list(discovery.missing())}

        return discovery.status().addCallback(whole)

    def ready(self) -> tuple[bool, list[str]]:
        """Whether the node serves; what it waits for when not, what it misses when it does.

        A node in the mesh serves, also while a link of it is down or its discovery backend
        does not answer: what that costs is said, but is no reason to send all its clients
        away. It begins to serve once discovery was complete for the first time, and, where it
        holds the store, once it knew who leads that: nobody restarts the next node before.
        """
        status = self._data_links.status()
        serving = status["state"] in ("formed", "degraded")
        reasons = []
        if status["state"] != "formed":
            reasons.append(f"the mesh is {status['state']} at epoch {status['epoch']}")
        reasons += self._refused() if not serving else []
        reasons += self._zero.discovery.missing()
        idle = [row for row in self.shards() if row["state"] != "running"]
        reasons += [f"shard {row['index']} is {row['state']}" for row in idle]
        begun = self._zero.discovery.was_ready
        if self._zero.store is not None:
            reasons += self._zero.store.view.missing()
            begun = self._zero.store.view.was_ready and begun
        return serving and not idle and begun, reasons

    def _refused(self) -> list[str]:
        refusal = self._shard.traffic.last_refusal
        if refusal is None or self._clock.seconds() - refusal[0] > RECENT_S:
            return []
        return [f"a link was refused; {refusal[1]}"]

    def live(self) -> tuple[bool, list[str]]:
        """Whether every shard makes progress."""
        late = [
            f"the reactor of shard {row['index']} was {row['lag_ms']:.0f} ms late"
            for row in self.shards()
            if row["lag_ms"] > STUCK_LAG_MS
        ]
        return not late, late

    def metrics(self) -> list[tuple[dict[str, str], Sequence[Sequence[object]]]]:
        """The counters of every shard, monotone across its restarts, and of the supervisor."""
        return [
            ({"shard": "supervisor" if shard < 0 else str(shard)}, rows)
            for shard, rows in sorted(self._channel.node_counters.items())
        ]

    def call(self, target: str, verb: str, payload: object, timeout_s: float) -> Deferred[Any]:
        """Ask a verb of a target."""
        try:
            parsed = parse_target(target)
        except ValueError as error:
            return fail(LocalError(str(error)))
        context = self._context
        if parsed.kind == "all":
            return context.everyone.query(verb, payload, timeout_s).addCallback(_answer_rows)
        if parsed.kind == "key":
            return context.owner_of(parsed.key).ask(verb, payload, timeout_s)
        node = context.node(parsed.node)
        if parsed.shard is not None:
            node = node.shard(parsed.shard)
        try:  # a person mistyped: say so, instead of "unreachable"
            member = self._members[parsed.node]
            node.address  # noqa: B018
        except NoSuchTarget as error:
            return fail(error)
        return node.ask(verb, payload, timeout_s).addErrback(_with_status, member)

    def query(
        self,
        name: str,
        payload: object,
        timeout_s: float,
        nodes: Sequence[str] | None,
        tags: Mapping[str, object] | None,
    ) -> Deferred[Row]:
        """Ask every node alive, the named ones, or those with these tags."""
        try:  # a person mistyped: say so, before anybody is asked
            for node in nodes or ():
                self._members[node]
        except NoSuchTarget as error:
            return fail(error)
        asking = self._context.queries.ask(name, payload, timeout_s, nodes, tags)
        return asking.addCallback(
            lambda answers: {"answers": _answer_rows(answers), "missing": list(answers.missing)}
        )

    def send_event(self, name: str, payload: object, coalesce: bool) -> Deferred[None]:
        """Send a user event to all nodes."""
        return maybeDeferred(self._context.events.send, name, payload, coalesce)

    def form_mesh(self, epoch: Epoch) -> Deferred[Row]:
        """Form the mesh under an epoch by hand."""
        return self._mesh.form(epoch).addCallback(lambda _: self.mesh())

    def store(self) -> Deferred[Row]:
        """The store, as far as this node and its leader know it."""
        return self._zero.store.view.status() if self._zero.store else fail(_no_store())

    def transfer_store(self, node: str, timeout_s: float) -> Deferred[Row]:
        """Hand the leadership of the store to a node."""
        if self._zero.store is None:
            return fail(_no_store())
        return self._zero.store.transfer(node, timeout_s).addCallback(lambda _: self.store())

    def add_event_listener(self, listener: Callable[[Row], None]) -> Callable[[], None]:
        """Call back with each membership and user event from now on."""
        ends = (
            self._members.on_change(lambda event: listener(self._event_row(event))),
            self._context.events.subscribe(lambda event: listener(self._user_row(event))),
        )

        def end() -> None:
            for each in ends:
                each()

        return end

    def _user_row(self, event: UserEvent) -> Row:
        row = {"type": "user", "at": round(self._wall(), 3), "node": event.node}
        return row | {"name": event.name, "payload": event.payload}

    def _event_row(self, event: Event | Resync) -> Row:
        row: Row = {"type": event.name, "at": round(self._wall(), 3)}
        if isinstance(event, Event):
            member = event.member
            row |= {"node": member.name, "id": member.node_id, "generation": member.generation}
            row["status"] = _shown(member.status)
            if event.name == "changed":
                row["changed"] = dict(event.changed)  # type: ignore[attr-defined]
        return row


def _shown(status: MemberStatus) -> str:
    """A node that has yet to prove itself by an echo is not alive: it is shown as suspect."""
    return MemberStatus.SUSPECT.value if status is MemberStatus.JOINING else status.value


def shard_row(values: Sequence[object]) -> Row:
    """One row of ``ShardStates`` by names; None for what is not there.

    That is the pid while no process runs: a script that is given 0 or -1 and signals it would
    hit its own group of processes, or everybody.
    """
    names = ("index", "pid", "state", "incarnation", "restarts", "lag_ms", "cpu", "connections")
    row = dict(zip(names, values, strict=False))
    return row | {"pid": row["pid"] or None, "cpu": None if row["cpu"] == -1 else row["cpu"]}


def _with_status(failure: Failure, member: Member) -> Failure:
    """Of a node that cannot be reached, also what the members say of it."""
    if failure.check(Disconnected) is None or member.alive:
        return failure
    text = f"{member.name} is {_shown(member.status)}: {failure.getErrorMessage()}"
    return Failure(Disconnected(text))


def _no_store() -> NoStore:
    return NoStore("this node holds no store: set [store] expect = N in its config")


def _answer_rows(answers: Answers) -> list[Row]:
    rows: list[Row] = [{"node": name, "reply": reply} for name, reply in answers.replies.items()]
    for name, error in answers.errors.items():
        rows.append({"node": name, "error": {"kind": error.kind, "text": str(error)}})
    return sorted(rows, key=lambda row: str(row["node"]))
