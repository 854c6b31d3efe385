"""The service among fakes, on a clock: bad backends, returns, readiness, what is told."""

from __future__ import annotations

import pytest
from disco_fakes import FakeBackend, FakeTables, World, address, info, member, node_id
from twisted.internet.defer import Deferred, succeed
from twisted.logger import globalLogPublisher

from meshsvc.discovery.tables import Join, JoinState
from meshsvc.errors import Disconnected, Overloaded, TimedOut
from meshsvc.gossip.events import Alive, Dead, Joined, Left, Removed, Restarted, Resync
from meshsvc.gossip.members import Status
from meshsvc.link.targets import Dialed
from meshsvc.model import Address

FOUND = ["10.0.0.1:7700", "10.0.0.2:7700"]


@pytest.fixture
def logged():
    """The texts that were logged, formatted."""
    texts = []

    def observe(event):
        texts.append(event["log_format"].format(**event))

    globalLogPublisher.addObserver(observe)
    yield texts
    globalLogPublisher.removeObserver(observe)


def joined(world, number, generation=1):
    world.gossip.tell(Joined(member(number, generation=generation), world.clock.seconds()))


def dead(world, number, generation=1):
    gone = member(number, Status.DEAD, generation)
    world.gossip.tell(Dead(gone, world.clock.seconds()))


# --- bad backends --------------------------------------------------------------------------

BAD = {
    "raises": (ValueError, "ValueError: raised"),
    "fails": (OSError("no route"), "OSError: no route"),
    "nothing at all": (None, "it answered a NoneType, not a list of addresses"),
    "a number": (42, "it answered a int, not a list of addresses"),
    "a text": ("10.0.0.2:7700", "it answered a str, not a list of addresses"),
    "a mapping": ({"10.0.0.2:7700": 1}, "it answered a dict, not a list of addresses"),
    "only rubbish": ([b"\x00", 7, "nonsense"], "7 is not an address"),
}


@pytest.mark.contract("DISC-3")
@pytest.mark.parametrize("how", BAD)
def test_a_backend_that_is_wrong_costs_nothing_that_was_found(how):
    """What was found stays, the status says why, the next check is a second later."""
    answer, reason = BAD[how]
    with World(FakeBackend(FOUND, answer, FOUND)) as world:
        assert world.core.works
        world.service.check()
        assert not world.core.works
        assert reason in world.core.reason
        assert world.core.addresses == (address(1), address(2))
        assert world.gossip.contacts == [(address(1), address(2))]
        assert world.core.phases.due() - world.clock.seconds() == 1.0
        world.run(1.0)
        assert world.core.works
        assert world.counters.total("discovery_checks_total", result="failed") == 1


@pytest.mark.contract("DISC-3")
def test_a_backend_that_hangs_is_given_up(logged):
    """After its time-out the check failed; what it says later is nobody's news."""
    hanging = Deferred(lambda _: None)
    with World(FakeBackend(hanging, FOUND)) as world:
        world.run(9.75)
        assert world.core.phases.checking
        world.run(0.25)
        assert world.core.reason == "no answer in 10 s"
        world.run(1.0)
        assert world.core.addresses == (address(1), address(2))
        assert world.backend.asked == 2
    assert any("does not work: no answer in 10 s" in text for text in logged)


@pytest.mark.contract("DISC-3")
def test_a_backend_that_cannot_even_be_cancelled_is_given_up(logged_errors):
    """Its canceller raises, or its Deferred fires once more: one check failed, no more."""

    def angry(_):
        raise RuntimeError("not now")

    hanging = Deferred(angry)
    with World(FakeBackend(hanging, FOUND)) as world:
        world.run(11.0)
        assert world.core.works
        hanging.callback(["10.0.0.9:7700"])
        assert world.core.addresses == (address(1), address(2))
    assert logged_errors.flush(RuntimeError)


@pytest.mark.contract("DISC-3")
def test_the_reason_is_logged_once_and_its_end_too(logged):
    """A backend that is down for an hour is one warning and one relief."""
    with World(FakeBackend(*[OSError("down")] * 20, FOUND)) as world:
        world.run(25.0)
        assert world.core.works
    about = [text for text in logged if text.startswith("discovery by")]
    assert about == [
        "discovery by fake does not work: OSError: down; what it found before stays",
        "discovery by fake works again",
    ]


@pytest.mark.contract("DISC-3")
def test_good_entries_beside_rubbish_are_used():
    """Duplicates and itself do no harm; what is no address is counted and named."""
    answer = [*FOUND, "10.0.0.2:7700", address(2), "10.0.0.3", 5, None, "x:0", "a b:1"]
    with World(FakeBackend(answer)) as world:
        assert world.core.works
        assert world.core.addresses == (address(1), address(2))
        assert world.core.refused == 5
        assert len(world.core.notes) == 5
        assert world.service.info()["places"][0]["standing"] == "this node"


@pytest.mark.contract("DISC-3")
def test_an_answer_without_end_is_bounded():
    """A generator that never stops, or raises half way, is read as far as it goes."""

    def endless():
        number = 0
        while True:
            number += 1
            yield f"10.{number // 65536}.{number // 256 % 256}.{number % 256}:7700"

    def broken():
        yield FOUND[1]
        raise KeyError("gone")

    with World(FakeBackend(endless(), broken())) as world:
        assert len(world.core.addresses) == 1000
        world.service.check()
        assert world.core.addresses == (address(2),)
        assert world.core.notes == ("its list ended in KeyError: 'gone'",)


@pytest.mark.contract("DISC-3")
def test_a_backend_whose_start_raises_is_started_again():
    """It may have come up before what it needs."""

    class Late(FakeBackend):
        def start(self, options, reactor):
            super().start(options, reactor)
            if len(self.started) == 1:
                raise ConnectionError("nobody there yet")

    with World(Late(FOUND)) as world:
        assert world.core.reason == "ConnectionError: nobody there yet"
        world.run(1.0)
        assert world.core.works
        assert world.backend.started == [{"a": 1}] * 2
    assert world.backend.stopped == 1


@pytest.mark.contract("DISC-3")
def test_a_backend_that_is_not_installed_is_named():
    """The node goes on with what it knows by other ways, and says what to look at."""
    with World(None) as world:
        assert world.core.reason == (
            "no installed plugin provides the backend 'fake': see `meshsvc plugins`"
        )
        assert world.service.missing()


@pytest.mark.contract("DISC-3")
def test_nobody_is_an_answer():
    """An empty list prunes what was found before."""
    with World(FakeBackend(FOUND, [])) as world:
        world.service.check()
        assert world.core.works
        assert world.gossip.contacts[-1] == ()
        assert world.service.info()["places"] == []


def test_a_backend_may_be_a_coroutine():
    """Anything that Twisted can wait for is an answer."""

    class Modern(FakeBackend):
        async def get_nodes(self):
            return await succeed(FOUND)

    with World(Modern([])) as world:
        assert world.core.addresses == (address(1), address(2))


# --- checks --------------------------------------------------------------------------------


@pytest.mark.contract("DISC-2")
def test_a_node_that_comes_up_while_a_check_runs_causes_one_more():
    """The wish is kept through the end of the check, whatever is armed then."""
    first = Deferred()
    with World(FakeBackend(first, FOUND)) as world:
        joined(world, 2)
        joined(world, 3)
        assert world.backend.asked == 1
        first.callback([])
        assert world.backend.asked == 2
        assert world.core.addresses == (address(1), address(2))


@pytest.mark.contract("DISC-1")
def test_the_waits_of_a_life():
    """Errors each second, then each 5 s, then 5 min; 30 s after a loss."""
    with World(FakeBackend(OSError("x"), OSError("x"), FOUND)) as world:
        world.run(2.0)
        assert world.backend.asked == 3
        world.run(10.0)
        assert world.backend.asked == 5
        joined(world, 2)
        assert world.backend.asked == 6
        assert not world.core.phases.initial
        world.run(60.0)
        assert world.backend.asked == 6
        dead(world, 2)
        world.run(29.75)
        assert world.backend.asked == 6
        world.run(0.25)
        assert world.backend.asked == 7
        world.run(299.0)
        assert world.backend.asked == 7
        world.run(1.0)
        assert world.backend.asked == 8


# --- who comes back ------------------------------------------------------------------------


@pytest.mark.contract("DISC-6")
def test_the_same_start_time_is_a_healed_split_another_a_restart(logged):
    """Logged and counted once each, with how long the node was away."""
    with World(FakeBackend(FOUND)) as world:
        joined(world, 2)
        dead(world, 2)
        world.run(7.0)
        world.gossip.tell(Alive(member(2), world.clock.seconds()))
        world.gossip.tell(Alive(member(2), world.clock.seconds()))
        world.gossip.tell(Left(member(2, Status.LEFT), world.clock.seconds()))
        world.run(3.0)
        world.gossip.tell(Restarted(member(2, Status.JOINING, 5), 0.0, member(2)))
        joined(world, 2, 5)
        what = "discovery_returns_total"
        assert world.counters.total(what, what="healed_split") == 1
        assert world.counters.total(what, what="restarted") == 1
        history = [each["what"] for each in world.service.info()["history"]]
        assert history == ["up", "dead", "split healed", "left", "restarted"]
    assert [text for text in logged if text.startswith("n2 is back")] == [
        "n2 is back after 7.0 s, in the same life: a split has healed",
        "n2 is back after 3.0 s, in a new life: it restarted",
    ]


def test_a_restart_faster_than_its_detection_is_a_restart():
    """Nobody saw it down: the later life tells."""
    with World(FakeBackend(FOUND)) as world:
        joined(world, 2)
        world.gossip.tell(Restarted(member(2, Status.JOINING, 9), 0.0, member(2)))
        joined(world, 2, 9)
        assert world.counters.total("discovery_returns_total", what="restarted") == 1


def test_what_a_slow_subscriber_missed_is_read_off_the_view():
    """A Resync has the same outcome as the events it stands for."""
    with World(FakeBackend(FOUND)) as world:
        joined(world, 2)
        joined(world, 3)
        view = (member(1), member(2, Status.DEAD), member(3), member(4))
        world.service.endpoint_event(Resync(view, 0.0))
        view = (member(1), member(2), member(3, generation=7), member(4))
        world.service.endpoint_event(Resync(view, 0.0))
        assert [each.what for each in world.core.history] == [
            *("up", "up", "dead", "up", "split healed", "restarted"),
        ]
        world.gossip.tell(Removed(member(2, Status.REMOVED), 0.0))
        assert world.core.history[-1].what == "removed"


def test_the_history_is_bounded():
    """A node that flaps for a day takes no more room than one of a minute."""
    with World(FakeBackend(FOUND)) as world:
        joined(world, 2)
        for _ in range(200):
            dead(world, 2)
            world.gossip.tell(Alive(member(2), 0.0))
        assert len(world.core.history) == 64


# --- waiting -------------------------------------------------------------------------------


def outcome(waiting):
    """What a Deferred came to, in a list that fills when it does."""
    ended = []
    waiting.addCallbacks(lambda _: ended.append("ok"), lambda f: ended.append(f.value))
    return ended


@pytest.mark.contract("DISC-4")
def test_wait_for_get_nodes_waits_for_checks_and_for_nobody_else():
    """At once when none runs; through the one more; whoever is unreachable is no matter."""
    first, second = Deferred(), Deferred()
    with World(FakeBackend(first, second)) as world:
        ended = outcome(world.service.wait_for_get_nodes(60.0))
        world.service.check()
        first.callback(FOUND)
        assert ended == []
        second.callback(FOUND)
        assert ended == ["ok"], "n2 never answered"
        assert outcome(world.service.wait_for_get_nodes(60.0)) == ["ok"]


@pytest.mark.contract("DISC-4")
def test_waiting_has_a_deadline_and_says_for_what():
    """TimedOut names what is missing; a stop ends all waiting."""
    with World(FakeBackend(Deferred(), FOUND)) as world:
        ended = outcome(world.service.wait_for_get_nodes(2.0))
        world.run(2.0)
        assert isinstance(ended[0], TimedOut)
        assert str(ended[0]) == (
            "discovery did not end its check after 2 s: the backend is being asked"
        )
        left = outcome(world.service.wait_for_ready(60.0))
    assert isinstance(left[0], Disconnected)


@pytest.mark.contract("DISC-4")
def test_ready_waits_until_each_node_is_reachable_or_known_not_to_be():
    """An address that was never tried is waited for, one that refused is not."""
    found = [f"10.0.0.{number}:7700" for number in (1, 2, 3)]
    with World(FakeBackend(found)) as world:
        ended = outcome(world.service.wait_for_ready(60.0))
        (missing,) = world.service.missing()
        assert missing == "no answer yet, and none refused, from 10.0.0.2:7700, 10.0.0.3:7700"
        world.links.answered(2)
        joined(world, 2)
        assert ended == []
        world.links.refused(3)
        world.run(1.0)
        assert ended == ["ok"]


@pytest.mark.contract("DISC-4")
def test_ready_does_not_wait_for_a_dead_node_and_a_late_dial_does_not_condemn():
    """Dead is known; a dial that failed says nothing of a node that is alive (late ping)."""
    with World(FakeBackend(FOUND), member(2, Status.DEAD)) as world:
        assert world.service.missing() == ()
        world.gossip.tell(Alive(member(2), 0.0))
        world.links.known[address(2)] = Dialed(node_id(2), "no answer in time", "connect")
        places = world.service.info()["places"]
        assert [place["standing"] for place in places] == ["this node", "available"]


@pytest.mark.contract("DISC-4")
def test_ready_waits_until_joins_succeeded():
    """Tried is not succeeded: a failed join is named with its reason, and waited for."""
    failed = Join("sessions", node_id(2), JoinState.FAILED, "it cannot reach n3")
    tables = FakeTables(joins=[failed])
    with World(FakeBackend(FOUND), member(2), tables=tables) as world:
        ended = outcome(world.service.wait_for_ready(60.0))
        assert world.service.missing() == ("table sessions has not joined n2: it cannot reach n3",)
        tables.set_joins(Join("sessions", node_id(2), JoinState.JOINING))
        world.look()
        assert ended == []
        tables.set_joins(Join("sessions", node_id(2), JoinState.JOINED))
        world.look()
        assert ended == ["ok"]


@pytest.mark.contract("DISC-4")
def test_ready_once_is_ready_while_the_backend_is_down():
    """What was found stays, so nobody is sent away because of a name server."""
    with World(FakeBackend(FOUND, OSError("down")), member(2)) as world:
        world.look()
        assert world.service.was_ready
        world.service.check()
        assert world.service.missing() == ("discovery does not work: OSError: down",)
        assert world.service.was_ready


@pytest.mark.contract("DISC-4")
def test_other_shards_wait_by_asking_this_one():
    """The answer is what is missing: nothing once it is there, else what, after the time."""

    class Call:
        def __init__(self, what, seconds):
            self.payload = [what, seconds]

    with World(FakeBackend(FOUND)) as world:
        wait = world.messaging.verbs["discovery.wait"]
        assert outcome_of(wait(Call("nodes", 5))) == [[]]
        late, ready = outcome_of(wait(Call("ready", 1))), outcome_of(wait(Call("ready", 60)))
        world.run(2.0)
        assert late == [["no answer yet, and none refused, from 10.0.0.2:7700"]]
        world.links.refused(2)
        world.run(2.0)
        assert ready == [[]]
        with pytest.raises(KeyError):
            wait(Call("rain", 1))


def outcome_of(waiting):
    """The value of a Deferred, in a list that fills when it fires."""
    ended = []
    waiting.addBoth(ended.append)
    return ended


def test_a_thousand_changes_at_once_are_looked_at_once():
    """What a change means is worked out a moment later, for all of them."""
    with World(FakeBackend(FOUND)) as world:
        world.look()
        looked = []
        members = world.gossip.members
        world.gossip.members = lambda: looked.append(1) or members()
        for number in range(2, 202):
            joined(world, number)
        assert len(looked) == 0
        world.look()
        assert len(looked) < 10


def test_those_who_wait_are_bounded_and_may_go():
    """A cancelled wait leaves nothing behind; too many are refused."""
    with World(FakeBackend(Deferred())) as world:
        waits = [world.service.wait_for_ready(60.0) for _ in range(256)]
        ended = outcome(world.service.wait_for_ready(60.0))
        assert isinstance(ended[0], Overloaded)
        for wait in waits:
            wait.addErrback(lambda failure: None)
            wait.cancel()
        assert len(world.service._for_ready) == 0


# --- tables --------------------------------------------------------------------------------


@pytest.mark.contract("DISC-2")
def test_joins_are_checked_when_nodes_come_up_or_are_found():
    """The tables are nudged; that several nudges make one round is theirs to keep."""
    tables = FakeTables()
    with World(FakeBackend(FOUND), tables=tables) as world:
        assert tables.checks == 1
        joined(world, 2)
        assert tables.checks >= 2


def test_tables_that_raise_do_not_stop_discovery(logged_errors):
    """They count as none."""

    class Broken(FakeTables):
        def joins(self):
            raise RuntimeError("no tables")

        check_joins = replicas = joins

    with World(FakeBackend(FOUND), member(2), tables=Broken()) as world:
        assert world.core.works
        assert world.service.missing() == ()
        assert world.messaging.verbs["discovery.state"](None) == [1, {}]
    assert logged_errors.flush(RuntimeError)


def test_contacts_are_those_found(logged):
    """A file that shrinks takes a contact away; who it is, is for gossip to know."""
    with World(FakeBackend(FOUND, FOUND[:1])) as world:
        world.service.check()
        assert world.gossip.contacts == [(address(1), address(2)), (address(1),)]
        assert info(1).address == Address("10.0.0.1", 7700)
