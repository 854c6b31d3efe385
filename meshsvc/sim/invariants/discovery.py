"""Discovery: it never falls asleep, and once all is well every node knows that it is."""

from __future__ import annotations

from collections.abc import Iterator

from meshsvc.discovery.memory import remembered
from meshsvc.discovery.service import DiscoveryService
from meshsvc.retry import Occasion
from meshsvc.sim.invariants.base import Check, register
from meshsvc.sim.processes import SimNode
from meshsvc.storage.peers import PeersDamaged, PeerStore

LONGEST_S = Occasion.REGULAR.value + 1.0

SAVED_S = 15.0
"""A change of membership is on the disk by then: it is saved every 10 s, if the disk works."""


@register
class Looking(Check):
    """Contracts DISC-1, DISC-3, DISC-4 and GSP-11."""

    section = "DISC"

    def every_second(self) -> None:
        """A discovery that runs checks, or will within five minutes."""
        for node, discovery in self._running():
            phases = discovery.core.phases
            due = phases.due()
            now = node.skew.local(self.cluster.time.now)
            if not phases.checking and (due is None or due > now + LONGEST_S):
                self.fail(f"{node.name} does not look for peers any more")

    def settled(self) -> None:
        """Nothing is missing anywhere, and each disk knows where others are."""
        for node, discovery in self._running():
            missing = discovery.missing()
            if missing:
                self.fail(f"{node.name} still waits: {'; '.join(missing)}")
            self._check_memory(node)

    def _check_memory(self, node: SimNode) -> None:
        zero, disk = node.zero, node.disk
        faulty = disk.faults.eio or disk.faults.full or disk.faults.flip
        if zero is None or zero.zero is None or faulty:
            return
        if self.cluster.time.now - node.since < SAVED_S or not self.cluster.fine_for(SAVED_S):
            return
        wanted = remembered(node.node_id, zero.zero.gossip.members())
        path = f"{self.cluster.config_of(node)['node']['data_dir']}/peers"
        try:
            kept = PeerStore(disk, path).load()
        except PeersDamaged as error:
            self.fail(f"{node.name} remembers nobody: {error}")
            return
        if wanted and kept != wanted:
            self.fail(f"{node.name} remembers {kept} and knows {wanted}")

    def _running(self) -> Iterator[tuple[SimNode, DiscoveryService]]:
        for node in self.cluster.nodes:
            life = node.zero if node.running and not node.paused else None
            if life is not None and life.zero is not None and life.zero.discovery.running:
                yield node, life.zero.discovery
