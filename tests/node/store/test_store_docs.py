"""What docs/store.md and docs/tutorial.md show is run as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from meshsvc.sim import simulate

DOCS = Path(__file__).parents[3] / "docs"


def shown(name):
    """The names that the first block of Python of a page defines."""
    block = re.search(r"```python\n(.*?)```", (DOCS / name).read_text("utf-8"), re.DOTALL)
    made = {"__name__": "shown"}
    exec(block[1], made)
    return made


@pytest.mark.contract("KV-2", "KV-3")
def test_the_application_of_the_store_page():
    """Jobs are added once, taken once each, and heard of everywhere."""
    held = {"store": {"expect": 3}}
    jobs = shown("store.md")["Jobs"]()
    with simulate(nodes=3, shards=2, applications=[jobs], seed=4, config=held) as sim:
        n1, n2, n3 = sim.nodes
        sim.run_until(sim.formed, timeout_s=20)
        sim.run(5)
        assert [sim.ask(node, "jobs.add", "a") for node in (n1, n2)] == [True, False]
        assert sim.ask(n3, "jobs.add", "b") is True
        taken = [sim.ask(node, "jobs.take") for node in (n1, n2, n3)]
        assert taken == ["jobs/a", "jobs/b", None]
        sim.run(1)
        assert sim.ask(n2, "jobs.heard")[-1] == ["jobs/b", "taken"]


def test_the_application_of_the_tutorial():
    """One guest of a name, read in any shard, and there after a crash."""
    book = shown("tutorial.md")["Application"]()
    with simulate(nodes=3, shards=2, applications=[book], seed=7) as sim:
        n1, n2, n3 = sim.nodes
        sim.run_until(sim.formed, timeout_s=10)
        sim.run(5)
        assert sim.ask(n1, "guests.sign", {"name": "ada", "says": "hello"})["new"]
        assert not sim.ask(n2, "guests.sign", {"name": "ada", "says": "me too"})["new"]
        n1.crash()
        sim.run(5)
        assert "ada" in sim.ask(n3, "guests.all")
