"""Scripted traces: commands, and what a cluster does with them, line by line.

Each file in ``tests/traces`` has commands (``> ...``) and below each the events it led to.
Set ``MESHSVC_WRITE_TRACES=1`` (or ``make traces``) to write them anew, and review the diff.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from meshsvc.sim.cluster import Cluster, Shape
from meshsvc.sim.commands import BadCommand, Commands

FOLDER = Path(__file__).resolve().parent.parent / "traces"
WRITE = bool(os.environ.get("MESHSVC_WRITE_TRACES"))


def shown(line) -> str:
    return f"{line.at:8.2f}  {line.node or '-':4} {line.kind:9} {line.text}".rstrip()


def played(text: str) -> str:
    """The text with the events that its commands lead to now."""
    out, cluster = [], None
    for line in text.splitlines():
        if line.startswith("#"):
            out.append(line)
        elif line.startswith("cluster "):
            words = dict(zip(*[iter(line.split()[1:])] * 2, strict=True))
            seed = int(words.pop("seed"))
            cluster = Cluster(seed, Shape(**{key: int(value) for key, value in words.items()}))
            out.append(line)
        elif line.startswith("> "):
            before = len(cluster.trace.lines)
            Commands(cluster).do(line[2:])
            out += ["", line]
            out += [shown(each) for each in cluster.trace.lines[before:]]
    assert cluster.violation is None, cluster.violation
    return "\n".join(out) + "\n"


@pytest.mark.contract("SIM-1", "MESH-9", "GSP-9", "GSP-5")
@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.txt")), ids=lambda path: path.stem)
def test_a_trace_is_as_it_was_reviewed(path):
    """The events of a scripted cluster are those in the file."""
    text = path.read_text("utf-8")
    now = played(text)
    if WRITE:
        path.write_text(now, "utf-8")
    assert now == text or WRITE, f"{path.name} changed: make traces, and review the diff"


def test_a_bad_command_is_named():
    """A line that cannot be read says what was expected."""
    commands = Commands(Cluster(1, Shape(nodes=2)))
    with pytest.raises(BadCommand, match="'jump' is no command: there are start, stop"):
        commands.do("jump n1")
    with pytest.raises(
        BadCommand, match=r"'slow n1 fast' cannot be done.*write slow NODE DURATION"
    ):
        commands.do("slow n1 fast")
