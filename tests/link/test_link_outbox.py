"""Outbox: bounded in frames and bytes, whole frames out, control frames first."""

from __future__ import annotations

import pytest

from meshsvc.link.outbox import MAX_URGENT_FRAMES, Outbox
from meshsvc.model import Sent


@pytest.mark.contract("LINK-5")
def test_it_is_bounded_in_frames_and_in_bytes() -> None:
    """A frame over either bound is FULL and leaves the outbox as it was."""
    outbox = Outbox(max_frames=3, max_bytes=100)
    assert outbox.put(b"x" * 60) is Sent.ACCEPTED
    assert outbox.put(b"y" * 41) is Sent.FULL
    assert (outbox.frames, outbox.bytes) == (1, 60)
    assert [outbox.put(b"z") for _ in range(3)] == [Sent.ACCEPTED, Sent.ACCEPTED, Sent.FULL]
    assert outbox.take(1000) == b"x" * 60 + b"zz"
    assert (outbox.frames, outbox.bytes) == (0, 0)
    assert outbox.put(b"a" * 100) is Sent.ACCEPTED


def test_frames_leave_whole_and_in_order() -> None:
    """take joins whole frames up to its bound; one larger frame leaves alone."""
    outbox = Outbox(100, 1000)
    for frame in (b"aaaa", b"bb", b"c" * 50, b"dd"):
        outbox.put(frame)
    assert outbox.take(7) == b"aaaabb"
    assert outbox.take(7) == b"c" * 50
    assert outbox.take(7) == b"dd"
    assert outbox.take(7) == b""
    assert not outbox


def test_urgent_frames_leave_first() -> None:
    """Control frames overtake all that is not, and keep their own order."""
    outbox = Outbox(2, 100)
    outbox.put(b"1")
    outbox.put(b"2")
    assert outbox.put(b"3") is Sent.FULL
    outbox.put_urgent(b"A")
    outbox.put_urgent(b"B")
    assert outbox.frames == 4
    assert outbox.take(3) == b"AB1"
    assert outbox.take(3) == b"2"


def test_urgent_frames_are_bounded_too() -> None:
    """A peer that makes us answer without reading cannot grow the memory it costs."""
    outbox = Outbox(1, 100)
    sent = [outbox.put_urgent(b"p") for _ in range(MAX_URGENT_FRAMES + 1)]
    assert sent.count(Sent.ACCEPTED) == MAX_URGENT_FRAMES
    assert sent[-1] is Sent.FULL


def test_the_last_frame_is_last() -> None:
    """A farewell is accepted even when full, leaves last, and nothing is accepted after it."""
    outbox = Outbox(1, 10)
    outbox.put(b"data")
    outbox.put_last(b"bye")
    outbox.put_last(b"bye again")
    assert outbox.put(b"more") is Sent.DISCONNECTED
    assert outbox.put_urgent(b"more") is Sent.DISCONNECTED
    assert outbox.take(100) == b"databye"


def test_what_is_held_back_waits() -> None:
    """urgent_only leaves all other frames where they are."""
    outbox = Outbox(10, 100)
    outbox.put(b"data")
    outbox.put_urgent(b"!")
    assert outbox.take(100, urgent_only=True) == b"!"
    assert outbox.take(100, urgent_only=True) == b""
    assert outbox.take(100) == b"data"


def test_clear_forgets() -> None:
    """After clear nothing waits and nothing is counted."""
    outbox = Outbox(10, 100)
    outbox.put(b"data")
    outbox.put_urgent(b"!")
    outbox.clear()
    assert (outbox.frames, outbox.bytes, outbox.take(10)) == (0, 0, b"")
