"""Shards joined in memory: real Messaging and Post, with links and buses that are lists."""

from twisted.internet.task import Clock

from meshsvc.counters import Counters
from meshsvc.messaging.post import Post, Self
from meshsvc.messaging.service import Messaging
from meshsvc.model import Incarnation, LinkClass, NodeId, Sent, ShardAddress, ShardId
from meshsvc.shards.routing import Router
from meshsvc.wire.registry import Role, decode_message, encode_message


def node_id(letter):
    return NodeId(letter * 32)


class Shard:
    """One shard of one node, with the shards it can reach by bus and by link."""

    def __init__(self, net, letter, index, shards, incarnation=1):
        self.net, self.node, self.index = net, node_id(letter), ShardId(index)
        self.counters = Counters()
        me = Self(self.node, self.index, Incarnation(incarnation))
        router = Router(self.node, self.index, shards)
        self.post = Post(me, router, self, self, self.counters)
        self.messaging = Messaging(net.clock, self.post, self.counters)
        self.outbox = Sent.ACCEPTED
        self.address = ShardAddress(self.node, self.index)

    def offer_body(self, shard, body, lane):
        return self.net.carry(self, self.net.shards.get((self.node, shard)), body)

    def link(self, node, link_class):
        linked = (node, link_class) in self.post._reachable  # not what is reached over others
        return _Link(self, node, link_class) if linked else None

    def drops(self, **labels):
        return self.counters.total("frame_drops_total", **labels)


class _Link:
    agreed = True

    def flush_now(self):
        pass

    def __init__(self, shard, node, link_class):
        self.shard, self.node, self.link_class = shard, node, link_class

    def send(self, message):
        return self.send_body(encode_message(message))

    def send_body(self, body):
        net = self.shard.net
        return net.carry(self.shard, net.owner(self.node, self.shard.node, self.link_class), body)


class Net:
    """Carries bodies at the next ``run``; drops none, keeps order."""

    def __init__(self):
        self.clock = Clock()
        self.shards = {}
        self.flying = []
        self.dead = set()

    def add(self, letter, shards=1):
        made = [Shard(self, letter, index, shards) for index in range(shards)]
        for shard in made:
            self.shards[(shard.node, shard.index)] = shard
            for other in made:
                shard.post.sibling_up(other.index)
        return made

    def join(self, a, b, *classes):
        for link_class in classes or tuple(LinkClass):
            for shard in self.shards.values():
                if shard.node in (node_id(a), node_id(b)):
                    peer = node_id(b if shard.node == node_id(a) else a)
                    shard.post.link_open(peer, link_class)

    def part(self, a, b, why="the link was lost"):
        for shard in self.shards.values():
            if shard.node in (node_id(a), node_id(b)):
                peer = node_id(b if shard.node == node_id(a) else a)
                for link_class in LinkClass:
                    shard.post.link_closed(peer, link_class, why)

    def owner(self, at, peer, link_class):
        for shard in self.shards.values():
            route = shard.post._router.route(peer, ShardId(0), link_class)
            if shard.node == at and type(route).__name__ == "ViaLink":
                return shard
        return None

    def carry(self, source, target, body):
        if source.outbox is not Sent.ACCEPTED:
            return source.outbox
        self.flying.append((target, body))
        return Sent.ACCEPTED

    def run(self, seconds=0.0, turns=12):
        for _ in range(turns):
            self.clock.advance(0)
            flying, self.flying = self.flying, []
            for target, body in flying:
                if target is None or target in self.dead:
                    continue
                message = decode_message(body, Role.SHARD)
                if (message.target, message.target_shard) == target.address:
                    target.messaging.deliver(message)
                else:
                    target.messaging.relay(message)
        if seconds:
            self.clock.pump([0.01] * round(seconds / 0.01))
            self.run()


def outcome(deferred):
    """What a Deferred holds now: ("ok", value), ("error", exception) or None."""
    seen = []
    deferred.addCallbacks(
        lambda v: seen.append(("ok", v)), lambda f: seen.append(("error", f.value))
    )
    return seen
