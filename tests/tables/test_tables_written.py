"""Writes in a cluster: who has them, and what the result says of it."""

from __future__ import annotations

import pytest


@pytest.mark.contract("TBL-1", "TBL-2")
def test_a_write_is_everywhere_when_its_result_is_ok(cluster):
    """J1: the result names the members; every shard of each reads the row at once."""
    bench = cluster(nodes=3, shards=2)
    result = bench.wait(bench.table("n1", 1).insert("a", {"x": [1, 2]}))
    assert result.ok
    assert sorted(result.acked) == ["n2", "n3"]
    assert all(table["a"] == {"x": [1, 2]} for table in bench.tables().values())


@pytest.mark.contract("TBL-1", "TBL-2")
@pytest.mark.parametrize("kind", ["set", "ordered", "bag"])
def test_the_operations_of_every_kind(cluster, kind):
    """J2: insert, insert_many, delete, delete_many and compare-and-delete, by any shard."""
    bench = cluster(nodes=2, shards=2, kind=kind)
    one, other = bench.table("n1"), bench.table("n2", 1)
    assert bench.wait(one.insert_many({f"k{n}": n for n in range(10)})).changed == 10
    assert bench.wait(other.insert("k0", 100)).ok
    assert one["k0"] == ((0, 100) if kind == "bag" else 100)
    assert bench.wait(one.delete("k1")).changed == 1
    assert bench.wait(other.delete_many(["k2", "k3", "none"])).changed == 2
    assert bench.wait(one.delete("k4", if_value=5)).changed == 0
    assert bench.wait(one.delete("k4", if_value=4)).changed == 1
    assert bench.wait(other.delete("k5", if_version=other.version("k5") + 1)).changed == 0
    assert bench.wait(other.delete("k5", if_version=other.version("k5"))).changed == 1
    assert sorted(one) == sorted(other) == ["k0", "k6", "k7", "k8", "k9"]
    assert bench.equal()


@pytest.mark.contract("TBL-3")
def test_one_of_many_inserts_is_new(cluster):
    """J4: 200 at once from every shard: exactly one True, and the losers get the winner's row."""
    bench = cluster(nodes=3, shards=2)
    tables = list(bench.tables().values())
    answers = []
    for number in range(200):
        asked = tables[number % len(tables)].insert_new_or_lookup("k", number, timeout_s=10)
        asked.addBoth(answers.append)
    bench.sim.run_until(lambda: len(answers) == 200, 20.0)
    winners = [value for new, value in answers if new]
    assert len(winners) == 1
    assert {value for _, value in answers} == set(winners)
    assert {table["k"] for table in tables} == set(winners)


@pytest.mark.contract("TBL-2")
@pytest.mark.parametrize("nodes", [1, 3])
def test_a_large_call_does_not_wait_for_the_turn_to_end(cluster, nodes):
    """It leaves before it is merged here, alone, and its result is that of any other call."""
    bench = cluster(nodes, shards=2)
    table = bench.table("n1")
    small = table.insert("k0", "small")
    large = table.insert_many({f"k{n}": "x" * 100 for n in range(1000)})
    last = table.insert("k1", "last")
    assert table["k0"] == "x" * 100
    assert table["k1"] == "last"
    for call, changed in ((small, 1), (large, 1000), (last, 1)):
        result = bench.wait(call)
        assert result.ok
        assert (len(result.acked), result.changed) == (nodes - 1, changed)
    bench.sim.run_until(bench.equal, 5.0)
    assert len(bench.table(f"n{nodes}", 1)) == 1000
