"""The store at rest: every node writes and reads within seconds, and nothing that was
acknowledged is missing anywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshsvc.errors import MeshsvcError
from meshsvc.kv import api
from meshsvc.sim.linearizability import Operation
from meshsvc.sim.store.clients import KEYS, note_unknown, service_of

if TYPE_CHECKING:
    from meshsvc.kv.service import KvService
    from meshsvc.sim.cluster import Cluster
    from meshsvc.sim.processes import SimNode

AT_REST_S = 3.0
"""How long a put may take when all is well."""


def store_difference(node: SimNode, running: set[str]) -> str:
    """What is wrong with the store of a node, in words; empty when it is as it should be."""
    life = node.zero
    store = None if life is None or life.zero is None else life.zero.store
    if store is None:
        return ""
    for slot in (store.system, store.keyspace):
        status = slot.raft_status()
        if status is None:
            why = "its journal" if store.founding is None else store.founding.core.waits_for
            return f"the store of {node.name} waits for {why or 'its groups'}"
        if not status.leader or status.applied < status.commit:
            return f"{node.name}: group {slot.name} has no leader, or is behind"
        places = [store.members.place(member) for member in status.config.voters]
        voters = sorted(place.name if place else "somebody unknown" for place in places)
        # Once each; who is down keeps its vote until it is removed.
        if any(voters.count(name) != 1 for name in running):
            return f"{node.name}: group {slot.name} has the voters {voters}"
    return ""


def everyone_uses_the_store(cluster: Cluster) -> str:
    """Have every node write and read; then hold all that clients saw against what there is."""
    nodes = [(node, service_of(node.zero)) for node in cluster.nodes if node.running]
    services = [(node, service) for node, service in nodes if service is not None]
    ended: list[str] = []
    for node, service in services:
        _use(cluster, node, service, ended)
    cluster.run_until(lambda: len(ended) >= len(services), AT_REST_S + 1.0)
    if len(ended) < len(services):
        return f"{len(services) - len(ended)} nodes did not write within {AT_REST_S + 1.0:g} s"
    return next((words for words in ended if words), "") or _histories(cluster, services)


def _use(cluster: Cluster, node: SimNode, service: KvService, ended: list[str]) -> None:
    began, key = cluster.time.now, f"rest/{node.name}".encode()

    def wrote(_: api.PutResult) -> Any:
        keys = api.Range(b"k", b"l")
        asked = cluster.time.now
        return service.range(keys).addCallback(read, asked)

    def read(answer: api.RangeResult, asked: float) -> None:
        found = {kv.key: kv.value for kv in answer.kvs}
        now = cluster.time.now
        for number in range(KEYS):
            name = b"k%d" % number
            seen = Operation(name, ("get",), found.get(name), asked, now)
            cluster.store.history.append(seen)
        late = now - began > AT_REST_S
        ended.append(f"a put of {node.name} took {now - began:.1f} s at rest" if late else "")

    writing = service.put(api.Put(key, b"rest")).addCallback(wrote)
    writing.addErrback(lambda f: ended.append(f"a put of {node.name} at rest ended in {f.value!r}"))


def _histories(cluster: Cluster, services: list[tuple[SimNode, KvService]]) -> str:
    ledger = cluster.store
    for call in ledger.pending.values():
        note_unknown(ledger, call)
    ledger.pending.clear()
    for node, service in services:
        for revision, (key, value) in ledger.acked.items():
            found = _at(service, key, revision)
            if found != value:
                return (
                    f"{node.name} has {found!r} for {key!r} at {revision}, acknowledged {value!r}"
                )
    wrong = ledger.wrong_keys()
    return f"no order explains what was seen of {wrong}" if wrong else ""


def _at(service: KvService, key: bytes, revision: int) -> bytes | str:
    try:
        answer = service.machine.range(api.Range(key, revision=revision))
    except MeshsvcError as error:
        return str(error)
    return answer.kvs[0].value if answer.kvs else "nothing"
