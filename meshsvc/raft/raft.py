"""The Raft core of one member of one group: messages and time in, ``Ready`` out, no I/O.

The order of duties
-------------------
A driver feeds facts in (``step``, ``tick``, ``propose``, ...), then takes ``ready()`` until it
is None and does, for each one, in this order:

1. **Persist** ``snapshot``, ``hard_state`` and ``entries``, in this order. What the log has
   from the first entry's index on is replaced, and all of it by a snapshot. If
   ``ready.durable``, say ``persisted(ready)`` when it is on the disk and not before; until
   then no other ``Ready`` asks for anything durable, so there is one write under way and the
   next takes all that came meanwhile.
2. **Send** ``messages`` at once, even before 1 is done, and ``after`` when 1 is done (at once
   if nothing is durable). Votes and acknowledgements are in ``after``: one that left before
   its record is durable could be forgotten, and given twice. A leader's appends are in
   ``messages``: its followers may write while it does, since it counts itself only when
   ``persisted`` says so.
3. **Apply** ``committed`` to the state machine, in order.
4. **Advance**: say ``applied(index)``. The next batch comes after that.

``reads`` may be served when their index is applied; ``wanted`` chunks are fetched and handed to
``chunk``; received ``chunks`` are written, and ``kept`` said of each. A ``snapshot`` of them is
made durable and given to the state machine before ``persisted`` is said. ``deadline()`` says
when ``tick`` is next needed.

The driver may drop any message. It must give ``step`` only what came from the member that it
names, and it must stop the replica when ``Unsafe`` is raised. Nothing here may be called from
within itself.

Sources: Ongaro and Ousterhout, "In Search of an Understandable Consensus Algorithm" (paper);
Ongaro, "Consensus: Bridging Theory and Practice" (thesis).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from meshsvc.raft.core import Core
from meshsvc.raft.duties import Duties
from meshsvc.raft.membership import ChangeRefused
from meshsvc.raft.messages import Message, Propose, ReadRequest, TransferRequest
from meshsvc.raft.quorum import NOBODY, Config, Member
from meshsvc.raft.ready import ChunkReceived, ChunkWanted, Ready
from meshsvc.raft.roles import Admission, Roles
from meshsvc.raft.settings import Settings
from meshsvc.raft.status import Status, status_of
from meshsvc.storage.records import Entry, HardState, SnapshotMeta

if TYPE_CHECKING:
    from random import Random

__all__ = ["Admission", "Raft"]


class Raft:
    """One member of one group.

    Args:
        me: this member's id.
        stored: what its disk holds: hard state, snapshot or None, entries after it.
        settings: times and limits, the same at all members.
        rng: for the times at which elections begin and the numbers of reads.
        now: seconds on a clock that never goes back.
    """

    def __init__(
        self,
        me: Member,
        stored: tuple[HardState, SnapshotMeta | None, Sequence[Entry]],
        settings: Settings,
        rng: Random,
        now: float,
    ) -> None:
        core = self._core = Core(me, settings, rng)
        core.now = now
        core.load(*stored)
        self._roles = Roles(core)
        self._duties = Duties(core)
        # Numbers that no earlier life of this member has used: an answer to one of its
        # reads must not be taken for an answer to one of ours.
        self._last_read = rng.getrandbits(62)

    # --- facts in ------------------------------------------------------------------------

    def step(self, source: Member, message: Message, now: float) -> None:
        """A message from another member.

        Raises:
            WireError: when the message makes no sense; nothing was changed then.
            Unsafe: when this replica must not go on.
        """
        self._core.now = now
        self._roles.step(source, message)

    def tick(self, now: float) -> None:
        """Do what is due."""
        self._core.now = now
        self._roles.tick()

    def deadline(self) -> float:
        """When ``tick`` is next wanted."""
        return self._roles.deadline()

    def propose(self, proposals: Sequence[bytes], now: float) -> Admission:
        """Have commands ordered; what is not leading passes them on to its leader."""
        core = self._core
        core.now = now
        if self._roles.leading is not None:
            return self._roles.admit(tuple(proposals))
        if core.leader == NOBODY:
            return Admission.NO_LEADER
        for part in _parts(proposals, core.settings):
            core.tell(core.leader, Propose(core.term, part))
        return Admission.ACCEPTED

    def read_index(self, now: float) -> int | None:
        """Ask how far to apply before a read is linearizable.

        Returns:
            the number under which the answer comes in ``Ready.reads``, None without a
            leader. An answer may be lost: ask again then, under a new number.
        """
        core = self._core
        core.now = now
        if core.leader == NOBODY:
            return None
        self._last_read += 1
        if self._roles.leading is not None:
            self._roles.leading.read(core.me, self._last_read)
        else:
            core.tell(core.leader, ReadRequest(core.term, self._last_read))
        return self._last_read

    def change(self, voters: set[Member], learners: set[Member], now: float) -> None:
        """Change the members to these.

        Raises:
            ChangeRefused: when this is not the leader, or it cannot be begun now.
        """
        self._core.now = now
        if self._roles.leading is None:
            raise ChangeRefused("only the leader changes members: ask it")
        if self._roles.leading.transfer.running:
            raise ChangeRefused("leadership is being handed over: ask the next leader")
        self._roles.leading.change(voters, learners)

    def transfer(self, to: Member, now: float) -> bool:
        """Hand leadership to a voter; False when that cannot be."""
        core = self._core
        core.now = now
        if self._roles.leading is not None:
            return self._roles.hand_over(to)
        if core.leader == NOBODY:
            return False
        core.tell(core.leader, TransferRequest(core.term, to))
        return True

    def unreachable(self, member: Member) -> None:
        """The way to a member is cut: what is under way there is lost, and it may be dead."""
        if member == self._core.leader:
            self._core.campaign_in_turn()
        known = self._roles.leading and self._roles.leading.progress.get(member)
        if known:
            known.lost()

    def chunk(self, wanted: ChunkWanted, data: bytes | None, done: bool, now: float) -> None:
        """A chunk of our snapshot was fetched; None when that failed."""
        self._core.now = now
        known = self._roles.leading and self._roles.leading.progress.get(wanted.to)
        if self._roles.leading is None or not known:
            return
        if data is None:
            self._roles.leading.snapshots.failed(wanted, known)
        else:
            self._roles.leading.snapshots.fetched(wanted, known, data, done)

    def kept(self, chunk: ChunkReceived, written: bool, now: float) -> None:
        """A chunk from ``Ready.chunks`` was written; False when that failed."""
        self._core.now = now
        self._roles.following.kept(chunk, written)

    # --- duties out ----------------------------------------------------------------------

    def ready(self) -> Ready | None:
        """What is to be done now, None when there is nothing."""
        if self._roles.leading is not None:
            self._roles.leading.feed()
        return self._duties.ready()

    def persisted(self, ready: Ready, now: float) -> None:
        """What a ``Ready`` asked to be durable is durable; its ``after`` may leave."""
        self._core.now = now
        self._duties.persisted(ready)
        self._roles.saved()

    def applied(self, index: int) -> None:
        """The state machine has applied the entries that ``Ready.committed`` ended with."""
        self._duties.applied(index)

    def config_at(self, index: int) -> Config:
        """The members as of an entry: a snapshot that ends there must carry them."""
        return self._core.configs.at(index)

    def compacted(self, snapshot: SnapshotMeta, keep_after: int) -> None:
        """A snapshot of our own is durable: forget entries up to ``keep_after``.

        Args:
            snapshot: what is durable now.
            keep_after: at most its index; less keeps entries for members that lag a little.
        """
        core = self._core
        core.snapshot = snapshot
        core.log.compact(min(keep_after, snapshot.index))
        core.configs.compact(core.log.base_index)

    @property
    def leader(self) -> Member:
        """Who leads, as far as this member knows; 0 for nobody."""
        return self._core.leader

    @property
    def term(self) -> int:
        """The current term."""
        return self._core.term

    @property
    def in_charge(self) -> bool:
        """Whether this member leads and has applied all that earlier leaders committed."""
        leading = self._roles.leading
        return leading is not None and leading.applied_earlier

    @property
    def heir(self) -> Member:
        """Whom this leader should hand over to: the voter with most of the log; 0 for none."""
        leading = self._roles.leading
        return leading.best_heir(behind=True) or NOBODY if leading is not None else NOBODY

    @property
    def log_base(self) -> int:
        """The last entry that is no longer in memory."""
        return self._core.log.base_index

    def status(self, now: float) -> Status:
        """What an operator wants to know."""
        self._core.now = now
        return status_of(self._core, self._roles.leading)


def _parts(proposals: Sequence[bytes], settings: Settings) -> list[tuple[bytes, ...]]:
    """Proposals in messages of bounded size."""
    parts: list[tuple[bytes, ...]] = []
    part: list[bytes] = []
    size = 0
    for data in proposals:
        if part and (len(part) >= settings.forwards or size + len(data) > settings.append_bytes):
            parts.append(tuple(part))
            part, size = [], 0
        part.append(data)
        size += len(data)
    if part:
        parts.append(tuple(part))
    return parts
