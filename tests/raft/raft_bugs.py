"""Bugs to plant in the Raft core, each a few lines wrong, and how they are looked for.

A bug is a generator function that plants it in what it is given, a ``swap``. ``hunt`` runs
fuzz seeds until a promise is broken. A bug that is too rare for seeds of all kinds of
weather names the kind it needs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

sys.path.insert(0, os.fspath(Path(__file__).parent))

from fuzz import Violation, Weather, World

from meshsvc.raft.core import Core
from meshsvc.raft.election import Election
from meshsvc.raft.following import Following
from meshsvc.raft.leading import Leading
from meshsvc.raft.log import RaftLog
from meshsvc.raft.membership import Configs
from meshsvc.raft.messages import Heartbeat
from meshsvc.raft.quorum import NOBODY, reached
from meshsvc.raft.reads import Reads
from meshsvc.raft.transfer import Transfer

BUGS = {}
MOST_SEEDS = 400

HANDING = Weather(
    loss=0, double=0, slow_s=0.5, disk_s=0.02, crash=0, cut=0.05, change=0, transfer=0.3,
    compact=0,
)  # fmt: skip
PAUSING = Weather(
    loss=0, double=0, slow_s=0, disk_s=0.02, crash=0, cut=0.02, change=0, transfer=0, compact=0,
    pause=0.04,
)  # fmt: skip
FIGURE_8 = Weather(
    loss=0, double=0, slow_s=0, disk_s=0.02, crash=0.03, cut=0, change=0, transfer=0, compact=0,
    fresh_loss=0.9, voters=(5,), faults_s=25,
)  # fmt: skip
CHANGING = Weather(
    loss=0.1, double=0, slow_s=0.2, disk_s=0.1, crash=0.02, cut=0.04, change=0.15, transfer=0.02,
    compact=0,
)  # fmt: skip


def bug(weather: Weather | None = None):
    def add(function):
        BUGS[function.__name__] = (contextmanager(function), weather)
        return function

    return add


@contextmanager
def swap(owner, name, value) -> Iterator:
    right = vars(owner)[name]
    setattr(owner, name, value)
    try:
        yield right
    finally:
        setattr(owner, name, right)


def hunt(name: str, first: int = 0, most: int = MOST_SEEDS) -> tuple[int, str]:
    """How many seeds from ``first`` on it took, and what was broken; (0, "") for none."""
    plant, weather = BUGS[name]
    with plant():
        for number in range(most):
            world = World(first + number, weather)
            try:
                world.run()
            except (Violation, AssertionError) as error:
                return number + 1, str(error)
    return 0, ""


@bug(FIGURE_8)
def entries_of_older_terms_are_committed_by_counting():
    """Figure 8 of the paper."""

    def count(self):
        core, log = self._core, self._core.log
        before = self.committed_in_term
        index = int(min(reached(core.configs.current, self._have), log.last_index))
        if log.commit_to(index):
            if self.committed_in_term and not before and self.reads.committed_in_term():
                self.beat()
            self._config_committed()

    with swap(Leading, "_count", count):
        yield


@bug()
def the_leader_counts_itself_before_its_write():
    def have(self, member):
        core = self._core
        if member == core.me:
            return core.log.last_index
        return self.progress[member].match if member in self.progress else 0

    with swap(Leading, "_have", have):
        yield


@bug()
def acknowledgements_leave_before_the_write():
    with swap(Following, "_accepted", _accept_at_once):
        yield


def _accept_at_once(self, leader, index):
    from meshsvc.raft.messages import AppendReply

    self._core.tell(leader, AppendReply(self._core.term, False, index, 0, 0))


@bug(FIGURE_8)
def a_member_votes_twice_in_a_term():
    right = Election._grants

    def grants(self, source, request):
        core = self._core
        vote, core.vote = core.vote, NOBODY
        granted = right(self, source, request)
        core.vote = vote
        return granted

    with swap(Election, "_grants", grants):
        yield


@bug(FIGURE_8)
def the_longer_log_wins_whatever_its_term():
    with swap(RaftLog, "up_to_date", lambda self, index, term: index >= self.last_index):
        yield


@bug()
def the_entry_before_an_append_is_not_compared():
    right = RaftLog.matches

    def matches(self, index, term):
        found = self.term_at(index)
        return right(self, index, term) or (found is not None and index == self.last_index)

    with swap(RaftLog, "matches", matches):
        yield


@bug()
def an_old_append_shortens_the_log():
    right = RaftLog.accept

    def accept(self, entries):
        if entries and entries[-1].index > self.commit:
            self._truncate(max(self.commit, min(entries[-1].index, self.last_index)))
        return right(self, entries)

    with swap(RaftLog, "accept", accept):
        yield


@bug()
def heartbeats_carry_the_whole_commit_index():
    right = Core.tell

    def tell(self, to, message):
        if isinstance(message, Heartbeat):
            message = Heartbeat(message.term, self.log.commit, message.round)
        right(self, to, message)

    with swap(Core, "tell", tell):
        yield


@bug(PAUSING)
def reads_ask_nobody():
    right = Reads.ask

    def ask(self, asker, read, committed_in_term):
        self.lease_until = float("inf")
        return right(self, asker, read, committed_in_term)

    with swap(Reads, "ask", ask):
        yield


@bug()
def reads_do_not_wait_for_an_entry_of_the_term():
    right = Reads.ask
    with swap(Reads, "ask", lambda self, asker, read, _: right(self, asker, read, True)):
        yield


@bug(HANDING)
def the_lease_goes_on_while_leadership_is_handed_over():
    right = Transfer.hand_to

    def hand_to(self, member):
        right(self, member)
        self._reads.lease_off = False

    with swap(Transfer, "hand_to", hand_to):
        yield


@bug(CHANGING)
def a_replaced_configuration_stays_in_force():
    with swap(Configs, "truncate", lambda self, last: None):
        yield


@bug(CHANGING)
def a_joint_configuration_asks_only_the_new_voters():
    from meshsvc.raft import leading

    with swap(leading, "reached", lambda config, value_of: reached(config.left(), value_of)):
        yield


@bug(CHANGING)
def changes_do_not_wait_for_one_another():
    def change(self, voters, learners):
        from meshsvc.raft.membership import plan

        core = self._core
        self._configure(plan(core.configs.current, voters, learners))

    with swap(Leading, "change", change):
        yield


@bug()
def what_was_replaced_counts_as_written():
    def truncate(self, last):
        del self.entries[last - self.base_index :]
        self.handed = min(self.handed, last)

    with swap(RaftLog, "_truncate", truncate):
        yield


def main() -> int:
    """Hunt each bug from TRIALS first seeds and print the median number of seeds it took.

    0 stands for a trial in which ``MOST_SEEDS`` did not find it.
    """
    trials = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    missed = 0
    for name in BUGS:
        took = [hunt(name, 10_000 * trial)[0] for trial in range(trials)]
        missed += not any(took)
        middle = median(each or MOST_SEEDS for each in took)
        sys.stdout.write(f"{middle:6g} {sorted(took)} {name}\n")
        sys.stdout.flush()
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
