"""A dict behind the etcd API: what the front costs without a store. Prints its port.

Usage: http2_server.py    (puts and ranges of single keys; everything else fails)
"""

from __future__ import annotations

import sys
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail, succeed

from meshsvc.counters import Counters
from meshsvc.etcd.protocol import EtcdFactory
from meshsvc.kv import api, errors


class DictStore:
    """The two requests that are measured."""

    def __init__(self) -> None:
        self.keys: dict[bytes, api.KeyValue] = {}
        self.revision = 1

    def header(self) -> api.Header:
        return api.Header(1, 1, self.revision, 1)

    def put(self, request: api.Put) -> Deferred[api.PutResult]:
        self.revision += 1
        old = self.keys.get(request.key)
        created, version = (old.create_revision, old.version + 1) if old else (self.revision, 1)
        self.keys[request.key] = api.KeyValue(
            request.key, created, self.revision, version, request.value, request.lease
        )
        return succeed(api.PutResult(header=self.header()))

    def range(self, request: api.Range) -> Deferred[api.RangeResult]:
        found = self.keys.get(request.key)
        kvs = (found,) if found else ()
        return succeed(api.RangeResult(kvs, False, len(kvs), self.header()))

    def __getattr__(self, _name: str) -> Any:
        return lambda *_args: fail(errors.Unhealthy())


def main() -> None:
    factory = EtcdFactory(DictStore(), reactor, Counters())  # type: ignore[arg-type]
    port = reactor.listenTCP(0, factory, interface="127.0.0.1")
    print(port.getHost().port, flush=True)
    reactor.run()


if __name__ == "__main__":
    sys.exit(main())
