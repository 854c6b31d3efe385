"""The log of one member: heads, conflicts, compaction."""

from __future__ import annotations

import pytest

from meshsvc.raft.log import RaftLog, Unsafe
from meshsvc.storage.records import Entry

pytestmark = pytest.mark.contract("RAFT-1")


def log_of(*terms, stable=True):
    log = RaftLog()
    for term in terms:
        log.append(term, 1, b"x" * term)
    if stable:
        log.hand_out()
        log.stable = log.last_index
    return log


def entries(first, *terms):
    return [Entry(first + offset, term, 1, b"") for offset, term in enumerate(terms)]


def test_heads_of_an_empty_log():
    """Index 0 of term 0 is before everything and in every log."""
    log = RaftLog()
    assert (log.last_index, log.last_term, log.term_at(0), log.term_at(1)) == (0, 0, 0, None)
    assert log.matches(0, 0)


@pytest.mark.parametrize(
    ("taken", "added", "terms"),
    [
        (entries(1, 1, 1, 2), None, [1, 1, 2]),
        (entries(2, 1), None, [1, 1, 2]),
        (entries(4, 2, 3), 4, [1, 1, 2, 2, 3]),
        (entries(3, 3), 3, [1, 1, 3]),
        (entries(2, 1, 3, 3), 3, [1, 1, 3, 3]),
        (entries(2, 2), 2, [1, 2]),
        ([], None, [1, 1, 2]),
    ],
)
def test_what_is_there_stays_and_conflicts_are_replaced(taken, added, terms):
    """A shorter append never shortens the log; only a conflict does."""
    log = log_of(1, 1, 2)
    assert log.accept(taken) == added
    assert [entry.term for entry in log.entries] == terms


def test_what_was_replaced_is_handed_out_and_written_again():
    """The heads go back to before the conflict."""
    log = log_of(1, 1, 2)
    log.accept(entries(3, 3, 3))
    assert log.stable == 2
    assert [entry.index for entry in log.hand_out()] == [3, 4]
    log.persisted(3, 2)  # a late word about what was replaced
    assert log.stable == 2
    log.persisted(4, 3)
    assert log.stable == 4


def test_committed_entries_are_not_replaced():
    """It would break what was promised."""
    log = log_of(1, 1)
    log.commit_to(2)
    with pytest.raises(Unsafe, match="entry 2 of term 2 would replace a committed one of term 1"):
        log.accept(entries(2, 2))
    with pytest.raises(Unsafe, match="entry 3 is committed and the log ends at 2"):
        log.commit_to(3)


def test_batches_to_apply():
    """Committed and durable, bounded, one at a time."""
    log = log_of(1, 1, 1, 1, stable=False)
    log.commit_to(4)
    assert log.take_committed(100, 10) == ()
    log.persisted(3, 1)
    assert [e.index for e in log.take_committed(10**6, 2)] == [1, 2]
    assert log.take_committed(100, 2) == ()
    log.applied = log.applying
    assert [e.index for e in log.take_committed(1, 2)] == [3]


def test_slices_are_bounded_by_bytes_and_hold_at_least_one():
    """A single entry over the limit still travels."""
    log = log_of(*[1] * 10)
    assert len(log.slice(1, 1, 100)) == 1
    assert len(log.slice(1, 75, 100)) == 3
    assert len(log.slice(4, 10**6, 5)) == 5
    assert log.slice(11, 100, 100) == ()


def test_compaction_and_what_is_left():
    """The term of the last compacted entry is known, those before are not."""
    log = log_of(1, 1, 2, 2)
    log.commit_to(4)
    log.applying = log.applied = 3
    log.compact(3)
    assert (log.base_index, log.base_term, log.last_index) == (3, 2, 4)
    assert (log.term_at(2), log.term_at(3), log.term_at(4)) == (None, 2, 2)
    log.compact(2)
    assert log.base_index == 3
    with pytest.raises(Unsafe):
        log.compact(4)


def test_where_two_logs_may_agree():
    """The last entry of at most a term, so that a term costs one round trip."""
    log = log_of(1, 1, 1, 4, 4, 6, 6)
    assert log.last_not_after(7, 5) == 5
    assert log.last_not_after(7, 3) == 3
    assert log.last_not_after(99, 9) == 7
    assert log.last_not_after(2, 9) == 2
    assert log.last_not_after(7, 0) == 0
