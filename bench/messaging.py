"""Verbs between two nodes on loopback against pyzmq and Twisted AMP.

Affinity, for all: the sending process on CPU 0, the receiving one on CPU 1, everything a
side needs (zmq's I/O thread too) on its one CPU. Payload 100 bytes, encoding cbor2;
``--payload map`` sends the same size as a map of five keys instead of one byte string.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

from cluster import Cluster, free_ports
from figures import figure, need_zmq, options, progress, show, show_yardstick

HERE = Path(__file__).resolve().parent
UNITS = {
    "zmq one-way": "/s",
    "zmq asks, depth 256": "/s",
    "zmq asks, depth 1, p50": "us",
    "amp asks, depth 256": "/s",
    "raw Twisted echo, p50": "us",
}


def pair(program: str, answering: str, asking: str, load: tuple[int, str, int]) -> dict[str, float]:
    """Run the two roles of a yardstick; what the one that measures printed."""
    (port,) = free_ports(1)
    at = str(port) if program != "zmq_roles.py" else f"tcp://127.0.0.1:{port}"
    processes = [
        subprocess.Popen(
            [sys.executable, HERE / program, role, cpu, at, *map(str, load)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for role, cpu in ((answering, "1"), (asking, "0"))
    ]
    found: dict[str, float] = {}
    for process in processes:
        out, _ = process.communicate(timeout=120)
        found |= json.loads(out)
    return found


class Sizes:
    """How much each measurement does."""

    def __init__(self, quick: bool, kind: str) -> None:
        self.kind = kind
        self.rounds = 2 if quick else 7
        self.pushes = 200_000 if quick else 600_000
        self.asks = 30_000 if quick else 100_000
        self.singles = 5_000 if quick else 20_000
        self.amp = 10_000 if quick else 30_000


def yardstick_round(sizes: Sizes) -> dict[str, float]:
    """One round of the other side."""
    pushed = pair("zmq_roles.py", "pull", "push", (sizes.pushes, sizes.kind, 0))
    asked = pair("zmq_roles.py", "router", "dealer", (sizes.asks, sizes.kind, 256))
    single = pair("zmq_roles.py", "router", "dealer", (sizes.singles, sizes.kind, 1))
    amp = pair("amp_roles.py", "server", "client", (sizes.amp, sizes.kind, 256))
    raw = pair("echo_roles.py", "server", "client", (sizes.singles, sizes.kind, 1))
    values = (pushed["per_s"], asked["per_s"], single["p50"], amp["per_s"], raw["p50"])
    return dict(zip(UNITS, values, strict=True))


def our_round(cluster: Cluster, sizes: Sizes) -> dict[str, float]:
    """One round of two nodes; the first drives."""
    first, second = cluster.nodes
    load = {"node": second.name, "kind": sizes.kind}
    here = f"{first.name}/0"
    pushed = first.call(here, "bench.push", load | {"count": sizes.pushes})
    if pushed["count"] != sizes.pushes:
        raise SystemExit(f"{sizes.pushes} verbs were accepted, {pushed['count']:.0f} came")
    asked = first.call(here, "bench.asks", load | {"count": sizes.asks, "depth": 256})
    single = first.call(here, "bench.asks", load | {"count": sizes.singles, "depth": 1})
    return {"one-way": pushed["per_s"], "asks": asked["per_s"], "p50": single["p50"]}


def main() -> int:
    """Measure and print."""
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--payload", choices=("bytes", "map"), default="bytes")
    args = parser.parse_args()
    need_zmq()
    sizes = Sizes(args.quick, args.payload)
    rounds = args.rounds or sizes.rounds
    theirs: dict[str, list[float]] = defaultdict(list)
    ours: dict[str, list[float]] = defaultdict(list)
    if args.yardstick:
        for number in range(rounds):
            progress(f"round {number + 1} of {rounds}")
            for name, value in yardstick_round(sizes).items():
                theirs[name].append(value)
        show_yardstick(theirs, UNITS)
        return 0
    for number in range(rounds):
        progress(f"round {number + 1} of {rounds}")
        for name, value in yardstick_round(sizes).items():
            theirs[name].append(value)
        # Nodes run only while they are measured: an idle one still takes part of a CPU.
        with Cluster([[0], [1]]) as cluster:
            cluster.start()
            cluster.wait_formed()
            our_round(
                cluster, Sizes(quick=True, kind=args.payload)
            )  # warms up what a long-lived node has warm
            for name, value in our_round(cluster, sizes).items():
                ours[name].append(value)
    zmq, zmq_asks, zmq_p50, amp, raw = theirs.values()
    figures = [
        figure("one-way verbs", "/s", ours["one-way"], zmq, (">=", 1.5), "pyzmq PUSH/PULL"),
        figure("asks, depth 256", "/s", ours["asks"], zmq_asks, (">=", 1.0), "pyzmq DEALER/ROUTER"),
        figure("asks, depth 256", "/s", ours["asks"], amp, (">=", 6.0), "Twisted AMP"),
        figure(
            "asks, depth 1, p50", "us", ours["p50"], zmq_p50, ("<=", 1.3), "pyzmq DEALER/ROUTER"
        ),
    ]
    floor = sorted(raw)[len(raw) // 2]
    notes = [
        f"raw Twisted echo at depth 1, no frames and no verbs: p50 {floor:.0f} us",
        f"100-byte payload ({args.payload}), cbor2, TCP on loopback",
        "sender on CPU 0, receiver on CPU 1",
    ]
    return show("messaging", figures, [*notes, f"medians of {rounds} rounds"], args.json)


if __name__ == "__main__":
    raise SystemExit(main())
