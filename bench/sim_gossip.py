"""Gossip at scale: how fast an update spreads and what it costs, from 30 to 3,000 nodes.

Only the cores run, over virtual time (``meshsvc/sim/scale/``), so the times do not depend on
the machine. The yardstick is serf's published model of its own gossip.

    python bench/sim_gossip.py                      # 30 to 1,000 nodes
    python bench/sim_gossip.py --nodes 3000         # 14 gigabytes, a quarter of an hour
    python bench/sim_gossip.py --nodes 300 --loss 0.25 --total 0
"""

from __future__ import annotations

import argparse
import gc
import json
from dataclasses import asdict
from pathlib import Path

from meshsvc.gossip.settings import Settings
from meshsvc.sim.scale.crowd import Weather
from meshsvc.sim.scale.figures import Figures, Plan, measure, percentile, serf_model_s

GOAL_P99_S = 15.0
GOAL_BYTES = 40_000
LARGE = 1000

COLUMNS = (
    *("nodes", "p50 s", "p99 s", "p50 rounds", "p99 rounds", "max s", "missed"),
    *("serf p99 s", "kill s", "power-off s", "idle B/s", "change B/s", "busiest B/s"),
    *("virtual s", "cpu s", "wall s"),
)


def row(found: Figures, loss: float) -> list[str]:
    interval = Settings().interval_s
    p50, p99 = (percentile(found.spread, share) for share in (0.5, 0.99))
    deaths = [f"{s:.1f}" if s is not None else "never" for s in (found.killed_s, found.unpowered_s)]
    return [
        str(found.nodes),
        *(f"{p50:.3f}", f"{p99:.3f}", f"{p50 / interval:.2f}", f"{p99 / interval:.2f}"),
        f"{max(found.spread, default=0.0):.3f}",
        str(found.missed),
        f"{serf_model_s(found.nodes, 0.99, loss):.1f}",
        *deaths,
        *(f"{b:,.0f}" for b in (found.steady_bytes, found.change_bytes, found.most_bytes)),
        *(f"{found.virtual_s:.0f}", f"{found.cpu_s:.0f}", f"{found.wall_s:.0f}"),
    ]


def missed_goals(found: Figures) -> list[str]:
    wrong = []
    if found.missed or percentile(found.spread, 0.99) >= GOAL_P99_S:
        wrong.append("dissemination")
    if max(found.steady_bytes, found.change_bytes) >= GOAL_BYTES:
        wrong.append("traffic")
    if found.cpu_s >= found.virtual_s and found.nodes == LARGE:
        wrong.append("speed of the simulation")
    if found.killed_s is None or found.unpowered_s is None or found.wrongly_dead:
        wrong.append("deaths")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description="gossip at scale")
    parser.add_argument("--nodes", type=int, nargs="+", default=[30, 100, 300, 1000])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--loss", type=float, default=0.0, help="share of messages lost")
    parser.add_argument("--latency", type=float, default=0.5, help="milliseconds one way")
    parser.add_argument("--jitter", type=float, default=1.0, help="milliseconds at most")
    parser.add_argument("--every", type=float, default=1.0, help="seconds between two updates")
    parser.add_argument("--total", type=float, default=600.0, help="virtual seconds at least")
    parser.add_argument("--quick", action="store_true", help="up to 300 nodes, no --total")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    weather = Weather(options.latency / 1000, options.jitter / 1000, options.loss)
    gc.disable()  # nothing here is cyclic garbage, and looking for it takes half the time
    results, wrong = [], []
    print(" | ".join(COLUMNS))
    for nodes in [n for n in options.nodes if n <= 300] if options.quick else options.nodes:
        total_s = options.total if nodes <= LARGE and not options.quick else 0.0
        phase_s = 60.0 if nodes <= LARGE else 20.0
        plan = Plan(phase_s, phase_s, options.every, total_s)
        found = measure(nodes, options.seed, weather, plan)
        print(" | ".join(row(found, options.loss)), flush=True)
        results.append(found)
        wrong += [f"{nodes} nodes: {what}" for what in missed_goals(found)]
    if options.json:
        options.json.write_text(json.dumps([asdict(found) for found in results]))
    print("\n".join(f"missed goal: {text}" for text in wrong) or "all goals are met")
    return bool(wrong)


if __name__ == "__main__":
    raise SystemExit(main())
