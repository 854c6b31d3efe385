"""User events and queries, in whole simulated clusters."""

import pytest
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from zope.interface import implementer

from meshsvc.counters import Counters
from meshsvc.errors import BadName, TooLarge, VerbTaken
from meshsvc.interfaces import IMeshApplication
from meshsvc.model import LinkClass, NodeId
from meshsvc.node.userevents import MAX_UNREAD, EventWatch, UserEvent
from meshsvc.sim import simulate

pytestmark = pytest.mark.contract("GSP-12")


@implementer(IMeshApplication)
class Listener:
    """Writes down what every shard hears."""

    name = "listener"

    def __init__(self):
        self.heard = []
        self.meshes = {}

    def make_service(self, mesh):
        self.meshes[mesh.name, mesh.shard] = mesh
        where = f"{mesh.name}/{mesh.shard}"

        def hear(event):
            self.heard.append((where, event.name, event.payload, event.node))

        mesh.events.subscribe(hear)
        if mesh.shard == 0:
            mesh.queries.register("big", lambda call: bytes(call.payload))
            mesh.queries.register("name", lambda call: f"{call.payload} {mesh.name}")
            mesh.queries.register("never", lambda call: Deferred())
            mesh.queries.register("too-big", lambda call: bytes(2 * 1024 * 1024))
        return Service()


def cluster(app, nodes=3, shards=2, seed=3):
    return simulate(nodes=nodes, shards=shards, applications=[app], seed=seed)


def wait_for(sim, deferred, timeout_s=10.0):
    """What a Deferred ends in, after virtual time."""
    ended = []
    deferred.addBoth(ended.append)
    sim.cluster.run_until(lambda: ended, timeout_s)
    sim.check()
    return ended[0]


def names(sim, shards=2):
    return sorted(f"{node.name}/{shard}" for node in sim.nodes for shard in range(shards))


def cut_off(a, b):
    return a.zero.shard.links.link(b.node_id, LinkClass.CONTROL) is None


def test_an_event_reaches_every_shard_of_every_node_once():
    """Sent from any shard, heard once in all of them, with its source's name."""
    app = Listener()
    with cluster(app) as sim:
        sim.run_until(sim.formed, 20)
        assert wait_for(sim, app.meshes["n2", 1].events.send("deploy", {"v": 1})) is None
        sim.run(40)
        assert sorted(where for where, *_ in app.heard) == names(sim)
        assert {tuple(rest) for _, *rest in [(w, n, str(p), s) for w, n, p, s in app.heard]} == {
            ("deploy", "{'v': 1}", "n2")
        }


def test_events_reach_nodes_without_a_link():
    """Two nodes cut from each other hear each other's events over the third."""
    app = Listener()
    with cluster(app, shards=1) as sim:
        n1, n2, _ = sim.nodes
        sim.run_until(sim.formed, 20)
        sim.fault("partition n1 | n2")
        sim.run_until(lambda: cut_off(n1, n2), 60)
        for number in range(5):
            app.meshes["n1", 0].events.send("tick", number)
            sim.run(0.5)
        sim.run(3)
        at_n2 = [payload for where, _, payload, _ in app.heard if where == "n2/0"]
        assert at_n2 == list(range(5))
        assert len(app.heard) == 15


def test_events_have_limits_that_are_named():
    """Names and payloads out of bounds are errors that say the limit."""
    app = Listener()
    with cluster(app, nodes=1, shards=1) as sim:
        sim.run_until(sim.formed, 20)
        events = app.meshes["n1", 0].events
        with pytest.raises(TooLarge, match="'big' takes 9003 bytes, 8192 are allowed"):
            events.send("big", bytes(9000))
        for name in ("", "x" * 129, 7, "two words", "line\n", "\x1b[31m", "\u200b"):
            with pytest.raises(BadName, match="1 to 128 characters, printable"):
                events.send(name)
        with pytest.raises(BadName, match="kept for meshsvc"):
            events.send("sys.event")
        with pytest.raises(TooLarge, match="65280 are allowed"):
            app.meshes["n1", 0].everyone.broadcast("a.verb", bytes(65536))


def test_tags_have_limits_that_are_named():
    """A tag that makes the tags too large fails with the limit, and nothing is changed."""
    app = Listener()
    with cluster(app, nodes=1) as sim:
        sim.run_until(sim.formed, 20)
        members = app.meshes["n1", 1].members
        assert wait_for(sim, members.tag("zone", "eu")) is None
        refused = wait_for(sim, members.tag("note", "x" * 5000))
        assert "4096 are allowed" in str(refused.value)
        sim.run(1)
        assert dict(members["n1"].tags) == {"zone": "eu"}


def test_a_broadcast_is_taken_by_whoever_registered_the_verb():
    """``everyone.broadcast`` reaches verbs of all shards; those without it do not matter."""
    app = Listener()
    with cluster(app) as sim:
        got = []
        sim.run_until(sim.formed, 20)
        for (node, shard), mesh in app.meshes.items():
            if (node, shard) != ("n2", 1):
                mesh.verbs.register_oneway("cache.drop", lambda call: got.append(call.source))
        app.meshes["n1", 1].everyone.broadcast("cache.drop", {"key": "a"})
        sim.run(2)
        assert got == [(sim.nodes[0].node_id, 1)] * 5
        for mesh in app.meshes.values():
            mesh.verbs.unregister("cache.drop")


def event(number, name="a"):
    return UserEvent(name, number, "n1", NodeId("1" * 32), 0.0)


def test_a_slow_reader_loses_the_oldest_and_is_told():
    """Unread events are bounded; the next one read says how many were lost."""
    counters = Counters()
    watch = EventWatch(lambda _: None, counters)
    for number in range(MAX_UNREAD + 3):
        watch.take(event(number), coalesce=False)
    read = []
    watch.__anext__().addCallback(read.append)
    watch.__anext__().addCallback(read.append)
    assert [(one.payload, one.lost) for one in read] == [(3, 3), (4, 0)]
    assert counters.total("user_events_lost_total") == 3


def test_coalesced_events_leave_the_latest():
    """Of events that say so, a reader that is behind sees the latest of a name only."""
    watch = EventWatch(lambda _: None, Counters())
    for number in range(3):
        watch.take(event(number), coalesce=True)
        watch.take(event(number, "b"), coalesce=False)
    read = []
    for _ in range(4):
        watch.__anext__().addCallback(read.append)
    assert [(one.name, one.payload) for one in read] == [("b", 0), ("b", 1), ("a", 2), ("b", 2)]


def test_a_watch_ends_when_it_is_closed():
    """A reader that waits gets the event that comes, or the end."""
    closed, read = [], []
    watch = EventWatch(closed.append, Counters())
    watch.__anext__().addCallback(read.append)
    watch.take(event(1), coalesce=False)
    watch.__anext__().addErrback(lambda failure: read.append(failure.type))
    watch.close()
    assert closed == [watch]
    assert [read[0].payload, read[1]] == [1, StopAsyncIteration]


def test_a_query_ends_when_all_have_answered():
    """Answers of 100 KiB come from every node, long before the time is up."""
    app = Listener()
    with cluster(app) as sim:
        sim.run_until(sim.formed, 20)
        started = sim.now
        answers = wait_for(sim, app.meshes["n1", 1].queries.ask("big", 100 * 1024, timeout_s=30))
        assert sim.now - started < 1
        assert dict(answers) == {name: bytes(100 * 1024) for name in ("n1", "n2", "n3")}
        assert answers.missing == ()
        pongs = wait_for(sim, app.meshes["n2", 0].queries.ask("ping"))
        assert dict(pongs) == dict.fromkeys(("n1", "n2", "n3"), "pong")
        infos = wait_for(sim, app.meshes["n2", 0].queries.ask("sys.info"))
        assert {info["node"] for info in infos.values()} == {"n1", "n2", "n3"}


def test_a_query_names_who_did_not_answer():
    """Those that are late, fail or do not know the query are named with the reason."""
    app = Listener()
    with cluster(app, shards=1) as sim:
        _, _, n3 = sim.nodes
        sim.run_until(sim.formed, 20)
        queries = app.meshes["n1", 0].queries
        late = wait_for(sim, queries.ask("never", timeout_s=1.0))
        assert late.missing == ("n1", "n2", "n3")
        assert {error.kind for error in late.errors.values()} == {"TimedOut"}
        unknown = wait_for(sim, queries.ask("nothing"))
        assert {error.kind for error in unknown.errors.values()} == {"UnknownVerb"}
        big = wait_for(sim, queries.ask("too-big"))
        assert "1048576 are allowed" in str(big.errors["n2"])
        n3.pause()
        paused = wait_for(sim, queries.ask("name", "I am", timeout_s=0.5))
        assert dict(paused) == {"n1": "I am n1", "n2": "I am n2"}
        assert paused.missing == ("n3",)
        n3.resume()


def test_a_query_can_be_put_to_some_nodes():
    """By name or tag; a name that is not listed is among the missing; errors are typed."""
    app = Listener()
    with cluster(app, shards=1) as sim:
        sim.run_until(sim.formed, 20)
        queries = app.meshes["n1", 0].queries
        some = wait_for(sim, queries.ask("name", "x", nodes=["n2", "n9"]))
        assert dict(some) == {"n2": "x n2"}
        assert some.missing == ("n9",)
        app.meshes["n3", 0].members.tag("zone", "eu")
        sim.run(3)
        tagged = wait_for(sim, queries.ask("name", "x", tags={"zone": "eu"}))
        assert dict(tagged) == {"n3": "x n3"}
        assert wait_for(sim, queries.ask("name", bytes(70000))).type is TooLarge
        assert wait_for(sim, queries.ask("")).type is BadName
        with pytest.raises(VerbTaken):
            queries.register("ping", lambda call: "no")


def test_a_query_goes_over_a_third_node():
    """A node without a link answers all the same."""
    app = Listener()
    with cluster(app, shards=1) as sim:
        n1, n2, _ = sim.nodes
        sim.run_until(sim.formed, 20)
        sim.fault("partition n1 | n2")
        sim.run_until(lambda: cut_off(n1, n2), 60)
        answers = wait_for(sim, app.meshes["n1", 0].queries.ask("big", 100 * 1024))
        assert answers.missing == ()
        assert len(answers["n2"]) == 100 * 1024
