"""Which configuration is in force, and how to get from one to another.

A configuration is in force from the moment its entry is in the log, committed or not, and no
longer when that entry is replaced (Raft paper, section 6). What makes changes safe, each
rule checked by a test:

1. One change at a time: the entry of the last one is committed before the next is appended.
2. The leader has committed an entry of its own term before; without that, two leaders could
   each change one member, starting from different logs, and have disjoint majorities.
3. More than one voter's difference goes through a joint configuration, in which everything
   takes a majority of the old and of the new voters. The leader leaves it by itself.
4. A learner becomes a voter only when it has nearly caught up.
"""

from __future__ import annotations

from meshsvc.errors import LocalError
from meshsvc.raft.quorum import Config, Member, make_config


class ChangeRefused(LocalError):
    """A change of members cannot be begun now; the text says why and what to do."""


class Configs:
    """The configurations of a log: the committed base, and those in entries after it."""

    def __init__(self) -> None:
        self._rows: list[tuple[int, Config]] = [(0, Config())]

    @property
    def current(self) -> Config:
        """The one in force."""
        return self._rows[-1][1]

    @property
    def index(self) -> int:
        """The index of the entry that brought it, 0 for none."""
        return self._rows[-1][0]

    def add(self, index: int, config: Config) -> None:
        """An entry with a configuration is in the log now."""
        self._rows.append((index, config))

    def truncate(self, last: int) -> None:
        """Entries after ``last`` are gone; at least the base stays, as it is committed."""
        while len(self._rows) > 1 and self._rows[-1][0] > last:
            self._rows.pop()

    def restore(self, index: int, config: Config) -> None:
        """Begin anew from a snapshot."""
        self._rows = [(index, config)]

    def at(self, index: int) -> Config:
        """The configuration as of an entry: what a snapshot there must carry."""
        return next((config for row, config in reversed(self._rows) if row <= index), Config())

    def may_campaign(self, member: Member, commit: int) -> bool:
        """Whether a member may have to lead: it votes now, or did as of what is committed.

        The latter because one that a configuration leaves out may be the only one whose log
        is good enough to be elected, and to commit that configuration (thesis, 4.2.2).
        """
        return self.current.votes(member) or self.at(commit).votes(member)

    def compact(self, index: int) -> None:
        """Entries up to ``index`` are in a snapshot: the last configuration in them is base."""
        while len(self._rows) > 1 and self._rows[1][0] <= index:
            self._rows.pop(0)


def plan(old: Config, voters: set[Member], learners: set[Member]) -> Config:
    """The next configuration on the way from ``old`` to these members.

    Raises:
        ChangeRefused: when there is nothing to change, nobody could vote, or a change is
            under way.
    """
    if old.joint:
        raise ChangeRefused("a change of members is under way: try again when it is done")
    if not voters:
        raise ChangeRefused("a group needs a voter: removing the last one would lose it")
    if voters & learners:
        raise ChangeRefused("a member is to be both voter and learner: choose one")
    new = make_config(voters, learners)
    if new == old:
        raise ChangeRefused("the group has these members already")
    if len(voters.symmetric_difference(old.voters)) <= 1:
        return new
    return Config(new.voters, old.voters, new.learners)
