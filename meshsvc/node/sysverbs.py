"""The verbs every shard answers: ``sys.echo`` and ``sys.info``; shard 0 has some more.

To add a verb to meshsvc itself, add it here; an application registers its own with
``mesh.verbs.register``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from meshsvc import __version__
from meshsvc.messaging.dispatch import Call, Handler
from meshsvc.messaging.items import verb_prefix
from meshsvc.messaging.service import Messaging
from meshsvc.model import Sent
from meshsvc.node.boot import Boot
from meshsvc.wire.codec import encode_payload


def register(messaging: Messaging, boot: Boot, pid: int, started: float) -> Handler:
    """Register the verbs of every shard; answers what ``sys.info`` is answered with.

    Args:
        messaging: of this shard.
        boot: who this shard is.
        pid: of this process.
        started: the reactor's time at its start, in seconds.
    """

    def info(call: Call) -> dict[str, Any]:
        """Who answers: node, shard, its life, its process and what it can be asked."""
        return {
            "node": boot.name,
            "id": boot.node_id,
            "shard": boot.shard,
            "shards": boot.shards,
            "generation": boot.incarnation,
            "incarnation": boot.shard_incarnation,
            "pid": pid,
            "uptime_s": round(call.now - started, 3),
            "version": __version__,
            "verbs": messaging.registered(),
        }

    messaging.register("sys.echo", lambda call: call.payload)
    messaging.register("sys.info", info)
    return info


def register_tagging(messaging: Messaging, set_tag: Callable[[str, object], None]) -> None:
    """Register ``sys.tag`` on shard 0: [key, value] sets a label of the node."""

    def tag(call: Call) -> None:
        key, value = call.payload
        set_tag(str(key), value)

    messaging.register("sys.tag", tag)


def register_broadcast(messaging: Messaging, send: Callable[[int, bytes], Sent]) -> None:
    """Register ``sys.broadcast`` on shard 0: [verb, payload] goes to every shard there is.

    Answers how it was taken, as a ``Sent``.
    """

    def broadcast(call: Call) -> int:
        verb, payload = call.payload
        item = verb_prefix(verb, 2) + encode_payload(payload)
        return int(send(call.source.shard, item))

    messaging.register("sys.broadcast", broadcast)
