"""How nodes without data become one group: ``expect = N`` of them agree before the first term.

Whoever comes first in the order of node ids, among the N first that are seen, proposes a
*plan*: these N members, under a ballot of its own. Who is asked promises, on disk, to found by
this plan and by no other; when all N have promised, the plan is settled: each is told, notes
*settled*, and starts once more than half of the N have noted it.

Why no two groups come of it, whatever is lost, late, restarted or started anew:

* a plan needs the promise of all its members, and a member is bound to one plan at a time;
* a member that waits in vain *refuses* its plan, on disk and for good, but stays bound to it
  until it knows that nothing can come of it: because the proposer gave it up (it says so, or
  has another one), or because half of its members refuse it, so that more than half can never
  start;
* who refuses never starts by that plan; it joins the group, if there is one after all.

What is left is a network that hides nodes from each other from the start: two halves of N
nodes each know nothing of the other. They found two groups, which ``conflict`` reports when
they meet. Everybody who joins a cluster by a common contact is safe from that.

Pure: facts come in with ``now`` in seconds, effects go out in order; what follows a
``Persist`` may happen only when it is durable.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from meshsvc.raft.founding_terms import (
    COMMIT,
    FRESH,
    JOINED,
    LOOK,
    PREPARE,
    PROMISED,
    REFUSED,
    SETTLED,
    Announcement,
    Answer,
    Ask,
    Ballot,
    Conflict,
    Effect,
    Founder,
    Persist,
    Plan,
    Record,
    Start,
)

if TYPE_CHECKING:
    from random import Random

SETTLE_S = 0.3
"""How long what is seen must not have changed before a plan is proposed: nodes that start
together see each other within that on one network. One that comes later joins what there is."""

PATIENCE_S = 6.0
"""How long a promise is kept without news: three asks that time out, as a proposer makes them."""

ASK_AGAIN_S = 1.0
"""Between two asks of the same; up to half as much again by chance, so that nodes that were
started together do not ask in step for ever."""


class Founding:
    """The side of one node; ``done`` once it is a member of a group.

    Args:
        me: this node and the member that its disk votes as.
        expect: how many found the group.
        record: what the disk says.
        rng: for cluster ids and the spacing of asks.
    """

    def __init__(self, me: Founder, expect: int, record: Record, rng: Random, now: float) -> None:
        self.me, self.expect, self.record = me, expect, record
        self.conflict: tuple[int, ...] = ()
        self._rng = rng
        self._seen: dict[str, Announcement] = {}
        self._heard: dict[str, Answer] = {}
        self._changed_at = self._since = self._ask_at = now
        self._effects: list[Effect] = []
        if self.done:
            config = None if record.plan is None else record.plan.config
            self._effects.append(Start(record.cluster, config))

    @property
    def done(self) -> bool:
        """Whether this node is a member."""
        return self.record.stage == JOINED

    @property
    def waits_for(self) -> str:
        """Why it is not, for people; empty when it is."""
        if self.conflict:
            clusters = " and ".join(f"{each:x}" for each in self.conflict)
            return f"there are two stores, {clusters}: empty the disks of one of them"
        if self.done:
            return ""
        plan = self.record.plan
        if plan is not None:
            others = [founder.node for founder in plan.founders if founder != self.me]
            missing = ", ".join(node[:8] for node in others if node not in self._heard)
            return "the store is being founded" + (
                f"; no answer yet from {missing}" * bool(missing)
            )
        odd = [each.expect for each in self._seen.values() if each.expect != self.expect]
        text = f"{len(self._candidates())} of {self.expect} nodes to found the store are there"
        return f"{text}; some say expect = {odd[0]}" if odd else text

    def announcement(self) -> Announcement:
        """What this node tells all others of itself."""
        return Announcement(self.me.member, self.record.stage, self.record.cluster, self.expect)

    # --- facts ---------------------------------------------------------------------------

    def seen(self, others: Mapping[str, Announcement], now: float) -> None:
        """What the nodes that are alive announce, by node id, this one left out."""
        if dict(others) != self._seen:
            self._seen, self._changed_at = dict(others), now
            self._note_conflict()
        self.tick(now)

    def asked(self, kind: int, plan: Plan, now: float) -> Answer:
        """Another node asks; the answer may leave once all effects so far are done."""
        bound = self._bound_to(plan.ballot)
        objection = ""
        if kind == PREPARE and not bound:
            objection = self._prepared(plan, now)
        elif kind == COMMIT and bound and self.record.stage == PROMISED:
            self._note(replace(self.record, stage=SETTLED), now)
        elif kind == LOOK:
            self._looked_at(plan.ballot, now)
        return self._answer(plan.ballot, objection)

    def answered(self, node: str, ballot: Ballot, answer: Answer, now: float) -> None:
        """A node answered about a ballot."""
        plan = self.record.plan
        if plan is None or plan.ballot != ballot or self.done:
            return
        self._heard[node] = answer
        if self.record.stage == PROMISED and self._proposed(plan):
            self._proposer_heard(plan, answer.refused, now)
        self._conclude(now)

    def tick(self, now: float) -> None:
        """Do what is due."""
        if self.done:
            return
        plan, cluster = self.record.plan, self._only_cluster()
        if cluster and self.record.stage != SETTLED:
            self._note(Record(JOINED, None, self.record.top, cluster), now)
            self._effects.append(Start(cluster, None))
        elif plan is None:
            self._consider(now)
        elif now >= self._ask_at:
            self._again(plan, now)

    def deadline(self) -> float | None:
        """When ``tick`` is next wanted; None when only facts can change anything."""
        if self.done:
            return None
        if self.record.plan is not None:
            return self._ask_at
        return self._changed_at + SETTLE_S if self._founders()[:1] == (self.me,) else None

    def take_events(self) -> list[Effect]:
        """What is to be done, in this order."""
        effects, self._effects = self._effects, []
        return effects

    # --- as the proposer -----------------------------------------------------------------

    def _candidates(self) -> list[Founder]:
        """Everybody who could found, this node included, in the order of node ids."""
        others = [
            Founder(node, each.member)
            for node, each in self._seen.items()
            if each.stage < SETTLED and each.expect == self.expect
        ]
        return sorted([*others, self.me])

    def _founders(self) -> tuple[Founder, ...]:
        """Those who should found; empty while they are not enough, or others did."""
        found = self._candidates()
        settled = any(each.stage >= SETTLED for each in self._seen.values())
        return () if settled or len(found) < self.expect else tuple(found[: self.expect])

    def _consider(self, now: float) -> None:
        founders = self._founders()
        if founders[:1] != (self.me,) or now < self._changed_at + SETTLE_S:
            return
        ballot = Ballot(self.record.top.number + 1, self.me.node)
        plan = Plan(ballot, self._rng.getrandbits(63) | 1, founders)
        self._bind(plan, now)
        self._again(plan, now)
        self._proposer_heard(plan, False, now)
        self._conclude(now)

    def _proposed(self, plan: Plan) -> bool:
        return plan.ballot.node == self.me.node

    def _proposer_heard(self, plan: Plan, refused: bool, now: float) -> None:
        if refused:
            self._release(now)  # nothing was settled: giving it up is safe
        elif all(self._promised(founder) for founder in plan.founders):
            self._note(replace(self.record, stage=SETTLED), now)
            self._again(plan, now)

    def _promised(self, founder: Founder) -> bool:
        answer = self._heard.get(founder.node)
        return founder == self.me or (answer is not None and answer.stage >= PROMISED)

    # --- as a member of a plan -----------------------------------------------------------

    def _bound_to(self, ballot: Ballot) -> bool:
        return self.record.plan is not None and self.record.plan.ballot == ballot

    def _prepared(self, plan: Plan, now: float) -> str:
        """Promise, or say why never."""
        top, mine = self.record.top, self.record.plan
        if plan.ballot <= top:
            return f"ballot {plan.ballot.number} is not above {top.number}"
        if mine is not None and mine.ballot.node == plan.ballot.node and not self.done:
            self._release(now)  # a proposer has one plan at a time: nothing came of the last one
        objection = self._objection(plan)
        if objection:
            self._raise_top(plan.ballot)
        else:
            self._bind(plan, now)
        return objection

    def _objection(self, plan: Plan) -> str:
        if self.record.plan is not None or self.done:
            return "this node is bound already"
        if len(plan.founders) != self.expect:
            return f"[store] expect is {self.expect} here, and {len(plan.founders)} there"
        if self.me not in plan.founders:
            return f"member {self.me.member:x} of this node is not in the plan"
        if any(each.stage >= SETTLED for each in self._seen.values()):
            return "a store is founded already"
        last = plan.founders[-1]
        unseen = [each for each in self._candidates() if each < last and each not in plan.founders]
        return f"node {unseen[0].node[:8]} comes before {last.node[:8]}" if unseen else ""

    def _bind(self, plan: Plan, now: float) -> None:
        self._heard = {}
        self._note(Record(PROMISED, plan, max(plan.ballot, self.record.top), 0), now)

    def _looked_at(self, ballot: Ballot, now: float) -> None:
        """Somebody wonders whether anything can still come of a ballot."""
        if not self._bound_to(ballot):
            self._raise_top(ballot)
        elif self.record.stage == PROMISED and now >= self._since + PATIENCE_S:
            self._give_up(now)

    def _give_up(self, now: float) -> None:
        plan = self.record.plan
        if plan is not None and self._proposed(plan):
            self._release(now)  # it settled nothing, and now never will
        else:
            self._note(replace(self.record, stage=REFUSED), now)

    def _again(self, plan: Plan, now: float) -> None:
        """Ask whoever has not said enough."""
        if self.record.stage == PROMISED and now >= self._since + PATIENCE_S:
            self._give_up(now)
        self._ask_at = now + ASK_AGAIN_S * (1 + self._rng.random() / 2)
        kind = self._question(plan)
        if kind is None:
            return
        for founder in plan.founders:
            if founder != self.me:
                self._effects.append(Ask(founder.node, kind, plan))

    def _question(self, plan: Plan) -> int | None:
        # Whoever has promised, and did not propose, waits for the proposer.
        promised = PREPARE if self._proposed(plan) else None
        return {PROMISED: promised, REFUSED: LOOK, SETTLED: COMMIT}.get(self.record.stage)

    def _conclude(self, now: float) -> None:
        """See whether enough is known to start, or to be free again."""
        plan, stage = self.record.plan, self.record.stage
        if plan is None or self.done:
            return
        half = len(plan.founders) / 2
        settled = sum(each.stage >= SETTLED for each in self._heard.values())
        refused = sum(each.refused for each in self._heard.values()) + (stage == REFUSED)
        if stage == SETTLED and settled + 1 > half:
            self._note(Record(JOINED, plan, self.record.top, plan.cluster), now)
            self._effects.append(Start(plan.cluster, plan.config))
        elif refused and (refused >= half or (stage == REFUSED and self._given_up(plan))):
            self._release(now)

    def _given_up(self, plan: Plan) -> bool:
        answer = self._heard.get(plan.ballot.node)
        return answer is not None and answer.refused

    # --- records -------------------------------------------------------------------------

    def _release(self, now: float) -> None:
        """Nothing can come of the plan: this node is free for another."""
        self._heard = {}
        self._note(Record(FRESH, None, self.record.top, 0), now)
        # Those who refused have reasons, which take the longer to pass the more often they did.
        self._changed_at = now + SETTLE_S * self._rng.random() * min(self.record.top.number, 8)

    def _raise_top(self, ballot: Ballot) -> None:
        if ballot > self.record.top:
            self.record = replace(self.record, top=ballot)
            self._effects.append(Persist(self.record))

    def _note(self, record: Record, now: float) -> None:
        self.record, self._since, self._ask_at = record, now, now
        self._effects.append(Persist(record))

    def _answer(self, ballot: Ballot, objection: str) -> Answer:
        record = self.record
        if self._bound_to(ballot):
            return Answer(record.stage, record.stage == REFUSED, objection)
        return Answer(FRESH, ballot <= record.top, objection)

    # --- groups that are there -----------------------------------------------------------

    def _clusters(self) -> set[int]:
        return {each.cluster for each in self._seen.values() if each.stage == JOINED}

    def _only_cluster(self) -> int:
        """The one group that others are members of; 0 when there is none, or not one."""
        clusters = self._clusters()
        return clusters.pop() if len(clusters) == 1 else 0

    def _note_conflict(self) -> None:
        clusters = self._clusters() | ({self.record.cluster} if self.done else set())
        found = tuple(sorted(clusters)) if len(clusters) > 1 else ()
        if found and found != self.conflict:
            self._effects.append(Conflict(found))
        self.conflict = found
