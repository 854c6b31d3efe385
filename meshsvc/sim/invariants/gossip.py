"""GOSSIP: what is known of a node only moves forward, and only the living are alive."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshsvc.gossip.members import Status
from meshsvc.sim.invariants.base import Check, register
from meshsvc.sim.weather import FAIR_LOSS

if TYPE_CHECKING:
    from meshsvc.sim.cluster import Cluster
    from meshsvc.sim.lives import SimShard
    from meshsvc.sim.processes import SimNode

GHOST_S = 2.0
"""An echo that was answered may be told of this late: it waits in queues and on the way."""

KNOWN_S = 15.0
"""A killed process is known in 3 s, a powered-off one in 8; some more when few are left."""

EVIDENCE_S = 15.0
"""A path that was blocked carries again within 6.4 s, as TCP tries again; then links are dialed."""

UP = ("running", "stopping")
"""States of a node in which a process of it may answer an echo."""

_TERMINAL = ("left", "removed")

Observer = tuple[str, int, int]


def observer_of(life: SimShard) -> Observer:
    """This life of this shard 0."""
    return (life.node.name, life.node.generation, life.incarnation)


@register
class Forward(Check):
    """Generation and version of a row never fall, and what left does not come back (GSP-2, 9)."""

    section = "GOSSIP"

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self._seen: dict[Observer, dict[str, tuple[int, int, Status]]] = {}

    def view_changed(self, life: SimShard) -> None:
        """Compare every row with what it was."""
        assert life.zero is not None
        seen = self._seen.setdefault(observer_of(life), {})
        for member in life.zero.gossip.members():
            new = (member.generation, member.version, member.status)
            old = seen.get(member.node_id)
            if old is not None and old != new:
                self._compare(f"{life.life} on {member.name}", old, new)
            seen[member.node_id] = new

    def _compare(self, where: str, old: Any, new: Any) -> None:
        if new[:2] < old[:2]:
            self.fail(f"{where}: (generation, version) fell from {old[:2]} to {new[:2]}")
        same_life = new[0] == old[0]
        if same_life and old[2] is Status.LEFT and new[2] not in (Status.LEFT, Status.REMOVED):
            self.fail(f"{where}: generation {new[0]} left and came back as {new[2].value}")
        if old[2] is Status.REMOVED and new[2] is not Status.REMOVED:
            self.fail(f"{where}: it was removed and came back as {new[2].value}")


@register
class Story(Check):
    """Each observer is told a story that makes sense, with one death a death (GSP-5, 7)."""

    section = "GOSSIP"

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self._told: dict[tuple[Observer, str], tuple[int, str]] = {}
        self._joined: set[tuple[Observer, str, int]] = set()

    def member_event(self, life: SimShard, event: Any) -> None:
        """Check one event against the one before it."""
        member, name = getattr(event, "member", None), event.name
        if member is None or name == "changed":
            return
        key = (observer_of(life), member.node_id)
        generation, last = self._told.get(key, (0, ""))
        where = f"{life.life} on {member.name}"
        if member.generation < generation:
            self.fail(f"{where}: {name} of generation {member.generation} after {generation}")
        elif member.generation == generation:
            self._same_life(where, last, name)
            if name == "alive" and (*key, generation) not in self._joined:
                self.fail(f"{where}: alive before it joined")
        elif generation and name not in ("restarted", "removed"):
            self.fail(f"{where}: {name} of a later life without restarted")
        if name == "joined":
            life_key = (*key, member.generation)
            if life_key in self._joined:
                self.fail(f"{where}: joined a second time in one life")
            self._joined.add(life_key)
        # A suspicion is also cleared by a refutation, which others may pass on late; only what
        # follows a death, or a beginning, needs an echo.
        if name == "joined" or (name == "alive" and last != "suspect"):
            self._must_live(where, member, name)
        self._told[key] = (member.generation, name)

    def _same_life(self, where: str, last: str, name: str) -> None:
        if last == name:
            self.fail(f"{where}: {name} was told twice in a row")
        if last in _TERMINAL and name != "removed":
            self.fail(f"{where}: {name} after {last} of the same life")
        if last == "dead" and name == "suspect":
            self.fail(f"{where}: suspected after it was dead")

    def _must_live(self, where: str, member: Any, name: str) -> None:
        """Alive means an echo of that life: it ran a moment ago."""
        cluster = self.cluster
        for node in cluster.nodes:
            if node.node_id == member.node_id:
                lives = node.generation == member.generation and node.state in UP
                recently = cluster.ended_at.get((member.node_id, member.generation))
                if not lives and (recently is None or cluster.time.now - recently > self._slack()):
                    self.fail(
                        f"{where}: {name} of generation {member.generation}, which has not been"
                        " running: no echo can have proved it"
                    )

    def _slack(self) -> float:
        return GHOST_S + self.cluster.longest_pause_s


@register
class TheDeadAreKnown(Check):
    """Who ended is not alive to anybody for long, while nothing else is wrong (GSP-7)."""

    section = "GOSSIP"

    def every_second(self) -> None:
        """Compare every view with who runs."""
        cluster = self.cluster
        now = cluster.time.now
        for node in cluster.nodes:
            if node.state in UP or now - node.until < KNOWN_S or not cluster.fine_for(KNOWN_S):
                continue
            for observer in cluster.nodes:
                self._look(observer, node)

    def _look(self, observer: SimNode, node: SimNode) -> None:
        life = observer.zero
        if life is None or life.zero is None or self.cluster.time.now - observer.since < KNOWN_S:
            return
        member = life.zero.gossip.membership.member(node.node_id)
        if member is not None and member.alive:
            words = f"{KNOWN_S:g} s after its end and the last fault"
            self.fail(f"{life.life} has {node.name} as {member.status.value}, {words}")


@register
class OwnEvidence(Check):
    """Nobody convicts a node that he could have reached all the time, whatever others say of it
    and however long he stood still or is busy himself (GSP-7, 8)."""

    section = "GOSSIP"

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self._zero_ended: dict[str, float] = {}

    def shard_ended(self, life: SimShard) -> None:
        """Without its shard 0 a node does not answer, and does not remember."""
        if life.index == 0:
            self._zero_ended[life.node.name] = self.cluster.time.now

    def member_event(self, life: SimShard, event: Any) -> None:
        """A death: look at who died, and at the way between the two."""
        if event.name != "dead" or self.cluster.net.sky.everywhere.loss >= FAIR_LOSS:
            return
        for node in self.cluster.nodes:
            if node.node_id == event.member.node_id and self._fine(life.node, node, event):
                self.fail(
                    f"{life.life} convicted {node.name}, which was well, and so was the way there"
                    f" and back, for {EVIDENCE_S:g} s"
                )

    def _fine(self, observer: SimNode, node: SimNode, event: Any) -> bool:
        now, sky = self.cluster.time.now, self.cluster.net.sky
        if node.generation != event.member.generation or not node.running:
            return False
        a, b = observer.host.name, node.host.name
        return (
            now - node.since > EVIDENCE_S
            and node.well_for(EVIDENCE_S)
            and min(sky.well_for(a, b), sky.well_for(b, a)) > EVIDENCE_S
            and all(now - self._ended(each) > EVIDENCE_S for each in (observer, node))
        )

    def _ended(self, node: SimNode) -> float:
        return self._zero_ended.get(node.name, -EVIDENCE_S)


@register
class NobodyIsFramed(Check):
    """While the network is well, nobody convicts a node that is, however ill he is (GSP-8)."""

    section = "GOSSIP"

    def member_event(self, life: SimShard, event: Any) -> None:
        """A death while the weather is fine."""
        if event.name != "dead" or not self.cluster.network_fine_for(10.0):
            return
        member = event.member
        for node in self.cluster.nodes:
            if node.node_id == member.node_id and node.generation == member.generation:
                up_s = self.cluster.time.now - node.since
                if node.running and node.well_for(10.0) and up_s > 10.0:
                    self.fail(
                        f"{life.life} convicted {member.name}, which is well, without a fault"
                    )
