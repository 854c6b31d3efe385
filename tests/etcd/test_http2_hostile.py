"""What a peer may do wrong, and what it costs: typed ends, bounded work, nothing raised."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from h2peer import HEAD, REQUEST, Peer
from hpack import Encoder
from hypothesis import given, settings
from hypothesis import strategies as st

from meshsvc.etcd.http2 import frames as fr
from meshsvc.etcd.http2.connection import Connection
from meshsvc.etcd.http2.events import ConnectionEnded, StreamLost, StreamOpened
from meshsvc.etcd.http2.frames import ErrorCode, Setting
from meshsvc.etcd.http2.headers import literal_block, touches_table
from meshsvc.etcd.http2.limits import Limits

pytestmark = [pytest.mark.contract("KV-9")]

BLOCK = literal_block(REQUEST)
HELLO = fr.PREFACE + fr.pack_settings({})
HEADERS_ONLY = fr.pack(fr.HEADERS, fr.END_HEADERS, 1, BLOCK)
WHOLE = fr.pack(fr.HEADERS, fr.END_HEADERS | fr.END_STREAM, 1, BLOCK)


def fresh(**limits: float) -> Connection:
    return Connection(replace(Limits(), **limits), 0.0)  # type: ignore[arg-type]


def fed(*frames: bytes, now: float = 0.0, **limits: float) -> Connection:
    connection = fresh(**limits)
    connection.receive(HELLO + b"".join(frames), now)
    return connection


def ending(connection: Connection) -> ConnectionEnded:
    events = [e for e in connection.take_events() if isinstance(e, ConnectionEnded)]
    assert len(events) == 1
    assert connection.closed
    output = connection.take_output(1 << 20)
    assert struct.pack(">BBI", fr.GOAWAY, 0, 0) in output
    connection.receive(WHOLE, 0.0)
    assert not connection.take_events()
    return events[0]


BROKEN = {
    "frame over 16 KiB": (fr.pack(fr.DATA, 0, 1, bytes(16_385)), ErrorCode.FRAME_SIZE_ERROR),
    "data on an idle stream": (fr.pack(fr.DATA, 0, 1, b"x"), ErrorCode.PROTOCOL_ERROR),
    "data on the connection": (fr.pack(fr.DATA, 0, 0, b"x"), ErrorCode.PROTOCOL_ERROR),
    "even stream": (fr.pack(fr.HEADERS, 4, 2, BLOCK), ErrorCode.PROTOCOL_ERROR),
    "stream 0": (fr.pack(fr.HEADERS, 4, 0, BLOCK), ErrorCode.PROTOCOL_ERROR),
    "ids that fall": (
        fr.pack(fr.HEADERS, 4, 5, BLOCK) + fr.pack(fr.HEADERS, 5, 3, BLOCK),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "garbled headers": (
        fr.pack(fr.HEADERS, 4, 1, b"\xff\xff\xff\xff\xff"),
        ErrorCode.COMPRESSION_ERROR,
    ),
    "index beyond the table": (fr.pack(fr.HEADERS, 4, 1, b"\xfe"), ErrorCode.COMPRESSION_ERROR),
    "table over the limit": (
        fr.pack(fr.HEADERS, 4, 1, b"\x3f\xe1\xff\x03"),
        ErrorCode.COMPRESSION_ERROR,
    ),
    "headers over the limit": (
        fr.pack(fr.HEADERS, 4, 1, literal_block([*REQUEST, ("x", "y" * 16_100)])),
        ErrorCode.ENHANCE_YOUR_CALM,
    ),
    "padding over the frame": (fr.pack(fr.HEADERS, 12, 1, b"\x09abc"), ErrorCode.PROTOCOL_ERROR),
    "headers without priority": (fr.pack(fr.HEADERS, 0x24, 1, b"abc"), ErrorCode.FRAME_SIZE_ERROR),
    "continuation alone": (fr.pack(fr.CONTINUATION, 4, 1, BLOCK), ErrorCode.PROTOCOL_ERROR),
    "ping inside headers": (
        fr.pack(fr.HEADERS, 0, 1, BLOCK) + fr.pack(fr.PING, 0, 0, bytes(8)),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "settings on a stream": (fr.pack(fr.SETTINGS, 0, 1), ErrorCode.PROTOCOL_ERROR),
    "settings cut off": (fr.pack(fr.SETTINGS, 0, 0, b"12345"), ErrorCode.FRAME_SIZE_ERROR),
    "settings ack with data": (fr.pack(fr.SETTINGS, 1, 0, bytes(6)), ErrorCode.FRAME_SIZE_ERROR),
    "initial window": (
        fr.pack_settings({Setting.INITIAL_WINDOW_SIZE: 1 << 31}),
        ErrorCode.FLOW_CONTROL_ERROR,
    ),
    "frame size setting": (
        fr.pack_settings({Setting.MAX_FRAME_SIZE: 1}),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "push setting": (fr.pack_settings({Setting.ENABLE_PUSH: 2}), ErrorCode.PROTOCOL_ERROR),
    "push": (fr.pack(fr.PUSH_PROMISE, 4, 1, bytes(4)), ErrorCode.PROTOCOL_ERROR),
    "ping on a stream": (fr.pack(fr.PING, 0, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR),
    "short ping": (fr.pack(fr.PING, 0, 0, bytes(7)), ErrorCode.FRAME_SIZE_ERROR),
    "short goaway": (fr.pack(fr.GOAWAY, 0, 0, bytes(7)), ErrorCode.FRAME_SIZE_ERROR),
    "goaway on a stream": (fr.pack(fr.GOAWAY, 0, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR),
    "reset of an idle stream": (fr.pack_u32(fr.RST_STREAM, 1, 8), ErrorCode.PROTOCOL_ERROR),
    "short reset": (fr.pack(fr.RST_STREAM, 0, 1, b"x"), ErrorCode.FRAME_SIZE_ERROR),
    "priority of the connection": (fr.pack(fr.PRIORITY, 0, 0, bytes(5)), ErrorCode.PROTOCOL_ERROR),
    "window of an idle stream": (fr.pack_u32(fr.WINDOW_UPDATE, 1, 8), ErrorCode.PROTOCOL_ERROR),
    "window by nothing": (fr.pack_u32(fr.WINDOW_UPDATE, 0, 0), ErrorCode.PROTOCOL_ERROR),
    "window over 2**31": (
        fr.pack_u32(fr.WINDOW_UPDATE, 0, fr.MAX_WINDOW),
        ErrorCode.FLOW_CONTROL_ERROR,
    ),
    "short window update": (fr.pack(fr.WINDOW_UPDATE, 0, 0, b"x"), ErrorCode.FRAME_SIZE_ERROR),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_breaks_the_connection(name: str) -> None:
    """Each breach ends the connection with the RFC's error code, and says which."""
    data, code = BROKEN[name]
    ended = ending(fed(data))
    assert ended.code is code
    assert ended.text


MALFORMED = {
    "upper case": [*REQUEST, ("Upper", "x")],
    "connection header": [*REQUEST, ("connection", "close")],
    "te": [*REQUEST[:-1], ("te", "gzip")],
    "no path": [f for f in REQUEST if f[0] != ":path"],
    "no method": [f for f in REQUEST if f[0] != ":method"],
    "empty path": [f if f[0] != ":path" else (":path", "") for f in REQUEST],
    "path twice": [(":path", "/x"), *REQUEST],
    "late pseudo header": [*REQUEST, (":path", "/y")],
    "status": [(":status", "200"), *REQUEST],
    "line break": [*REQUEST, ("x", "a\r\nb")],
    "content-length": [*REQUEST, ("content-length", "-1")],
    "huge content-length": [*REQUEST, ("content-length", "9" * 5000)],
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_request_loses_its_stream_only(name: str) -> None:
    """A request that breaks section 8 is reset; the next one on the connection is served."""
    bad = fr.pack(fr.HEADERS, 5, 1, literal_block(MALFORMED[name]))
    connection = fed(bad, fr.pack(fr.HEADERS, 5, 3, BLOCK))
    opened = [e.stream_id for e in connection.take_events() if isinstance(e, StreamOpened)]
    assert opened == [3]
    assert fr.pack_u32(fr.RST_STREAM, 1, ErrorCode.PROTOCOL_ERROR) in connection.take_output(9999)


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        (WHOLE + fr.pack(fr.DATA, 0, 1, b"x"), ErrorCode.STREAM_CLOSED),
        (WHOLE + fr.pack(fr.HEADERS, 5, 1, BLOCK), ErrorCode.STREAM_CLOSED),
        (HEADERS_ONLY + fr.pack(fr.HEADERS, 4, 1, BLOCK), ErrorCode.PROTOCOL_ERROR),
        (HEADERS_ONLY + fr.pack_u32(fr.WINDOW_UPDATE, 1, 0), ErrorCode.PROTOCOL_ERROR),
        (
            HEADERS_ONLY + fr.pack_u32(fr.WINDOW_UPDATE, 1, fr.MAX_WINDOW),
            ErrorCode.FLOW_CONTROL_ERROR,
        ),
        (HEADERS_ONLY + fr.pack(fr.PRIORITY, 0, 1, bytes(4)), ErrorCode.FRAME_SIZE_ERROR),
        (HEADERS_ONLY + fr.pack(fr.DATA, 0, 1, bytes(12_000)), ErrorCode.FLOW_CONTROL_ERROR),
    ],
)
def test_what_breaks_one_stream(frames: bytes, code: ErrorCode) -> None:
    """A breach on a stream resets it, and the layer above hears that it is lost."""
    connection = fed(frames, stream_window=10_000)
    lost = [e for e in connection.take_events() if isinstance(e, StreamLost)]
    assert [(e.stream_id, e.code) for e in lost] == [(1, code)]
    assert not connection.closed


def test_a_body_shorter_than_announced_is_an_error() -> None:
    """content-length has to match what came (RFC 9113, 8.1.1)."""
    block = literal_block([*REQUEST, ("content-length", "5")])
    connection = fed(fr.pack(fr.HEADERS, 4, 1, block), fr.pack(fr.DATA, 1, 1, b"four"))
    lost = [e for e in connection.take_events() if isinstance(e, StreamLost)]
    assert lost[0].code is ErrorCode.PROTOCOL_ERROR


FLOODS = {
    "pings": fr.pack(fr.PING, 0, 0, bytes(8)),
    "ping acks": fr.pack(fr.PING, 1, 0, bytes(8)),
    "settings": fr.pack_settings({Setting.INITIAL_WINDOW_SIZE: 5}),
    "settings acks": fr.pack(fr.SETTINGS, fr.ACK, 0),
    "empty data": fr.pack(fr.DATA, 0, 1, b""),
    "padding alone": fr.pack(fr.DATA, fr.PADDED, 1, b"\x03\0\0\0"),
    "priorities": fr.pack(fr.PRIORITY, 0, 1, bytes(5)),
    "unknown frames": fr.pack(0xAB, 0, 1, b"what"),
    "goaways": fr.pack(fr.GOAWAY, 0, 0, bytes(8)),
    "resets of a closed stream": fr.pack_u32(fr.RST_STREAM, 3, 8),
}


@pytest.mark.parametrize("name", FLOODS)
def test_floods_end_the_connection(name: str) -> None:
    """Frames that cost work and ask nothing are bounded, whatever their type."""
    opened = HEADERS_ONLY + fr.pack(fr.HEADERS, 5, 3, BLOCK) + fr.pack_u32(fr.RST_STREAM, 3, 8)
    connection = fed(opened, *[FLOODS[name]] * 1500)
    assert ending(connection).code is ErrorCode.ENHANCE_YOUR_CALM


def test_rapid_reset_ends_the_connection() -> None:
    """Opening and resetting streams at once is bounded (CVE-2023-44487)."""
    connection = fresh()
    connection.receive(HELLO, 0.0)
    begun = 0
    for sid in range(1, 20_001, 2):
        block = fr.pack(fr.HEADERS, 5, sid, BLOCK) + fr.pack_u32(fr.RST_STREAM, sid, 8)
        connection.receive(block, sid / 20_000)
        begun += sum(isinstance(e, StreamOpened) for e in connection.take_events())
        if connection.closed:
            break
    assert connection.closed
    assert begun < 300


def test_resets_of_old_streams_are_free() -> None:
    """A client may cancel a thousand long watches at once."""
    connection = fresh()
    connection.receive(HELLO, 0.0)
    sids = range(1, 2001, 2)
    connection.receive(b"".join(fr.pack(fr.HEADERS, 4, sid, BLOCK) for sid in sids), 0.0)
    connection.receive(b"".join(fr.pack_u32(fr.RST_STREAM, sid, 8) for sid in sids), 5.0)
    assert not connection.closed
    assert connection.streams == 0


def test_pings_in_step_with_data_are_free() -> None:
    """A client that measures bandwidth pings once per burst it receives, for ever."""
    connection = fed()
    for sid in range(1, 20_001, 2):
        ping = fr.pack(fr.PING, 0, 0, bytes(8))
        connection.receive(fr.pack(fr.HEADERS, 5, sid, BLOCK) + ping, 0.0)
        connection.respond(sid, HEAD, b"", HEAD)
        connection.take_output(1 << 20)
        connection.take_events()
    assert not connection.closed


def test_a_continuation_flood_ends_the_connection() -> None:
    """A header block has a bound in bytes, in frames and in time."""
    first = fr.pack(fr.HEADERS, 0, 1, BLOCK)
    assert ending(fed(first, *[fr.pack(fr.CONTINUATION, 0, 1, b"")] * 1500)).code is (
        ErrorCode.ENHANCE_YOUR_CALM
    )
    assert ending(fed(first, *[fr.pack(fr.CONTINUATION, 0, 1, bytes(9000))] * 2)).code is (
        ErrorCode.ENHANCE_YOUR_CALM
    )
    slow = fed(first)
    slow.tick(11.0)
    assert "header block" in ending(slow).text


def test_a_header_block_in_pieces_is_read() -> None:
    """CONTINUATION frames make one block with the HEADERS before them."""
    padded = b"\x04" + bytes((0, 0, 0, 5, 99)) + BLOCK[:10] + bytes(4)
    connection = fed(
        fr.pack(fr.HEADERS, fr.PADDED | fr.WITH_PRIORITY | fr.END_STREAM, 1, padded),
        fr.pack(fr.CONTINUATION, 0, 1, BLOCK[10:40]),
        fr.pack(fr.CONTINUATION, fr.END_HEADERS, 1, BLOCK[40:]),
    )
    (opened,) = connection.take_events()
    assert isinstance(opened, StreamOpened)
    assert opened.ended
    assert opened.head.path == "/etcdserverpb.KV/Put"


def test_a_header_bomb_is_cut() -> None:
    """One entry of the table named a thousand times inflates to no more than the limit."""
    encoder = Encoder()
    seed = encoder.encode([*REQUEST, ("x", "y" * 3000)])
    assert ending(fed(fr.pack(fr.HEADERS, 5, 1, seed + b"\xbe" * 1000))).code is (
        ErrorCode.ENHANCE_YOUR_CALM
    )


def test_silence_is_asked_then_cut() -> None:
    """No preface in 10 s, no answer to a PING in 20 s, no stream in an hour: the end."""
    mute = fresh()
    assert mute.deadline() == 10
    mute.tick(10.0)
    assert ending(mute)
    quiet = fed()
    quiet.take_output(1 << 20)
    assert quiet.deadline() == 60
    quiet.tick(60.0)
    assert quiet.take_output(1 << 20).startswith(b"\0\0\x08\x06")
    assert quiet.deadline() == 80
    quiet.tick(80.0)
    assert ending(quiet).text.startswith("keepalive")
    idle = fed()
    for now in range(50, 3700, 50):
        idle.receive(fr.pack(fr.PING, 1, 0, bytes(8)), now)
        idle.tick(float(now))
    assert ending(idle).text == "the connection is idle"


def test_a_reader_that_takes_nothing_loses_its_stream() -> None:
    """Data that cannot leave for two minutes is dropped with its stream."""
    connection = fed(HEADERS_ONLY)
    connection.headers(1, HEAD)
    connection.data(1, bytes(100_000))
    connection.take_output(1 << 20)
    connection.take_events()
    for now in range(1, 200, 15):
        connection.receive(fr.pack(fr.PING, 1, 0, bytes(8)), now)
        connection.tick(float(now))
    (lost,) = connection.take_events()
    assert isinstance(lost, StreamLost)
    assert lost.code is ErrorCode.CANCEL


def test_a_connection_holds_only_so_much_for_a_slow_reader() -> None:
    """Responses over the bound are lost with their streams, memory is not."""
    connection = fed(
        *(fr.pack(fr.HEADERS, 5, sid, BLOCK) for sid in range(1, 200, 2)), queued_bytes=5_000_000
    )
    for sid in range(1, 200, 2):
        connection.respond(sid, HEAD, bytes(1_000_000), HEAD)
        assert sum(connection.queued(sid) for sid in range(1, 200, 2)) <= 5_000_000


PIECES = st.lists(
    st.one_of(
        st.sampled_from(
            [HELLO, WHOLE, HEADERS_ONLY, *FLOODS.values(), *(b for b, _ in BROKEN.values())]
        ),
        st.binary(max_size=60),
        st.builds(
            fr.pack,
            st.integers(0, 10),
            st.integers(0, 255),
            st.integers(0, 9),
            st.one_of(st.binary(max_size=40), st.just(BLOCK)),
        ),
    ),
    max_size=30,
)


@given(PIECES, st.booleans())
@settings(max_examples=300, deadline=None)
def test_no_bytes_make_it_raise(pieces, greeted) -> None:
    """Any bytes at all: no exception, and once it is closed nothing more is reported."""
    connection = fed() if greeted else fresh()
    for piece in pieces:
        connection.receive(piece, 0.0)
        for event in connection.take_events():
            if isinstance(event, StreamOpened):
                connection.respond(event.stream_id, HEAD, b"data", HEAD)
        connection.take_output(1 << 16)
    assert not connection.closed or connection.deadline() is None


@given(st.binary(max_size=40))
@settings(max_examples=300, deadline=None)
def test_blocks_said_to_leave_the_table_alone_do(block: bytes) -> None:
    """``touches_table`` never calls a block harmless that changes what later blocks mean."""
    from hpack import Decoder
    from hpack.exceptions import HPACKError

    decoder = Decoder()
    decoder.decode(Encoder().encode([("seed", "value"), ("other", "x")]))
    before = list(decoder.header_table.dynamic_entries)
    try:
        decoder.decode(block, raw=True)
    except (HPACKError, ValueError, IndexError, OverflowError):
        return
    same = (before, 4096) == (
        list(decoder.header_table.dynamic_entries),
        decoder.header_table.maxsize,
    )
    assert same or touches_table(block)


def test_blocks_of_clients_are_judged_right() -> None:
    """Indexed fields and literals that are not added leave the table alone."""
    encoder = Encoder()
    assert touches_table(encoder.encode(REQUEST))
    assert not touches_table(encoder.encode(REQUEST))
    assert not touches_table(literal_block([("a", "b" * 300)]))
    assert touches_table(b"\x00\x7f\xff\xff\xff\xff\xff\xff")


def test_a_peer_of_another_protocol_is_told() -> None:
    """HTTP/1.1 bytes end the connection at the first byte that cannot be the preface."""
    connection = fresh()
    connection.receive(b"GET", 0.0)
    assert ending(connection).code is ErrorCode.PROTOCOL_ERROR


def test_the_preface_may_come_in_pieces() -> None:
    """Nothing is judged before it is there."""
    peer = Peer()
    data = peer.client.data_to_send()
    for at in range(len(data)):
        peer.server.receive(data[at : at + 1], 0.0)
    assert not peer.server.closed
