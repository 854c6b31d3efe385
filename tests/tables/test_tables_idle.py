"""What tables cost when nothing is written to them: counts, not seconds."""

from __future__ import annotations

import pytest

TABLES = 5
REST_S = 60.0


def asked(bench):
    """How often each verb of tables was asked so far, in the whole cluster."""
    sums = {}
    for node in bench.sim.nodes:
        for life in node.shards.values():
            for (name, labels), counter in life.shard.tables.counters.counters.items():
                verb = dict(labels).get("verb", "")
                if name == "verb_asks_total" and verb.startswith("tables."):
                    sums[verb] = sums.get(verb, 0) + counter.value
    return sums


def digests(bench):
    return [
        replica.digest
        for node in bench.sim.nodes
        for life in node.shards.values()
        for replica in life.shard.tables.replicas.values()
    ]


@pytest.mark.contract("TBL-4")
def test_tables_that_rest_are_compared_by_one_small_question(cluster):
    """However many tables and rows: one question a repair, and no fingerprint is made again."""
    names = [f"t{n}" for n in range(1, TABLES)]
    bench = cluster(2, shards=2, settings={name: {} for name in names})
    for name in ("t", *names):
        bench.wait(bench.table("n1", 0, name).insert_many({f"k{n}": n for n in range(100)}))
    bench.sim.run(20)
    before, roots = asked(bench), [digest.root() for digest in digests(bench)]
    bench.sim.run(REST_S)
    grown = {verb: count - before.get(verb, 0) for verb, count in asked(bench).items()}
    shards, repairs = 4, REST_S / 3  # the repair interval is 3 s, give or take a half
    assert shards * repairs / 2 < grown.pop("tables.roots") < shards * repairs * 2
    assert 0 < grown.pop("tables.hello") < 2 * REST_S
    assert not any(grown.values()), grown
    again = [digest.root() for digest in digests(bench)]
    assert len(roots) == shards * TABLES
    assert all(mine is other for mine, other in zip(roots, again, strict=True))


@pytest.mark.contract("TBL-4")
def test_a_table_that_is_flooded_is_compared_when_it_rests(cluster):
    """While every bucket is written to, a look for those that rest would be for nothing."""
    bench = cluster(2)
    bench.sim.run(5)
    before = asked(bench).get("tables.roots", 0)
    for number in range(36):
        written = bench.table("n1").insert_many({f"k{number}/{n}": "v" for n in range(2100)})
        bench.sim.run(0.25)
        assert written.result.ok
    assert asked(bench).get("tables.roots", 0) - before <= 2
    bench.sim.run(10)
    assert asked(bench)["tables.roots"] - before >= 3
    one, other = digests(bench)
    assert one.root() == other.root()
    assert bench.equal()


def test_gauges_follow_what_changes(cluster):
    """Rows, tombstones and memory of a table are shown soon after a change, and once."""
    bench = cluster(2)
    tables = bench.shard("n2").tables
    bench.wait(bench.table("n1").insert_many({f"k{n}": "x" * 100 for n in range(50)}))
    bench.wait(bench.table("n1").delete("k0"))
    bench.sim.run(6)
    shown = {
        name: value
        for (name, labels), value in tables.counters.gauges.items()
        if dict(labels).get("table") == "t"
    }
    assert shown["tables_rows"] == 49
    assert shown["tables_tombstones"] == 1
    assert shown["tables_memory_bytes"] == bench.table("n2").memory > 49 * 100


def test_who_missed_a_view_is_told_again(cluster):
    """A shard that did not answer the seat learns with whom tables are joined when it can."""
    bench = cluster(2, shards=3, seed=5)
    bench.sim.cluster.node("n1").kill_shard(0)
    bench.sim.run(1)
    bench.sim.run_until(bench.joined, 30.0)
    before = asked(bench)["tables.view"]
    bench.sim.run(REST_S)
    assert asked(bench)["tables.view"] == before
