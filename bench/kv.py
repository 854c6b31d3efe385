"""The store against etcd: puts, gets, JSON, watches, a leader's death, the start, memory.

Three nodes of each side on this machine, one side at a time, in turns; durable on both
sides; reads against etcd 3.5.1, everything else against Debian's etcd. Load comes from h2load
and wrk, on the leader of each side. No affinity: servers and load share the machine, so a
rate says what is left to the servers; the processor time of all servers per operation
stands beside it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

from figures import Figure, figure, options, progress, show, show_yardstick
from native_puts import native_puts
from store_load import KEY, VALUE, grpc_gets, grpc_puts, json_puts
from store_servers import POLL_S, Etcd, Ours, Store, debian_etcd, etcd_for_reads, put
from watch_clients import Watchers

CLIENTS, WATCHERS, WRITERS = 256, 100, 16
UNITS = {
    "start to first put": "s",
    "gRPC puts, 256 clients": "1/s",
    "  server CPU of one": "us",
    "gRPC put, one client, p50": "us",
    "gRPC gets, 256 clients": "1/s",
    "  server CPU of one get": "us",
    "JSON puts, 256 clients": "1/s",
    "watch events, 100 watchers": "1/s",
    "leader killed to next put": "s",
    "native puts, against gRPC puts": "1/s",
}
GOALS = {
    "start to first put": ("<=", 2.0),
    "gRPC puts, 256 clients": (">=", 0.5),
    "  server CPU of one": ("<=", 2.0),
    "gRPC put, one client, p50": ("<=", 2.0),
    "gRPC gets, 256 clients": (">=", 0.5),
    "  server CPU of one get": ("<=", 2.0),
    "JSON puts, 256 clients": (">=", 0.5),
    "watch events, 100 watchers": (">=", 0.3),
    "leader killed to next put": ("<=", 1.5),
    "native puts, against gRPC puts": (">=", 1.0),
}
Rows = dict[str, list[float]]


def measure(make: Callable[[], AbstractContextManager[Store]], count: int, rows: Rows) -> None:
    """One round of everything but reads."""
    with make() as store:
        progress(f"{store.name}: start")
        rows["start to first put"].append(store.wait_serving() - store.started)
        at = store.endpoints[store.leader()]
        grpc_puts(store, at, max(CLIENTS, count // 10), CLIENTS)  # warm
        progress(f"{store.name}: puts")
        run = grpc_puts(store, at, count, CLIENTS)
        rows["gRPC puts, 256 clients"].append(run.rate)
        rows["  server CPU of one"].append(run.cpu_us)
        rows["gRPC put, one client, p50"].append(grpc_puts(store, at, count // 20, 1).p50_us)
        rows["JSON puts, 256 clients"].append(json_puts(store, at, 5.0, CLIENTS).rate)
        progress(f"{store.name}: watches")
        rows["watch events, 100 watchers"].append(watch_events(store, at, count // 5))
        if isinstance(store, Ours):
            progress(f"{store.name}: native puts")
            rows["native puts, against gRPC puts"].append(native_puts(store, count))
        progress(f"{store.name}: the leader is killed")
        rows["leader killed to next put"].append(failover(store))


def reads(make: Callable[[], AbstractContextManager[Store]], count: int, rows: Rows) -> None:
    """One round of linearizable reads."""
    with make() as store:
        progress(f"{store.name}: gets")
        store.wait_serving()
        at = store.endpoints[store.leader()]
        grpc_gets(store, at, max(CLIENTS, count // 10), CLIENTS)
        run = grpc_gets(store, at, count, CLIENTS)
        rows["gRPC gets, 256 clients"].append(run.rate)
        rows["  server CPU of one get"].append(run.cpu_us)


def watch_events(store: Store, at: str, count: int) -> float:
    """Events a second that all watchers together took, of puts by 16 clients."""
    marker = b"the-last-one"
    watchers = Watchers(at, KEY[:6], WATCHERS, marker)
    try:
        watchers.settle(1.0)
        began = time.monotonic()

        def write() -> None:
            grpc_puts(store, at, count, WRITERS)
            put(at, KEY, marker)

        writing = threading.Thread(target=write)
        writing.start()
        took = watchers.wait(120.0) - began
        writing.join()
    finally:
        watchers.close()
    return count * WATCHERS / took


def failover(store: Store) -> float:
    """kill -9 of the leader until a put through another node succeeds."""
    victim = store.leader()
    others = [at for index, at in enumerate(store.endpoints) if index != victim]
    store.kill(victim)
    killed = time.monotonic()
    while time.monotonic() < killed + 30.0:
        for at in others:
            try:
                put(at, KEY, VALUE, 1.0)
                return time.monotonic() - killed
            except (OSError, RuntimeError):
                time.sleep(POLL_S)
    raise SystemExit(f"{store.name}: no put in 30 s after its leader was killed")


def figures_of(ours: Rows, theirs: Rows) -> list[Figure]:
    """Each figure against its yardstick."""
    theirs["native puts, against gRPC puts"] = theirs["gRPC puts, 256 clients"]
    return [
        figure(name, UNITS[name], ours[name], theirs[name], GOALS[name], "etcd") for name in UNITS
    ]


def main() -> int:
    """Measure and print."""
    args = options(__doc__.splitlines()[0]).parse_args()
    rounds = args.rounds or (1 if args.quick else 3)
    count = 2000 if args.quick else 20000
    ours: Rows = {name: [] for name in UNITS}
    theirs: Rows = {name: [] for name in UNITS}
    for _ in range(rounds):
        measure(lambda: Etcd(debian_etcd()), count, theirs)
        reads(lambda: Etcd(etcd_for_reads()), count, theirs)
        if not args.yardstick:
            measure(Ours, count, ours)
            reads(Ours, count, ours)
    if args.yardstick:
        del theirs["native puts, against gRPC puts"]
        show_yardstick(theirs, UNITS)
        return 0
    notes = [
        f"{rounds} rounds of {count} requests; 100-byte values; 3 nodes, no affinity",
        "clients are on the leader; the load generators share the processors with the servers",
    ]
    return show("store", figures_of(ours, theirs), notes, args.json)


if __name__ == "__main__":
    raise SystemExit(main())
