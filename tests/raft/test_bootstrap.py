"""Founding a group: one member set, whoever starts when, is killed, or sees what."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from meshsvc.errors import WireError
from meshsvc.raft.bootstrap import (
    Bootstrap,
    Candidate,
    Outcome,
    Stand,
    cluster_id,
    decode_stand,
    encode_stand,
)
from meshsvc.wire.codec import encode

pytestmark = pytest.mark.contract("RAFT-4")


class Nodes:
    """Nodes that start, are killed (losing what was not saved) and hear each other late."""

    def __init__(self, count, expect, seed, faults=True):
        self.rng, self.now, self.expect = Random(seed), 0.0, expect
        self.faults = faults
        self.names = [f"{self.rng.getrandbits(128):032x}" for _ in range(count)]
        self.disks = {}
        self.up = {}
        self.events = []
        self.cut = set()
        self.ids = {name: Candidate(name, self.rng.getrandbits(64) | 1) for name in self.names}
        self.start_at = {name: self.rng.random() * 3 for name in self.names}

    def start(self, name):
        self.up[name] = Bootstrap(self.ids[name], self.expect, self.disks.get(name))

    def step(self, seconds=0.02):
        rng = self.rng
        self.now += seconds
        for name in self.names:
            if name not in self.up:
                if self.now >= self.start_at[name]:
                    self.start(name)
                continue
            if self.faults and rng.random() < 0.01:
                del self.up[name]
                self.start_at[name] = self.now + rng.random()
                continue
            self.act(name)
        if self.faults and rng.random() < 0.02:
            side = {name for name in self.names if rng.random() < 0.5}
            pairs = {(a, b) for a in self.names for b in self.names if (a in side) != (b in side)}
            self.cut = pairs if rng.random() < 0.5 else set()
        due = [event for event in self.events if event[0] <= self.now]
        self.events = [event for event in self.events if event[0] > self.now]
        rng.shuffle(due)
        for _, to, data in due:
            if to in self.up:
                self.up[to].heard(decode_stand(data), self.now)

    def act(self, name):
        node, rng = self.up[name], self.rng
        if node.to_save is not None and rng.random() < 0.5:
            self.disks[name] = replace(node.to_save, sees=())
            if not (self.faults and rng.random() < 0.1):
                node.saved(node.to_save, self.now)
            else:
                del self.up[name]  # killed after the write, before anybody knew
                self.start_at[name] = self.now + rng.random()
                return
        if node.tick(self.now):
            data = encode_stand(node.stand(self.now))
            for other in self.names:
                if other == name or (name, other) in self.cut:
                    continue
                if not (self.faults and rng.random() < 0.2):
                    self.events.append((self.now + rng.random() * 0.5, other, data))

    def run(self, seconds):
        until = self.now + seconds
        while self.now < until and not self.done():
            self.step()
        return self

    def calm(self):
        self.faults, self.cut = False, set()
        return self

    def done(self):
        return len(self.up) == len(self.names) and all(n.outcome for n in self.up.values())

    def outcomes(self):
        return {name: node.outcome for name, node in self.up.items()}


@pytest.mark.parametrize("seed", range(100))
@pytest.mark.parametrize(("count", "expect"), [(3, 3), (5, 3)])
def test_one_hundred_of_one_hundred_runs_give_one_cluster(count, expect, seed):
    """Any order of starts, kills between any two steps, lost, late and reordered words, cuts:
    one set of N, the same for all; the rest join it.
    """
    founded_once(count, expect, seed)


@pytest.mark.parametrize(("count", "expect"), [(1, 1), (2, 2), (9, 5), (4, 4)])
def test_other_sizes_found_one_cluster_too(count, expect):
    """From one node to nine."""
    for seed in range(8):
        founded_once(count, expect, seed)


def founded_once(count, expect, seed):
    nodes = Nodes(count, expect, seed).run(8).calm().run(30)
    assert nodes.done(), {name[:4]: n.waits_for(nodes.now) for name, n in nodes.up.items()}
    founded = {outcome.founders for outcome in nodes.outcomes().values()}
    assert len(founded) == 1
    (founders,) = founded
    assert len(founders) == expect
    members = [name for name, outcome in nodes.outcomes().items() if outcome.member]
    assert sorted(members) == [each.node for each in founders]
    assert len({outcome.cluster_id for outcome in nodes.outcomes().values()}) == 1


@pytest.mark.parametrize("seed", range(30))
def test_no_two_sets_are_ever_agreed(seed):
    """While faults go on, whatever is agreed anywhere is the same, also on disks."""
    nodes = Nodes(5, 3, 1000 + seed)
    agreed = set()
    for _ in range(600):
        nodes.step()
        agreed |= {stand.accepted for stand in nodes.disks.values() if stand.agreed}
    assert len(agreed) <= 1


def test_fewer_than_expected_found_nothing():
    """They wait, and say for what."""
    nodes = Nodes(2, 3, 1, faults=False).run(10)
    assert not any(nodes.outcomes().values())
    node = nodes.up[nodes.names[0]]
    assert node.waits_for(nodes.now) == "2 of 3 nodes without data are here"


def test_nodes_that_expect_other_numbers_do_not_found_together():
    """A config mistake founds nothing rather than the wrong thing."""
    a, b = Candidate("a" * 32, 1), Candidate("b" * 32, 2)
    one, other = Bootstrap(a, 2), Bootstrap(b, 3)
    for now in range(20):
        one.heard(other.stand(now), now)
        other.heard(one.stand(now), now)
    assert one.outcome is None
    assert other.outcome is None
    assert one.to_save is None


def test_what_is_accepted_is_saved_before_it_is_said():
    """Until ``saved`` the node says what it said before."""
    a, b = Candidate("a" * 32, 1), Candidate("b" * 32, 2)
    one = Bootstrap(a, 2)
    one.heard(Stand(b, 2, sees=(a, b)), 0.0)
    assert one.to_save == Stand(a, 2, (a, b), ((1, a.node),))
    assert one.stand(0.0).accepted == ()
    one.saved(one.to_save, 0.0)
    assert one.stand(0.0).accepted == (a, b)
    assert one.outcome is None
    one.heard(Stand(b, 2, (a, b), ((1, a.node),)), 0.1)
    assert one.to_save.agreed
    assert one.outcome is None
    one.saved(one.to_save, 0.1)
    assert one.outcome == Outcome((a, b), True)


def test_a_restart_goes_by_what_was_saved():
    """An agreed node is done at once; one that accepted stays with its set."""
    a, b, c = (Candidate(letter * 32, 1) for letter in "abc")
    agreed = Stand(b, 2, (a, b), ((1, a.node),), True)
    assert Bootstrap(b, 2, agreed).outcome == Outcome((a, b), True)
    accepted = Bootstrap(b, 2, Stand(b, 2, (a, b), ((1, a.node),)))
    accepted.heard(Stand(c, 2, (b, c), ((2, b.node),)), 0.0)
    assert accepted.to_save is None  # a might have agreed on (a, b)


def test_a_set_that_one_skipped_is_left_for_a_higher_one():
    """Otherwise two half-accepted sets would wait for each other for ever."""
    a, b, c, d = (Candidate(letter * 32, 1) for letter in "abcd")
    node = Bootstrap(c, 3, Stand(c, 3, (a, b, c), ((1, a.node),)))
    node.heard(Stand(b, 3, (b, c, d), ((1, b.node),)), 0.0)
    assert node.to_save.accepted == (b, c, d)
    assert node.to_save.ballots == ((1, a.node), (1, b.node))


def test_a_node_with_an_empty_disk_is_a_new_member():
    """It joins what exists as a learner, and does not take its old place."""
    a, b = Candidate("a" * 32, 1), Candidate("b" * 32, 2)
    again = Bootstrap(Candidate(b.node, 99), 2)
    again.heard(Stand(a, 2, (a, b), ((1, a.node),), True), 0.0)
    assert again.outcome == Outcome((a, b), False)


def test_a_founder_that_lost_its_disk_is_named():
    """Nobody can know whether it had accepted: people are told what to do."""
    a, b = Candidate("a" * 32, 1), Candidate("b" * 32, 2)
    node = Bootstrap(a, 2, Stand(a, 2, (a, b), ((1, a.node),)))
    node.heard(Stand(Candidate(b.node, 99), 2), 0.0)
    assert "bbbbbbbb lost its disk" in node.waits_for(0.0)
    assert node.outcome is None


def test_cluster_ids():
    """Derived from the founders, in their order; a disk makes a difference."""
    a, b = Candidate("a" * 32, 1), Candidate("b" * 32, 2)
    assert cluster_id((a, b)) == cluster_id((a, b)) != cluster_id((a, Candidate(b.node, 3)))
    assert 0 < cluster_id((a,)) < 2**64


@pytest.mark.contract("SIM-4")
@pytest.mark.parametrize(
    "row",
    [
        5,
        [],
        [["a", 1], 3, [], [], True],
        [["a", 0], 3, [], [], True, []],
        [["a"], 3, [], [], True, []],
        [["a", 1], "3", [], [], True, []],
        [["a", 1], 3, [["a", 1], ["a", 1]], [], True, []],
        [["a", 1], 3, [], [[1]], True, []],
        [["a", 1], 3, [], [], 1, []],
        [["a", 1], 3, [], 7, True, []],
    ],
)
def test_rubbish_is_refused(row):
    """With a typed error."""
    with pytest.raises(WireError):
        decode_stand(encode(row))


def test_stands_as_bytes():
    """What was encoded comes back."""
    a, b = Candidate("a" * 32, 1), Candidate("b" * 32, 2**64 - 1)
    stand = Stand(a, 2, (a, b), ((1, a.node), (2, b.node)), True, (b,))
    assert decode_stand(encode_stand(stand)) == stand
