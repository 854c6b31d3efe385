"""Raft cores on a network and disks that tests control: no time, bytes or files but theirs.

A ``Replica`` is a core with a disk: what was written is durable only when its write has
ended, and a crash loses all the rest. A ``Group`` passes messages on in order, at once, unless
the test cuts or holds something. Replicas apply commands to a list.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from meshsvc.raft.core import COMMAND, CONFIG, FRESH_TERM, Role
from meshsvc.raft.messages import decode_message, encode_message
from meshsvc.raft.quorum import Config, make_config
from meshsvc.raft.raft import Raft
from meshsvc.raft.settings import Settings
from meshsvc.storage.records import Entry, HardState, SnapshotMeta

QUICK = Settings()


@dataclass
class Disk:
    """What survives a crash; ``snapshot_state`` is what the snapshot holds."""

    hard: HardState = field(default_factory=HardState)
    snapshot: SnapshotMeta | None = None
    snapshot_state: list = field(default_factory=list)
    entries: list = field(default_factory=list)

    @classmethod
    def founded(cls, config: Config) -> Disk:
        first = Entry(1, FRESH_TERM, CONFIG, config.encoded())
        return cls(HardState(FRESH_TERM, 0, 1), None, [], [first])

    @property
    def base(self) -> int:
        return self.snapshot.index if self.snapshot else 0

    def write(self, ready, state) -> None:
        if ready.snapshot:
            self.snapshot, self.snapshot_state, self.entries = ready.snapshot, state, []
        if ready.hard_state:
            self.hard = ready.hard_state
        if ready.entries:
            first = ready.entries[0].index
            self.entries = [each for each in self.entries if each.index < first]
            self.entries += ready.entries


class Replica:
    """One core, its disk, its state machine; ``ready`` duties are done as ``raft.py`` says."""

    chunk_bytes = 100

    def __init__(self, me: int, disk: Disk, settings: Settings, rng: Random, now: float):
        self.me, self.disk, self.settings, self.rng = me, disk, settings, rng
        self.hold_disk = False
        self.life = 0
        self.start(now)

    def start(self, now: float) -> None:
        disk = self.disk
        self.life += 1
        self.state = list(disk.snapshot_state)
        self.applied = disk.base
        self.writing = None
        self.incoming = bytearray()
        self.reads = {}
        self.lost_messages = []
        stored = (disk.hard, disk.snapshot, list(disk.entries))
        self.raft = Raft(self.me, stored, self.settings, self.rng, now)
        self.up = True

    def crash(self) -> None:
        self.up, self.writing = False, None

    def do_duties(self, now: float):
        """All duties that can be done; yields (to, message) for what leaves."""
        while (ready := self.raft.ready()) is not None:
            for chunk in ready.chunks:
                if chunk.number == 0:
                    self.incoming = bytearray()
                self.incoming += chunk.data
                self.raft.kept(chunk, True, now)
            yield from ready.messages
            if ready.durable:
                assert self.writing is None, "two writes at once"
                self.writing = (ready, bytes(self.incoming))
                if not self.hold_disk:
                    yield from self.written(now)
            else:
                yield from ready.after
            self._apply(ready.committed)
            self.reads.update({read.read: read.index for read in ready.reads})
            for wanted in ready.wanted:
                data, done = self.slice(wanted)
                self.raft.chunk(wanted, data, done, now)

    def written(self, now: float):
        """The write under way is on the disk; yields what waited for it."""
        if self.writing is None:
            return
        (ready, raw), self.writing = self.writing, None
        state = [line.encode() for line in raw.decode().splitlines()] if ready.snapshot else None
        self.disk.write(ready, state)
        if ready.snapshot:
            self.state, self.applied = list(state), ready.snapshot.index
        yield from ready.after
        self.raft.persisted(ready, now)

    def _apply(self, entries) -> None:
        for entry in entries:
            assert entry.index == self.applied + 1
            self.applied = entry.index
            self.on_apply(entry)
            if entry.kind == COMMAND:
                self.state.append(entry.data)
        if entries:
            self.raft.applied(entries[-1].index)

    def on_apply(self, entry) -> None:
        """For checks."""

    def slice(self, wanted):
        disk = self.disk
        if disk.snapshot != wanted.meta:
            return None, False
        raw = b"".join(line + b"\n" for line in disk.snapshot_state)
        start = wanted.number * self.chunk_bytes
        end = start + self.chunk_bytes
        return raw[start:end], end >= len(raw)

    def compact(self, keep: int = 0) -> None:
        """Make a snapshot of all that is applied and drop the log up to ``keep`` before it."""
        if self.applied <= self.disk.base or self.writing is not None:
            return
        term = next(e.term for e in self.disk.entries if e.index == self.applied)
        config = self.raft.config_at(self.applied).encoded()
        meta = SnapshotMeta(self.applied, term, config)
        self.disk.snapshot, self.disk.snapshot_state = meta, list(self.state)
        self.disk.entries = [e for e in self.disk.entries if e.index > self.applied]
        self.raft.compacted(meta, self.applied - keep)


class Group:
    """Replicas that hear each other at once unless cut off."""

    def __init__(self, members=3, settings=QUICK, seed=1, learners=0):
        self.now = 0.0
        self.settings = settings
        self.rng = Random(seed)
        self.cut: set[tuple[int, int]] = set()
        self.dropped = lambda source, to, message: False
        self.log = []
        ids = list(range(1, members + 1))
        config = make_config(ids[: members - learners], ids[members - learners :])
        self.replicas = {}
        for me in ids:
            self.add(me, Disk.founded(config))
        self.config = config

    def add(self, me: int, disk: Disk | None = None) -> Replica:
        replica = Replica(me, disk or Disk(), self.settings, Random(self.rng.random()), self.now)
        self.replicas[me] = replica
        return replica

    def __getitem__(self, me: int) -> Replica:
        return self.replicas[me]

    def raft(self, me: int) -> Raft:
        return self.replicas[me].raft

    def status(self, me: int):
        return self.raft(me).status(self.now)

    # --- the network ---------------------------------------------------------------------

    def isolate(self, *members: int) -> None:
        """Cut these off from all others; not from each other."""
        for one in members:
            for other in self.replicas:
                if other not in members:
                    self.cut |= {(one, other), (other, one)}

    def heal(self) -> None:
        self.cut.clear()

    def pump(self, rounds: int = 200) -> None:
        """Pass messages on until nobody says anything."""
        for _ in range(rounds):
            moved = False
            for me in sorted(self.replicas):
                if self.replicas[me].up:
                    for to, message in list(self.replicas[me].do_duties(self.now)):
                        moved = self.deliver(me, to, message) or moved
            if not moved:
                return

    def finish_write(self, me: int) -> None:
        """Let the write that is under way end, and what waited for it leave."""
        for to, message in list(self.replicas[me].written(self.now)):
            self.deliver(me, to, message)
        self.pump()

    def deliver(self, source: int, to: int, message) -> bool:
        lost = (source, to) in self.cut or self.dropped(source, to, message)
        if lost or to not in self.replicas or not self.replicas[to].up:
            self.log.append((source, to, message, False))
            return False
        self.log.append((source, to, message, True))
        message = decode_message(encode_message(message))
        self.replicas[to].raft.step(source, message, self.now)
        return True

    def run(self, seconds: float, step: float = 0.02) -> None:
        """Let time pass."""
        until = self.now + seconds
        while self.now < until - 1e-9:
            self.now += step
            for me in sorted(self.replicas):
                replica = self.replicas[me]
                if replica.up and replica.raft.deadline() <= self.now:
                    replica.raft.tick(self.now)
            self.pump()

    # --- what tests want -----------------------------------------------------------------

    def leaders(self) -> list[int]:
        return [
            me
            for me, each in self.replicas.items()
            if each.up and self.status(me).role is Role.LEADER
        ]

    def elect(self, me: int) -> None:
        """Make a member the leader, as a transfer would."""
        self.pump()
        for _ in range(500):
            if self.leaders() == [me]:
                return
            if self.leaders() and self.leaders() != [me]:
                self.raft(self.leaders()[0]).transfer(me, self.now)
                self.pump()
            self.run(0.1)
        raise AssertionError(f"{me} did not become leader")

    def propose(self, me: int, *data: bytes):
        admission = self.raft(me).propose(list(data), self.now)
        self.pump()
        return admission

    def crash(self, me: int) -> None:
        self.replicas[me].crash()

    def restart(self, me: int) -> None:
        self.replicas[me].hold_disk = False
        self.replicas[me].start(self.now)
        self.pump()

    def read(self, me: int) -> int | None:
        """The index a read at ``me`` may use, None when it gets no answer now."""
        number = self.raft(me).read_index(self.now)
        self.pump()
        return self.replicas[me].reads.get(number)
