"""Tables under faults, in simulated clusters: the acceptance checks J5 to J17 of CETS's users."""

from __future__ import annotations

import pytest
from conftest_tables import Bench
from twisted.internet.defer import Deferred
from zope.interface import implementer

from meshsvc.errors import BadKey, Fenced, Indeterminate, NotEncodable, TimedOut, TooLarge
from meshsvc.interfaces import IConflictResolver
from meshsvc.model import Epoch, ShardAddress, ShardId
from meshsvc.sim import simulate
from meshsvc.tables.leading.quorum import leader_of
from meshsvc.tables.rows import Row
from meshsvc.tables.writes import Entry, encode_batch

NOT_LED_BY_THE_CONTROLLER = 3
"""A seed under which another node leads the table: the mesh goes on when its leader is lost."""

HEALED_S = 30.0
"""How long copies may differ after a split has healed."""


@implementer(IConflictResolver)
class Longest:
    """Keeps the longer list; raises while it is told to."""

    name = "longest"

    def __init__(self):
        self.asked, self.broken = [], False

    def resolve(self, key, older, newer):
        self.asked.append(key)
        if self.broken:
            raise RuntimeError("no idea")
        return max(older, newer, key=len)


def leading(bench, name="t"):
    """The name of the node that leads a table, and one that does not."""
    shard = bench.shard("n1")
    leader = leader_of(name, shard.tables.roster).node
    names = [node.name for node in bench.sim.nodes]
    first = next(node.name for node in bench.sim.nodes if node.node_id == leader)
    return first, next(name for name in names if name != first)


@pytest.mark.contract("TBL-4")
def test_concurrent_writes_of_one_key_converge(cluster):
    """J5: two nodes write at the same moment; all copies end with the same one of the values."""
    bench = cluster(nodes=3)
    one = bench.table("n1").insert("k", "one")
    other = bench.table("n2").insert("k", "other")
    assert bench.wait(one).ok
    assert bench.wait(other).ok
    assert bench.equal()


@pytest.mark.contract("TBL-3")
def test_a_leader_that_is_lost_in_mid_call_leaves_no_wrong_answer(cluster):
    """J6: the caller gets Indeterminate, never a bool; afterwards a retry resolves it."""
    bench = cluster(nodes=3, seed=NOT_LED_BY_THE_CONTROLLER)
    leader, other = leading(bench)
    assert leader != "n1"
    table = bench.table(other)
    assert bench.wait(table.insert_new("before", 1)) is True
    asked = table.insert_new("k", 1)
    bench.sim.run(0.0005)
    bench.sim.cluster.node(leader).crash()
    with pytest.raises(Indeterminate, match="insert_new_or_lookup"):
        bench.wait(asked)

    def decided():
        try:
            return bench.wait(table.insert_new_or_lookup("k", 2))
        except (Fenced, Indeterminate):
            return None

    answer = None
    for _ in range(30):
        bench.sim.run(1)
        answer = answer or decided()
    assert answer in ((True, 2), (False, 1))
    assert table["k"] == answer[1]


@pytest.mark.contract("TBL-2")
def test_a_stopped_member_is_named_and_not_waited_for(cluster):
    """J7: SIGSTOP of a replica: the result names it by the deadline, and so it is repaired."""
    bench = cluster(nodes=3)
    stopped = bench.sim.cluster.node("n3")
    stopped.pause()
    began = bench.sim.now
    result = bench.wait(bench.table("n1").insert("k", 1, timeout_s=1.0))
    assert bench.sim.now - began < 1.2
    assert (result.acked, list(result.lost), result.ok) == (("n2",), ["n3"], False)
    stopped.resume()
    bench.sim.run_until(lambda: bench.table("n3").get("k") == 1, HEALED_S)


@pytest.mark.contract("TBL-3")
def test_a_minority_decides_nothing(cluster):
    """A node cut off from the majority refuses leader operations at once, and says why."""
    bench = cluster(nodes=3)
    bench.sim.fault("isolate n2")
    bench.sim.run(20)
    with pytest.raises(Fenced):
        bench.wait(bench.table("n2").insert_new("k", 1))
    leader, _ = leading(bench)
    answers = []
    for _ in range(10):
        bench.table("n1").insert_new("k", 2).addBoth(answers.append)
        bench.sim.run(1)
    assert answers.count(True) == 1, f"the majority, whose leader was {leader}: {answers}"
    bench.sim.fault("heal")
    bench.sim.run_until(bench.joined, HEALED_S)
    assert bench.wait(bench.table("n2").insert_new_or_lookup("k", 3)) == (False, 2)


@pytest.mark.contract("TBL-3")
def test_a_leader_names_the_nodes_that_it_waits_for(cluster):
    """Nobody who restarted remembers, one is gone: it may know of a row, until it is back."""
    bench = cluster(nodes=3)
    assert bench.wait(bench.table("n1").insert_new("before", 1)) is True
    for name in ("n3", "n2"):
        bench.sim.cluster.node(name).crash()
    bench.sim.run(10)
    bench.sim.cluster.node("n2").start()
    bench.sim.run(15)
    with pytest.raises(Fenced, match=r"t: n3 did not answer, .* until it is back"):
        bench.wait(bench.table("n1").insert_new("k", 1))
    bench.sim.cluster.node("n3").start()
    bench.sim.run(15)
    assert bench.wait(bench.table("n2").insert_new("k", 1)) is True


def split_and_conflict(bench):
    """Cut n3 off, and write on both sides."""
    bench.sim.fault("isolate n3")
    bench.sim.run(15)
    left, right = bench.table("n1"), bench.table("n3")
    left.insert_many({"both": [1, 1], "left": [1], "same": [0], "gone": [1]})
    bench.sim.run(1)
    right.insert_many({"both": [3, 3, 3], "right": [3]})
    right.delete("old")
    bench.sim.run(7)


@pytest.mark.contract("TBL-6")
@pytest.mark.parametrize(
    ("resolver", "both"),
    [("last-writer", [3, 3, 3]), ("keep-both", [1, 3]), ("longest", [3, 3, 3])],
)
def test_a_split_ends_in_a_join_that_resolves_once(resolver, both):
    """J8: the resolver is asked once a differing key; copies are equal; deletes stay deleted."""
    longest = Longest()
    config = {"tables": {"t": {"kind": "ordered", "resolver": resolver}}}
    with simulate(3, seed=4, applications=[longest], config=config) as sim:
        bench = Bench(sim)
        sim.run_until(bench.joined, 20)
        bench.wait(bench.table("n1").insert_many({"old": [9], "kept": [9]}))
        split_and_conflict(bench)
        sim.fault("heal")
        sim.run_until(bench.joined, HEALED_S)
        sim.run_until(bench.equal, HEALED_S)
        assert dict(bench.table("n2").dump()) == {
            "both": both, "left": [1], "right": [3], "same": [0], "gone": [1], "kept": [9],
        }  # fmt: skip
        assert longest.asked == (["both"] if resolver == "longest" else [])
        sim.run(20)
        assert len(longest.asked) <= 1
        assert bench.equal()


@pytest.mark.contract("TBL-6")
def test_a_resolver_that_raises_leaves_both_sides_as_they_were():
    """J8: no join, both copies unchanged, writes go on; once it works the join succeeds."""
    longest = Longest()
    longest.broken = True
    config = {"tables": {"t": {"resolver": "longest"}}}
    with simulate(3, seed=4, applications=[longest], config=config) as sim:
        bench = Bench(sim)
        sim.run_until(bench.joined, 20)
        split_and_conflict(bench)
        before = {who: dict(table.dump()) for who, table in bench.tables().items()}
        sim.fault("heal")
        sim.run_until(lambda: len(longest.asked) > 2, HEALED_S)
        after = {who: dict(table.dump()) for who, table in bench.tables().items()}
        assert after == before
        status = bench.table("n3").status()
        assert any("no idea" in peer["why"] for peer in bench.table("n1").status()["peers"]) or any(
            "no idea" in peer["why"] for peer in status["peers"]
        )
        assert bench.wait(bench.table("n1").insert("goes on", 1)).acked
        longest.broken = False
        sim.run_until(bench.joined, HEALED_S)
        sim.run_until(bench.equal, HEALED_S)
        assert bench.table("n1")["both"] == [3, 3, 3]


@pytest.mark.contract("TBL-6")
def test_writes_and_reads_go_on_while_a_large_table_joins(cluster):
    """J9: 5,000 rows come over while both sides write; nothing is paused, nothing is lost."""
    bench = cluster(nodes=2, shards=2)
    bench.sim.cluster.node("n2").crash()
    bench.sim.run(8)
    table = bench.table("n1")
    for part in range(5):
        bench.wait(table.insert_many({f"k{part}/{n}": n for n in range(1000)}))
    bench.sim.cluster.node("n2").start()
    writes = 0
    while len(bench.tables()) < 4 or not bench.joined():
        began = bench.sim.now
        bench.wait(table.insert(f"live{writes}", writes))
        assert bench.sim.now - began < 1.0
        writes += 1
        bench.sim.run(0.05)
        assert writes < 600
    bench.sim.run_until(bench.equal, 10.0)
    assert len(bench.table("n2", 1)) == 5000 + writes


@pytest.mark.contract("TBL-6")
@pytest.mark.parametrize("who", ["n1", "n2"])
@pytest.mark.parametrize("after_messages", [1, 3, 6, 9])
def test_either_side_of_a_join_may_die_at_any_step(cluster, who, after_messages):
    """J10: kill -9 at each step: nobody waits for the dead, and the next try joins all."""
    bench = cluster(nodes=3, seed=2)
    bench.sim.fault("partition n1 | n2")
    bench.sim.run(12)
    bench.table("n1").insert_many({f"a{n}": n for n in range(50)})
    bench.table("n2").insert_many({f"b{n}": n for n in range(50)})
    bench.sim.run(6)
    bench.sim.fault("heal")
    heard = [0]
    for node in ("n1", "n2"):
        shard = bench.shard(node)
        ask = shard.tables.messaging.ask

        def counted(target, verb, *rest, ask=ask):
            if verb in ("tables.begin", "tables.lock", "tables.index", "tables.diff",
                        "tables.stage", "tables.commit", "tables.joined"):  # fmt: skip
                heard[0] += 1
            return ask(target, verb, *rest)

        shard.tables.messaging.ask = counted
    bench.sim.cluster.run_until(lambda: heard[0] >= after_messages, HEALED_S)
    bench.sim.cluster.node(who).crash()
    bench.sim.run(1)
    bench.sim.cluster.node(who).start()
    bench.sim.run_until(bench.joined, 60)
    bench.sim.run_until(bench.equal, HEALED_S)
    kept = "b" if who == "n1" else "a"
    assert all(bench.table("n3").get(f"{kept}{n}") == n for n in range(50))


@pytest.mark.contract("TBL-7")
def test_who_cannot_reach_all_is_refused_by_name(cluster):
    """J12: n2 and n3 do not reach each other: n3's join with n1 is refused, naming n2."""
    bench = cluster(nodes=3)
    sim = bench.sim
    sim.cluster.node("n3").crash()
    sim.run(10)
    sim.fault("partition n2 | n3")
    sim.cluster.node("n3").start()
    sim.run(15)
    assert bench.table("n1").status()["joined"] == ["n2"]
    whys = {p["node"]: p["why"] for p in bench.table("n3").status()["peers"]}
    assert whys["n2"] == "n2 cannot be reached"
    assert "n2" in whys["n1"]
    whys = {p["node"]: p["why"] for p in bench.table("n1").status()["peers"]}
    assert "n2" in whys["n3"]
    assert bench.wait(bench.table("n1").insert("k", 1)).acked == ("n2",)
    sim.fault("heal")
    sim.run_until(bench.joined, HEALED_S)
    sim.run_until(bench.equal, HEALED_S)


@pytest.mark.contract("TBL-8")
def test_a_write_of_an_older_epoch_is_rejected(cluster):
    """J13: it is not applied, it is counted, and its writer is told which epoch holds."""
    bench = cluster(nodes=2)
    one, other = bench.shard("n1").tables, bench.shard("n2").tables
    row = Row(one.now(), one.origin, False, None)
    entry = Entry(one.replicas["t"].schema, row, False, ["stale"], [1])
    data = encode_batch(Epoch(1, 0), one.origin, [entry.encoded()])
    target = ShardAddress(other.me.node_id, ShardId(0))
    refusals = bench.wait(one.ask(target, "tables.write", data, 5.0))
    assert refusals[0][0] == -1
    assert "stale-epoch: it is of 1.0" in refusals[0][1]
    assert "stale" not in bench.table("n2")
    assert other.counters.total("tables_writes_rejected_total", reason="stale-epoch") == 1
    one.epoch = Epoch(1, 0)
    result = bench.wait(one.tables["t"].insert("told", 1))
    assert list(result.rejected) == ["n2"]
    assert not result.ok


@pytest.mark.contract("TBL-4")
def test_a_split_heals_with_deletes_deleted(cluster):
    """J16: 2|2, one side deletes, the other updates: the delete holds, the update wins."""
    bench = cluster(nodes=4)
    bench.wait(bench.table("n1").insert_many({"deleted": 1, "updated": 1}))
    bench.sim.fault("partition n1 n2 | n3 n4")
    bench.sim.run(12)
    bench.table("n1").delete("deleted")
    bench.table("n4").insert("updated", 2)
    bench.sim.run(6)
    bench.sim.fault("heal")
    bench.sim.run_until(bench.joined, HEALED_S)
    bench.sim.run_until(bench.equal, HEALED_S)
    assert dict(bench.table("n3").dump()) == {"updated": 2}


@pytest.mark.contract("TBL-5")
@pytest.mark.parametrize("down_s", [0.05, 20])
def test_rows_end_with_the_life_that_owns_them(cluster, down_s):
    """J17: however fast a node restarts, rows of its old life go and those of the new stay."""
    bench = cluster(nodes=3, owned=True)
    bench.wait(bench.table("n3").insert_many({"old": 1, "both": 1}))
    bench.wait(bench.table("n1").insert("other", 1))
    node = bench.sim.cluster.node("n3")
    node.crash()
    bench.sim.run(down_s)
    node.start()
    bench.sim.run_until(bench.joined, HEALED_S)
    bench.wait(bench.table("n3").insert("both", 2))
    bench.sim.run(10)
    assert bench.equal()
    assert dict(bench.table("n1").dump()) == {"other": 1, "both": 2}


@pytest.mark.contract("TBL-5")
def test_rows_of_one_wrongly_held_for_dead_come_back(cluster):
    """A node that was cut off is held for dead, and lives: its rows are there again."""
    bench = cluster(nodes=3, owned=True)
    bench.wait(bench.table("n3").insert("mine", 1))
    bench.sim.fault("isolate n3")
    bench.sim.run_until(lambda: "mine" not in bench.table("n1"), HEALED_S)
    bench.sim.fault("heal")
    bench.sim.run_until(bench.joined, HEALED_S)
    bench.sim.run_until(lambda: bench.table("n1").get("mine") == 1, HEALED_S)


@pytest.mark.contract("TBL-6")
def test_tables_of_one_name_and_different_kinds_do_not_join():
    """They are refused by name on both sides, and each goes on by itself."""
    with simulate(2, seed=3) as sim:
        bench = Bench(sim)
        sim.run_until(sim.formed, 20)
        bench.shard("n1").tables.open("t", "set")
        bench.shard("n2").tables.open("t", "bag")
        sim.run(8)
        for node, other in (("n1", "n2"), ("n2", "n1")):
            status = bench.table(node).status()
            assert status["joined"] == []
            [peer] = status["peers"]
            assert peer["node"] == other
            assert "kind" in peer["why"], peer
        assert bench.wait(bench.table("n1").insert("k", 1)).acked == ()


@pytest.mark.contract("TBL-1")
def test_a_row_that_cannot_be_is_refused_before_anything_happens(cluster):
    """Not encodable, too large, no key: a typed error, and nothing was written anywhere."""
    bench = cluster(nodes=2)
    table = bench.table("n1")
    for key, value, error in (
        ("k", object(), NotEncodable),
        ("k", "x" * 300_000, TooLarge),
        (1.5, 1, BadKey),
    ):
        with pytest.raises(error):
            table.insert(key, value)
        with pytest.raises(error):
            table.insert_many([("fine", 1), (key, value)])
    bench.sim.run(1)
    assert len(table) == 0
    assert bench.equal()


@pytest.mark.contract("TBL-4")
@pytest.mark.parametrize("off_s", [3600, -3600])
def test_a_clock_an_hour_off_neither_freezes_nor_wins(cluster, off_s):
    """Whoever writes last wins, whatever the clock of the others; all copies are equal."""
    bench = cluster(nodes=3)
    reactor = bench.sim.cluster.node("n2").zero.shard.tables
    seconds = reactor.reactor.seconds

    class Off:
        def __getattr__(self, name):
            return getattr(bench.shard("n2").reactor, name)

        def seconds(self):
            return seconds() + off_s

    reactor.reactor = Off()
    for number, who in enumerate(("n2", "n1", "n2", "n3", "n2", "n1")):
        assert bench.wait(bench.table(who).insert("k", number)).ok
        assert {table["k"] for table in bench.tables().values()} == {number}
    bench.wait(bench.table("n1").delete("k"))
    assert all("k" not in table for table in bench.tables().values())


@pytest.mark.contract("TBL-6", "TBL-7")
def test_two_that_start_at_once_join_once(cluster):
    """J14: of a pair one leads, so that there is one join and no error."""
    bench = cluster(nodes=2)
    outcomes = {
        labels: counter.value
        for node in ("n1", "n2")
        for (name, labels), counter in bench.shard(node).counters.counters.items()
        if name == "tables_joins_total"
    }
    assert sum(outcomes.values()) == 1, outcomes


@pytest.mark.contract("TBL-1", "TBL-6")
def test_opening_waits_until_it_is_joined(cluster):
    """``open`` gives a table with the others' rows; ``wait_joined`` names who is missing."""
    bench = cluster(nodes=2)
    bench.wait(bench.table("n1").insert("k", 1))
    node = bench.sim.cluster.node("n2")
    node.crash()
    node.start()
    bench.sim.run_until(lambda: node.zero is not None, 5)
    opening = bench.shard("n2").context("app").tables.open("t", kind="ordered")
    table = bench.wait(Deferred.fromCoroutine(opening))
    assert table["k"] == 1
    bench.sim.fault("isolate n2")
    bench.sim.run(8)
    with pytest.raises(TimedOut, match=r"not joined after 1 s with n1 \(n1 cannot be reached\)"):
        bench.wait(table.wait_joined(1.0))


@pytest.mark.contract("TBL-6")
def test_a_way_that_is_lost_in_the_middle_of_a_join(cluster):
    """J11: the link between the two breaks mid-join: nothing half-merged, joined soon after."""
    bench = cluster(nodes=3, seed=2)
    bench.sim.fault("partition n2 | n3")
    bench.sim.run(12)
    bench.table("n2").insert_many({f"a{n}": n for n in range(500)})
    bench.table("n3").insert_many({f"b{n}": n for n in range(500)})
    bench.sim.run(6)
    bench.sim.fault("heal")
    for _ in range(4):
        bench.sim.run(0.4)
        bench.sim.fault("reset n2 n3")
        sizes = {len(table) for table in bench.tables().values()}
        assert sizes <= {500, 1000}, "a copy shows half of a join"
    bench.sim.run_until(bench.joined, HEALED_S)
    bench.sim.run_until(bench.equal, HEALED_S)
    assert len(bench.table("n1")) == 1000


@pytest.mark.slow
@pytest.mark.contract("TBL-7")
def test_sixteen_nodes_join_ten_tables_at_once():
    """J15: 16 nodes with 10 tables each, started together, join in 30 s; a 17th in 10 s."""
    names = [f"t{n}" for n in range(10)]
    config = {"tables": {name: {} for name in names}}
    with simulate(17, seed=1, config=config) as sim:
        bench = Bench(sim)
        late = sim.cluster.node("n17")
        late.crash()
        sim.cluster.run_until(lambda: all(bench.joined(name) for name in names), 30)
        assert all(bench.joined(name) for name in names)
        bench.wait(bench.table("n3", name="t7").insert("k", 1))
        late.start()
        began = sim.now
        sim.run_until(lambda: len(bench.tables("t7")) == 17 and bench.joined("t7"), 10)
        assert all(bench.joined(name) for name in names) or sim.now - began < 10
        sim.run_until(lambda: all(bench.joined(name) for name in names), 10)
        assert bench.table("n17", name="t7")["k"] == 1
