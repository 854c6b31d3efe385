"""Ten nodes: kill -9 of one to dead everywhere, start of one to alive everywhere; against serf.

A round kills one node (all its processes at once), waits until all others call it dead,
starts it again and waits until all others call it alive. Times are those of the slowest
observer. A start is timed from exec, and again from the moment the new process is in the
cluster's business (serf: it sees itself join; meshsvc: its application starts).
Affinity: none, all processes share the machine. Both sides run with their shipped settings.
"""

from __future__ import annotations

import time
from collections import defaultdict

from cluster import POLL_S, Cluster, Node, kill
from figures import figure, need_debian, options, progress, show, show_yardstick
from serf import Serf

COUNT = 10
TIMEOUT_S = 60.0
SETTLE_S = 3.0
"""Between two events, so that the next one meets a quiet cluster."""

NAMES = ("kill to dead everywhere", "exec to alive everywhere", "ready to alive everywhere")


def serf_rounds(rounds: int) -> dict[str, list[float]]:
    """The other side."""
    found: dict[str, list[float]] = defaultdict(list)
    with Serf(need_debian("serf", "serf"), COUNT) as serf:
        for agent in serf.agents:
            serf.start(agent)
        for agent in serf.agents:
            serf.wait("joined", agent, 0.0, TIMEOUT_S)
        serf.settle(SETTLE_S)
        for number in range(rounds):
            victim = serf.agents[1 + number % (COUNT - 1)]
            progress(f"serf: round {number + 1} of {rounds}, {victim.name}")
            killed = serf.kill(victim)
            found[NAMES[0]].append(serf.wait("dead", victim, killed, TIMEOUT_S) - killed)
            serf.settle(SETTLE_S)
            serf.start(victim)
            alive = serf.wait("joined", victim, victim.started, TIMEOUT_S)
            serf.settle(SETTLE_S)
            ready = next(at for at, _, _ in victim.seen if at >= victim.started)
            found[NAMES[1]].append(alive - victim.started)
            found[NAMES[2]].append(max(0.001, alive - ready))
    return found


def our_rounds(rounds: int) -> dict[str, list[float]]:
    """Ten nodes of one shard each."""
    found: dict[str, list[float]] = defaultdict(list)
    with Cluster([[number % 2] for number in range(COUNT)], pin=False) as cluster:
        cluster.start()
        cluster.wait_formed()
        time.sleep(SETTLE_S)
        for number in range(rounds):
            victim = cluster.nodes[1 + number % (COUNT - 1)]
            progress(f"meshsvc: round {number + 1} of {rounds}, {victim.name}")
            killed = kill(victim)
            found[NAMES[0]].append(wait(cluster, victim, ("dead",), killed) - killed)
            time.sleep(SETTLE_S)
            cluster.start(victim)
            begun = victim.started
            alive = wait(cluster, victim, ("joined", "alive"), begun)
            time.sleep(SETTLE_S)
            ready = first(victim, ("started",), victim.name, begun)
            found[NAMES[1]].append(alive - begun)
            found[NAMES[2]].append(max(0.001, alive - (ready or begun)))
    return found


def wait(cluster: Cluster, about: Node, events: tuple[str, ...], since: float) -> float:
    """Wait until every other node saw one of the events; the moment the last of them did."""
    deadline = time.monotonic() + TIMEOUT_S
    watchers = [node for node in cluster.nodes if node is not about]
    while True:
        moments = [first(node, events, about.name, since) for node in watchers]
        if None not in moments:
            return max(moment for moment in moments if moment is not None)
        if time.monotonic() > deadline:
            late = [n.name for n, m in zip(watchers, moments, strict=True) if m is None]
            raise SystemExit(f"{late} did not see {about.name} {events[0]}")
        time.sleep(POLL_S)


def first(node: Node, events: tuple[str, ...], about: str, since: float) -> float | None:
    """When a node first noted one of the events; it writes the moment itself."""
    for line in node.events.read_text().splitlines():
        words = line.split()
        if len(words) == 3 and words[1] in events and words[2] == about:
            at = int(words[0]) / 1e9
            if at >= since:
                return at
    return None


def main() -> int:
    """Measure and print."""
    args = options(__doc__.splitlines()[0]).parse_args()
    rounds = args.rounds or (3 if args.quick else 9)
    theirs = serf_rounds(rounds)
    if args.yardstick:
        show_yardstick(theirs, dict.fromkeys(NAMES, "s"))
        return 0
    ours = our_rounds(rounds)
    goals = [("<=", 0.35), ("<=", 2.0), ("<=", 2.0)]
    figures = [
        # Rounds are not pairs here, so the ratio is that of the medians.
        figure(name, "s", [median(ours[name])], [median(theirs[name])], goal, "serf")
        for name, goal in zip(NAMES, goals, strict=True)
    ]
    notes = [f"{COUNT} nodes, medians of {rounds} rounds, no affinity, shipped settings of both"]
    return show("failure", figures, notes, args.json)


def median(values: list[float]) -> float:
    """The middle one."""
    return sorted(values)[len(values) // 2]


if __name__ == "__main__":
    raise SystemExit(main())
