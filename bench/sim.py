"""How fast the simulator is: cluster-hours an hour of one core, five nodes under swarm faults.

The yardstick is the goal of 20, as nobody else has such a simulator to compare with.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

from figures import figure, options, progress, show

from meshsvc.sim.runner import be_quiet, run_seed
from meshsvc.sim.scenario import load

GOAL = 20.0


def five_nodes() -> str:
    """The swarm scenario with five nodes of one shard, as TOML."""
    swarm = load("swarm")
    kinds = ", ".join(f'"{kind}"' for kind in swarm.swarm.kinds)
    return (
        'text = "five nodes"\nnodes = 5\nshards = 1\nsafety_s = 180.0\n'
        f"[swarm]\nkinds = [{kinds}]\nshare = 0.35\n"
    )


def main() -> int:
    """Measure and print."""
    args = options(__doc__.splitlines()[0]).parse_args()
    if args.yardstick:
        print(f"  the budget: {GOAL:g} cluster-hours a core-hour")
        return 0
    be_quiet()
    rates: list[float] = []
    events: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "five.toml"
        path.write_text(five_nodes(), encoding="utf-8")
        for seed in range(args.rounds or (4 if args.quick else 16)):
            progress(f"seed {seed}")
            began = time.process_time()
            result = run_seed(str(path), seed)
            took_s = time.process_time() - began
            if not result.ok:
                print(result.report())
                return 1
            rates.append(result.virtual_s / took_s)
            events.append(result.events / took_s)
    figures = [
        figure(
            "swarm faults, 5 nodes",
            "cluster-h/core-h",
            rates,
            [GOAL] * len(rates),
            (">=", 1),
            "budget",
        ),
    ]
    notes = [f"{statistics.median(events):,.0f} events a second, of {len(rates)} seeds"]
    return show("simulator", figures, notes, args.json)


if __name__ == "__main__":
    raise SystemExit(main())
