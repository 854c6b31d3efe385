"""A store of a million keys: memory a key, and how long the reactor is held up at worst.

Three nodes; the keys come in transactions of 100 through ``mesh.kv()``. How late the reactor
of the leader's shard 0 is was sampled every 2 ms while keys came in, with a compaction, and
during a snapshot that a client saved. Yardsticks: a dict of the same content, and 50 ms.
"""

from __future__ import annotations

import http.client
import os
import threading
import time

from cluster import family
from figures import figure, options, progress, show
from store_servers import Ours, ask, rss_mib

VALUE = 100
BOUND_MS = 50.0


def dict_mib(count: int) -> float:
    """What a dict of the same keys and values takes, measured as growth of this process."""

    before = rss_mib(os.getpid())
    held = {b"fill/%09d" % n: bytes([n % 256]) * VALUE for n in range(count)}
    grown = rss_mib(os.getpid()) - before
    assert len(held) == count
    return grown


def save_snapshot(at: str) -> int:
    """Read a whole snapshot stream; its bytes."""
    connection = http.client.HTTPConnection(at, timeout=600)
    connection.request(
        "POST", "/v3/maintenance/snapshot", "{}", {"Content-Type": "application/json"}
    )
    response, size = connection.getresponse(), 0
    while data := response.read(1 << 20):
        size += len(data)
    connection.close()
    return size


def measure(count: int) -> tuple[float, dict[str, list[float]], list[str]]:
    """MiB of the store's process for ``count`` keys, lateness by what went on, and notes."""
    late: dict[str, list[float]] = {}
    notes: list[str] = []
    with Ours() as store:
        store.wait_serving()
        index = store.leader()
        node, at = store.nodes[index], store.endpoints[index]
        name = f"{node.name}/0"
        before = max(map(rss_mib, family(store.pid(index))))

        def during(what: str, seconds: float, work) -> None:
            progress(what)
            result: list[object] = []
            thread = threading.Thread(target=lambda: result.append(work()))
            thread.start()
            time.sleep(0.2)
            late[what] = node.call(name, "bench.lag", seconds, seconds + 60)
            thread.join()
            notes.append(f"{what}: {result[0]:,.0f}, longest {late[what][1]:.1f} ms")

        half, other = count // 2, f"{node.name}/1"
        store_rate = node.call(other, "bench.fill", [0, half], 600.0)
        notes.append(f"first half filled at {store_rate:,.0f} puts/s")
        during(
            "while keys come in", 5.0, lambda: node.call(other, "bench.fill", [half, half], 600.0)
        )
        grown = max(map(rss_mib, family(store.pid(index)))) - before
        node.call(other, "bench.fill", [0, count // 4], 600.0)
        revision = int(ask(at, "/v3/maintenance/status", {})["header"]["revision"])
        body = {"revision": str(revision), "physical": True}
        during(
            "with a compaction",
            3.0,
            lambda: int(ask(at, "/v3/kv/compaction", body, 120)["header"]["revision"]),
        )
        during("during a snapshot", 5.0, lambda: save_snapshot(at))
    return grown, late, notes


def main() -> int:
    """Measure and print."""
    args = options(__doc__.splitlines()[0]).parse_args()
    count = 100_000 if args.quick else 1_000_000
    theirs = dict_mib(count)
    if args.yardstick:
        print(f"  a dict of {count:,} keys: {theirs:.0f} MiB")
        return 0
    grown, late, notes = measure(count)
    figures = [
        figure(f"memory of {count:,} keys", "MiB", [grown], [theirs], ("<=", 3.0), "dict"),
        *(
            figure(f"p99.9 late {what}", "ms", [row[0]], [BOUND_MS], ("<=", 1.0), "50 ms")
            for what, row in late.items()
        ),
    ]
    return show("store with many keys", figures, notes, args.json)


if __name__ == "__main__":
    raise SystemExit(main())
