"""When the leader of an epoch may decide, so that two of them never decide about one key.

Each table has one leader an epoch, computed from the roster. ``insert_new`` is True only when
a majority of the roster holds the row. Here is why no later leader says True for that key:

1. A member takes what a leader decided only under the epoch that it holds itself, and it
   never goes back to a lower one. A leader that takes office first has the members of its
   roster *seal* its epoch: from then on they take nothing of an earlier leader.
2. A seal is answered with every roster that may have had an active leader since one is known
   to have had: the member's ``configs``. The new leader adds them to its own, and needs of
   *each* of them a majority that answered, and that remembers everything since that roster's
   epoch (or an answer of all of it). Then it takes in the rows of all who answered.
3. So, if a leader of roster C got its majority for a row, that majority and the one that
   sealed C meet in a member, which took the row before it sealed (1), kept it in memory since
   (2), and gave it to the new leader, which finds the key and says False.
4. A leader that is active under a later roster C' had a majority of C seal C', so whoever asks
   a majority of C later is told of C', and needs a majority of that one too. By induction
   no active roster is overlooked, even when two of them have no member in common.
5. Only what a leader knows to have been active makes it forget the rosters before: its own.

What is lost with memory: tables live in memory only. A member that restarted answers, but does
not count as one that remembers, so one restart changes nothing; when a majority of a roster
restarts between two leaders, nobody may be left who knows of a row, and then a key can be new
again. When so many members are cut off or dead for good that a roster has no majority left,
leader operations are refused until they are back, leave or are removed.

Two rows of one key with one winner each, under two leaders, cannot both be *answered*; a row of
a lost leader may still arrive late. Its caller was told ``Indeterminate``, and the versions
decide which of the rows stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from meshsvc.errors import WireError
from meshsvc.model import NO_EPOCH, Epoch, NodeId, Roster, ShardAddress, ShardId
from meshsvc.shards.placement import Rendezvous

MAX_CONFIGS = 64
"""Rosters sealed without one leader coming into office; the next is refused."""

_PLACEMENT = Rendezvous()


class Config(NamedTuple):
    """A roster that may have, or have had, an active leader."""

    epoch: Epoch
    members: tuple[NodeId, ...]

    def wire(self) -> list[Any]:
        """As it travels."""
        return [self.epoch.term, self.epoch.attempt, list(self.members)]

    @classmethod
    def read(cls, fields: Any) -> Config:
        """Read what ``wire`` made.

        Raises:
            WireError: when it is something else.
        """
        try:
            term, attempt, members = fields
            return cls(Epoch(int(term), int(attempt)), tuple(NodeId(str(m)) for m in members))
        except (ValueError, TypeError) as error:
            raise WireError(f"{fields!r:.80} is no roster of a leader: {error}") from error


class Answer(NamedTuple):
    """What a member says to a seal: since when it remembers, and the rosters it knows of."""

    born: Epoch
    anew: bool
    configs: tuple[Config, ...]

    def remembers(self, config: Config) -> bool:
        """Whether it held in memory all that it took under a roster."""
        return config.epoch > self.born or (config.epoch == self.born and not self.anew)

    def wire(self) -> list[Any]:
        """As it travels."""
        born = [self.born.term, self.born.attempt, self.anew]
        return [*born, [config.wire() for config in self.configs]]

    @classmethod
    def read(cls, fields: Any) -> Answer:
        """Read what ``wire`` made.

        Raises:
            WireError: when it is something else.
        """
        try:
            term, attempt, anew, configs = fields
            born = Epoch(int(term), int(attempt))
            return cls(born, bool(anew), tuple(map(Config.read, configs)))
        except (ValueError, TypeError) as error:
            raise WireError(f"the answer to a seal is malformed: {error}") from error


@dataclass(slots=True)
class Seal:
    """What one member remembers of the leaders of one table.

    Attributes:
        born: the first epoch it held; ``anew`` when an earlier life may have held that one too.
    """

    born: Epoch
    anew: bool
    epoch: Epoch = NO_EPOCH
    configs: list[Config] = field(default_factory=list)

    def seal(self, config: Config) -> bool:
        """Promise to take nothing of a leader before this one; False when it cannot."""
        if config.epoch < self.epoch:
            return False
        if config not in self.configs:
            if len(self.configs) >= MAX_CONFIGS:
                return False
            self.configs.append(config)
        self.epoch = config.epoch
        return True

    def activated(self, config: Config) -> None:
        """The leader of this roster is in office: earlier ones never will be again."""
        self.configs = [c for c in self.configs if c.epoch > config.epoch] + [config]

    @property
    def answer(self) -> Answer:
        """What it says to a seal."""
        return Answer(self.born, self.anew, tuple(self.configs))


def majority(members: int) -> int:
    """How many of so many are more than half."""
    return members // 2 + 1


def lacking(
    config: Config, answers: Mapping[NodeId, Answer], departed: Callable[[NodeId], bool]
) -> list[NodeId]:
    """The members of a roster without whom its leader may still be in office; none when it is not.

    Those that left or were removed on purpose hold nothing, and are not waited for.
    """
    silent = [node for node in config.members if node not in answers and not departed(node)]
    remember = sum(node in answers and answers[node].remembers(config) for node in config.members)
    if not silent or remember >= majority(len(config.members)):
        return []
    return silent


def gather(configs: Iterable[Config], answers: Iterable[Answer]) -> list[Config]:
    """Every roster that anybody knows of, the earliest first."""
    known = {*configs, *(config for answer in answers for config in answer.configs)}
    return sorted(known)


def leader_of(name: str, roster: Roster) -> ShardAddress:
    """The seat that leads a table in an epoch, the same for all who hold the roster."""
    candidates: Sequence[Any] = tuple((node.node_id, node.shards) for node in roster.members)
    owner = _PLACEMENT.owner(name, candidates)
    assert owner is not None, "a roster has members, and these have shards"
    node = roster.get(owner.node)
    assert node is not None
    return ShardAddress(node.node_id, ShardId(node.shards - 1))
