"""Membership: everything one node knows and does about who is in the cluster.

Pure: facts come in with the time in seconds since 1970 (generations are compared with it),
effects come out of ``take_events``. The driver calls ``tick`` when ``deadline`` says so, and
reports how each ``Echo`` ended; being late with either is noticed and forgiven.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from meshsvc.counters import Counters
from meshsvc.gossip.announcer import Announcer
from meshsvc.gossip.dialing import DialPlan
from meshsvc.gossip.effects import Effect, Entered, NotEntered, Tell
from meshsvc.gossip.endpoints import Endpoints
from meshsvc.gossip.health import LAG_SLACK_S
from meshsvc.gossip.members import Member, Status
from meshsvc.gossip.own import OwnState
from meshsvc.gossip.rounds import ACK, ACK2, ASK_ALL, PUSH, SYN, Rounds, packed, split
from meshsvc.gossip.rumors import FANOUT, JOIN_FANOUT, Rumors
from meshsvc.gossip.settings import SHADOW_RETRY_S, Contacts, Phase, Settings
from meshsvc.gossip.states import BEAT, BadRow, EndpointState, parse_digest
from meshsvc.gossip.voice import Voice
from meshsvc.gossip.watch import ACCUSE, Watch
from meshsvc.model import Address, NodeId, NodeInfo

if TYPE_CHECKING:
    from random import Random

SHUTDOWN = "gossip.shutdown"
"""[node, generation]: that life of the sender stops."""


class Membership:
    """One node's membership; see the module's docstring."""

    def __init__(
        self,
        me: NodeInfo,
        rng: Random,
        counters: Counters,
        settings: Settings | None = None,
        contacts: Contacts | None = None,
        shard_incarnation: int = 1,
    ) -> None:
        """``shard_incarnation`` is that of shard 0: it makes versions rise over its lives."""
        self.me = me
        self.settings = settings or Settings()
        self.phase = Phase.IDLE
        self.linked: dict[NodeId, NodeInfo] = {}
        self._rng = rng
        self._counters = counters
        self._out: list[Effect] = []
        contacts = contacts or Contacts()
        self._plan = DialPlan(me, contacts.fixed, awaited=contacts.awaited)
        self._watch = Watch(me.node_id, self.settings, rng, self.linked)
        self._announcer = Announcer(self._out, counters, self._watch.rtt_ms)
        self.view = self._announcer.view
        self._endpoints = Endpoints(me.node_id)
        self._rounds = Rounds(self._endpoints)
        self._rumors = Rumors()
        own = OwnState(me, shard_incarnation)
        self._voice = Voice(own, self._endpoints, self._rumors, self._announcer)
        self._pushed: set[NodeId] = set()
        self._shadow_until = self._round_at = self._probe_at = 0.0
        self._pending_since = self._last_now = 0.0
        self._due: float | None = None

    # --- what is known -------------------------------------------------------------------

    def members(self) -> tuple[Member, ...]:
        """Every known node, this one and removed ones included, by name."""
        return self.view.all()

    def member(self, node: NodeId) -> Member | None:
        """The row of a node."""
        return self.view.get(node)

    def view_since(self, index: int) -> tuple[int, bool, list[list[object]]]:
        """As ``View.since``: what another shard needs to catch up."""
        return self.view.since(index)

    @property
    def pending(self) -> int:
        """Endpoints with a state that is merged but not applied yet."""
        return self._endpoints.pending

    @property
    def removed_nodes(self) -> frozenset[NodeId]:
        """Nodes that are refused for good."""
        return self._endpoints.removed

    def answer_echo(self) -> int:
        """What to answer to an echo: this life's generation, 0 while it is no member."""
        return int(self.me.incarnation) if self.phase is Phase.MEMBER else 0

    # --- being told to -------------------------------------------------------------------

    def start(self, now: float) -> None:
        """Look for the cluster; ``Entered`` or ``NotEntered`` comes out once."""
        self._last_now = now
        self.phase = Phase.SHADOW
        self._shadow_until = now + self.settings.shadow_s
        self._round_at = now + SHADOW_RETRY_S
        self._tell(self.linked, SYN, ASK_ALL)
        self._settle(now)

    def stop(self, now: float) -> None:
        """Say goodbye and fall silent (contract GSP-9)."""
        if self.phase is Phase.MEMBER:
            self._voice.say_goodbye()
            goodbye = [self.me.node_id, int(self.me.incarnation)]
            self._tell(list(self.linked), SHUTDOWN, goodbye)
            self._tell(self._some_linked(FANOUT), PUSH, self._introduction())
        self.phase = Phase.STOPPED
        self._settle(now)

    def set_contacts(self, addresses: Iterable[Address], now: float) -> None:
        """Keep what discovery found in contact, besides the contacts from the start."""
        self._plan.find(addresses)
        self._settle(now)

    def set_values(self, values: Mapping[str, Any], now: float) -> None:
        """Gossip several keys of this node as one update; None deletes a key.

        Raises:
            BadValue: as ``OwnState.update``; then nothing is set.
        """
        self._voice.say(values, now)
        self._settle(now)

    def remove(self, nodes: Iterable[NodeId], now: float) -> None:
        """Take nodes out for good: they are never listed or dialed again."""
        for node in nodes:
            if node != self.me.node_id:
                self._watch.removed(node, now)
                self._settle(now)
                self._endpoints.remove(node)
                self._plan.drop(node)
        self._settle(now)

    # --- facts ---------------------------------------------------------------------------

    def link_up(self, info: NodeInfo, now: float) -> None:
        """A control link to a node is up."""
        self._observe(now)
        self.linked[info.node_id] = info
        if self.phase in (Phase.SHADOW, Phase.MEMBER):
            shadow = self.phase is Phase.SHADOW
            self._tell([info.node_id], SYN, ASK_ALL if shadow else self._rounds.syn())
            self._watch.heard(info.node_id, now)
            self._settle(now)

    def link_lost(self, node: NodeId, now: float) -> None:
        """The last control link to a node is gone."""
        self._observe(now)
        self.linked.pop(node, None)
        if self.phase is Phase.MEMBER:
            self._watch.link_lost(node, now)
            self._settle(now)

    def echo_done(self, token: int, answered: object, now: float) -> None:
        """An ``Echo`` or ``EchoVia`` ended: with what was answered, None for no answer."""
        self._observe(now)
        answer = answered if type(answered) is int else None
        self._watch.echo_done(token, answer, now)
        self._settle(now)

    def receive(self, peer: NodeId, verb: str, payload: Any, now: float) -> None:
        """One of ``VERBS`` came from a peer; what breaks the rules is counted, no more."""
        if self.phase not in (Phase.SHADOW, Phase.MEMBER):
            return
        self._observe(now)
        try:
            _RECEIVERS[verb](self, peer, payload, now)
        except BadRow as error:
            self._refuse(error.reason)
        self._watch.heard(peer, now)
        self._settle(now)

    def _on_syn(self, peer: NodeId, payload: Any, now: float) -> None:
        answer = self._rounds.answer_syn(payload, now)
        if answer is not None:
            self._tell([peer], *answer)

    def _on_ack(self, peer: NodeId, payload: Any, now: float) -> None:
        rows, wanted = split(payload, 2)
        self._learn(peer, rows, now)
        if wanted:
            self._tell([peer], ACK2, [self._rounds.answer_wanted(wanted)])
        self._contact_made(now)

    def _on_ack2(self, peer: NodeId, payload: Any, now: float) -> None:
        self._learn(peer, split(payload, 1)[0], now)
        self._contact_made(now)

    def _on_push(self, peer: NodeId, payload: Any, now: float) -> None:
        self._pushed.update(self._learn(peer, split(payload, 1)[0], now))

    def _on_accuse(self, peer: NodeId, payload: Any, now: float) -> None:
        accuser, *suspect = split(payload, 3)
        node, generation, _ = parse_digest([*suspect, 0])
        if node != self.me.node_id:
            self._watch.accused(parse_digest([accuser, 0, 0])[0], node, generation, now)
        elif generation == int(self.me.incarnation) and self._voice.speaking:
            if self._voice.beat(now):
                self._watch.health.missed()
            self._tell([peer], PUSH, self._introduction())

    def _on_shutdown(self, peer: NodeId, payload: Any, now: float) -> None:
        node, generation, _ = parse_digest([*split(payload, 2), 0])
        known = self._endpoints.newest(peer)
        if node != peer or known is None or known.generation != generation:
            self._refuse("shutdown")
        else:
            self._apply(now)
            self._watch.shut_down(peer, now)

    # --- time ----------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Do what is due at ``now``."""
        if self.phase not in (Phase.SHADOW, Phase.MEMBER):
            return
        self._observe(now)
        self._apply(now)
        if self.phase is Phase.SHADOW:
            self._look_for_contacts(now)
        else:
            self._do_member(now)
        self._watch.tick(now)
        self._settle(now)

    def _do_member(self, now: float) -> None:
        if now >= self._round_at:
            self._round_at = now + self.settings.interval_s
            self._tell(self._watch.partners(), SYN, self._rounds.syn())
        if now >= self._probe_at:
            self._probe_at = now + self.settings.probe_interval_s
            self._watch.round(now)
        news = self._rumors.take(now)
        if news:
            self._tell(self._some_linked(FANOUT), PUSH, packed(self._endpoints.deltas(news)))

    def deadline(self) -> float | None:
        """When ``tick`` is next wanted; None when there is nothing to wait for."""
        return self._due

    def _next_due(self) -> float | None:
        if self.phase is Phase.SHADOW:
            due = [self._shadow_until, self._round_at, self._watch.deadline()]
        elif self.phase is Phase.MEMBER:
            due = [self._round_at, self._probe_at, self._watch.deadline(), self._rumors.deadline()]
        else:
            return None
        due.append(self._plan.deadline())
        if self._endpoints.pending:
            due.append(self._pending_since)
        return min(at for at in due if at is not None)

    def take_events(self) -> list[Effect]:
        """The effects since the last call, oldest first."""
        out = list(self._out)
        self._out.clear()
        return out

    def _observe(self, now: float) -> None:
        """Notice that this node was late, or that its clock was set back."""
        due = self.deadline()
        # What was due before the last input was counted then: one pause is one stall, however
        # much comes in before the overdue tick.
        lag_s = 0.0 if due is None else now - max(due, self._last_now)
        if lag_s > LAG_SLACK_S:
            self._counters.add("gossip_stalls_total")
            self._watch.stalled(lag_s, now)
        elif now < self._last_now - 1.0:
            self._watch.clock_set_back(self._last_now - now, now)
            self._rumors.clock_set_back(now)
            self._voice.clock_set_back(now)
            self._round_at = self._probe_at = self._pending_since = now
            self._shadow_until += now - self._last_now
        self._last_now = now

    # --- steps ---------------------------------------------------------------------------

    def _enter(self, now: float, *, alone: bool) -> None:
        self.phase = Phase.MEMBER
        self._round_at = now + self._rng.random() * self.settings.interval_s
        self._probe_at = now + self._rng.random() * self.settings.probe_interval_s
        self._voice.speak_up()
        self._tell(self._some_linked(JOIN_FANOUT), PUSH, self._introduction())
        self._out.append(Entered(alone))

    def _contact_made(self, now: float) -> None:
        if self.phase is Phase.SHADOW:
            self._apply(now)
            self._enter(now, alone=False)

    def _look_for_contacts(self, now: float) -> None:
        if now < self._shadow_until:
            if now >= self._round_at:
                self._round_at = now + SHADOW_RETRY_S
                self._tell(self.linked, SYN, ASK_ALL)
        elif self.settings.shadow_required:
            self.phase = Phase.STOPPED
            self._out.append(NotEntered(tuple(map(str, self._plan.contacts))))
        else:
            self._enter(now, alone=True)

    def _learn(self, peer: NodeId, rows: Any, now: float) -> list[NodeId]:
        """Take deltas; answers of which nodes they brought news."""
        if not self._endpoints.pending:
            self._pending_since = now
        lesson = self._rounds.learn(rows, now)
        if lesson.missing:
            self._tell([peer], ACK, [[], lesson.missing])
        for reason in lesson.refused:
            self._refuse(reason)
        for delta in lesson.own:
            if not self._voice.overheard(delta, now):
                self._refuse("outranked")
        return lesson.news

    def _introduction(self) -> list[object]:
        return packed([self._voice.state.since(0)])

    def _apply(self, now: float) -> None:
        """Publish what is pending: all of it first, then who hears of it (GSP-5)."""
        pushed, self._pushed = self._pushed, set()
        fresh = self._endpoints.apply()
        for _, new in fresh:
            status = self._watch.status(new.node_id) or Status.JOINING
            self._announcer.show(new, status)
            self._plan.know(new.info, now)
        for old, new in fresh:
            same = old is not None and old.generation == new.generation
            # A new life is news however it was learned: people wait for it.
            if self.phase is Phase.MEMBER and (not same or new.node_id in pushed):
                self._rumors.add(new.node_id, old.version if old and same else 0, now)
            self._applied(old, new, now)
            self._report(now)

    def _applied(self, old: EndpointState | None, new: EndpointState, now: float) -> None:
        node = new.node_id
        if old is None or old.generation != new.generation:
            self._watch.learned(node, new.generation, now)
        else:
            if new.version_of(BEAT) > old.version_of(BEAT):
                self._watch.refuted(node, now)
            if self._watch.joined(node) and not new.left:
                self._announcer.changed(old, new, now)
            if not new.left:
                self._watch.learned(node, new.generation, now)
        if new.left:
            self._watch.shut_down(node, now)

    def _settle(self, now: float) -> None:
        """Pass on what the watch and the dial plan came to."""
        if self.phase is Phase.SHADOW and self._plan.hopeless:
            self._enter(now, alone=True)
        self._report(now)
        if self.phase in (Phase.SHADOW, Phase.MEMBER):
            self._out.extend(self._plan.update(now))
        self._announcer.flush()
        self._due = self._next_due()

    def _report(self, now: float) -> None:
        report = self._watch.take()
        self._out.extend(report.out)
        for node, what, public in report.said:
            if public:
                self._announcer.said(node, what, now)
            else:
                self._announcer.said_quietly(node, what)
        if report.outdated:
            self._tell(report.outdated, SYN, self._rounds.syn())

    def _tell(self, nodes: Iterable[NodeId], verb: str, payload: object) -> None:
        self._out.extend(Tell(node, verb, payload) for node in nodes)

    def _some_linked(self, count: int) -> list[NodeId]:
        return self._rng.sample(list(self.linked), min(count, len(self.linked)))

    def _refuse(self, reason: str) -> None:
        self._counters.add("gossip_refused_total", reason=reason)


_RECEIVERS = {
    SYN: Membership._on_syn,
    ACK: Membership._on_ack,
    ACK2: Membership._on_ack2,
    PUSH: Membership._on_push,
    ACCUSE: Membership._on_accuse,
    SHUTDOWN: Membership._on_shutdown,
}

VERBS = tuple(_RECEIVERS)
"""The one-way verbs whose payloads go to ``Membership.receive``."""
