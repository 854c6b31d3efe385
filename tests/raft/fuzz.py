"""Seeded runs of Raft cores under faults, with what Raft promises checked at every step.

A run is a pure function of its seed: which faults it has (loss, doubling, delays that
reorder, cuts, crashes that lose what was not synced, slow disks, clocks at different
rates), what is proposed and read, and which members come and go. Afterwards the faults stop and
the group must agree again. ``Violation`` names the rule that was broken and the seed.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from heapq import heappop, heappush
from pathlib import Path
from random import Random

sys.path.insert(0, os.fspath(Path(__file__).parent))

from cores import Disk, Replica

from meshsvc.raft.core import Role
from meshsvc.raft.log import Unsafe
from meshsvc.raft.membership import ChangeRefused
from meshsvc.raft.messages import Append, decode_message, encode_message
from meshsvc.raft.quorum import make_config
from meshsvc.raft.settings import Settings


def settings(append_entries: int) -> Settings:
    """Limits so small that they are all met in a short run."""
    return Settings(
        append_entries=append_entries,
        append_bytes=400,
        window_messages=4,
        apply_entries=3,
        promote_lag=10,
    )


QUIET_S = 12.0


class Violation(AssertionError):
    """A rule was broken."""


@dataclass
class Weather:
    """The faults of one run; rates are probabilities, times are in seconds."""

    loss: float
    double: float
    slow_s: float
    disk_s: float
    crash: float
    cut: float
    change: float
    transfer: float
    compact: float
    pause: float = 0.0
    fresh_loss: float = 0.0
    """Of appends that carry entries of their leader's own term: old ones get through."""
    voters: tuple[int, ...] = (1, 3, 3, 3, 5)
    faults_s: float = 7.0

    @classmethod
    def drawn(cls, rng: Random) -> Weather:
        def maybe(share, most):
            return rng.random() * most if rng.random() < share else 0.0

        return cls(
            maybe(0.6, 0.2),
            maybe(0.5, 0.2),
            maybe(0.7, 0.4),
            maybe(0.7, 0.3),
            maybe(0.8, 0.03),
            maybe(0.8, 0.03),
            maybe(0.6, 0.06),
            maybe(0.5, 0.04),
            maybe(0.6, 0.08),
            maybe(0.4, 0.02),
            maybe(0.3, 0.9),
        )


class Watched(Replica):
    """A replica whose every step is checked against what the whole world has seen."""

    chunk_bytes = 48

    def __init__(self, world, me, disk):
        self.world = world
        self.rate = 1 + (world.rng.random() - 0.5) * 0.08
        super().__init__(me, disk, world.settings, Random(world.rng.random()), self.clock())
        self.hold_disk = True
        self.timed = None
        self.paused_until = 0.0

    def clock(self) -> float:
        return self.world.now * self.rate

    @property
    def paused(self) -> bool:
        return self.world.now < self.paused_until

    def on_apply(self, entry) -> None:
        self.world.applied(self, entry)


class World:
    """One run."""

    def __init__(self, seed: int, weather: Weather | None = None):
        self.seed = seed
        self.rng = Random(seed)
        self.now = 0.0
        self.weather = weather or Weather.drawn(self.rng)
        self.settings = settings(self.rng.choice((1, 4, 4)))
        self.events = []
        self.count = 0
        self.cut: set[tuple[int, int]] = set()
        self.committed: dict[int, tuple[int, bytes]] = {}
        self.top = 0
        self.born: dict[tuple[int, int], tuple] = {}
        self.leaders: dict[int, int] = {}
        self.leading: dict[int, int] = {}
        self.checked: dict[int, int] = {}
        self.asked: dict[tuple[int, int], int] = {}
        self.served = 0
        self.values = 0
        voters = self.rng.choice(self.weather.voters)
        config = make_config(list(range(1, voters + 1)))
        self.replicas = {me: Watched(self, me, Disk.founded(config)) for me in config.voters}
        for me in range(voters + 1, voters + 3):
            self.replicas[me] = Watched(self, me, Disk())
        self.faults = True

    # --- what is promised ----------------------------------------------------------------

    def fail(self, rule: str):
        raise Violation(f"seed {self.seed}, {self.now:.3f} s: {rule}")

    def applied(self, replica, entry) -> None:
        have = (entry.term, entry.data)
        known = self.committed.setdefault(entry.index, have)
        if not self._on_disk(replica.disk, entry.index, entry.term):
            self.fail(f"{replica.me} applied entry {entry.index}, which its disk has not")
        if known != have:
            self.fail(f"state machine safety: {replica.me} applied {entry}, others {known}")
        self.top = max(self.top, entry.index)

    def _check_durable(self, core) -> None:
        """What a leader takes for committed is on the disks of a quorum, right now."""
        index, term = core.log.commit, core.log.term_at(core.log.commit)
        # The configuration may have changed with this very commit.
        configs = (core.configs.at(index), core.configs.current)
        if not any(self._quorum_has(config, index, term) for config in configs):
            self.fail(f"entry {index} of {core.me} is committed and not on a quorum's disks")

    def _quorum_has(self, config, index, term) -> bool:
        for voters in filter(None, (config.voters, config.outgoing)):
            have = sum(self._on_disk(self.replicas[each].disk, index, term) for each in voters)
            if 2 * have <= len(voters):
                return False
        return True

    @staticmethod
    def _on_disk(disk, index, term) -> bool:
        if index <= disk.base:
            return True
        offset = index - disk.entries[0].index if disk.entries else -1
        return 0 <= offset < len(disk.entries) and disk.entries[offset].term == term

    def check(self, replica) -> None:
        core = replica.raft._core
        writing = replica.writing
        if writing is not None:
            prev = core.log
            for entry in writing[0].entries:
                self._check_birth(prev, entry)
        self._check_config(core)
        if core.role is not Role.LEADER:
            return
        first = self.leaders.setdefault(core.term, replica.me)
        if first != replica.me:
            self.fail(f"election safety: {first} and {replica.me} lead in term {core.term}")
        if self.leading.get(replica.me) != core.term:
            self.leading[replica.me] = core.term
            self._check_complete(core)
        if core.log.commit > self.checked.get(core.term, core.log.base_index):
            self.checked[core.term] = core.log.commit
            self._check_durable(core)

    def _check_birth(self, log, entry) -> None:
        before = log.term_at(entry.index - 1)
        if before is None or not log.matches(entry.index, entry.term):
            return
        have = (before, entry.kind, entry.data)
        if self.born.setdefault((entry.index, entry.term), have) != have:
            self.fail(f"log matching: two entries are ({entry.index}, {entry.term})")

    def _check_config(self, core) -> None:
        index, log = core.configs.index, core.log
        if index <= log.base_index:
            return
        found = log.entries[index - log.base_index - 1] if index <= log.last_index else None
        if found is None or found.data != core.configs.current.encoded():
            self.fail(f"{core.me} goes by a configuration that its log has not")

    def _check_complete(self, core) -> None:
        if not self.top or self.committed[self.top][0] >= core.term:
            return
        if core.log.base_index < self.top and not core.log.matches(
            self.top, self.committed[self.top][0]
        ):
            self.fail(f"leader completeness: {core.me} leads without entry {self.top}")

    def check_reads(self, replica) -> None:
        for number, index in replica.reads.items():
            needed = self.asked.pop((replica.me, number), None)
            if needed is not None:
                self.served += 1
                if index < needed:
                    self.fail(f"a read at {replica.me} may use {index}, {needed} was applied")
        replica.reads.clear()

    # --- events --------------------------------------------------------------------------

    def at(self, delay: float, what, *args) -> None:
        self.count += 1
        heappush(self.events, (self.now + delay, self.count, what, args))

    def after_input(self, replica) -> None:
        if not replica.up:
            return
        for to, message in replica.do_duties(replica.clock()):
            self.send(replica.me, to, message)
        self.check(replica)
        self.check_reads(replica)
        if replica.writing is not None and replica.writing is not replica.timed:
            replica.timed = replica.writing
            self.at(self.disk_time(), self.write_ends, replica, replica.life, replica.writing)

    def disk_time(self) -> float:
        return 0.001 + (self.rng.random() * self.weather.disk_s if self.faults else 0)

    def write_ends(self, replica, life, writing) -> None:
        if replica.paused:
            self.at(replica.paused_until - self.now, self.write_ends, replica, life, writing)
        elif replica.up and replica.life == life and replica.writing is writing:
            for to, message in replica.written(replica.clock()):
                self.send(replica.me, to, message)
            self.after_input(replica)

    def send(self, source, to, message) -> None:
        weather, rng = self.weather, self.rng
        if self.faults and rng.random() < weather.loss:
            return
        if self.faults and isinstance(message, Append) and message.entries:
            fresh = message.entries[-1].term == message.term
            if fresh and rng.random() < weather.fresh_loss:
                return
        copies = 2 if self.faults and rng.random() < weather.double else 1
        for _ in range(copies):
            slow = rng.random() * weather.slow_s if self.faults and rng.random() < 0.3 else 0
            self.at(0.002 + rng.random() * 0.004 + slow, self.deliver, source, to, message)

    def deliver(self, source, to, message) -> None:
        replica = self.replicas.get(to)
        if replica is None or not replica.up or (source, to) in self.cut:
            return
        if replica.paused:
            self.at(replica.paused_until - self.now, self.deliver, source, to, message)
            return
        if self.count % 16 == 0:
            message = decode_message(encode_message(message))
        replica.raft.step(source, message, replica.clock())
        self.after_input(replica)

    def tick(self) -> None:
        for replica in self.replicas.values():
            if replica.paused or not replica.up:
                continue
            if replica.raft.deadline() <= replica.clock():
                replica.raft.tick(replica.clock())
                self.after_input(replica)
        self.at(0.025, self.tick)

    # --- what people and fate do ---------------------------------------------------------

    def anyone(self):
        return self.replicas[self.rng.choice(sorted(self.replicas))]

    def work(self) -> None:
        replica = self.anyone()
        if self.rng.random() < 0.3:
            replica = self.leader() or replica
        if replica.up and not replica.paused:
            if self.rng.random() < 0.5:
                self.values += 1
                replica.raft.propose([b"%d" % self.values], replica.clock())
            else:
                self.ask(replica)
            self.after_input(replica)
        self.at(self.rng.random() * 0.06, self.work)

    def ask(self, replica) -> None:
        number = replica.raft.read_index(replica.clock())
        if number is not None:
            self.asked[replica.me, number] = self.top

    def fate(self) -> None:
        if not self.faults:
            return
        weather, rng = self.weather, self.rng
        for chance, act in (
            (weather.crash, self.crash),
            (weather.cut, self.partition),
            (weather.change, self.change),
            (weather.transfer, self.transfer),
            (weather.compact, self.compact),
            (weather.pause, self.pause),
        ):
            if rng.random() < chance:
                act()
        self.at(0.03, self.fate)

    def crash(self) -> None:
        replica = self.anyone()
        if self.rng.random() < 0.4:
            replica = self.leader() or replica
        if replica.up:
            replica.crash()
            self.asked = {key: n for key, n in self.asked.items() if key[0] != replica.me}
            quick = self.rng.random() < 0.4
            self.at(self.rng.random() * (0.1 if quick else 1.5), self.restart, replica)

    def restart(self, replica) -> None:
        if not replica.up:
            replica.paused_until, replica.timed = 0.0, None
            replica.start(replica.clock())
            self.leading.pop(replica.me, None)
            self.after_input(replica)

    def partition(self) -> None:
        rng = self.rng
        members = sorted(self.replicas)
        side = {me for me in members if rng.random() < 0.5}
        pairs = {(a, b) for a in members for b in members if (a in side) != (b in side)}
        kind = rng.random()
        if kind < 0.3:
            pairs = {pair for pair in sorted(pairs) if pair[0] in side}  # one way only
        elif kind < 0.6:
            pairs = {pair for pair in sorted(pairs) if rng.random() < 0.5}  # some pairs
        self.cut = pairs
        self.at(rng.random() * 2.5, self.cut.clear)

    def pause(self) -> None:
        replica = self.leader() or self.anyone()
        if replica.up and not replica.paused:
            replica.paused_until = self.now + self.rng.random() * 4
            self.at(replica.paused_until - self.now, self.resume, replica, replica.life)

    def resume(self, replica, life) -> None:
        """It reads what came before it looks at the time."""
        if replica.up and replica.life == life and not replica.paused:
            self.ask(replica)
            self.after_input(replica)

    def leader(self):
        found = [r for r in self.replicas.values() if r.up and r.raft._core.role is Role.LEADER]
        return max(found, key=lambda each: each.raft._core.term) if found else None

    def change(self) -> None:
        leader = self.leader()
        if leader is None or leader.paused:
            return
        everyone = sorted(self.replicas)
        voters = set(self.rng.sample(everyone, self.rng.choice((1, 2, 3, 3, 3))))
        learners = {me for me in everyone if me not in voters and self.rng.random() < 0.7}
        try:
            leader.raft.change(voters, learners, leader.clock())
        except ChangeRefused:
            return
        self.after_input(leader)

    def transfer(self) -> None:
        replica = self.anyone()
        if replica.up and not replica.paused:
            replica.raft.transfer(self.rng.choice(sorted(self.replicas)), replica.clock())
            self.after_input(replica)

    def compact(self) -> None:
        replica = self.anyone()
        if replica.up and not replica.paused:
            replica.compact(keep=self.rng.choice((0, 0, 3)))

    # --- a run ---------------------------------------------------------------------------

    def run_until(self, end: float) -> None:
        while self.events and self.events[0][0] <= end:
            self.now, _, what, args = heappop(self.events)
            what(*args)
        self.now = end

    def run(self) -> World:
        for start in (self.tick, self.work, self.fate):
            self.at(0.01, start)
        try:
            self.run_until(self.weather.faults_s)
            self.faults = False
            self.cut = set()
            for replica in self.replicas.values():
                replica.paused_until = 0.0
                self.restart(replica)
            before = self.top
            end = self.weather.faults_s + QUIET_S
            while self.now < end and not self.agreed(before):
                self.run_until(self.now + 0.5)
        except Unsafe as error:
            self.fail(f"unsafe: {error}")
        if not self.agreed(before):
            self.fail(f"no progress after the faults: {self.explain()}")
        return self

    def agreed(self, before: int) -> bool:
        leader = self.leader()
        if leader is None or self.top <= before:
            return False
        config = leader.raft._core.configs.current
        behind = max(self.top - self.replicas[each].applied for each in config.members)
        return not config.joint and behind < 12

    def explain(self) -> list:
        return [
            (r.me, r.raft._core.role.name, r.raft._core.term, r.applied, r.raft._core.log.commit)
            for r in self.replicas.values()
        ]


def run_seed(seed: int) -> World:
    """One run; raises ``Violation``."""
    return World(seed).run()


def main() -> int:
    """Run seeds FIRST to LAST from the command line, one line for each that fails."""
    first, last = (int(word) for word in sys.argv[1:3])
    failed = 0
    entries = reads = 0
    for seed in range(first, last):
        try:
            world = run_seed(seed)
            entries, reads = entries + world.top, reads + world.served
        except Violation as error:
            failed += 1
            sys.stdout.write(f"{error}\n")
    ran = f"seeds {first} to {last - 1}: {failed} failed"
    sys.stdout.write(f"{ran}, {entries} entries, {reads} reads\n")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
