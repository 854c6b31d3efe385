"""Echo over a control link while a bulk transfer fills the data link between the same shards.

The yardstick is the same echo without the transfer, and a budget of 100 ms for its p99. An
echo is timed from when it was due. Affinity: sender on CPU 0, receiver on CPU 1.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from cluster import Cluster
from figures import figure, options, percentile, progress, show

CHUNK = 4 * 1024 * 1024
DEPTH = 4
EVERY_S = 0.01
BUDGET_MS = 100.0
QUIET_S = 3.0


def main() -> int:
    """Measure and print."""
    args = options(__doc__.splitlines()[0]).parse_args()
    size = (128 if args.quick else 1024) * 1024 * 1024
    if args.yardstick:
        print(f"  the budget: p99 {BUDGET_MS:g} ms")
        return 0
    with Cluster([[0], [1]]) as cluster, ThreadPoolExecutor(1) as pool:
        cluster.start()
        cluster.wait_formed()
        first, second = cluster.nodes
        here, probe = f"{first.name}/0", {"node": second.name, "every_s": EVERY_S}
        progress("echo alone")
        quiet = first.call(here, "bench.probe", probe | {"seconds": QUIET_S})
        progress(f"{size >> 20} MiB over the data link")
        load = {"node": second.name, "bytes": size, "chunk": CHUNK, "depth": DEPTH}
        bulk = pool.submit(first.call, here, "bench.bulk", load, 300.0)
        busy = []
        while not bulk.done():
            busy.append(first.call(here, "bench.probe", probe | {"seconds": 1.0}))
        moved = bulk.result()
    alone, loaded = quiet["ms"], [took for row in busy for took in row["ms"]]
    figures = [
        figure(
            "echo p99 under load",
            "ms",
            [percentile(loaded, 0.99)],
            [BUDGET_MS],
            ("<=", 1),
            "budget",
        ),
    ]
    notes = [
        f"echo alone: {spread(alone)}; under load: {spread(loaded)}",
        f"{len(loaded)} echoes under load, {sum(row['failed'] for row in busy)} failed;"
        f" the worst second's p99 was {max(percentile(row['ms'], 0.99) for row in busy):.1f} ms",
        f"{size >> 20} MiB in {moved['seconds']:.1f} s, {moved['per_s'] / 2**20:.0f} MiB/s,"
        f" chunks of {CHUNK >> 20} MiB, {DEPTH} at once",
    ]
    return show("isolation", figures, notes, args.json)


def spread(values: list[float]) -> str:
    """p50, p99 and the longest, in ms."""
    p50, p99 = (percentile(values, share) for share in (0.5, 0.99))
    return f"p50 {p50:.2f}, p99 {p99:.2f}, longest {max(values):.2f} ms"


if __name__ == "__main__":
    raise SystemExit(main())
