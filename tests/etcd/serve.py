"""A process that serves etcd's API over an in-memory group: ``serve.py REPLICAS`` prints its ports.

The group is that of the store's own tests: one list of entries that replicas apply in order.
Ends when its standard input does.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

from twisted.internet import reactor, stdio
from twisted.internet.protocol import Protocol
from twisted.logger import globalLogBeginner, textFileLogObserver

from meshsvc.counters import Counters
from meshsvc.etcd.protocol import EtcdFactory

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "kv"))
from kv_group import Cluster


class UntilTheEnd(Protocol):
    """Whoever started us is gone, or wants us gone."""

    def connectionLost(self, reason) -> None:
        reactor.stop()


def main() -> None:
    globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stderr)], redirectStandardIO=False)
    cluster = Cluster(int(sys.argv[1]), clock=reactor)
    ports = []
    for member_id, store in cluster.services.items():
        factory = EtcdFactory(store, reactor, Counters())
        port = reactor.listenTCP(0, factory, interface="127.0.0.1").getHost().port
        urls = (f"http://127.0.0.1:{port}",)
        cluster.members[member_id] = replace(cluster.members[member_id], client_urls=urls)
        ports.append(port)
    sys.stdout.write(json.dumps(ports) + "\n")
    sys.stdout.flush()
    stdio.StandardIO(UntilTheEnd())
    reactor.run()


if __name__ == "__main__":
    main()
