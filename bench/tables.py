"""Replicated tables between real nodes: reads, acknowledged writes, joins of large tables.

Nodes of one shard each, not pinned: three for reads and writes, two for joins, on as many CPUs
as there are. A row is a short text under a short text. An insert counts when every member has
it. During a join the node that holds the rows goes on to read and write; the longest pause of
its writes, and of both reactors, is what its users would notice.

The yardstick is CETS (github.com/esl/cets) under Debian's Erlang, measured in the same run with
``--cets DIR``, a checkout with its modules compiled into ``ebin/`` (``erlc -o ebin src/*.erl``).
Without it the figures named ``CETS_ELSEWHERE`` are shown, which were measured on another day
on a machine of two CPUs that had nothing else to do. Reads are also compared with a plain dict.
"""

from __future__ import annotations

import json
import subprocess
from collections import defaultdict
from pathlib import Path

from cluster import Cluster, Node
from figures import Figure, figure, need_debian, options, progress, show

HERE = Path(__file__).resolve().parent

CETS_ELSEWHERE = {"reads": 3.2e6, "inserts": 50e3, "many": 1.2e6, "join": 0.43, "big": 7.5}

GOALS = {
    "reads": (3e6, ">="),
    "inserts": (50e3, ">="),
    "many": (400e3, ">="),
    "join": (1.5, "<="),
    "write pause": (100.0, "<="),
    "big pause": (50.0, "<="),
    "big memory": (2.5, "<="),
}
NAMES = {
    "reads": ("local reads", "/s"),
    "inserts": ("inserts, 1,000 in flight", "/s"),
    "many": ("insert_many of 1,000", "rows/s"),
    "join": ("join of 100,000 rows", "s"),
    "write pause": ("longest write in that join", "ms"),
    "big pause": ("longest pause, 1,000,000 rows", "ms"),
    "big memory": ("peak memory, 1,000,000 rows", "x table"),
}


class Sizes:
    """How much each measurement does."""

    def __init__(self, quick: bool) -> None:
        self.rounds = 1 if quick else 5
        self.inserts = 50_000 if quick else 200_000
        self.many = 200_000 if quick else 1_000_000
        self.join = 100_000
        self.big = 0 if quick else 1_000_000


def writes_round(sizes: Sizes) -> dict[str, float]:
    """Reads and writes on three nodes."""
    with Cluster([[0], [0], [0]], pin=False) as cluster:
        cluster.start()
        cluster.wait_formed()
        for node in cluster.nodes:
            ask(node, "open", {"name": "t", "rows": 0})
        first = cluster.nodes[0]
        read = ask(first, "reads", {"name": "t", "rounds": 10})
        load = {"name": "t", "count": sizes.inserts, "window": 1000}
        ask(first, "inserts", load | {"count": 10_000})  # warms up what a long-lived node has warm
        inserted = ask(first, "inserts", load)
        many = ask(first, "many", {"name": "t", "count": sizes.many, "depth": 2})
        if inserted["failed"] or many["failed"]:
            raise SystemExit(f"writes were lost: {inserted}, {many}")
        return {
            "reads": read["table"],
            "dict": read["dict"],
            "inserts": inserted["per_s"],
            "many": many["per_s"],
        }


def join_round(rows: int) -> dict[str, float]:
    """A node that holds rows meets one that does not."""
    with Cluster([[0], [0]], pin=False) as cluster:
        cluster.start()
        cluster.wait_formed()
        holder, joiner = cluster.nodes
        ask(holder, "open", {"name": "j", "rows": 0})
        filled = ask(holder, "fill", {"name": "j", "rows": rows})
        before = {node.name: ask(node, "rss", None) for node in cluster.nodes}
        ask(holder, "watch", {"name": "j"})
        ask(joiner, "watch", {"name": ""})
        joined = ask(joiner, "open", {"name": "j", "rows": rows})
        seen = {node.name: ask(node, "watched", None) for node in cluster.nodes}
    table = filled["bytes"]
    grown = seen[joiner.name]["peak"] - before[joiner.name]
    more = table + seen[holder.name]["peak"] - before[holder.name]
    return {
        "join": joined["joined"],
        "write": 1e3 * seen[holder.name]["write"],
        "read": 1e3 * seen[holder.name]["read"],
        "pause": 1e3 * max(each["pause"] for each in seen.values()),
        "busy": 1e3 * max(each["busy"] for each in seen.values()),
        "memory": max(grown, more) / table,
        "row": table / rows,
    }


def ask(node: Node, verb: str, payload: object) -> dict[str, float]:
    """Call a verb of the bench's application in shard 0 of a node."""
    reply: dict[str, float] = node.call(f"{node.name}/0", f"bench.t_{verb}", payload, 300.0)
    return reply


def cets_round(folder: Path, sizes: Sizes) -> dict[str, float]:
    """The same on three Erlang nodes."""
    numbers = map(str, (sizes.inserts, sizes.join, sizes.big))
    done = subprocess.run(
        ["escript", HERE / "cets_roles.escript", folder / "ebin", *numbers],
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def judged(ours: dict[str, list[float]]) -> list[Figure]:
    """Each figure against its goal, and reads against a dict as well."""
    out = []
    for name, (bound, sign) in GOALS.items():
        if ours[name]:
            label, unit = NAMES[name]
            goal = [bound] * len(ours[name])
            out.append(figure(label, unit, ours[name], goal, (sign, 1.0), "the goal"))
    out.insert(1, figure("local reads", "/s", ours["reads"], ours["dict"], (">=", 0.8), "a dict"))
    return out


def measure(sizes: Sizes, rounds: int, cets: Path | None) -> tuple[dict[str, list[float]], ...]:
    """All rounds: ours, and CETS's."""
    ours: dict[str, list[float]] = defaultdict(list)
    theirs: dict[str, list[float]] = defaultdict(list)
    for number in range(rounds):
        progress(f"round {number + 1} of {rounds}")
        if cets is not None:
            for name, value in cets_round(cets, sizes).items():
                theirs[name].append(value)
        for name, value in writes_round(sizes).items():
            ours[name].append(value)
        joined = join_round(sizes.join)
        ours["join"].append(joined["join"])
        ours["write pause"].append(joined["write"])
        ours["read"].append(joined["read"])
        ours["row"].append(joined["row"])
        if sizes.big and number == 0:
            big = join_round(sizes.big)
            ours["big"].append(big["join"])
            ours["big pause"].append(big["pause"])
            ours["big memory"].append(big["memory"])
            ours["big row"].append(big["row"])
            ours["big busy"].append(big["busy"])
    return ours, theirs


def middle(values: list[float]) -> float:
    """The median."""
    return sorted(values)[len(values) // 2]


def notes_of(ours: dict[str, list[float]], theirs: dict[str, list[float]]) -> list[str]:
    """What is no goal: CETS's figures, bytes a row, the longest read."""
    cets = {name: middle(values) for name, values in theirs.items()} or CETS_ELSEWHERE
    where = "in this run" if theirs else "elsewhere, idle machine (CETS_ELSEWHERE)"
    notes = [
        f"CETS {where}: {cets['reads']:,.0f} reads/s, {cets['inserts']:,.0f} inserts/s,"
        f" {cets['many']:,.0f} rows/s by a thousand, joins {cets['join']:.2f} and"
        f" {cets['big']:.2f} s",
        f"{middle(ours['row']):.0f} bytes a row of 100,000, key and value of 40 bytes included",
        f"longest read during a join: {max(ours['read']):.3f} ms",
    ]
    if ours["big"]:
        notes.append(
            f"1,000,000 rows joined in {ours['big'][0]:.1f} s, {ours['big row'][0]:.0f} bytes a"
            f" row; at most {ours['big busy'][0]:.0f} ms of CPU time in one turn of a reactor"
        )
    return notes


def main() -> int:
    """Measure and print."""
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--cets", type=Path, help="a checkout of CETS with ebin/ compiled")
    args = parser.parse_args()
    sizes = Sizes(args.quick)
    rounds = args.rounds or sizes.rounds
    if args.yardstick and args.cets is None:
        parser.error("--yardstick needs --cets")
    if args.cets is not None:
        need_debian("escript", "erlang-base")
    if args.yardstick:
        print(json.dumps([cets_round(args.cets, sizes) for _ in range(rounds)], indent=2))
        return 0
    ours, theirs = measure(sizes, rounds, args.cets)
    notes = [*notes_of(ours, theirs), f"medians of {rounds} rounds; nodes of one shard, not pinned"]
    return show("tables", judged(ours), notes, args.json)


if __name__ == "__main__":
    raise SystemExit(main())
