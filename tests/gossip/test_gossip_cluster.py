"""Whole clusters of Membership in virtual time: joining, dying, stalling, parting, healing."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from harness import EPOCH, Net, Node

from meshsvc.gossip.members import Status
from meshsvc.gossip.settings import Settings

ALIVE, DEAD, LEFT, JOINING = Status.ALIVE, Status.DEAD, Status.LEFT, Status.JOINING


def formed(count: int, seed: int = 1, settle: float = 3.0, settings: Settings | None = None) -> Net:
    net = Net(count, seed, settings)
    net.start_all()
    assert net.formed(count) or net.run(10, lambda: net.formed(count)) is not None
    net.run(settle)
    return net


def running(net: Net) -> list[Node]:
    return [node for node in net.nodes.values() if node.up]


def verdicts(net: Net, by: Iterable[int], of: Iterable[int]) -> list[tuple[str, str, str]]:
    """(observer, what, whom) of every Suspect and Dead."""
    names = {net.nodes[number].info.name for number in of}
    return [
        (net.nodes[number].info.name, event.name, event.info.name)
        for number in by
        for event in net.nodes[number].events
        if event.name in ("suspect", "dead") and event.info.name in names
    ]


def p99(times: list[float]) -> float:
    return sorted(times)[int(len(times) * 0.99)]


# --- joining -------------------------------------------------------------------------------


@pytest.mark.contract("GSP-5", "GSP-14")
def test_a_cluster_forms_in_moments_and_stays_quiet() -> None:
    """Ten nodes with one seed: all alive everywhere at once, one Joined each, no doubts."""
    net = Net(10)
    net.start_all()
    took = net.run(10, lambda: net.formed(10))
    assert took is not None
    assert took < 0.5
    net.run(60)
    for node in net.nodes.values():
        assert sorted({e.name for e in node.events}) == ["joined"]
        assert len(node.events) == 9
        assert all(m.rtt_ms and m.rtt_ms > 0 for m in node.core.members() if m.node_id != node.id)


@pytest.mark.contract("GSP-5")
def test_a_join_is_alive_everywhere_at_once() -> None:
    """The eleventh node: p50 under 50 ms and never over 0.5 s, over 20 seeds."""
    times = []
    for seed in range(20):
        net = Net(10, seed)
        for number in range(9):
            net.start(number)
            net.run(0.01)
        net.run(5)
        net.start(9)
        took = net.run(5, lambda n=net: n.formed(10))
        assert took is not None
        times.append(took)
    assert sorted(times)[10] < 0.05
    assert max(times) < 0.5


@pytest.mark.contract("GSP-3")
def test_a_chain_of_seeds_becomes_one_cluster() -> None:
    """Each node knows only its predecessor, and all start at once."""
    net = Net(10, seeds=lambda number: [number - 1] if number else [])
    for number in range(10):
        net.start(number)
    assert net.run(15, lambda: net.formed(10)) is not None


@pytest.mark.contract("GSP-3")
def test_idle_traffic_is_flat() -> None:
    """A node of ten sends one SYN and two echoes a second and nobody answers equal digests."""
    net = formed(10, settle=10)
    net.told.clear()
    net.run(100)
    assert net.told["gossip.syn"] <= 10 * 101
    assert net.told["echo"] <= 10 * 2 * 101
    assert sum(n for v, n in net.told.items() if v not in ("gossip.syn", "echo")) == 0


@pytest.mark.contract("GSP-5")
def test_a_node_whose_echo_is_blackholed_is_never_alive() -> None:
    """States flow, the echo does not: joining, then dead, never alive; alive once it passes."""
    net = Net(3)
    net.echo_blocked = {(1, 2)}
    net.start_all()
    net.run(30)
    one, two = net.nodes[1], net.nodes[2]
    assert one.core.member(two.id).version == two.core.member(two.id).version  # type: ignore[union-attr]
    assert one.status(two) is DEAD
    assert not one.events or not one.said("joined", two)
    assert two.status(one) is ALIVE
    net.echo_blocked.clear()
    assert net.run(3, lambda: one.status(two) is ALIVE) is not None
    assert [e.name for e in one.events if e.node_id == two.id] == ["joined"]


@pytest.mark.contract("GSP-5")
def test_the_order_of_a_restart() -> None:
    """Restarted comes with the new state visible, before the echo; Joined after it."""
    net = formed(3)
    old = net.nodes[2]
    old.act(lambda: old.core.set_values({"zone": "old"}, net.now))
    net.run(1)
    net.kill(2)
    new = net.start(2, int(net.now) + 5)
    new.act(lambda: new.core.set_values({"colour": "new"}, net.now))
    net.run(5)
    for observer in (net.nodes[0], net.nodes[1]):
        about = [e for e in observer.events if e.node_id == new.id]
        names = [e.name for e in about]
        assert names.count("restarted") == 1
        after = names[names.index("restarted") :]
        assert after == ["restarted", "joined"]
        restarted = about[names.index("restarted")]
        assert restarted.member.generation == int(new.info.incarnation)
        assert restarted.old.generation == int(old.info.incarnation)  # type: ignore[attr-defined]
        values = observer.core.member(new.id).values  # type: ignore[union-attr]
        assert values.get("colour") == "new"
        assert "zone" not in values
        assert observer.status(new) is ALIVE


@pytest.mark.contract("GSP-1")
def test_a_restart_with_the_clock_set_back_is_accepted() -> None:
    """Generation stored + 1 suffices, wherever the clock is."""
    net = formed(3)
    generation = int(net.nodes[2].info.incarnation)
    net.kill(2)
    net.run(5)
    net.start(2, generation + 1)
    assert net.run(3, lambda: net.formed(3)) is not None


def test_a_restarted_shard_0_is_the_same_node() -> None:
    """Same generation, later shard incarnation: no Restarted, its new values everywhere."""
    net = formed(3)
    generation = int(net.nodes[2].info.incarnation)
    net.nodes[2].act(lambda: net.nodes[2].core.set_values({"a": 1, "b": 1}, net.now))
    net.run(1)
    net.kill(2)
    net.run(0.2)
    again = net.start(2, generation, shard_incarnation=2)
    again.act(lambda: again.core.set_values({"b": 2}, net.now))
    assert net.run(5, lambda: net.formed(3)) is not None
    net.run(2)
    for observer in (net.nodes[0], net.nodes[1]):
        assert not observer.said("restarted")
        values = observer.core.member(again.id).values  # type: ignore[union-attr]
        assert "a" not in values
        assert values["b"] == 2


# --- dying ---------------------------------------------------------------------------------


@pytest.mark.contract("GSP-7")
def test_a_killed_process_of_30_is_dead_everywhere_within_3_s() -> None:
    """p99 over 30 kills, and nobody else is even suspected."""
    times = []
    net = formed(30)
    for number in range(29, 9, -1):
        victim = net.kill(number)
        took = net.run(10, lambda v=victim: all(n.status(v) is DEAD for n in running(net)))
        assert took is not None
        times.append(took)
        net.run(0.5)
    assert p99(times) < 3.0
    assert verdicts(net, range(10), range(10)) == []


@pytest.mark.contract("GSP-7")
def test_a_killed_process_of_10_is_dead_everywhere_within_2_s() -> None:
    """Any victim, seed or not, and also in clusters of two and three."""
    for count in (2, 3, 10):
        for number in range(count):
            net = formed(count, seed=number, settle=2)
            victim = net.kill(number)
            took = net.run(10, lambda v=victim, n=net: all(o.status(v) is DEAD for o in running(n)))
            assert took is not None
            assert took < 2.0


@pytest.mark.contract("GSP-7")
@pytest.mark.parametrize("count", [3, 10, 30])
def test_a_powered_off_host_is_dead_everywhere_within_8_s(count: int) -> None:
    """Nothing is reset, nothing answers."""
    times = []
    for seed in range({3: 20, 10: 8, 30: 2}[count]):
        net = formed(count, seed, settle=2 + seed / 7)
        victim = net.power_off(seed % count)
        took = net.run(20, lambda v=victim, n=net: all(o.status(v) is DEAD for o in running(n)))
        assert took is not None
        times.append(took)
        others = [number for number in range(count) if number != victim.number]
        assert verdicts(net, others, others) == []
    assert max(times) < 8.0


@pytest.mark.contract("GSP-7")
def test_a_death_is_seen_by_nodes_without_a_link_of_their_own() -> None:
    """They hear of it, look through the eyes of others, and then convict."""
    net = formed(6)
    net.no_link = {(0, 5), (1, 5)}
    net.unlink((0, 5))
    net.unlink((1, 5))
    net.run(30)
    assert verdicts(net, range(6), range(6)) == []
    victim = net.kill(5)
    took = net.run(10, lambda: all(n.status(victim) is DEAD for n in running(net)))
    assert took is not None
    assert took < 3.0


@pytest.mark.contract("GSP-7")
def test_a_lost_link_convicts_nobody_who_lives() -> None:
    """A reset link is probed at once, others vouch, the link comes back: no event at all."""
    net = formed(5)
    for pair in list(net.links):
        net.unlink(pair)
        net.run(0.3)
    net.run(10)
    assert verdicts(net, range(5), range(5)) == []
    assert net.formed(5)


@pytest.mark.contract("GSP-7")
def test_a_suspect_of_two_refutes_it() -> None:
    """Two nodes, nobody to vouch: suspected when the link is lost, alive when it is back."""
    net = formed(2)
    net.unlink((0, 1))
    net.run(5)
    for one, other in ((0, 1), (1, 0)):
        names = [e.name for e in net.nodes[one].events if e.node_id == net.nodes[other].id]
        assert names in (["joined"], ["joined", "suspect", "alive"])
    assert net.formed(2)


@pytest.mark.contract("GSP-7")
def test_a_one_way_block_between_two_of_many_does_not_flap() -> None:
    """The others vouch: in ten minutes there is no event about anybody."""
    net = formed(5)
    net.echo_blocked = {(0, 1)}
    net.run(600)
    assert verdicts(net, range(5), range(5)) == []


@pytest.mark.contract("GSP-7")
def test_killing_all_but_one() -> None:
    """The last node finds everybody dead, and is found again when they return."""
    net = formed(4)
    victims = [net.kill(number) for number in (0, 1, 2)]
    last = net.nodes[3]
    assert net.run(15, lambda: all(last.status(v) is DEAD for v in victims)) is not None
    for number in (0, 1, 2):
        net.start(number)
    assert net.run(10, lambda: net.formed(4)) is not None


# --- stalling ------------------------------------------------------------------------------


@pytest.mark.contract("GSP-8")
@pytest.mark.parametrize("stall_s", [0.3, 2.0, 5.0, 30.0])
@pytest.mark.parametrize("count", [2, 3, 10])
def test_a_stopped_node_convicts_nobody_when_it_goes_on(count: int, stall_s: float) -> None:
    """SIGSTOP, SIGCONT: whatever its timers and lost links say, it blames itself first."""
    for seed in range(3):
        net = formed(count, seed, settle=2 + seed * 0.37)
        stopped = seed % count
        net.pause(stopped)
        net.run(stall_s)
        net.resume(stopped)
        assert net.formed(count) or net.run(5, lambda n=net: n.formed(count)) is not None
        net.run(10)
        others = [number for number in range(count) if number != stopped]
        dead = [v for v in verdicts(net, [stopped], others) if v[1] == "dead"]
        assert dead == []
        assert verdicts(net, others, others) == []


@pytest.mark.contract("GSP-8")
def test_a_suspicion_does_not_run_out_while_the_observer_stands_still() -> None:
    """Stopped in the middle of a suspicion, it still gives the suspect a second afterwards."""
    net = formed(2)
    net.no_link = {(0, 1)}
    net.unlink((0, 1))
    net.run(0.3)
    assert net.nodes[0].status(net.nodes[1]) is Status.SUSPECT
    net.pause(0)
    net.no_link.clear()
    net.run(5)
    net.resume(0)
    net.run(5)
    names = [e.name for e in net.nodes[0].events if e.node_id == net.nodes[1].id]
    assert names == ["joined", "suspect", "alive"]


@pytest.mark.contract("GSP-7", "GSP-8")
def test_a_node_that_accuses_everybody_talks_nobody_into_anything() -> None:
    """An accusation makes others look, and they see that it is false."""
    net = formed(5)
    liar = net.nodes[0]
    for _ in range(20):
        for hearer in net.nodes.values():
            for suspect in net.nodes.values():
                if len({liar, hearer, suspect}) == 3:
                    told = [liar.id, suspect.id, int(suspect.info.incarnation)]
                    net.tell(liar, hearer.id, "gossip.accuse", told)
        net.run(1)
    assert verdicts(net, range(5), range(5)) == []


@pytest.mark.contract("GSP-8")
def test_a_short_stall_is_survived() -> None:
    """A process that stands still for 1.5 s is at most suspected by others."""
    for seed in range(5):
        net = formed(5, seed, settle=2 + seed * 0.21)
        net.pause(2)
        net.run(1.5)
        net.resume(2)
        net.run(5)
        assert [v for v in verdicts(net, range(5), range(5)) if v[1] == "dead"] == []
        assert net.formed(5)


@pytest.mark.slow
@pytest.mark.contract("GSP-8")
def test_four_stalling_nodes_of_20_make_no_healthy_node_blame_another() -> None:
    """Ten minutes of stalls, from half of every second to many seconds at a time."""
    net = formed(20, seed=5)
    stalled, healthy = (3, 7, 11, 15), [n for n in range(20) if n % 4 != 3 or n == 19]
    longest = {3: 0.5, 7: 2.0, 11: 6.0, 15: 20.0}

    def stop(number: int) -> None:
        net.pause(number)
        net.later(net.rng.uniform(0.2, longest[number]), lambda: go_on(number))

    def go_on(number: int) -> None:
        net.resume(number)
        net.later(net.rng.uniform(0.5, 4 + longest[number] * 3), lambda: stop(number))

    for number in stalled:
        stop(number)
    net.run(600)
    assert verdicts(net, healthy, healthy) == []
    assert [v for v in verdicts(net, stalled, healthy) if v[1] == "dead"] == []


def test_a_clock_that_is_set_back_stops_nothing() -> None:
    """Rounds, probes and suspicions go on after a jump of an hour."""
    net = formed(3)
    core = net.nodes[0].core
    core.tick(net.now - 3600)
    due = core.deadline()
    assert due is not None
    assert due <= net.now - 3600 + 1.0
    assert any(type(effect).__name__ == "Tell" for effect in core.take_events())


# --- leaving -------------------------------------------------------------------------------


@pytest.mark.contract("GSP-9")
def test_a_graceful_stop_is_left_within_a_second_and_stays_so() -> None:
    """Left everywhere, never suspect or dead, however long it is gone."""
    net = formed(10)
    gone = net.stop(4)
    took = net.run(1, lambda: all(n.status(gone) is LEFT for n in running(net)))
    assert took is not None or all(n.status(gone) is LEFT for n in running(net))
    net.run(60)
    for node in running(net):
        assert node.status(gone) is LEFT
        assert [e.name for e in node.events if e.node_id == gone.id] == ["joined", "left"]
    again = net.start(4)
    assert net.run(3, lambda: net.formed(10)) is not None
    assert [e.name for e in net.nodes[0].events if e.node_id == again.id][2:] == [
        "restarted",
        "joined",
    ]


@pytest.mark.contract("GSP-9")
def test_who_has_no_link_hears_of_a_goodbye_from_others() -> None:
    """The goodbye is part of the state, so it spreads."""
    net = formed(6)
    net.no_link = {(0, 5)}
    net.unlink((0, 5))
    net.run(3)
    gone = net.stop(5)
    assert net.run(2, lambda: net.nodes[0].status(gone) is LEFT) is not None


@pytest.mark.contract("GSP-9")
def test_who_said_goodbye_has_left_in_his_own_eyes() -> None:
    """A value that changes while a node drains does not make it a newcomer to itself."""
    net = formed(3)
    node = net.nodes[2]
    node.core.stop(net.now)
    assert node.status(node) is LEFT
    node.core.set_values({"epoch": "1.2"}, net.now)
    assert node.status(node) is LEFT


@pytest.mark.contract("GSP-9")
def test_a_replayed_shutdown_of_an_earlier_life_is_ignored() -> None:
    """Generation and sender must fit, or it is counted and nothing else."""
    net = formed(3)
    old = int(net.nodes[2].info.incarnation)
    net.kill(2)
    net.run(3)
    new = net.start(2)
    net.run(3)
    observer = net.nodes[0]
    for sender, payload in (
        (new, [new.id, old]),
        (new, [new.id, int(new.info.incarnation) + 1]),
        (net.nodes[1], [new.id, int(new.info.incarnation)]),
    ):
        observer.act(
            lambda s=sender, p=payload: observer.core.receive(s.id, "gossip.shutdown", p, net.now)
        )
    net.run(2)
    assert observer.status(new) is ALIVE
    assert observer.counters.total("gossip_refused_total", reason="shutdown") == 3


# --- parting and moving --------------------------------------------------------------------


@pytest.mark.contract("GSP-11")
def test_a_partition_of_a_minute_heals_in_15_s_without_restarts() -> None:
    """5|5: each half sees the other dead, then all are alive again in the same life."""
    net = formed(10)
    net.partition(range(5), range(5, 10))
    net.run(60)
    for node in net.nodes.values():
        other = net.nodes[(node.number + 5) % 10]
        assert node.status(other) is DEAD
    net.nodes[0].act(lambda: net.nodes[0].core.set_values({"side": "left"}, net.now))
    net.run(1)
    net.heal()
    took = net.run(15, lambda: net.formed(10))
    assert took is not None
    net.run(1)
    for node in net.nodes.values():
        assert not node.said("restarted")
        assert node.core.member(net.nodes[0].id).values["side"] == "left"  # type: ignore[union-attr]
        if node.number >= 5:
            names = [e.name for e in node.events if e.node_id == net.nodes[0].id]
            assert names[:3] == ["joined", "suspect", "dead"]
            assert sorted(names[3:]) == ["alive", "changed"]


@pytest.mark.contract("GSP-11")
def test_a_node_that_returns_at_another_address_has_moved() -> None:
    """No duplicate; the new address is dialed, the old one no longer."""
    net = formed(4)
    old = net.addresses[3]
    net.stop(3)
    net.run(1)
    net.addresses[3] = type(old)("10.0.0.9", 7999)
    moved = net.start(3)
    assert net.run(5, lambda: net.formed(4)) is not None
    net.run(1)
    for node in net.nodes.values():
        assert [m.address for m in node.core.members() if m.node_id == moved.id] == [
            net.addresses[3]
        ]
        if node is not moved:
            assert old not in node.kept
            assert net.addresses[3] in node.kept


@pytest.mark.contract("GSP-11")
def test_a_cluster_that_lost_every_process_finds_itself_from_what_it_remembers() -> None:
    """Without the seed, from the addresses remembered of an earlier life."""
    net = formed(4)
    known = tuple(net.addresses[number] for number in range(1, 4))
    for number in range(4):
        net.kill(number)
    net.run(10)
    for number in range(1, 4):
        net.seeds[number] = []
        net.remembered[number] = known
        net.start(number)
    assert net.run(10, lambda: net.formed(3)) is not None


@pytest.mark.contract("GSP-10")
def test_a_removed_node_is_never_listed_again() -> None:
    """Not by gossip of others, not by its own return."""
    net = formed(4)
    out = net.nodes[3]
    net.kill(3)
    for number in (0, 1):
        core = net.nodes[number].core
        net.nodes[number].act(lambda c=core: c.remove([out.id], net.now))
    net.start(3)
    net.run(20)
    for number in (0, 1):
        assert net.nodes[number].status(out) is Status.REMOVED
        assert out.id in net.nodes[number].core.removed_nodes
        assert net.addresses[3] not in net.nodes[number].kept
        assert len(net.nodes[number].said("removed")) == 1


# --- spreading -----------------------------------------------------------------------------


def seconds_to_all(net: Net, key: str, value: int) -> float | None:
    node = net.nodes[7]
    node.act(lambda: node.core.set_values({key: value}, net.now))

    def everywhere() -> bool:
        rows = (n.core.member(node.id) for n in net.nodes.values())
        return all(row is not None and row.values.get(key) == value for row in rows)

    return net.run(30, everywhere)


@pytest.mark.contract("GSP-15")
def test_an_update_is_everywhere_within_ten_rounds() -> None:
    """30 nodes, no loss: every one of 30 updates, and half of them in a tenth of a second."""
    net = formed(30)
    times = [seconds_to_all(net, "k", number) for number in range(30)]
    assert all(took is not None and took < 10 for took in times)
    assert sorted(took for took in times if took is not None)[15] < 1.0


@pytest.mark.contract("GSP-15")
def test_an_update_is_everywhere_within_20_rounds_when_a_quarter_is_lost() -> None:
    """30 nodes, 25 % of one-way messages lost."""
    net = formed(30)
    net.loss = 0.25
    times = [seconds_to_all(net, "k", number) for number in range(15)]
    assert all(took is not None and took < 20 for took in times)


@pytest.mark.contract("GSP-3", "GSP-15")
def test_rounds_alone_bring_everything_everywhere() -> None:
    """Also what no push has carried: 10 rounds after the pushes were lost."""
    net = formed(30)
    net.loss = 1.0
    node = net.nodes[7]
    node.act(lambda: node.core.set_values({"k": 1}, net.now))
    net.run(0.5)
    net.loss = 0.0
    took = net.run(
        10,
        lambda: all(n.core.member(node.id).values.get("k") == 1 for n in net.nodes.values()),  # type: ignore[union-attr]
    )
    assert took is not None


@pytest.mark.contract("GSP-5")
def test_a_batch_is_one_event_with_everything_visible() -> None:
    """1,000 keys in one update: one Changed with all of them, all readable by then."""
    net = formed(3)
    node = net.nodes[1]
    batch = {f"k{number}": number for number in range(1000)}
    node.act(lambda: node.core.set_values(batch, net.now))
    net.run(2)
    for observer in net.nodes.values():
        (event,) = observer.said("changed", node)
        assert event.changed == batch  # type: ignore[attr-defined]
        assert event.member.values.items() >= batch.items()


@pytest.mark.contract("GSP-13")
def test_without_contacts_a_node_starts_alone_or_not_at_all() -> None:
    """Optional: alone after ten seconds. Required: an error that names the contacts."""
    optional = Net(2, seeds=lambda number: [1])
    node = optional.start(0)
    optional.run(9.9)
    assert node.effects == [e for e in node.effects if type(e).__name__ == "ViewChanged"]
    optional.run(0.2)
    assert [e.alone for e in node.effects if type(e).__name__ == "Entered"] == [True]
    required = Net(2, settings=Settings(shadow_required=True), seeds=lambda number: [1])
    node = required.start(0)
    required.run(10.1)
    assert [e.contacts for e in node.effects if type(e).__name__ == "NotEntered"] == [
        ("10.0.0.1:7001",)
    ]
    assert node.core.deadline() is None


@pytest.mark.contract("GSP-13")
def test_in_the_shadow_a_node_says_nothing_of_itself() -> None:
    """It answers no echo and appears nowhere until it has read from a contact."""
    net = Net(2, seeds=lambda number: [1 - number])
    net.start(0)
    net.loss = 1.0
    net.start(1)
    net.run(5)
    assert all(len(node.core.members()) == 1 for node in net.nodes.values())
    assert all(node.core.answer_echo() == 0 for node in net.nodes.values())
    assert net.now == EPOCH + 5


@pytest.mark.contract("GSP-4")
def test_a_flood_of_updates_waits_as_one_state() -> None:
    """10,000 pushes in one turn leave one pending endpoint, one Changed, the last value."""
    net = formed(2)
    one, two = net.nodes[0], net.nodes[1]
    own = two.core._voice._own
    for number in range(10_000):
        base = own.state.version
        own.update({"n": number})
        row = [list(v) if isinstance(v, tuple) else v for v in own.state.since(base).row()]
        one.core.receive(two.id, "gossip.push", [[row]], net.now)
        assert one.core.pending == 1
    one.act(lambda: None)
    net.run(0.1)
    assert one.core.pending == 0
    (event,) = one.said("changed", two)
    assert event.changed == {"n": 9999}  # type: ignore[attr-defined]


@pytest.mark.contract("GSP-3")
def test_rubbish_from_a_peer_is_counted_and_changes_nothing() -> None:
    """No payload of any verb raises or does harm."""
    net = formed(2)
    one, two = net.nodes[0], net.nodes[1]
    before = one.core.members()
    for verb in ("syn", "ack", "ack2", "push", "accuse", "shutdown"):
        for rubbish in (None, 1, "x", b"", [], [[]], [None, None, None], [1, [[]], 2], [[1], 2, 3]):
            one.act(lambda v=verb, r=rubbish: one.core.receive(two.id, f"gossip.{v}", r, net.now))
    assert one.counters.total("gossip_refused_total") > 30
    assert one.core.members() == before
    net.run(5)
    assert net.formed(2)


def test_values_may_be_set_before_the_start() -> None:
    """They are part of what the node says first, and nothing is sent or dialed before."""
    net = Net(2)
    net.start(0)
    net.run(1)
    early = Node(net, 1, int(net.now), 1)
    early.core.set_values({"tags": {"zone": "a"}}, net.now)
    assert {type(effect).__name__ for effect in early.core.take_events()} == {"ViewChanged"}
    net.nodes[1] = early
    early.act(lambda: early.core.start(net.now))
    assert net.run(2, lambda: net.formed(2)) is not None
    assert net.nodes[0].core.member(early.id).tags == {"zone": "a"}  # type: ignore[union-attr]
