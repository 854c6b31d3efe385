"""The connection against ``h2`` as its client: requests, responses, windows, drain."""

from __future__ import annotations

import h2.errors
import h2.events
import h2.settings
import pytest
from h2peer import HEAD, REQUEST, TRAILERS, Peer
from hypothesis import given, settings
from hypothesis import strategies as st

from meshsvc.etcd.http2.events import DataReceived, StreamLost, StreamOpened, StreamWritable
from meshsvc.etcd.http2.frames import ErrorCode

pytestmark = pytest.mark.contract("KV-9")


def test_a_request_and_its_response() -> None:
    """Head and body arrive whole, the response is one head, data, trailers."""
    peer = Peer()
    sid = peer.request(b"hello")
    peer.exchange()
    (opened,) = peer.events(StreamOpened)
    assert (opened.stream_id, opened.head.method) == (sid, "POST")
    assert opened.head.path == "/etcdserverpb.KV/Put"
    assert opened.head.fields["host"] == "127.0.0.1:2379"
    assert peer.bodies() == {sid: b"hello"}
    peer.server.respond(sid, HEAD, b"world", TRAILERS)
    peer.exchange()
    assert peer.answer(sid) == b"world"
    (trailers,) = peer.told(h2.events.TrailersReceived)
    assert trailers.headers == [(b"grpc-status", b"0")]
    assert peer.told(h2.events.StreamEnded)
    assert peer.server.streams == 0


def test_repeated_header_blocks_give_the_same_head() -> None:
    """A block is decoded once while HPACK's table stays as it is, anew when it changed."""
    peer = Peer()
    for _ in range(4):
        peer.request(b"x")
        peer.exchange()
    heads = [event.head for event in peer.events(StreamOpened)]
    assert heads[1] is heads[2] is heads[3]
    peer.request(b"x", headers=[*REQUEST, ("grpc-timeout", "5S")])
    peer.request(b"x")
    peer.exchange()
    heads = [event.head for event in peer.events(StreamOpened)]
    assert heads[4].fields["grpc-timeout"] == "5S"
    assert "grpc-timeout" not in heads[5].fields
    assert heads[5] is not heads[3]


@pytest.mark.parametrize("size", [0, 1, 16_384, 16_385, 65_535, 65_536, 1_000_000])
def test_responses_of_any_size_pass_the_windows(size: int) -> None:
    """A response waits for the client's windows and arrives whole."""
    peer = Peer()
    sid = peer.request(b"x")
    peer.exchange()
    body = bytes(range(256)) * (size // 256) + bytes(size % 256)
    peer.server.respond(sid, HEAD, body, TRAILERS)
    received = b""
    for _ in range(200):
        for event in peer.client.receive_data(peer.server.take_output(1 << 20)):
            if isinstance(event, h2.events.DataReceived):
                received += event.data
                peer.client.acknowledge_received_data(event.flow_controlled_length, sid)
        up = peer.client.data_to_send()
        if not up and not peer.server.has_output:
            break
        peer.server.receive(up, 0.0)
    assert received == body
    assert peer.server.streams == 0


def test_large_requests_are_credited() -> None:
    """A client can send more than any window, as what was received is credited."""
    peer = Peer()
    sid = peer.request(b"x", end=False)
    sent = 1
    while sent < 40_000_000:
        size = min(16_384, peer.client.local_flow_control_window(sid))
        assert size > 0
        peer.client.send_data(sid, bytes(size))
        sent += size
        peer.exchange()
    assert sum(len(event.data) for event in peer.events(DataReceived)) == sent


def test_streams_take_turns() -> None:
    """A large response does not hold up a small one behind it."""
    peer = Peer()
    peer.client.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 10_000_000})
    peer.client.increment_flow_control_window(20_000_000)
    large, small = peer.request(b"x"), peer.request(b"x")
    peer.exchange()
    peer.server.respond(large, HEAD, bytes(5_000_000), TRAILERS)
    peer.server.respond(small, HEAD, b"small", TRAILERS)
    first = peer.client.receive_data(peer.server.take_output(256 * 1024))
    assert any(isinstance(e, h2.events.DataReceived) and e.stream_id == small for e in first)


def test_frames_are_no_larger_than_the_client_allows() -> None:
    """Frames are 16 KiB until the client allows more, and 64 KiB at most."""
    for allowed, largest in ((None, 16_384), (1_000_000, 65_536)):
        peer = Peer()
        settings_ = {h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 10_000_000}
        if allowed:
            settings_[h2.settings.SettingCodes.MAX_FRAME_SIZE] = allowed
        peer.client.update_settings(settings_)
        peer.client.increment_flow_control_window(10_000_000)
        sid = peer.request(b"x")
        peer.exchange()
        peer.server.respond(sid, HEAD, bytes(1_000_000), TRAILERS)
        peer.exchange()
        sizes = [len(event.data) for event in peer.told(h2.events.DataReceived)]
        assert (max(sizes), sum(sizes)) == (largest, 1_000_000)


def test_a_source_is_told_to_pause_and_to_go_on() -> None:
    """A stream over its high-water mark asks for a pause, and says when there is room."""
    peer = Peer(stream_high_bytes=100_000)
    sid = peer.request(b"x", end=False)
    peer.exchange()
    peer.server.headers(sid, HEAD)
    assert peer.server.data(sid, bytes(65_535))
    peer.exchange()
    assert peer.server.data(sid, bytes(100_000))
    assert not peer.server.data(sid, bytes(1))
    peer.client.increment_flow_control_window(200_000)
    peer.client.increment_flow_control_window(200_000, sid)
    peer.exchange()
    assert peer.server.take_events() == [StreamWritable(sid)]
    assert peer.server.data(sid, b"more")


def test_a_smaller_initial_window_counts_for_open_streams() -> None:
    """SETTINGS may make a window negative: nothing is sent until it is open again."""
    peer = Peer()
    sid = peer.request(b"x", end=False)
    peer.exchange()
    peer.server.headers(sid, HEAD)
    peer.server.data(sid, bytes(60_000))
    peer.exchange()
    peer.client.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 1000})
    peer.exchange()
    peer.server.data(sid, bytes(10))
    peer.exchange()
    assert len(peer.answer(sid)) == 60_000
    peer.client.increment_flow_control_window(59_010, sid)
    peer.exchange()
    assert len(peer.answer(sid)) == 60_010


def test_early_answers_end_the_stream() -> None:
    """An answer before the end of the request tells the client to stop sending, without error."""
    peer = Peer()
    sid = peer.request(b"x", end=False)
    peer.exchange()
    peer.server.trailers(sid, HEAD)
    peer.exchange()
    (reset,) = peer.told(h2.events.StreamReset)
    assert reset.error_code == h2.errors.ErrorCodes.NO_ERROR
    assert peer.server.streams == 0


def test_pings_and_settings_are_answered() -> None:
    """PING and SETTINGS get their acknowledgements."""
    peer = Peer()
    peer.client.ping(b"12345678")
    peer.exchange()
    assert [e.ping_data for e in peer.told(h2.events.PingAckReceived)] == [b"12345678"]
    assert peer.told(h2.events.SettingsAcknowledged)


def test_draining_serves_what_crosses_the_goaway() -> None:
    """Drain asks for no more; requests on their way are served, later ones are refused."""
    peer = Peer()
    first = peer.request(b"x")
    peer.exchange()
    peer.server.drain()
    crossing = peer.request(b"y")
    peer.exchange()
    assert peer.bodies() == {first: b"x", crossing: b"y"}
    (going,) = peer.told(h2.events.ConnectionTerminated)
    assert going.error_code == h2.errors.ErrorCodes.NO_ERROR


def test_streams_after_the_second_goaway_are_refused() -> None:
    """After ``refuse`` a new stream is refused, which lets its client repeat it elsewhere."""
    peer = Peer()
    first = peer.request(b"x")
    peer.exchange()
    peer.server.refuse()
    late = peer.request(b"y")
    peer.server.receive(peer.client.data_to_send(), 0.0)
    assert [e.stream_id for e in peer.events(StreamOpened)] == [first]
    assert ErrorCode.REFUSED_STREAM.to_bytes(4, "big") in peer.server.take_output(1 << 20)
    assert late not in peer.bodies()


def test_a_client_that_gives_up_is_reported() -> None:
    """RST_STREAM drops what the stream had to send and tells the layer above."""
    peer = Peer()
    sid = peer.request(b"x")
    peer.exchange()
    peer.server.headers(sid, HEAD)
    peer.server.data(sid, bytes(1_000_000))
    peer.client.reset_stream(sid, h2.errors.ErrorCodes.CANCEL)
    peer.exchange()
    (lost,) = peer.events(StreamLost)
    assert (lost.stream_id, lost.code) == (sid, ErrorCode.CANCEL)
    assert peer.server.queued(sid) == 0


def test_more_streams_than_allowed_are_refused() -> None:
    """A client that ignores MAX_CONCURRENT_STREAMS has the excess refused, others served."""
    peer = Peer(streams=2)
    peer.exchange()
    peer.client.remote_settings[h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS] = 100
    peer.client.remote_settings.acknowledge()
    sids = [peer.request(b"x", end=False) for _ in range(3)]
    peer.exchange()
    assert [e.stream_id for e in peer.events(StreamOpened)] == sids[:2]
    (reset,) = peer.told(h2.events.StreamReset)
    assert reset.error_code == h2.errors.ErrorCodes.REFUSED_STREAM


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["request", "part", "answer", "chunk", "reset", "ping", "window", "split"]),
        st.integers(0, 40_000),
        st.integers(0, 7),
    ),
    max_size=40,
)


@given(ACTIONS)
@settings(max_examples=60, deadline=None)
def test_any_mix_of_what_clients_do(actions) -> None:
    """Whatever a correct client does, bodies arrive whole both ways and nobody errs."""
    peer = Peer()
    sent: dict[int, bytes] = {}
    replied: dict[int, bytes] = {}
    for action, size, pick in actions:
        live = [s for s in sent if s not in replied]
        if action == "request":
            sid = peer.request(end=False)
            sent[sid] = b""
        elif action == "ping":
            peer.client.ping(size.to_bytes(8, "big"))
        elif action == "window":
            peer.client.increment_flow_control_window(size + 1)
        elif live:
            _on_a_stream(peer, action, size, live[pick % len(live)], sent, replied)
        peer.exchange()
    peer.client.increment_flow_control_window(10_000_000)
    for sid in replied:
        peer.client.increment_flow_control_window(10_000_000, sid) if _open(peer, sid) else None
    peer.exchange()
    assert not peer.told(h2.events.ConnectionTerminated)
    bodies = peer.bodies()
    for sid, body in sent.items():
        assert bodies[sid] == body
    for sid, body in replied.items():
        assert peer.answer(sid) == body


def _open(peer: Peer, sid: int) -> bool:
    stream = peer.client.streams.get(sid)
    return stream is not None and not stream.closed


def _on_a_stream(peer, action, size, sid, sent, replied) -> None:
    if action == "part":
        padding = 256  # at most, its length included: it counts as data
        room = min(16_384, peer.client.local_flow_control_window(sid)) - padding
        data = bytes(max(0, min(size, room)))
        peer.client.send_data(sid, data, pad_length=size % 200)
        sent[sid] += data
    elif action == "reset":
        peer.client.reset_stream(sid)
        sent.pop(sid)
    elif action == "answer":
        peer.client.end_stream(sid)
        peer.exchange()
        replied[sid] = bytes(size)
        peer.server.respond(sid, HEAD, replied[sid], TRAILERS)
    elif action == "chunk":
        replied[sid] = bytes(size) * 2
        peer.server.headers(sid, HEAD)
        peer.server.data(sid, bytes(size))
        peer.server.data(sid, bytes(size))
        peer.server.trailers(sid, TRAILERS)


@given(st.integers(1, 30))
@settings(max_examples=20, deadline=None)
def test_reads_may_be_cut_anywhere(step: int) -> None:
    """Events do not depend on how the bytes are cut into reads."""
    peer = Peer()
    for size in (0, 10, 5000):
        peer.request(bytes(size))
    data = peer.client.data_to_send()
    for at in range(0, len(data), step):
        peer.server.receive(data[at : at + step], 0.0)
    peer.seen = peer.server.take_events()
    assert [len(body) for body in peer.bodies().values()] == [0, 10, 5000]
    assert sum(e.ended for e in peer.events(DataReceived)) == 2
