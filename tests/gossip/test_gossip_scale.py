"""What gossip costs and how fast it is among hundreds of nodes: cores only, virtual time."""

from __future__ import annotations

import pytest

from meshsvc.gossip.members import Status
from meshsvc.sim.scale.crowd import Crowd, Weather
from meshsvc.sim.scale.figures import Figures, Plan, measure, percentile, serf_model_s

SHORT = Plan(steady_s=4.0, change_s=4.0, settle_s=3.0)


@pytest.fixture(scope="module")
def figures() -> Figures:
    """Of 300 nodes, without loss."""
    return measure(300, 1, Weather(), SHORT)


@pytest.mark.slow
@pytest.mark.contract("GSP-15")
def test_an_update_among_300_nodes_is_everywhere_in_a_second(figures: Figures) -> None:
    """Nobody is left out; serf's model says 1.4 s for 99 %."""
    assert figures.missed == 0
    assert percentile(figures.spread, 0.5) < 0.1
    assert percentile(figures.spread, 0.99) < serf_model_s(300, 0.99)
    assert max(figures.spread) < 15.0


@pytest.mark.slow
@pytest.mark.contract("GSP-15")
def test_traffic_does_not_grow_with_the_cluster(figures: Figures) -> None:
    """A node of 300 sends as much as one of 100, idle and while others have news."""
    hundred = measure(100, 1, Weather(), SHORT)
    assert figures.steady_bytes < 1.05 * hundred.steady_bytes
    assert figures.change_bytes < 1.5 * hundred.change_bytes
    assert figures.most_bytes < 40_000


@pytest.mark.slow
@pytest.mark.contract("GSP-7")
def test_one_death_among_300_is_known_to_all_and_nobody_else_is_blamed(figures: Figures) -> None:
    """A killed process within 5 s, a host without power within 10 s."""
    assert figures.killed_s is not None
    assert figures.killed_s < 5.0
    assert figures.unpowered_s is not None
    assert figures.unpowered_s < 10.0
    assert figures.wrongly_dead == 0


@pytest.mark.slow
@pytest.mark.contract("GSP-15")
def test_loss_slows_an_update_down_and_stops_it_nowhere() -> None:
    """A quarter of the messages among 30 nodes, a twentieth among 100."""
    for nodes, loss in ((30, 0.25), (100, 0.05)):
        found = measure(nodes, 1, Weather(loss=loss), SHORT)
        assert found.missed == 0
        assert max(found.spread) < 10.0
        assert found.wrongly_dead == 0


@pytest.mark.slow
@pytest.mark.contract("GSP-7")
def test_half_a_cluster_dying_at_once_does_not_drown_the_other_half() -> None:
    """After the first second a survivor sends less than 40 kB/s."""
    crowd = Crowd(60)
    crowd.run(5.0)
    for node in crowd.nodes[:30]:
        crowd.kill(node)
    crowd.run(1.0)
    before = sum(node.sent_bytes for node in crowd.running)
    crowd.run(20.0)
    assert sum(node.sent_bytes for node in crowd.running) - before < 30 * 20 * 40_000
    for node in crowd.running:
        alive = {m.node_id for m in node.core.members() if m.status is Status.ALIVE}
        assert alive == {other.id for other in crowd.running}


def test_a_run_is_a_function_of_its_seed() -> None:
    """The same seed gives the same bytes and events, another seed others."""

    def run(seed: int) -> tuple[list[int], int]:
        crowd = Crowd(20, seed, Weather(loss=0.1))
        crowd.run(3.0)
        crowd.kill(crowd.nodes[3])
        crowd.run(5.0)
        return [node.sent_bytes for node in crowd.nodes], crowd.events

    assert run(1) == run(1)
    assert run(1) != run(2)


@pytest.mark.parametrize(
    ("nodes", "seconds"), [(3, 0.8), (10, 1.0), (30, 1.2), (100, 1.4), (1000, 1.6), (10000, 2.0)]
)
def test_the_yardstick_is_serfs_model(nodes: int, seconds: float) -> None:
    """99 % of the nodes, at serf's defaults for a LAN."""
    assert serf_model_s(nodes, 0.99) == pytest.approx(seconds, abs=0.01)
