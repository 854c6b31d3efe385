"""Ways over other nodes, as the post sees them, and answers in the name of who was asked."""

import pytest
from messaging_net import Net, node_id, outcome

from meshsvc.errors import Disconnected
from meshsvc.model import LinkClass, Sent
from meshsvc.wire.messages import Envelope
from meshsvc.wire.registry import Role, decode_message

pytestmark = pytest.mark.contract("VERB-2", "VERB-6")

CONTROL, DATA = LinkClass.CONTROL, LinkClass.DATA


class Detour:
    """Takes what is to go around, and says what became of it."""

    def __init__(self, sent=Sent.ACCEPTED):
        self.sent, self.took = sent, []

    def send(self, target, envelope):
        self.took.append((target, decode_message(envelope, Role.PEER)))
        return self.sent


def pair(shards=1):
    net = Net()
    a = net.add("a", shards)
    [b] = net.add("b")
    return net, a, b


def test_control_messages_take_the_detour_and_data_does_not():
    """A node without a link is open for control lanes once a detour to it is told."""
    net, [a], b = pair()
    a.post.detour = detour = Detour()
    assert a.messaging.tell(b.address, "v", 1, CONTROL) is Sent.DISCONNECTED
    a.post.set_detours({b.node: 1})
    assert a.post.reachable(b.node, CONTROL)
    assert not a.post.reachable(b.node, DATA)
    assert a.messaging.tell(b.address, "v", 1, CONTROL) is Sent.ACCEPTED
    assert a.messaging.tell(b.address, "v", 1, DATA) is Sent.DISCONNECTED
    net.run()
    [(target, envelope)] = detour.took
    assert (target, type(envelope), envelope.target) == (b.node, Envelope, b.node)


def test_a_link_is_preferred_and_its_loss_ends_what_was_sent_over_it():
    """While there is a link nothing goes around; when it is lost, asks end and new ones do."""
    net, [a], b = pair()
    net.join("a", "b", CONTROL)
    a.post.detour = detour = Detour()
    a.post.set_detours({b.node: 1})
    asked = a.messaging.ask(b.address, "v", None, 5.0, CONTROL)
    a.post.link_closed(b.node, CONTROL, "the link was lost")
    [(kind, error)] = outcome(asked)
    assert (kind, type(error)) == ("error", Disconnected)
    assert not detour.took
    pending = outcome(a.messaging.ask(b.address, "v", None, 5.0, CONTROL))
    net.run()
    assert len(detour.took) == 1
    assert not pending
    a.messaging.stopService()


@pytest.mark.parametrize("after", [{}, {node_id("b"): 2}])
def test_another_way_or_none_ends_what_was_under_way(after):
    """A detour that is gone, or has another token, ends the asks that went over it."""
    net, [a], b = pair()
    a.post.detour = Detour()
    a.post.set_detours({b.node: 1})
    asked = a.messaging.ask(b.address, "v", None, 5.0, CONTROL)
    ended = outcome(asked)
    net.run()
    a.post.set_detours({b.node: 1})
    assert not ended
    a.post.set_detours(after)
    [(kind, error)] = ended
    assert (kind, type(error)) == ("error", Disconnected)
    assert a.post.reachable(b.node, CONTROL) == bool(after)


def test_a_link_that_comes_up_ends_nothing():
    """The node is no detour any more because it has a link: asks go on."""
    net, [a], b = pair()
    a.post.detour = Detour()
    a.post.set_detours({b.node: 1})
    asked = a.messaging.ask(b.address, "v", None, 5.0, CONTROL)
    net.run()
    a.post.link_open(b.node, CONTROL)
    a.post.set_detours({})
    assert not outcome(asked)
    a.messaging.stopService()


def test_a_sibling_forgets_detours_with_shard_0():
    """They lead over the links of shard 0: when that ends, so does what went over them."""
    _, [first, second], b = pair(shards=2)
    second.post.set_detours({b.node: 1})
    asked = second.messaging.ask(b.address, "v", None, 5.0, CONTROL)
    second.post.sibling_down(first.index)
    [(kind, error)] = outcome(asked)
    assert (kind, type(error)) == ("error", Disconnected)
    assert not second.post.reachable(b.node, CONTROL)


@pytest.mark.parametrize("link_class", list(LinkClass))
def test_what_a_shard_on_the_way_cannot_deliver_ends_at_once(link_class):
    """A shard between answers in the name of the one that was asked, so the asker listens."""
    net, [first, second], b = pair(shards=2)
    net.join("a", "b")
    owner = net.owner(b.node, first.node, link_class)
    assert owner is b
    between = net.owner(first.node, b.node, link_class)
    asker = second if between is first else first
    between.post.link_closed(b.node, link_class, "lost, and the sibling does not know yet")
    asked = asker.messaging.ask(b.address, "v", None, 5.0, link_class)
    net.run()
    [(kind, error)] = outcome(asked)
    assert (kind, type(error)) == ("error", Disconnected)
    assert "the way is gone" in str(error)
    asker.messaging.stopService()
