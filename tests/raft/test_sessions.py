"""Exactly once: doubles are known, whoever sends them, and ids are nobody else's."""

from __future__ import annotations

import pytest

from meshsvc.errors import WireError
from meshsvc.raft import sessions
from meshsvc.raft.sessions import (
    Command,
    Sessions,
    Verdict,
    decode_command,
    encode_command,
    encode_open,
)

pytestmark = pytest.mark.contract("RAFT-6")

A, B = b"a" * 16, b"b" * 16


def table(*opened):
    made = Sessions()
    for index, session in enumerate(opened, 1):
        made.admit(Command(session, 0, 0, b""), index)
    return made


def test_a_command_is_applied_once():
    """However often it comes, and in whatever order."""
    made = table(A)
    assert made.admit(Command(A, 2, 1, b"y"), 5) is Verdict.APPLY
    assert made.admit(Command(A, 1, 1, b"x"), 6) is Verdict.APPLY
    assert made.admit(Command(A, 2, 1, b"y"), 7) is Verdict.DOUBLE
    assert made.admit(Command(A, 1, 1, b"x"), 8) is Verdict.DOUBLE


def test_equal_numbers_of_two_sessions_are_two_commands():
    """Ids are global, never a bare counter."""
    made = table(A, B)
    assert made.admit(Command(A, 1, 1, b"x"), 5) is Verdict.APPLY
    assert made.admit(Command(B, 1, 1, b"x"), 6) is Verdict.APPLY


def test_what_nobody_waits_for_is_forgotten_and_still_a_double():
    """The low-water mark stands for everything below it."""
    made = table(A)
    for number in range(1, 1000):
        low = max(1, number - 10)
        assert made.admit(Command(A, number, low, b""), number) is Verdict.APPLY
    assert len(made._sessions[A].done) <= 11
    assert made.admit(Command(A, 3, 1, b""), 2000) is Verdict.DOUBLE


def test_a_low_water_mark_may_leap():
    """A proposer that gave up on many at once: the table does not walk over all of them."""
    made = table(A)
    made.admit(Command(A, 1, 1, b""), 5)
    assert made.admit(Command(A, 10**15, 10**15, b""), 6) is Verdict.APPLY
    assert made.admit(Command(A, 1, 1, b""), 7) is Verdict.DOUBLE


def test_a_session_that_is_not_open_applies_nothing():
    """Its command may be a double of one that was applied before it was forgotten."""
    assert table(A).admit(Command(B, 1, 1, b""), 5) is Verdict.UNKNOWN_SESSION


def test_the_longest_silent_session_is_forgotten(monkeypatch):
    """The table is bounded, and every replica forgets the same one."""
    monkeypatch.setattr(sessions, "MAX_SESSIONS", 3)
    made = table(A, B, b"c" * 16)
    made.admit(Command(A, 1, 1, b""), 10)
    made.admit(Command(b"d" * 16, 0, 0, b""), 11)
    assert B not in made
    assert A in made
    assert len(made) == 3


def test_opening_twice_keeps_what_was_done():
    """The entry that opens it can be doubled too."""
    made = table(A)
    made.admit(Command(A, 1, 1, b""), 5)
    made.admit(Command(A, 0, 0, b""), 6)
    assert made.admit(Command(A, 1, 1, b""), 7) is Verdict.DOUBLE


def test_the_table_survives_a_snapshot():
    """A restored replica knows the same doubles."""
    made = table(*(b"%016d" % number for number in range(1200)))
    made.admit(Command(b"%016d" % 7, 3, 1, b""), 2000)
    restored = Sessions()
    chunks = list(made.chunks())
    assert len(chunks) == 3
    for chunk in chunks:
        restored.feed(chunk)
    assert list(restored.chunks()) == chunks
    assert restored.was_applied(b"%016d" % 7, 3)
    assert not restored.was_applied(b"%016d" % 7, 2)


def test_commands_as_bytes():
    """What was encoded comes back; anything else is refused."""
    assert decode_command(encode_command(A, 7, 3, b"data")) == Command(A, 7, 3, b"data")
    assert decode_command(encode_open(A)) == Command(A, 0, 0, b"")
    for bad in (b"", b"x" * 20, b"\x07" + b"x" * 40, encode_command(A, 0, 0, b"")):
        with pytest.raises(WireError):
            decode_command(bad)
    with pytest.raises(WireError):
        Sessions().feed(b"\x81\x01")
