"""Whether everybody can talk to everybody: each shard asks each shard of each node once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshsvc.model import LinkClass, ShardAddress

if TYPE_CHECKING:
    from meshsvc.sim.cluster import Cluster
    from meshsvc.sim.lives import SimShard

TIMEOUT_S = 3.0


def everyone_asks(cluster: Cluster) -> str:
    """Let all ask all over both classes; what went wrong, in words, or nothing."""
    lives = [life for node in cluster.nodes if node.running for life in node.shards.values()]
    wrong: list[str] = []
    pending = [0]
    for source in lives:
        for target in lives:
            for link_class in LinkClass:
                pending[0] += 1
                _ask(source, target, link_class, (wrong, pending))
    cluster.run_until(lambda: not pending[0], 2 * TIMEOUT_S)
    if pending[0]:
        wrong.append(f"{pending[0]} asks never ended")
    return wrong[0] if wrong else ""


def _ask(source: SimShard, target: SimShard, link_class: LinkClass, tally: Any) -> None:
    wrong, pending = tally
    what = f"{source.life} asking {target.life} over {link_class.name.lower()}"

    def ended(result: Any) -> None:
        pending[0] -= 1
        if result != what:
            wrong.append(f"{what} ended in {getattr(result, 'value', result)}")

    address = ShardAddress(target.node.node_id, target.index)
    assert source.shard is not None
    messaging = source.shard.messaging
    messaging.ask(address, "sys.echo", what, TIMEOUT_S, link_class).addBoth(ended)
