"""``meshsvc dev --nodes 3`` to formed, what it takes when idle, and how fast it answers.

The yardsticks are budgets: 5 s, 1% of a core and 45 MiB for each process, 0.3 s. Affinity:
none. Memory is resident set size, so what processes share counts in each of them.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster import MESHSVC, POLL_S, Node, family, tail
from figures import figure, options, progress, show

NODES, SHARDS = 3, 2
TIMEOUT_S = 60.0
TICKS = os.sysconf("SC_CLK_TCK")


@contextmanager
def dev() -> Iterator[tuple[float, list[Node], int]]:
    """A development cluster: (seconds to formed, its nodes, pid of the command)."""
    folder = Path(tempfile.mkdtemp(prefix="mb-"))
    with (folder / "log").open("wb") as log:
        begun = time.monotonic()
        process = subprocess.Popen(
            [MESHSVC, "dev", "--nodes", str(NODES), "--shards", str(SHARDS), "--dir", folder / "d"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        nodes = _wait_formed(folder, process, begun + TIMEOUT_S)
        yield time.monotonic() - begun, nodes, process.pid
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            for pid in family(process.pid):
                os.kill(pid, signal.SIGKILL)
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _wait_formed(folder: Path, process: subprocess.Popen[bytes], deadline: float) -> list[Node]:
    listing = folder / "d" / "cluster.json"
    while time.monotonic() < deadline and process.poll() is None:
        if listing.exists():
            rows = json.loads(listing.read_text())["nodes"]
            nodes = [Node(row["name"], 0, _port(row["admin"]), 0, folder) for row in rows]
            if len(nodes) == NODES and _formed(nodes):
                return nodes
        time.sleep(POLL_S)
    raise SystemExit(f"the cluster did not form:\n{tail(folder / 'log')}")


def _port(address: str) -> int:
    return int(address.rstrip("/").rpartition(":")[2])


def _formed(nodes: list[Node]) -> bool:
    try:
        found = [node.get("/v1/mesh") for node in nodes]
    except (OSError, RuntimeError):
        return False
    same = len({mesh["epoch"] for mesh in found}) == 1
    return same and all(m["state"] == "formed" and len(m["roster"]) == NODES for m in found)


def idle(pids: list[int], seconds: float) -> tuple[list[float], list[float]]:
    """(share of a core in %, resident MiB) of each process over a while."""
    before = [_cpu_s(pid) for pid in pids]
    begun = time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - begun
    shares = [100 * (_cpu_s(pid) - start) / took for pid, start in zip(pids, before, strict=True)]
    return shares, [_resident_mib(pid) for pid in pids]


def _cpu_s(pid: int) -> float:
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(words[11]) + int(words[12])) / TICKS


def _resident_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


def members_s(node: Node, times: int) -> list[float]:
    """Seconds that ``meshsvc members`` takes."""
    took = []
    for _ in range(times):
        begun = time.monotonic()
        subprocess.run(
            [MESHSVC, "members", "--admin", f"http://127.0.0.1:{node.admin}", "-o", "json"],
            check=True,
            capture_output=True,
        )
        took.append(time.monotonic() - begun)
    return took


def main() -> int:
    """Measure and print."""
    args = options(__doc__.splitlines()[0]).parse_args()
    if args.yardstick:
        print("  the budgets: 5 s to formed; idle 1 % of a core and 45 MiB; members 0.3 s")
        return 0
    rounds = args.rounds or (1 if args.quick else 5)
    formed: list[float] = []
    for number in range(rounds):
        progress(f"start {number + 1} of {rounds}")
        with dev() as (seconds, nodes, pid):
            formed.append(seconds)
            if number + 1 < rounds:
                continue
            time.sleep(5)  # what a start leaves to do is no part of being idle
            pids = family(pid)[1:]
            shares, resident = idle(pids, 10 if args.quick else 30)
            took = members_s(nodes[0], 3 if args.quick else 10)
    figures = [
        figure("dev --nodes 3 to formed", "s", formed, [5.0] * rounds, ("<=", 1), "budget"),
        figure("idle CPU, busiest process", "%", [max(shares)], [1.0], ("<=", 1), "budget"),
        figure("memory, largest process", "MiB", [max(resident)], [45.0], ("<=", 1), "budget"),
        figure("meshsvc members", "s", took, [0.3] * len(took), ("<=", 1), "budget"),
    ]
    notes = [
        f"{len(pids)} processes: {statistics.mean(shares):.2f} % of a core and"
        f" {statistics.mean(resident):.1f} MiB each on average",
        f"{NODES} nodes of {SHARDS} shards, {rounds} starts, no affinity",
    ]
    return show("start", figures, notes, args.json)


if __name__ == "__main__":
    raise SystemExit(main())
