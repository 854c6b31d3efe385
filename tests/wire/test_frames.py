"""Frames come out whole whatever the reads were, and limits act before memory does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshsvc.errors import FrameTooLarge, WireError
from meshsvc.wire.frames import MAX_FRAME, MAX_FRAME_BEFORE_AUTH, FrameBuffer, pack


@given(st.lists(st.binary(min_size=1, max_size=50)), st.lists(st.integers(1, 20)))
def test_any_cutting_of_the_stream_gives_the_same_frames(bodies, cuts):
    """How reads cut the stream never shows."""
    stream = b"".join(map(pack, bodies))
    buffer, got = FrameBuffer(50), []
    for cut in [*cuts, len(stream)]:
        got += buffer.feed(stream[:cut])
        stream = stream[cut:]
    assert got == bodies
    assert buffer.pending == 0


@pytest.mark.contract("WIRE-1")
def test_the_limits():
    """64 KiB before authentication, 1 MiB after, exactly."""
    assert (MAX_FRAME_BEFORE_AUTH, MAX_FRAME) == (65536, 1048576)
    buffer = FrameBuffer(MAX_FRAME_BEFORE_AUTH)
    assert buffer.feed(pack(bytes(65536)))
    with pytest.raises(FrameTooLarge, match="65537 bytes was announced, 65536 are allowed"):
        buffer.feed((65537).to_bytes(4, "big"))
    buffer = FrameBuffer(MAX_FRAME)
    assert buffer.feed(pack(bytes(1048576)))


@pytest.mark.contract("WIRE-1")
def test_an_announced_gigabyte_keeps_four_bytes():
    """The length is judged before the body is kept."""
    with pytest.raises(FrameTooLarge):
        FrameBuffer(100).feed(b"\x40\x00\x00\x00" + bytes(50))


def test_an_empty_frame_is_damage():
    """A frame of no bytes holds no message."""
    with pytest.raises(WireError, match="empty"):
        FrameBuffer(100).feed(bytes(4))


def test_the_limit_may_change_between_two_frames_of_a_read():
    """``take`` hands back what is behind, so that a raised limit holds for it."""
    buffer = FrameBuffer(4)
    bodies, rest = buffer.take(pack(b"tiny") + pack(b"larger"), 1)
    assert bodies == [b"tiny"]
    buffer.limit = 10
    assert buffer.take(rest, 9) == ([b"larger"], b"")
