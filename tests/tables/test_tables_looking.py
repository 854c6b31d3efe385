"""What ``meshsvc tables diff`` and its like are answered: looks that change nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from meshsvc.errors import BadTable, NoSuchTarget
from meshsvc.model import Incarnation, NodeId, ShardId
from meshsvc.tables.looking.compare import Differing, confirmed, differing
from meshsvc.tables.rows import Origin, Row

ORIGIN = Origin(NodeId("a" * 32), Incarnation(1), ShardId(0), Incarnation(1))
NEVER = {"repair_interval": "10 min"}


def row(stamp: int, dead: bool = False) -> Row:
    return Row(stamp, ORIGIN, dead, None)


def compare(bench, name="t", nodes=(), limit=100):
    looking = bench.shard("n1").tables.looking
    return bench.wait(Deferred.fromCoroutine(looking.compare(name, nodes, limit)))


def plant(table, key, value, stamp=1):
    """Change one copy behind everybody's back."""
    table._replica.put(row(stamp), (key,), (value,), table._store.now())


@pytest.mark.contract("TBL-4")
def test_equal_copies_are_equal(cluster):
    """Every shard of every node is looked at, and no table is made by looking."""
    bench = cluster(nodes=3, shards=2)
    bench.wait(bench.table("n1").insert_many({f"k{n}": n for n in range(500)}))
    report = compare(bench)
    assert [copy.name for copy in report.copies] == sorted(bench.tables())
    assert {copy.rows for copy in report.copies} == {500}
    assert (report.differing, report.complete) == ([], True)
    with pytest.raises(BadTable):
        compare(bench, "other")
    assert all("other" not in bench.shard(node).tables.replicas for node in ("n1", "n2", "n3"))
    with pytest.raises(NoSuchTarget, match="members: n1, n2, n3"):
        compare(bench, nodes=["n9"])


@pytest.mark.contract("TBL-4")
def test_differing_keys_are_named(cluster):
    """A row that one copy lacks, or holds in another version, is named with who is behind."""
    bench = cluster(nodes=3, shards=2, settings=NEVER)
    bench.wait(bench.table("n1").insert_many({f"k{n}": n for n in range(500)}))
    plant(bench.table("n2", 1), "only there", 1)
    newer = bench.table("n3").version("k7") + 1
    plant(bench.table("n3"), "k7", "else", newer)
    report = compare(bench)
    found = {each.rid: set(each.behind) for each in report.differing}
    everybody = set(bench.tables())
    assert found == {"only there": everybody - {"n2/1"}, "k7": everybody - {"n3/0"}}
    assert report.complete
    assert len(compare(bench, limit=1).differing) == 1
    assert not compare(bench, nodes=["n1"]).differing


def test_a_silent_node_is_a_line_of_the_report(cluster):
    """A copy that does not answer is named as such; the others are compared."""
    bench = cluster(nodes=3, shards=1, settings=NEVER)
    bench.sim.cluster.node("n3").pause()
    report = compare(bench)
    assert [copy.name for copy in report.copies if copy.error] == ["n3/0"]
    assert {copy.name for copy in report.copies if not copy.error} == {"n1/0", "n2/0"}


def test_what_was_on_its_way_is_no_difference():
    """Only a copy that is as far behind at the second look as at the first counts."""
    before = differing({"n1/0": {"a": row(2), "b": row(2)}, "n2/0": {"a": row(1), "b": row(1)}})
    after = differing({"n1/0": {"a": row(3), "b": row(2)}, "n2/0": {"a": row(2), "b": row(1)}})
    assert [each.rid for each in confirmed(before, after)] == ["b"]


@given(st.dictionaries(st.sampled_from("abcd"), st.integers(1, 5), max_size=4),
       st.dictionaries(st.sampled_from("abcd"), st.integers(1, 5), max_size=4))  # fmt: skip
def test_exactly_what_differs_is_found(one, other):
    """Rows of two copies differ when one lacks them or the versions are not the same."""
    found = differing({"x": {k: row(v) for k, v in one.items()},
                       "y": {k: row(v) for k, v in other.items()}})  # fmt: skip
    assert {each.rid for each in found} == {
        key for key in {*one, *other} if one.get(key) != other.get(key)
    }


def test_a_tombstone_is_another_version():
    """A copy that holds a row alive is behind one that holds it deleted."""
    found = Differing("a", {"n1/0": row(1), "n2/0": row(1, dead=True)})
    assert set(found.behind) == {"n1/0"}
    assert set(Differing("a", {"n1/0": None, "n2/0": row(1)}).behind) == {"n1/0"}


@pytest.mark.contract("OPS-3")
def test_join_status_is_that_of_the_seat(cluster):
    """Any shard answers with a row for each table and member, and knows no other table."""
    bench = cluster(nodes=3, shards=2)
    looking = bench.shard("n1").tables.looking
    rows = bench.wait(Deferred.fromCoroutine(looking.joins()))
    assert [(r["table"], r["node"], r["phase"]) for r in rows] == [
        ("t", "n2", "joined"),
        ("t", "n3", "joined"),
    ]
    assert bench.wait(Deferred.fromCoroutine(looking.joins("t"))) == rows
    with pytest.raises(BadTable, match="open here: t"):
        bench.wait(Deferred.fromCoroutine(looking.joins("other")))
    (listed,) = looking.listed()
    assert (listed["name"], listed["joined"], listed["memory"]) == ("t", ["n2", "n3"], 0)


@pytest.mark.contract("TBL-4")
def test_rows_that_are_on_their_way_are_not_repaired(cluster):
    """Copies of a table under writes differ at every look: rows are compared where they rest."""
    bench = cluster(nodes=2, settings={"repair_interval": "500 ms"})
    one, other = bench.table("n1"), bench.table("n2")

    def compared():
        verb = "tables.index"
        nodes = (bench.shard(name) for name in ("n1", "n2"))
        return sum(node.counters.total("verb_asks_total", verb=verb) for node in nodes)

    before = compared()
    for number in range(2000):
        one.insert(f"k{number}", number)
        other.insert(f"o{number}", number)
        bench.sim.run(0.001)
    # Each tenth time of each node all the same, lest a table that never rests is never repaired.
    assert compared() - before <= 2
    plant(other, "only there", 1, stamp=other.version("o1") + 1)
    bench.sim.run_until(lambda: one.get("only there") == 1, 10)
    assert bench.equal()


@pytest.mark.contract("TBL-6")
def test_a_table_that_is_opened_is_joined_at_once(cluster):
    """Nobody waits for the next round of greetings to share a table that both hold."""
    bench = cluster(nodes=2)
    for name in ("n1", "n2"):
        bench.shard(name).tables.open("late")
    bench.wait(bench.table("n1", name="late").insert("k", 1))
    began = bench.sim.now
    bench.sim.run_until(lambda: bench.table("n2", name="late").get("k") == 1, 5)
    assert bench.sim.now - began < 0.1
