"""SYN, ACK and ACK2 between two sets of endpoints."""

from __future__ import annotations

import random

import pytest
from harness import address, plain
from hypothesis import given, settings
from hypothesis import strategies as st

from meshsvc.gossip.endpoints import Endpoints
from meshsvc.gossip.own import OwnState
from meshsvc.gossip.rounds import ACK, MAX_BYTES, SUMMARY_ABOVE, SYN, Rounds
from meshsvc.gossip.states import BadRow, EndpointState
from meshsvc.model import Incarnation, NodeId, NodeInfo
from meshsvc.wire.codec import encode

NOW = 1_700_000_000.0


def node(number: int) -> NodeId:
    return NodeId(f"{number:032x}")


def history(number: int, updates: int, size: int = 1) -> list[EndpointState]:
    own = OwnState(NodeInfo(node(number), f"n{number}", Incarnation(7), address(number), 1), 1)
    states = [own.state]
    for update in range(updates):
        own.update({f"k{update % 3}": "x" * size, "n": update})
        states.append(own.state)
    return states


class Side:
    def __init__(self, me: int, states: list[EndpointState]) -> None:
        self.endpoints = Endpoints(node(me))
        self.rounds = Rounds(self.endpoints)
        for state in states:
            self.endpoints.put(state)

    def knows(self) -> dict[NodeId, EndpointState]:
        return {state.node_id: state for state in self.endpoints}

    def learn(self, rows: object) -> None:
        self.rounds.learn(plain(rows), NOW)
        self.endpoints.apply()


def exchange(one: Side, other: Side) -> int:
    """One round from one to the other; answers how many messages it took."""
    return len(messages(one, other))


def messages(one: Side, other: Side) -> list[int]:
    """One round from one to the other; answers the bytes of each payload."""
    syn = one.rounds.syn()
    sizes = [len(encode(syn))]
    asker, answerer = one, other
    answer = other.rounds.answer_syn(plain(syn), NOW)
    while answer is not None and answer[0] == SYN:
        sizes.append(len(encode(answer[1])))
        asker, answerer = answerer, asker
        answer = answerer.rounds.answer_syn(plain(answer[1]), NOW)
    if answer is None:
        return sizes
    assert answer[0] == ACK
    sizes.append(len(encode(answer[1])))
    deltas, wanted = plain(answer[1])
    asker.learn(deltas)
    if wanted:
        told = asker.rounds.answer_wanted(wanted)
        sizes.append(len(encode(told)))
        answerer.learn(told)
    return sizes


@pytest.mark.contract("GSP-3")
@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=8))
def test_one_round_makes_two_nodes_know_the_same(known: list[tuple[int, int]]) -> None:
    """The newest of both, for every endpoint, and a second round is one message."""
    histories = [history(number + 10, 4) for number in range(len(known))]
    one = Side(1, [states[mine] for states, (mine, _) in zip(histories, known, strict=True)])
    other = Side(2, [s[theirs] for s, (_, theirs) in zip(histories, known, strict=True) if theirs])
    expected = {
        states[0].node_id: states[max(mine, theirs)]
        for states, (mine, theirs) in zip(histories, known, strict=True)
    }
    if not other.knows():
        other.endpoints.put(history(99, 0)[0])
        expected[node(99)] = history(99, 0)[0]
    exchange(one, other)
    assert one.knows() == other.knows() == expected
    assert exchange(one, other) == 1


@pytest.mark.contract("GSP-3", "GSP-15")
def test_many_endpoints_are_compared_by_a_fingerprint_first() -> None:
    """Equal: one short message. Different: buckets, digests of some, then what is missing."""
    states = [history(number, 2) for number in range(10, 10 + SUMMARY_ABOVE + 10)]
    one, other = Side(1, [s[2] for s in states]), Side(2, [s[2] for s in states])
    assert len(encode(one.rounds.syn())) < 16
    assert exchange(one, other) == 1
    other = Side(2, [*(s[2] for s in states[:5]), states[5][1], *(s[2] for s in states[7:])])
    assert exchange(one, other) <= 5
    assert one.knows() == other.knows()


@pytest.mark.contract("GSP-15")
@pytest.mark.parametrize("count", [100, 1000, 3000])
def test_what_a_difference_costs_hardly_grows_with_the_cluster(count: int) -> None:
    """One endpoint differs: a few kilobytes, where all digests would be fifty bytes each."""
    states = [history(number, 2) for number in range(10, 10 + count)]
    one, other = Side(1, [s[2] for s in states]), Side(2, [s[2] for s in states])
    other.endpoints.put(history(10, 5)[5])
    sizes = messages(one, other)
    assert len(sizes) <= 5
    assert sum(sizes) < 1300 + 100 * count / 128
    assert one.knows() == other.knows()


def test_buckets_that_are_none_are_refused() -> None:
    """Too short, out of range, of a wrong kind: a BadRow each, and nothing is answered."""
    side = Side(1, [history(number, 0)[0] for number in range(10, 90)])
    row = [node(10), 1, 1]
    for told in ([b""], [b"x" * 1023], [[row], [128]], [[row], [-1]], [[row], None], [[], ["x"]]):
        with pytest.raises(BadRow):
            side.rounds.answer_syn([1, *told], NOW)
    assert side.rounds.answer_syn([1, [], []], NOW) is None


def test_what_exceeds_the_budget_follows_in_later_rounds() -> None:
    """Messages stay below the bound of a frame, and after some rounds all is known."""
    states = [history(number, 60, size=4000)[-1] for number in range(10, 60)]
    rng = random.Random(1)
    rng.shuffle(states)
    one, other = Side(1, states), Side(2, [history(99, 0)[0]])
    for _ in range(5):
        answer = one.rounds.answer_syn(plain(other.rounds.syn()), NOW)
        if answer is None:
            break
        assert len(encode(answer[1])) < MAX_BYTES * 2
        other.learn(answer[1][0])
    assert set(one.knows()) <= set(other.knows())


def test_a_delta_with_a_gap_before_it_is_asked_for() -> None:
    """A push that was missed is noticed by the next one, which is then not taken."""
    states = history(10, 3)
    side = Side(1, [states[1]])
    row = plain(states[3].since(states[2].version).row())
    lesson = side.rounds.learn([row], NOW)
    assert lesson.missing == [[node(10), 7, states[1].version]]
    assert lesson.news == []
    assert side.endpoints.pending == 0


def test_bad_rows_among_good_ones_are_refused_alone() -> None:
    """The good ones are taken; a payload that is no list is refused whole."""
    side = Side(1, [])
    good = plain(history(10, 1)[1].since(0).row())
    lesson = side.rounds.learn([[], good, [1, 2, 3, 4, 5], None], NOW)
    assert (len(lesson.refused), lesson.news) == (3, [node(10)])
    for rubbish in (None, {}, "x", 3):
        with pytest.raises(BadRow):
            side.rounds.learn(rubbish, NOW)
        with pytest.raises(BadRow):
            side.rounds.answer_syn([rubbish], NOW)
    mine = history(1, 1)[1]
    assert side.rounds.learn([plain(mine.since(0).row())], NOW).own[0].state == mine
