"""Who is to be a voter: what the leader changes next, given who should be in the group.

One change at a time, none while another is under way, and a node becomes a learner before it
becomes a voter, so that quorums never wait for one that has nothing yet.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from meshsvc.raft.core import Role
from meshsvc.raft.quorum import Member
from meshsvc.raft.settings import Settings
from meshsvc.raft.status import Status


class Change(NamedTuple):
    """The members to change to, as for ``RaftGroup.change``."""

    voters: frozenset[Member]
    learners: frozenset[Member]


def next_change(
    status: Status, wanted: Collection[Member], max_voters: int, settings: Settings
) -> Change | None:
    """The next step from the members there are towards those that are wanted.

    Nobody is removed here: that takes more than not being wanted at the moment.

    Args:
        status: of this member; only a leader's leads to a change.
        wanted: who asks to belong to the group.
        max_voters: how many voters the group has at most; the rest stay learners.
        settings: for ``promote_lag``.
    """
    config = status.config
    if status.role is not Role.LEADER or config.joint:
        return None
    voters, learners = frozenset(config.voters), frozenset(config.learners)
    fresh = sorted(set(wanted) - voters - learners)
    if fresh:
        return Change(voters, learners | {fresh[0]})
    if len(voters) >= max_voters:
        return None
    able = sorted(learners & set(wanted) & _caught_up(status, settings))
    return Change(voters | {able[0]}, learners - {able[0]}) if able else None


def _caught_up(status: Status, settings: Settings) -> set[Member]:
    """Members that answered of late and lack little of the log."""
    return {
        peer.member
        for peer in status.peers
        if peer.silent_s < settings.election_s
        and status.commit - peer.match <= settings.promote_lag
    }
