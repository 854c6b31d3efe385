"""Hostile bytes: whatever a peer sends, the outcome is a typed end (WIRE-2, WIRE-3, MESH-6)."""

from __future__ import annotations

import random
import struct
from dataclasses import replace

import pytest
from link_net import CONTROL, DATA, E1, Ends, disposed, node, up_pair

from meshsvc.link import preface
from meshsvc.link.admission import Known
from meshsvc.link.events import Ended, Intent, Limits, Up
from meshsvc.link.session import Session
from meshsvc.wire.codec import encode
from meshsvc.wire.frames import MAX_FRAME, MAX_FRAME_BEFORE_AUTH, pack
from meshsvc.wire.messages import Bye, Confirm, EpochIs, Hello, Ping
from meshsvc.wire.registry import Role, decode_message, encode_message, registered

PREFACE = preface.pack(CONTROL, node(1).node_id)


def acceptor() -> Session:
    return Session(node(2), lambda: Known(epoch=E1), Limits(), 0.0)


def opening() -> tuple[bytes, Hello]:
    """What an honest dialer says first: all of it, and its Hello."""
    data = Session(node(1), Known, Limits(), 0.0, Intent(CONTROL, 7)).take_output(1 << 20, 0.0)
    hello = decode_message(data[preface.PREFACE_BYTES + 4 :], Role.DIALER)
    assert isinstance(hello, Hello)
    return data, hello


def ends_of(session: Session) -> list[Ended]:
    return [event for event in session.take_events() if isinstance(event, Ended)]


BAD_FRAMES = {
    "trailing-bytes": encode_message(Ping(1)) + b"\x00",
    "tag": b"\x82\x04\xc0\x60",
    "unknown-code": encode((999,)),
    "malformed": b"\xff",
    "wrong-role": encode_message(Confirm(1)),
    "malformed indefinite": b"\x9f\x04\x01\xff",
    "malformed keys": b"\xa2\x01\x01\x01\x02",
    "malformed depth": b"\x81" * 40 + b"\x00",
    "malformed field": encode((4, "one")),
    "malformed fields": encode((4,)),
    "malformed array": encode({"a": 1}),
}


@pytest.mark.contract("WIRE-2", "WIRE-3")
@pytest.mark.parametrize("name", BAD_FRAMES)
@pytest.mark.parametrize("end", [0, 1])
def test_a_bad_frame_ends_a_live_link_with_its_reason(name: str, end: int) -> None:
    """The link says goodbye with the typed reason and closes; nothing is raised."""
    ends = up_pair()
    ends.ends[end].receive(pack(BAD_FRAMES[name]), ends.now)
    ends.settle()
    assert ends.of(end, Ended)[0].reason == name.split(maxsplit=1)[0]
    assert ends.of(1 - end, Ended)[0].reason == name.split(maxsplit=1)[0]
    assert disposed(ends.ends[end])


@pytest.mark.contract("WIRE-2", "MESH-6")
@pytest.mark.parametrize("name", BAD_FRAMES)
def test_a_bad_frame_ends_a_handshake_with_its_reason(name: str) -> None:
    """The same before the link is up, in a Refusal that does not heal."""
    session = acceptor()
    early = {
        "wrong-role": encode_message(Ping(1)),
        "malformed field": encode((2, "one")),
        "malformed fields": encode((2,)),
    }
    session.receive(PREFACE + pack(early.get(name, BAD_FRAMES[name])), 0.0)
    (end,) = ends_of(session)
    assert (end.reason, end.heals) == (name.split(maxsplit=1)[0], False)
    assert end.reason.encode() in session.take_output(1 << 20, 0.0)


@pytest.mark.contract("WIRE-1", "MESH-6")
def test_large_frames_are_judged_by_their_announcement() -> None:
    """64 KiB before the link is up, 1 MiB after; four bytes are enough to be cut."""
    for size in (MAX_FRAME_BEFORE_AUTH + 1, 10_000_000, 2**32 - 1):
        session = acceptor()
        session.receive(PREFACE + struct.pack(">I", size), 0.0)
        assert ends_of(session)[0].reason == "frame-too-large"
    ends = up_pair()
    ends.ends[0].receive(struct.pack(">I", MAX_FRAME), ends.now)
    assert not disposed(ends.ends[0])
    ends = up_pair()
    ends.ends[0].receive(struct.pack(">I", MAX_FRAME + 1), ends.now)
    ends.collect()
    assert ends.of(0, Ended)[0].reason == "frame-too-large"


def test_the_largest_frame_passes_once_up() -> None:
    """A body of exactly 1 MiB arrives, in whatever pieces."""
    ends = up_pair()
    text = "x" * (MAX_FRAME - 20)
    ends.ends[0].close("stopping", text, ends.now)
    ends.move(0, chunk=65536)
    assert ends.of(1, Ended)[0].reason == "stopping"


@pytest.mark.contract("MESH-6")
@pytest.mark.parametrize("first", [b"G", b"\x00", b"M\x00", b"\x16\x03\x01", b"MSVC\x01\x09"])
def test_what_is_no_preface_is_cut_early(first: bytes) -> None:
    """HTTP, TLS and zeroes are cut at their first bytes, not at the deadline."""
    session = acceptor()
    session.receive(first + b"\x00" * 18, 0.0)
    assert ends_of(session)[0].reason == "malformed"


@pytest.mark.contract("MESH-6")
def test_a_hello_must_keep_the_word_of_its_preface() -> None:
    """Another node or another class than the preface named is malformed."""
    _, hello = opening()
    for wrong in (
        preface.pack(CONTROL, node(3).node_id),
        preface.pack(DATA, node(1).node_id),
    ):
        session = acceptor()
        session.receive(wrong + pack(encode_message(hello)), 0.0)
        assert ends_of(session)[0].reason == "malformed"


@pytest.mark.contract("MESH-6", "LINK-2")
def test_own_id_epoch_zero_and_other_cluster() -> None:
    """Each is closed with its own reason."""
    _, hello = opening()
    mine = replace(hello, node_id=node(2).node_id)
    cases = (
        (replace(hello, cluster="other"), CONTROL, "wrong-cluster"),
        (mine, CONTROL, "self-dial"),
        (replace(mine, incarnation=9), CONTROL, "stale-incarnation"),
        (replace(hello, link_class=1), DATA, "epoch-low"),
        (replace(hello, link_class=1, term=1, attempt=2), DATA, "epoch-high"),
        (replace(hello, term=1, attempt=1), CONTROL, "malformed"),
    )
    for said, link_class, reason in cases:
        session = acceptor()
        session.receive(preface.pack(link_class, said.node_id) + pack(encode_message(said)), 0.0)
        assert ends_of(session)[0].reason == reason


@pytest.mark.contract("WIRE-3")
def test_no_message_is_taken_in_a_phase_it_does_not_belong_to() -> None:
    """Of all messages only Hello and Refusal may open, only Confirm and Refusal may follow."""
    opening_bytes, _ = opening()
    for _, kind, _ in registered():
        body = encode_message(_blank(kind))
        fresh, greeted, live = acceptor(), acceptor(), up_pair().ends[1]
        fresh.receive(PREFACE + pack(body), 0.0)
        assert bool(ends_of(fresh)), kind
        greeted.receive(opening_bytes + pack(body), 0.0)
        assert ends_of(greeted), kind
        live.receive(pack(body), 100.0)
        relayed = ("Relayed", "RelayLost", "Cast", "CastsHeld", "CastsWanted")
        allowed = kind.__name__ in ("Ping", "Pong", "Envelope", "ShardGone", *relayed)
        assert bool(ends_of(live)) is not allowed, kind


def _blank(kind: type) -> object:
    blanks = {"int": 0, "str": "", "bytes": b"", "bool": False, "float": 0.0}
    types = [str(field.type) for field in kind.__dataclass_fields__.values()]
    return kind(*(blanks.get(each, ()) for each in types))


@pytest.mark.contract("WIRE-2", "MESH-6")
@pytest.mark.parametrize("seed", range(60))
def test_random_bytes_never_raise(seed: int) -> None:
    """Noise at any point of a link's life, in any pieces, ends it or changes nothing."""
    rng = random.Random(seed)
    data, _ = opening()
    for session in (acceptor(), acceptor(), up_pair().ends[rng.randrange(2)]):
        noise = rng.randbytes(rng.randrange(1, 3000))
        if rng.random() < 0.5:
            noise = data[: rng.randrange(len(data))] + noise
        if rng.random() < 0.5:
            noise = pack(noise[:500]) + noise
        while noise:
            cut = rng.randrange(1, len(noise) + 1)
            session.receive(noise[:cut], 100.0)
            session.take_output(1 << 20, 100.0)
            noise = noise[cut:]
        assert len(ends_of(session)) <= 1


@pytest.mark.contract("WIRE-2")
@pytest.mark.parametrize("seed", range(40))
def test_flipped_bytes_never_raise(seed: int) -> None:
    """An honest conversation with damaged bytes ends in a reason, or in a link."""
    rng = random.Random(seed)
    ends = Ends(link_class=DATA, known=(Known(epoch=E1), Known(epoch=E1)))
    for step in range(8):
        source = step % 2
        data = bytearray(ends.ends[source].take_output(1 << 20, ends.now))
        for _ in range(rng.randrange(3)):
            if data:
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        ends.ends[1 - source].receive(bytes(data), ends.now)
        ends.collect()
    assert all(len(ends.of(end, Ended)) <= 1 for end in (0, 1))
    assert all(len(ends.of(end, Up)) <= 1 for end in (0, 1))


def test_a_trickle_of_single_bytes_is_a_stream_like_any() -> None:
    """Every message of a long conversation arrives when each byte comes alone."""
    ends = up_pair(DATA)
    for number in range(50):
        ends.ends[0].receive(pack(encode_message(Ping(number)))[:1], ends.now)
        for byte in pack(encode_message(Ping(number)))[1:]:
            ends.ends[0].receive(bytes((byte,)), ends.now)
    assert not disposed(ends.ends[0])
    for byte in pack(encode_message(EpochIs(1, 2))):
        ends.ends[0].receive(bytes((byte,)), ends.now)
    assert not ends.ends[0].agreed


def test_nothing_counts_after_goodbye() -> None:
    """What follows a Bye in the same read is not delivered, however bad it is."""
    ends = up_pair()
    bye = pack(encode_message(Bye("stopping", "")))
    ends.ends[0].receive(bye + pack(encode_message(Ping(1))) + pack(b"\xff"), ends.now)
    ends.collect()
    assert ends.kinds(0) == ["Ended"]
