"""Nodes of a real cluster are killed and stopped while clients write; then all must be there."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from contextlib import suppress

from chaos_clients import Client, Grpc, Unanswered, result_of
from dev_cluster import wait_until

from meshsvc.etcd.proto import kv_pb2 as pb
from meshsvc.sim.linearizability import Operation
from meshsvc.sim.store.ledger import StoreLedger

CLIENTS = 6
RECOVERY_S = 60.0


class Chaos:
    """One run against a ``DevCluster``.

    Attributes:
        faults: what was done, and how often.
        problems: what cannot be; empty when all is well.
    """

    def __init__(self, cluster, seed):
        self.cluster, self.rng = cluster, random.Random(seed)
        self.ledger, self.lock = StoreLedger(), threading.Lock()
        self.problems, self.faults = [], {}
        self.ledger.on_fault.append(self.problems.append)
        self.ports = {n.name: int(n.row["etcd"].rpartition(":")[2]) for n in cluster.nodes}

    def run(self, seconds):
        """Faults for so long, then calm, then the checks."""
        self.wait_well()
        clients = [Client(self.ports, self.ledger, self.lock, n) for n in range(CLIENTS)]
        for client in clients:
            client.start()
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self.problems:
            time.sleep(1 + 2 * self.rng.random())  # a node needs a second to be back
            self.strike()
        self.wait_well()
        for client in clients:
            client.stopping = True
        for client in clients:
            client.join(30)
        self.check()
        return self

    # --- faults --------------------------------------------------------------------------

    def strike(self):
        """Do something to some node, and undo it."""
        kind = self.rng.choices(("kill", "pause", "stop", "kill two", "kill all"), (4, 4, 2, 2, 1))[
            0
        ]
        self.faults[kind] = self.faults.get(kind, 0) + 1
        nodes = list(self.cluster.nodes)
        self.rng.shuffle(nodes)
        if kind == "pause":
            self.pause(nodes[0])
            return
        count = {"kill two": 2, "kill all": len(nodes)}.get(kind, 1)
        for node in nodes[:count]:
            self.end(node, signal.SIGTERM if kind == "stop" else signal.SIGKILL)
        time.sleep(self.rng.random())
        for node in nodes[:count]:
            self.cluster.start_again(node)

    def end(self, node, how):
        """Signal a node, and wait until it is gone."""
        pid = node.pid
        os.kill(pid, how)
        wait_until(lambda: not runs(pid), 40, f"{node.name} does not end")

    def pause(self, node):
        """Stop all of a node's processes for a while."""
        shards = node.get("shards") or ()
        pids = [node.pid, *(row["pid"] for row in shards if row["pid"])]
        with suppress(ProcessLookupError):
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
        time.sleep(1 + 4 * self.rng.random())
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    # --- checks --------------------------------------------------------------------------

    def wait_well(self):
        """Wait until every node answers a linearizable read."""
        for port in self.ports.values():
            wait_until(lambda port=port: self.reads(port, b"x"), RECOVERY_S, self.cluster.describe)

    def reads(self, port, key, revision=0):
        """The answer to a read; None when there is none."""
        way = Grpc(port)
        try:
            return result_of(way.call("Range", pb.RangeRequest(key=key, revision=revision)))
        except Unanswered:
            return None
        finally:
            way.close()

    def check(self):
        """Read every key at every node; look every acknowledged write up; search an order."""
        ledger = self.ledger
        for key in sorted(ledger.last_seen):
            for port in self.ports.values():
                asked = time.monotonic()
                found = self.reads(port, key)
                seen = found.kvs[0].value if found and found.kvs else None
                row = Operation(key, ("get",), seen, asked, time.monotonic())
                ledger.history.append(row)
        ways = [Grpc(port) for port in self.ports.values()]
        for revision, (key, value) in ledger.acked.items():
            way = self.rng.choice(ways)
            found = result_of(way.call("Range", pb.RangeRequest(key=key, revision=revision)))
            if not found.kvs or found.kvs[0].value != value:
                self.problems.append(
                    f"{key!r} at {revision} is {found.kvs}, acknowledged {value!r}"
                )
        for way in ways:
            way.close()
        wrong = ledger.wrong_keys()
        if wrong:
            self.problems.append(f"no order explains what was seen of {wrong}")


def runs(pid):
    """Whether a process is there, and no zombie."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
