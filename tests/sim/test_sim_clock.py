"""Virtual time: order, cancelling, pauses, drift, and very many timers."""

from __future__ import annotations

import pytest
from twisted.internet.error import AlreadyCalled, AlreadyCancelled

from meshsvc.sim.clock import UNIX_START_S, ProcessClock, Skew, Stuck, Time


def process(time, **skew):
    return ProcessClock(time, Skew(**skew))


def test_calls_come_in_order_of_time_then_of_request():
    """Earlier first; of the same moment, the one asked for first; time is right in each."""
    time, seen = Time(), []
    clock = process(time)
    for name, delay in (("late", 2), ("first", 1), ("second", 1)):
        clock.callLater(delay, lambda name=name: seen.append((name, time.now)))
    time.run_until(10)
    assert seen == [("first", 1.0), ("second", 1.0), ("late", 2.0)]
    assert time.now == 10


def test_a_call_can_be_moved_and_cancelled_once():
    """reset and delay move a call either way; a second cancel, or one too late, is an error."""
    time, seen = Time(), []
    clock = process(time)
    moved, sooner, gone = (clock.callLater(5, seen.append, n) for n in ("moved", "sooner", "gone"))
    moved.delay(4)
    sooner.reset(1)
    gone.cancel()
    assert gone not in clock.getDelayedCalls()
    assert len(clock.getDelayedCalls()) == 2
    time.run_until(20)
    assert seen == ["sooner", "moved"]
    with pytest.raises(AlreadyCancelled):
        gone.cancel()
    with pytest.raises(AlreadyCalled):
        moved.reset(1)


def test_a_timer_never_fires_before_its_own_clock_says_so():
    """With drift and offset, the clock of the process has reached the timer's time."""
    time, early = Time(), []
    clock = process(time, offset_s=3.3, rate=1.000123)

    def look(due):
        if clock.seconds() < due:
            early.append(due)

    for number in range(1000):
        delay = number * 0.0137
        clock.callLater(delay, look, clock.seconds() + delay)
    time.run_until(100)
    assert not early
    assert clock.seconds() == pytest.approx(UNIX_START_S + 3.3 + 100 * 1.000123)


def test_a_paused_process_runs_overdue_timers_first_then_reads():
    """SIGCONT: timers in the order they were due, then what came, in the order it came."""
    time, seen = Time(), []
    clock = process(time)
    clock.post(1.0, seen.append, "read 1")
    clock.callLater(3.0, seen.append, "timer 3")
    clock.callLater(2.0, seen.append, "timer 2")
    clock.post(4.0, seen.append, "read 4")
    clock.pause()
    time.run_until(5)
    assert seen == []
    clock.resume()
    time.run_until(5.1)
    assert seen == ["timer 2", "timer 3", "read 1", "read 4"]


def test_a_dead_process_is_never_called():
    """After kill nothing of a process runs."""
    time, seen = Time(), []
    clock = process(time)
    clock.callLater(1, seen.append, "timer")
    clock.post(1, seen.append, "read")
    clock.kill()
    time.run_until(5)
    assert not seen


def test_a_slow_process_takes_one_event_at_a_time():
    """Each event occupies it; those that come meanwhile wait, in order."""
    time, seen = Time(), []
    clock = process(time)
    clock.cost_s = 0.5
    for name in "abc":
        clock.post(1.0, lambda name=name: seen.append((name, time.now)))
    time.run_until(5)
    assert seen == [("a", 1.0), ("b", 1.5), ("c", 2.0)]


def test_very_many_timers():
    """200,000 timers are entered, half of them cancelled, and run in about a second."""
    time, count = Time(), [0]
    clock = process(time)

    def tick():
        count[0] += 1

    timers = [clock.callLater((number * 7919) % 1000, tick) for number in range(200_000)]
    for timer in timers[::2]:
        timer.cancel()
    time.run_until(2000)
    assert count[0] == 100_000
    assert len(time) == 0


def test_time_that_stands_still_is_noticed():
    """Events without end at one moment stop the run instead of hanging it."""
    time = Time()
    clock = process(time)

    def again():
        clock.callLater(0, again)

    again()
    with pytest.raises(Stuck):
        time.run_until(1)
