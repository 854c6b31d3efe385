"""A run as one page: nodes and links as they were at any moment, faults, and the event log.

The page needs no network and nothing installed: the events are embedded as JSON, and a
script in it draws the state at the moment the scrubber points at. Its policy forbids it to
load anything, and to run or to be styled by anything but what it came with.
"""

from __future__ import annotations

import json
from base64 import b64encode
from hashlib import sha256
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from meshsvc.sim.flights import Flights

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

_FAULTS = (
    *("partition", "one-way", "heal", "calm", "weather", "clog"),
    *("reset", "half-open", "kill", "slow", "disk"),
)


def page(run: Run, result: Result) -> str:
    """The page as HTML text; messages are on it when ``flights`` were kept during the run."""
    template = (files("meshsvc.sim") / "replay.html").read_text("utf-8")
    # "</" would end the script element, wherever it stands in a string.
    data = json.dumps(story(run, result), separators=(",", ":")).replace("</", "<\\/")
    for kind, element in (("style", "<style>"), ("script", "<script>")):
        template = template.replace("{{" + kind + "}}", _hash_of(template, element))
    return template.replace("{{title}}", f"{result.scenario} seed {result.seed}").replace(
        "{{data}}", data
    )


def _hash_of(template: str, element: str) -> str:
    """What the page's policy allows: this element's text and no other."""
    text = template.partition(element)[2].partition(element.replace("<", "</"))[0]
    return "sha256-" + b64encode(sha256(text.encode()).digest()).decode("ascii")


def story(run: Run, result: Result) -> dict[str, Any]:
    """What the page shows: nodes, changes of state in order, messages on their way, the log."""
    cluster = run.cluster
    nodes = [*cluster.nodes, *cluster.strangers.nodes]
    lines = cluster.trace.lines[-MAX_EVENTS:]
    return {
        "scenario": result.scenario,
        "seed": result.seed,
        "violation": str(result.violation) if result.violation else "",
        "digest": result.digest,
        "end": cluster.time.now,
        "nodes": [node.name for node in nodes],
        "shards": cluster.shape.shards,
        **_messages(cluster.net.flights or Flights(), {n.host.name: n.name for n in nodes}),
        "changes": [change for line in lines if (change := _change(line))],
        "log": [[round(line.at, 4), line.node, line.kind, line.text] for line in lines],
    }


def _messages(flights: Flights, names: dict[str, str]) -> dict[str, Any]:
    """Flights as [sent, arrives, path, bytes], holds as [at, path, change]; paths by index."""
    both = [flight[2] for flight in flights.kept] + [hold[1] for hold in flights.holds]
    paths = {path: index for index, path in enumerate(dict.fromkeys(both))}
    return {
        "paths": [[names[source], names[target]] for source, target in paths],
        "flights": [
            [round(at, 4), round(arrives, 4), paths[path], size]
            for at, arrives, path, size in flights.kept
        ],
        "holds": [[round(at, 4), paths[path], change] for at, path, change in flights.holds],
        "seen": flights.seen,
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
    if line.kind in _FAULTS:
        return [at, "fault", line.kind, f"{line.node} {line.text}".strip()]
    return None
