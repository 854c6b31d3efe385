"""Endpoint states: order of lives and versions, merging, deltas, rows from peers."""

from __future__ import annotations

from functools import reduce
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshsvc.gossip.endpoints import MAX_AHEAD_S, Endpoints, Took
from meshsvc.gossip.own import BadValue, OwnState
from meshsvc.gossip.states import (
    KEYS,
    BadRow,
    EndpointState,
    Fit,
    changed,
    fit,
    merge,
    parse_delta,
)
from meshsvc.model import Address, Incarnation, NodeId, NodeInfo

A = NodeId("a" * 32)
B = NodeId("b" * 32)
NOW = 1_700_000_000.0

quick = settings(max_examples=60, deadline=None, derandomize=True)


def own(shard_incarnation: int = 1, generation: int = 7) -> OwnState:
    return OwnState(
        NodeInfo(A, "n1", Incarnation(generation), Address("h", 1), 2), shard_incarnation
    )


@st.composite
def histories(draw: st.DrawFn) -> list[EndpointState]:
    """States that one node was in, one after the other, over a few lives."""
    found = []
    for generation in range(1, draw(st.integers(1, 3)) + 1):
        said = own(generation=generation)
        found.append(said.state)
        for key, value in draw(
            st.lists(st.tuples(st.sampled_from("pqr"), st.none() | st.integers(0, 3)), max_size=4)
        ):
            said.update({key: value})
            found.append(said.state)
    return found


@st.composite
def copies(draw: st.DrawFn) -> tuple[list[EndpointState], EndpointState]:
    """What others may know of a node after any exchange, and what it said last."""
    history = draw(histories())
    known = draw(st.lists(st.sampled_from(history), min_size=1, max_size=4))
    return known, history[-1]


@pytest.mark.contract("GSP-2")
@quick
@given(copies())
def test_merging_does_not_depend_on_order_or_repetition(
    drawn: tuple[list[EndpointState], EndpointState],
) -> None:
    """Merge is commutative, associative and idempotent."""
    known, _ = drawn
    results = [reduce(merge, order) for order in permutations(known)]
    assert all(result == results[0] for result in results)
    assert reduce(merge, known + known) == results[0]


@pytest.mark.contract("GSP-2")
@quick
@given(copies())
def test_merging_never_goes_back(drawn: tuple[list[EndpointState], EndpointState]) -> None:
    """(generation, version) of a merge is the greatest, and the last state absorbs all."""
    known, last = drawn
    result = reduce(merge, known)
    assert (result.generation, result.version) == max((s.generation, s.version) for s in known)
    assert reduce(merge, known, last) == last


@pytest.mark.contract("GSP-2")
@quick
@given(histories(), st.data())
def test_a_delta_brings_what_is_missing_or_says_that_it_cannot(
    history: list[EndpointState], data: st.DataObject
) -> None:
    """Whoever takes a delta then knows what the sender knows of that node."""
    mine = data.draw(st.none() | st.sampled_from(history))
    theirs = data.draw(st.sampled_from(history))
    base = data.draw(st.integers(0, theirs.version + 1))
    delta = theirs.since(base)
    how = fit(delta, mine)
    if how is Fit.NEWS:
        merged = delta.state if mine is None else merge(mine, delta.state)
        assert merged == (theirs if mine is None else merge(mine, theirs))
    elif how is Fit.KNOWN:
        assert mine is not None
        assert (theirs.generation, theirs.version) <= (mine.generation, mine.version)


@quick
@given(histories())
def test_rows_survive_the_wire(history: list[EndpointState]) -> None:
    """A delta row decodes to the delta it came from."""
    for state in history:
        delta = state.since(0)
        row = [list(v) if isinstance(v, tuple) else v for v in delta.row()]
        assert parse_delta(row) == delta


@quick
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=40) | st.just("a" * 32),
        lambda inner: st.lists(inner, max_size=6),
        max_leaves=20,
    )
)
def test_rubbish_rows_are_refused(row: object) -> None:
    """Anything that is no delta row ends in BadRow and in nothing else."""
    with pytest.raises(BadRow):
        parse_delta(row)


@pytest.mark.parametrize(
    ("key", "value"),
    [("address", "nowhere"), ("shards", 0), ("shards", True), ("name", ""), ("address", "h:0")],
)
def test_a_state_without_a_usable_identity_is_refused(key: str, value: object) -> None:
    """A node that cannot be dialed or named is not listed."""
    row = own().state.since(0).row()
    row[4] = [[k, value if k == key else v, version] for k, v, version in row[4]]  # type: ignore[attr-defined]
    with pytest.raises(BadRow):
        parse_delta(row)


@pytest.mark.contract("GSP-2")
def test_a_restarted_shard_0_outranks_what_it_said_before_and_deletes_the_rest() -> None:
    """Within one life of the node a later shard 0 says everything anew, above the old."""
    first, second = own(1), own(2)
    first.update({"tags": {"zone": "a"}, "epoch": "1.1"})
    second.update({"epoch": "1.2"})
    merged = merge(first.state, second.state)
    assert merged == second.state
    assert merged.get("tags") is None
    assert changed(first.state, merged)["tags"] is None


def test_one_update_is_one_version_range_and_deletes_when_told() -> None:
    """None deletes a key everywhere; internal keys are nobody's business."""
    said = own()
    said.update({"x": 1, "y": 2})
    before = said.state
    said.update({"x": None, "z": 3})
    merged = merge(before, said.state)
    assert changed(before, merged) == {"x": None, "z": 3}
    assert KEYS in merged.values
    assert merged.get("x") is None


@pytest.mark.parametrize(
    "values",
    [
        {"k": "x" * 4097},
        {"": 1},
        {"k" * 129: 1},
        {KEYS: []},
        {"k": {1, 2}},
        {f"k{i}": "x" * 4000 for i in range(70)},
    ],
)
def test_values_that_are_too_large_or_not_plain_are_refused_whole(
    values: dict[str, object],
) -> None:
    """The error is a ValueError with a text that says what to do, and nothing was set."""
    said = own()
    before = said.state
    with pytest.raises(BadValue) as caught:
        said.update({"fine": 1, **values})
    assert isinstance(caught.value, ValueError)
    assert said.state == before


def test_a_thousand_values_are_fine() -> None:
    """The bound is on bytes: many small values may be gossiped."""
    said = own()
    said.update({f"k{i}": i for i in range(1000)})
    assert said.state.get("k999") == 999


def test_a_forgotten_version_is_outrun() -> None:
    """A node of whom others know more than it remembers says everything anew above that."""
    said = own()
    values = {key: entry[0] for key, entry in said.state.values.items()}
    said.outrun(said.state.version + 1000)
    assert said.state.version > own().state.version + 1000
    assert {key: entry[0] for key, entry in said.state.values.items()} == values


@pytest.mark.contract("GSP-1")
@pytest.mark.parametrize("known", [False, True])
def test_a_generation_over_a_year_ahead_is_refused(known: bool) -> None:
    """Whether or not the node is known; one within the year is taken."""
    store = Endpoints(B)
    if known:
        store.offer(own(generation=int(NOW)).state.since(0), NOW)
        store.apply()
    absurd = own(generation=int(NOW + MAX_AHEAD_S + 10)).state.since(0)
    assert store.offer(absurd, NOW) is Took.GENERATION
    later = own(generation=int(NOW + MAX_AHEAD_S - 10)).state.since(0)
    assert store.offer(later, NOW) is Took.NEWS


@pytest.mark.contract("GSP-1")
def test_a_node_that_ran_for_years_may_restart() -> None:
    """The generation is compared with the clock, not with what was known."""
    store = Endpoints(B)
    store.offer(own(generation=int(NOW - 3 * MAX_AHEAD_S)).state.since(0), NOW)
    store.apply()
    assert store.offer(own(generation=int(NOW)).state.since(0), NOW) is Took.NEWS


@pytest.mark.contract("GSP-2")
def test_a_greater_generation_replaces_and_a_lower_is_ignored() -> None:
    """Nothing of the old life stays, and nothing of it comes back."""
    old, new = own(generation=5), own(generation=6)
    old.update({"tags": {"a": 1}})
    store = Endpoints(B)
    store.offer(old.state.since(0), NOW)
    store.offer(new.state.since(0), NOW)
    assert store.offer(old.state.since(0), NOW) is Took.KNOWN
    store.apply()
    assert store.get(A) == new.state


@pytest.mark.contract("GSP-4")
def test_ten_thousand_deltas_wait_as_one_state() -> None:
    """What is pending is bounded by the endpoints, and is the merge of all that came."""
    store = Endpoints(B)
    said = own()
    store.offer(said.state.since(0), NOW)
    for number in range(10_000):
        base = said.state.version
        said.update({"counter": number})
        store.offer(said.state.since(base), NOW)
        assert store.pending == 1
    ((old, new),) = store.apply()
    assert old is None
    assert new == said.state


def test_the_summary_tells_whether_two_know_the_same() -> None:
    """It depends on what is known, not on how it came."""
    one, two = Endpoints(B), Endpoints(B)
    said = own()
    for store, states in ((one, [said.state]), (two, [])):
        for state in states:
            store.offer(state.since(0), NOW)
            store.apply()
    said.update({"x": 1})
    for store in (one, two):
        store.offer(said.state.since(0), NOW)
        store.apply()
    assert one.summary == two.summary != 0
    one.remove(A)
    assert one.summary == 0
    assert one.offer(said.state.since(0), NOW) is Took.REMOVED
