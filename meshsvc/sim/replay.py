"""A run as one page: nodes and links as they were at any moment, faults, and the event log.

The page needs no network and nothing installed: the events are embedded as JSON, and a
script in it draws the state at the moment the scrubber points at.
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meshsvc.sim.runner import Result, Run

MAX_EVENTS = 50_000
"""Lines on a page: some ten megabytes."""

_LIFE = {
    "start": "starting",
    "stop": "stopping",
    "crash": "down",
    "exit": "down",
    "ended": "down",
    "failed": "down",
    "pause": "paused",
    "resume": "up",
    "power": "off",
}


def page(run: Run, result: Result) -> str:
    """The page as HTML text."""
    template = (files("meshsvc.sim") / "replay.html").read_text("utf-8")
    # "</" would end the script element, wherever it stands in a string.
    data = json.dumps(story(run, result), separators=(",", ":")).replace("</", "<\\/")
    return template.replace("{{title}}", f"{result.scenario} seed {result.seed}").replace(
        "{{data}}", data
    )


def story(run: Run, result: Result) -> dict[str, Any]:
    """What the page shows: nodes, changes of state in order, deliveries per second, the log."""
    cluster = run.cluster
    hosts = {node.host.name: node.name for node in cluster.nodes}
    lines = cluster.trace.lines[-MAX_EVENTS:]
    return {
        "scenario": result.scenario,
        "seed": result.seed,
        "violation": str(result.violation) if result.violation else "",
        "digest": result.digest,
        "end": cluster.time.now,
        "nodes": [node.name for node in cluster.nodes],
        "shards": cluster.shape.shards,
        "traffic": cluster.trace.traffic(hosts),
        "changes": [change for line in lines if (change := _change(line))],
        "log": [[round(line.at, 4), line.node, line.kind, line.text] for line in lines],
    }


def _change(line: Any) -> list[Any] | None:
    """[at, what, node, ...] for a line that changes the picture."""
    at, words = round(line.at, 4), line.text.split()
    if line.kind in _LIFE:
        return [at, "life", line.node, _LIFE[line.kind]]
    if line.kind == "mesh":
        return [at, "mesh", line.node, line.text]
    if line.kind == "epoch" and words[0] == "/0":
        return [at, "epoch", line.node, words[1]]
    if line.kind == "link":
        return [at, "link", line.node, words[4].rstrip(":"), words[1], words[2] == "up"]
    if line.kind in ("partition", "one-way", "heal", "calm", "weather", "clog"):
        return [at, "fault", line.kind, line.text]
    return None
