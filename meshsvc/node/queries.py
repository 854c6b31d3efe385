"""Queries: one question to every node, over the control plane, and the answers in one place.

A query ends as soon as everybody has answered or cannot, and names who did not answer and
why. It goes to shard 0 of each node, directly or over other nodes; an application registers
what it answers in each of its shards, and the one on shard 0 speaks for its node.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred, DeferredList, fail, maybeDeferred

from meshsvc.errors import (
    CallError,
    Disconnected,
    LocalError,
    NoSuchTarget,
    TooLarge,
    UnknownVerb,
    VerbTaken,
)
from meshsvc.messaging.dispatch import Call, Handler
from meshsvc.messaging.service import Messaging
from meshsvc.model import LinkClass, ShardAddress, ShardId
from meshsvc.node.members import Members
from meshsvc.node.targets import DEFAULT_TIMEOUT_S, Answers
from meshsvc.node.userevents import check_name
from meshsvc.wire.codec import encode_payload

QUERY = "sys.query"

MAX_PAYLOAD = 64 * 1024
"""Bytes of a question: it is sent to every node."""

MAX_ANSWER = 1024 * 1024
"""Bytes of one answer: whoever asks a thousand nodes holds a thousand of them."""


class Queries:
    """What this shard answers, and what it asks of all."""

    def __init__(self, messaging: Messaging, members: Members) -> None:
        self._messaging = messaging
        self._members = members
        self._handlers: dict[str, Handler] = {"ping": lambda call: "pong"}
        messaging.register(QUERY, self._asked)

    # --- answering -----------------------------------------------------------------------

    def register(self, name: str, handler: Handler) -> Callable[[], None]:
        """Answer a query; returns what ends that.

        Args:
            name: 1 to 128 printable characters without spaces, by convention ``application.what``.
            handler: called with a ``Call``, whose ``verb`` is the name; returns a plain CBOR
                value of at most 1 MiB, a Deferred or a coroutine of one.

        Raises:
            VerbTaken: when the query is answered in this shard already.
            BadName: for what is no name.
        """
        check_name(name, "a query")
        if name in self._handlers:
            raise VerbTaken(f"the query {name!r} is answered already: end that first")
        self._handlers[name] = handler
        return lambda: self._end(name, handler)

    def registered(self) -> list[str]:
        """The queries this shard answers, sorted."""
        return sorted(self._handlers)

    def _end(self, name: str, handler: Handler) -> None:
        if self._handlers.get(name) is handler:
            del self._handlers[name]

    def _asked(self, call: Call) -> Any:
        name, payload = call.payload
        handler = self._handlers.get(name)
        if handler is None:
            raise UnknownVerb(f"nobody here answers the query {name!r}")
        asked = Call(name, payload, call.source, call.now, call.deadline)
        return maybeDeferred(handler, asked).addCallback(_checked, name)

    # --- asking --------------------------------------------------------------------------

    def ask(
        self,
        name: str,
        payload: object = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        nodes: Sequence[str] | None = None,
        tags: Mapping[str, object] | None = None,
    ) -> Deferred[Answers]:
        """Ask every node that is alive, or the named ones, or those with certain tags.

        Args:
            name: of the query; ``ping`` and ``sys.info`` are answered by every node.
            payload: a plain CBOR value of at most 64 KiB.
            timeout_s: seconds until those who have not answered are named as missing.
            nodes: names or ids; one that is not listed is named among the missing.
            tags: only nodes whose tags have these values.

        Returns:
            a Deferred of the ``Answers``, as soon as all have answered or cannot; fails with
            ``TooLarge``, ``BadName`` or ``NotEncodable`` for a question that cannot be sent.
        """
        try:
            check_name(name, "a query")
            size = len(encode_payload(payload))
            if size > MAX_PAYLOAD:
                raise TooLarge(
                    f"the question of query {name!r} takes {size} bytes, {MAX_PAYLOAD} are allowed"
                )
        except LocalError as error:
            return fail(error)
        chosen, unknown = self._choose(nodes, tags)
        waiting = [
            self._messaging.ask(address, QUERY, [name, payload], timeout_s, LinkClass.CONTROL)
            for _, address in chosen
        ]
        names = [node for node, _ in chosen]
        return DeferredList(waiting, consumeErrors=True).addCallback(_collected, names, unknown)

    def _choose(
        self, nodes: Sequence[str] | None, tags: Mapping[str, object] | None
    ) -> tuple[list[tuple[str, ShardAddress]], dict[str, CallError]]:
        """The nodes to ask, and why others that were named are not asked."""
        unknown: dict[str, CallError] = {}
        if nodes is None:
            members = list(self._members.alive)
        else:
            members = []
            for node in dict.fromkeys(nodes):
                try:
                    members.append(self._members[node])
                except NoSuchTarget as error:
                    unknown[node] = Disconnected(str(error))
        wanted = dict(tags or {})
        members = [m for m in members if wanted.items() <= dict(m.tags).items()]
        chosen = [(m.name, ShardAddress(m.node_id, ShardId(0))) for m in members]
        return chosen, unknown


def _checked(answer: object, name: str) -> object:
    size = len(encode_payload(answer))
    if size > MAX_ANSWER:
        raise TooLarge(f"the answer to query {name!r} takes {size} bytes, {MAX_ANSWER} are allowed")
    return answer


def _collected(
    results: list[tuple[bool, Any]], names: list[str], unknown: dict[str, CallError]
) -> Answers:
    answers = Answers({}, dict(unknown))
    for name, (answered, value) in zip(names, results, strict=True):
        if answered:
            answers.replies[name] = value
        else:
            error = value.value
            known = isinstance(error, CallError)
            answers.errors[name] = error if known else Disconnected(str(error))
    return answers
