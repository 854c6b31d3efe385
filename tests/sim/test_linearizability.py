"""The checker of histories, on histories that are known to be good or bad."""

from __future__ import annotations

from math import inf
from random import Random

import pytest

from meshsvc.sim.linearizability import UNKNOWN, Operation, check, register


def history(*rows):
    """Rows of (invoked, returned, call, answer) on one key."""
    return [Operation("k", call, answer, start, end) for start, end, call, answer in rows]


GET = ("get",)


def put(value):
    return ("put", value)


GOOD = {
    "one after the other": history((0, 1, put(1), None), (2, 3, GET, 1)),
    "a read during a write sees the old": history((0, 9, put(1), None), (1, 2, GET, None)),
    "a read during a write sees the new": history((0, 9, put(1), None), (1, 2, GET, 1)),
    "two writes at once, either order": history(
        (0, 9, put(1), None), (0, 9, put(2), None), (10, 11, GET, 1), (12, 13, GET, 1)
    ),
    "an unanswered write may have happened": history((0, inf, put(1), UNKNOWN), (5, 6, GET, 1)),
    "or not": history((0, inf, put(1), UNKNOWN), (5, 6, GET, None)),
    "or later": history(
        (0, inf, put(1), UNKNOWN), (1, 2, GET, None), (3, 4, put(2), None), (5, 6, GET, 1)
    ),
    "a swap that found what it expected": history(
        (0, 1, put(1), None), (2, 3, ("cas", 1, 2), True), (4, 5, GET, 2)
    ),
    "a swap that did not": history(
        (0, 1, put(1), None), (2, 3, ("cas", 7, 2), False), (4, 5, GET, 1)
    ),
    "of two swaps at once one wins": history(
        (0, 9, ("cas", None, 1), True), (0, 9, ("cas", None, 2), False), (10, 11, GET, 1)
    ),
}
BAD = {
    "a stale read": history((0, 1, put(1), None), (2, 3, put(2), None), (4, 5, GET, 1)),
    "a lost write": history((0, 1, put(1), None), (2, 3, GET, None)),
    "a value nobody wrote": history((0, 1, put(1), None), (2, 3, GET, 7)),
    "two reads that go back in time": history(
        (0, 9, put(1), None), (1, 2, GET, 1), (3, 4, GET, None)
    ),
    "a later read sees the other of two writes": history(
        (0, 9, put(1), None), (0, 9, put(2), None), (10, 11, GET, 1), (12, 13, GET, 2)
    ),
    "an unanswered write that comes and goes": history(
        (0, inf, put(1), UNKNOWN), (1, 2, GET, 1), (3, 4, GET, None)
    ),
    "a write before it was begun": history((0, 1, GET, 1), (2, 3, put(1), None)),
    "both of two swaps won": history(
        (0, 9, ("cas", None, 1), True), (0, 9, ("cas", None, 2), True), (10, 11, GET, 1)
    ),
    "a swap that was done and denied": history((0, 1, ("cas", None, 1), False), (2, 3, GET, 1)),
}


@pytest.mark.contract("SIM-3")
@pytest.mark.parametrize("name", GOOD)
def test_good_histories_pass(name):
    """There is an order of the operations that explains every answer."""
    assert check(GOOD[name], register) == []


@pytest.mark.contract("SIM-3")
@pytest.mark.parametrize("name", BAD)
def test_bad_histories_are_found(name):
    """There is none."""
    assert check(BAD[name], register) == ["k"]


def test_keys_are_checked_apart():
    """Only the key that is wrong is named."""
    rows = [
        Operation("a", put(1), None, 0, 1),
        Operation("a", GET, 1, 2, 3),
        Operation("b", put(1), None, 0, 1),
        Operation("b", GET, None, 2, 3),
    ]
    assert check(rows, register) == ["b"]


def made(rng, count, clients=8, unanswered=0.03):
    """A history of a real register with operations that overlap and time out."""
    value, rows, free = None, [], [0.0] * clients
    for number in range(count):
        client = rng.randrange(clients)
        start = free[client] + rng.random()
        point = start + rng.random() * 3
        end = free[client] = point + rng.random() * 3
        rows.append([start, point, end, rng.choice((GET, put(number), put(number)))])
    for row in sorted(rows, key=lambda each: each[1]):
        if row[3] == GET:
            row.append(value)
        else:
            value = row[3][1]
            row.append(None)
    return [
        Operation("k", call, UNKNOWN, start, inf)
        if call != GET and rng.random() < unanswered
        else Operation("k", call, answer, start, end)
        for start, _, end, call, answer in rows
    ]


@pytest.mark.parametrize("seed", range(5))
def test_long_histories_of_a_real_register_pass(seed):
    """1,700 operations of eight clients, some of them never answered."""
    assert check(made(Random(seed), 1700), register) == []


@pytest.mark.parametrize("seed", range(5))
def test_one_wrong_answer_in_a_long_history_is_found(seed):
    """A read late in it answers with a value of long before."""
    rng = Random(seed)
    rows = made(rng, 400, clients=4, unanswered=0)
    late = max((row for row in rows if row.call == GET), key=lambda row: row.invoked)
    rows.remove(late)
    rows.append(Operation("k", GET, "never written", late.invoked, late.returned))
    assert check(rows, register) == ["k"]


def test_a_register_names_what_it_knows():
    """A call it does not know is a mistake of the caller."""
    with pytest.raises(ValueError, match="get, put and cas"):
        check(history((0, 1, ("push", 1), None)), register)
