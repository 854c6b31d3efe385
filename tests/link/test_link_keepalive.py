"""Keepalive: Ping after a second, dead after five, and our own pauses blame nobody."""

from __future__ import annotations

import pytest

from meshsvc.link.keepalive import Dead, Keepalive, KeepaliveMachine, SendPing, _Core


def run(alive: Keepalive, until: float) -> list[tuple[float, object]]:
    """Tick at each deadline up to ``until``; what came out, and when."""
    found: list[tuple[float, object]] = []
    for _ in range(50):
        at = alive.deadline()
        if at > until:
            break
        found += [(at, effect) for effect in alive.tick(at)]
        if any(isinstance(effect, Dead) for _, effect in found):
            break
    return found


def fresh(now: float = 100.0) -> Keepalive:
    """One that has measured its first round trip."""
    alive = Keepalive(now)
    assert alive.tick(now) == [SendPing()]
    alive.pong(alive.ping_number(now), now)
    return alive


@pytest.mark.contract("LINK-4")
def test_a_silent_peer_is_pinged_then_dead() -> None:
    """Nothing for 1 s: one Ping. Nothing for 5 s: dead, and the text says how long."""
    found = run(fresh(), 200)
    assert [(at, type(effect)) for at, effect in found] == [(101, SendPing), (105, Dead)]
    dead = found[-1][1]
    assert isinstance(dead, Dead)
    assert dead.reason == "silent"
    assert "5.0 s" in dead.text


def test_whatever_comes_keeps_it_alive() -> None:
    """Bytes of any kind within the five seconds start the count anew."""
    alive = fresh()
    for second in range(101, 120):
        assert not [e for _, e in run(alive, second + 0.5) if isinstance(e, Dead)]
        alive.received_at = second + 0.5
    assert [type(e) for at, e in run(alive, 200)][-1] is Dead


@pytest.mark.contract("LINK-4")
def test_output_that_makes_no_progress_is_dead_too() -> None:
    """A peer that sends but does not read for 5 s is stalled."""
    alive = fresh()
    alive.blocked_since = 100.5
    found: list[object] = []
    now = 100.0
    while not found and now < 120:
        now += 0.25
        alive.received_at = now
        if alive.deadline() <= now or now % 1 == 0:
            found = [e for e in alive.tick(now) if isinstance(e, Dead)]
    assert [e.reason for e in found if isinstance(e, Dead)] == ["stalled"]
    assert 105.5 <= now <= 106


def test_progress_clears_the_stall() -> None:
    """Output that moves again is not stalled."""
    alive = fresh()
    alive.blocked_since = 100
    alive.received_at = 104
    alive.tick(104)
    alive.blocked_since = None
    alive.received_at = 106
    assert alive.tick(106.5) == [SendPing()]


@pytest.mark.contract("LINK-4")
def test_our_own_pause_blames_nobody() -> None:
    """A tick that comes late is a pause of this process: the peer gets its chance to speak."""
    alive = fresh()
    assert alive.tick(101) == [SendPing()]
    assert not [e for e in alive.tick(160) if isinstance(e, Dead)]
    assert alive.deadline() > 160
    alive.received_at = 160.1
    assert not [e for e in alive.tick(161) if isinstance(e, Dead)]
    paused_while_blocked = fresh()
    paused_while_blocked.blocked_since = 100
    assert not [e for e in paused_while_blocked.tick(160) if isinstance(e, Dead)]


def test_a_paused_peer_is_still_found_after_our_pause() -> None:
    """Forgiveness lasts one tick: a peer that is silent afterwards is dead 5 s later."""
    alive = fresh()
    alive.tick(160)
    found = run(alive, 300)
    assert isinstance(found[-1][1], Dead)
    assert 163 <= found[-1][0] <= 165


def test_round_trips_are_measured_on_busy_links_too() -> None:
    """A link that is never quiet is pinged every 5 s; only the last Ping's Pong counts."""
    alive = fresh()
    assert alive.rtt_s == 0
    pings = 0
    for tenth in range(1, 200):
        now = 100 + tenth / 10
        alive.received_at = now
        for effect in alive.tick(now):
            assert effect == SendPing()
            pings += 1
            number = alive.ping_number(now)
            alive.pong(number - 1, now + 0.5)
            alive.pong(number, now + 0.02)
            alive.pong(number, now + 3)
    assert pings == 3
    assert alive.rtt_s == pytest.approx(0.02)


@pytest.mark.parametrize("leads", [[], ["quiet"], ["silent"]])
@pytest.mark.parametrize("then", ["quiet", "heard", "sample_due", "silent", "stalled"])
def test_every_state_takes_every_input(leads: list[str], then: str) -> None:
    """No input raises in any state, and a dead link finds nothing more."""
    core = _Core()
    machine = KeepaliveMachine(core)
    for name in [*leads, then]:
        method = getattr(machine, name)
        method(5.0) if name in ("silent", "stalled") else method()
    dead = [effect for effect in core.effects if isinstance(effect, Dead)]
    assert len(dead) == int("silent" in (*leads, then) or then == "stalled")
