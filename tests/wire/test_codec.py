"""The codec takes only strict CBOR, and hands out only what any peer can take."""

import contextlib
import datetime
import decimal
import subprocess
import sys

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshsvc.errors import NotEncodable, TagRefused, TrailingBytes, WireError
from meshsvc.wire.codec import MAX_PAYLOAD_DEPTH, decode, encode_payload

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.binary(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(
            st.text(st.characters(exclude_categories=["Cs"])) | st.integers(0, 99), inner
        )
    ),
    max_leaves=20,
)


@given(plain)
def test_plain_values_survive(value):
    """Whatever is accepted is decoded to an equal value."""
    assert decode(encode_payload(value)) == value


@pytest.mark.contract("WIRE-2")
@given(st.binary(max_size=300))
def test_any_bytes_end_in_a_value_or_a_wire_error(data):
    """Arbitrary bytes never raise anything but WireError."""
    with contextlib.suppress(WireError):
        decode(data)


HOSTILE = {
    "trailing bytes": b"\x01\x02",
    "duplicate key": b"\xa2\x01\x01\x01\x02",
    "indefinite array": b"\x9f\x01\xff",
    "indefinite text": b"\x7f\x61a\xff",
    "33 deep": b"\x81" * 33 + b"\x01",
    "a million deep": b"\x81" * 1_000_000,
    "array of 2**40": b"\x9b\x00\x00\x01\x00\x00\x00\x00\x00",
    "bytes of 2**62": b"\x5b\x40\x00\x00\x00\x00\x00\x00\x00",
    "map of 2**40": b"\xbb\x00\x00\x01\x00\x00\x00\x00\x00",
    "bad utf-8": b"\x62\xff\xfe",
    "break alone": b"\xff",
    "nothing": b"",
    "reserved": b"\x1c",
}


@pytest.mark.contract("WIRE-2")
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bytes_are_refused(name):
    """Each way to be not strict ends in a WireError."""
    with pytest.raises(WireError):
        decode(HOSTILE[name])


@pytest.mark.contract("WIRE-2")
def test_trailing_bytes_have_their_own_reason():
    """The counter can tell trailing bytes from other damage."""
    with pytest.raises(TrailingBytes, match="1 bytes follow"):
        decode(b"\x01\x02")


@pytest.mark.contract("WIRE-2")
@pytest.mark.parametrize(
    "tag",
    [
        0,
        1,
        2,
        3,
        4,
        5,
        25,
        28,
        29,
        30,
        35,
        36,
        37,
        100,
        256,
        258,
        260,
        261,
        1004,
        43000,
        55799,
        6,
        24,
        99,
        70000,
    ],
)
@pytest.mark.parametrize("content", [b"\x40", b"\x61a", b"\x00", b"\x80", b"\x82\x01\x02"])
def test_every_tag_is_refused(tag, content):
    """No tag reaches a built-in constructor, whatever it holds."""
    head = cbor2.dumps(cbor2.CBORTag(tag, 0))[:-1]
    with pytest.raises(TagRefused):
        decode(head + content)


@pytest.mark.contract("WIRE-2")
def test_memory_stays_under_eighty_times_the_frame():
    """One mebibyte of empty containers costs less than 80 MiB to decode."""
    code = (
        "import resource\n"
        "from meshsvc.wire.codec import decode\n"
        "decode(b'\\x81\\x01')\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "n = 1024 * 1024 - 5\n"
        "decode(b'\\x9a' + n.to_bytes(4, 'big') + b'\\x80' * n)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 80 * 1024


@pytest.mark.parametrize(
    "value",
    [
        {1, 2},
        object(),
        2**64,
        [-(2**64) - 1],
        "\ud800",
        datetime.datetime.now(datetime.UTC),
        [decimal.Decimal("1.5")],
        {"k": iter(())},
        {"k": 2**64},
        [1, -(2**70)],
        {1: decimal.Decimal(1)},
        ("a", datetime.date(2026, 1, 1)),
    ],
)
def test_what_is_not_plain_is_refused_by_its_sender(value):
    """A payload that a peer would refuse never leaves; the text says what to send."""
    with pytest.raises(NotEncodable, match="send"):
        encode_payload(value)


def test_depth_is_refused_by_its_sender():
    """28 containers deep is sent, 29 is not: batch and envelope need the rest of the 32."""
    value = 1
    for _ in range(MAX_PAYLOAD_DEPTH):
        value = [value]
    encode_payload(value)
    with pytest.raises(NotEncodable, match="depth"):
        encode_payload([value])


def test_a_cycle_is_refused():
    """A list that holds itself is the sender's error."""
    loop = []
    loop.append(loop)
    with pytest.raises(NotEncodable):
        encode_payload(loop)
