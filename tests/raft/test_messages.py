"""The bytes of Raft messages: what was sent is what comes, and rubbish is refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshsvc.errors import WireError
from meshsvc.raft.messages import (
    Append,
    AppendReply,
    Committed,
    Heartbeat,
    HeartbeatReply,
    Propose,
    ReadReply,
    ReadRequest,
    SnapshotChunk,
    SnapshotReply,
    TimeoutNow,
    TransferRequest,
    VoteReply,
    VoteRequest,
    decode_message,
    encode_message,
)
from meshsvc.raft.quorum import Config, Tally, decode_config, make_config, reached, tally
from meshsvc.storage.records import Entry, SnapshotMeta
from meshsvc.wire.codec import encode

GOLDEN = {
    VoteRequest(5, 9, 4, True, False): "8600050904f5f4",
    VoteReply(5, True, False, False): "850105f5f4f4",
    Append(5, 8, 4, 7, (Entry(9, 5, 1, b"x"), Entry(10, 5, 0, b""))): (
        "86020508040786050141780500" + "40"
    ),
    AppendReply(5, True, 8, 7, 3): "860305f5080703",
    Heartbeat(5, 7, 12): "840405070c",
    HeartbeatReply(5, 12): "8305050c",
    SnapshotChunk(5, SnapshotMeta(9, 4, b"c"), 100, b"data", True): (
        "860605830904416318644464617461f5"
    ),
    SnapshotReply(5, 9, 104): "840705091868",
    Propose(5, (b"a", b"b")): "830805824161" + "4162",
    ReadRequest(5, 77): "830905184d",
    ReadReply(5, 77, 9): "840a05184d09",
    TimeoutNow(5): "820b05",
    TransferRequest(5, 3): "830c0503",
    Committed(5, 9, 4): "840d050904",
}


@pytest.mark.contract("WIRE-3")
@pytest.mark.parametrize("message", GOLDEN, ids=lambda each: type(each).__name__)
def test_golden_bytes(message):
    """A changed byte is a change of the protocol."""
    assert encode_message(message).hex() == GOLDEN[message]
    assert decode_message(bytes.fromhex(GOLDEN[message])) == message


BAD = [
    *(5, [], ["x"], [14, 1], [-1, 1], [0], [True, 1]),
    *([11], [11, 1, 2], [11, -1], [11, "1"], [11, 2**64], [11, True], [11, None]),
    [0, 5, 9, 4, 1, False],
    [2, 5, 8, 4, 7, [5, 1]],
    [2, 5, 8, 4, 7, [5, 1, "x"]],
    [2, 5, 8, 4, 7, [5, 256, b"x"]],
    [2, 5, 8, 4, 7, [6, 1, b"x"]],
    [2, 5, 8, 4, 7, [3, 1, b"x"]],
    [2, 5, 8, 4, 7, [5, 1, b"x", 4, 1, b"x"]],
    [2, 5, 8, 4, 7, None],
    [2, 5, None, 4, 7, [5, 1, b"x"]],
    [6, 5, [9, 4], 0, b"", True],
    [6, 5, [9, 4, "c"], 0, b"", True],
    [6, 5, [9, 4, b"c"], 0, "", True],
    [8, 5, [b"a", "b"]],
    [8, 5, b"a"],
]


@pytest.mark.contract("SIM-4")
@pytest.mark.parametrize("row", BAD, ids=repr)
def test_what_makes_no_sense_is_refused(row):
    """With a typed error, whatever it is."""
    with pytest.raises(WireError):
        decode_message(encode(row))


@pytest.mark.contract("SIM-4")
@settings(max_examples=200, deadline=None)
@given(st.data())
def test_broken_bytes_are_refused_or_decoded(data):
    """A flipped byte ends in a message or a WireError, never in anything else."""
    golden = data.draw(st.sampled_from(sorted(GOLDEN.values())))
    raw = bytearray.fromhex(golden)
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        decode_message(bytes(raw))
    except WireError:
        return


@pytest.mark.parametrize(
    "config",
    [Config(), make_config([3, 1, 2]), make_config([2**64 - 1], [5], [1, 2])],
    ids=repr,
)
def test_configurations_as_bytes(config):
    """What was encoded comes back, sorted."""
    assert decode_config(config.encoded()) == config


@pytest.mark.parametrize(
    "row", [[[1], []], [[1, 1], [], []], [[0], [], []], [["1"], [], []], [1, 2, 3], 7, [[], [], 1]]
)
def test_bad_configurations_are_refused(row):
    """Members are distinct non-zero numbers of 64 bits, and not many."""
    with pytest.raises(WireError):
        decode_config(encode(row))
    with pytest.raises(WireError):
        make_config(range(1, 100))


@pytest.mark.contract("RAFT-1")
@pytest.mark.parametrize(
    ("config", "values", "expected"),
    [
        (Config((1,)), {1: 5}, 5),
        (Config((1, 2)), {1: 5, 2: 3}, 3),
        (Config((1, 2, 3)), {1: 5, 2: 3, 3: 4}, 4),
        (Config((1, 2, 3, 4)), {1: 5, 2: 3, 3: 4, 4: 9}, 4),
        (Config((1, 2, 3), (4,)), {1: 5, 2: 6, 3: 7, 4: 2}, 2),
        (Config((1,), (2, 3, 4)), {1: 1, 2: 6, 3: 7, 4: 2}, 1),
    ],
)
def test_what_a_quorum_has_reached(config, values, expected):
    """The greatest value that a majority (of each half) has."""
    assert reached(config, values.get) == expected


@pytest.mark.contract("RAFT-1")
@pytest.mark.parametrize(
    ("config", "votes", "expected"),
    [
        (Config((1, 2, 3)), {1: True}, Tally.PENDING),
        (Config((1, 2, 3)), {1: True, 2: True}, Tally.WON),
        (Config((1, 2, 3)), {1: True, 2: False, 3: False}, Tally.LOST),
        (Config((1, 2)), {1: True, 2: False}, Tally.LOST),
        (Config((1, 2, 3), (3, 4, 5)), {1: True, 2: True, 3: True}, Tally.PENDING),
        (Config((1, 2, 3), (3, 4, 5)), {1: True, 2: True, 4: True, 5: True}, Tally.WON),
        (Config((1, 2, 3), (3, 4, 5)), {1: True, 2: True, 4: False, 5: False}, Tally.LOST),
        (Config((1, 2, 3)), {7: True, 8: True}, Tally.PENDING),
    ],
)
def test_what_votes_come_to(config, votes, expected):
    """Only members of the configuration count, and a joint one needs both majorities."""
    assert tally(config, votes) is expected
