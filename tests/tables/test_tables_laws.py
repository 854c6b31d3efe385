"""Merging obeys laws, whatever the rows and their order; a replica is a dict to its readers."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from meshsvc.errors import BadKey, BadTable, NotEncodable, TooLarge, WireError
from meshsvc.model import Epoch, Incarnation, NodeId, ShardId
from meshsvc.tables.clock import COUNTER_BITS, MAX_AHEAD_S, Clock, seconds_of, stamp_of
from meshsvc.tables.columns import MANY, Rows, column, read_column
from meshsvc.tables.difference import (
    chunks,
    missing,
    pack,
    read_rids,
    read_summary,
    summarize,
    unpack,
)
from meshsvc.tables.digest import COUNT, MAX_NOTED, Digest, bucket_of
from meshsvc.tables.replica import LARGE, Replica
from meshsvc.tables.rows import (
    Kind,
    Origin,
    Owner,
    Row,
    Schema,
    beats,
    check_key,
    check_kind,
    element,
    own_copy,
)
from meshsvc.tables.writes import BatchReader, encode_batch
from meshsvc.wire.codec import encode

ORIGINS = [Origin(NodeId(c * 32), Incarnation(1), ShardId(0), Incarnation(1)) for c in "abc"]
OWNERS = [None, Owner(NodeId("a" * 32), Incarnation(1)), Owner(NodeId("b" * 32), Incarnation(2))]

KEYS = st.sampled_from([1, 2, -1, "a", "b", b"a", "ä"])
ROWS = st.builds(
    Row, st.integers(1, 6), st.sampled_from(ORIGINS), st.booleans(), st.sampled_from(OWNERS)
)
# A version stands for its value: no two writes share one.
WRITES = st.lists(st.tuples(KEYS, ROWS), max_size=12)
KINDS = st.sampled_from(list(Kind))

quick = settings(max_examples=150, deadline=None, derandomize=True, database=None)


def replica(kind=Kind.SET, gone=lambda owner: False):
    return Replica(Schema("t", kind), gone)


def copied(kind, key, row):
    value = [row.stamp, row.origin.node[0]]
    return ((key, element(value)) if kind is Kind.BAG else key, row, value)


def merged(kind, writes, parts=1):
    """A replica that was given the writes in so many parts."""
    made = replica(kind)
    rows = [copied(kind, key, row) for key, row in writes]
    for part in range(parts):
        made.merge(rows[part::parts], now=10)
    return made


def shown(made):
    made.digest.settle(made.rows, 10_000)
    live = {rid: row[:3] for rid, row in made.rows.items()}
    return live, dict(made.values), made.digest.packed(), list(made.scan(None, None))


@pytest.mark.contract("TBL-4")
@quick
@given(KINDS, WRITES, st.randoms(use_true_random=False))
def test_any_order_gives_the_same(kind, writes, rng):
    """Merging is commutative and associative: rows, readers' view, fingerprints and order."""
    other = list(writes)
    rng.shuffle(other)
    assert shown(merged(kind, writes)) == shown(merged(kind, other, parts=3))


@pytest.mark.contract("TBL-4")
@quick
@given(KINDS, WRITES)
def test_merging_twice_changes_nothing(kind, writes):
    """Merging is idempotent."""
    once, twice = merged(kind, writes), merged(kind, writes + writes)
    assert shown(once) == shown(twice)
    assert twice.merge([copied(kind, key, row) for key, row in writes], now=10) == 0


@pytest.mark.contract("TBL-4")
@quick
@given(KINDS, WRITES, WRITES)
def test_two_copies_tell_each_other_what_they_lack(kind, mine, theirs):
    """What one side gives and the other wants makes both equal, through their wire forms."""
    a, b = merged(kind, mine), merged(kind, theirs)
    reader = BatchReader()
    summary = read_summary(reader, kind, summarize(a, a.rids()))
    found = missing(b, b.rids(), summary, both=False)
    columns, used = pack(b, found.give)
    assert used == len(found.give)
    a_lacked = unpack(reader, kind, columns)
    given_back = unpack(reader, kind, pack(a, found.want)[0])
    a.merge(a_lacked, now=10)
    b.merge(given_back, now=10)
    assert shown(a) == shown(b)


BATCHES = st.lists(
    st.tuples(
        st.integers(1, 3),
        st.sampled_from(ORIGINS),
        st.booleans(),
        st.sets(st.integers(0, 2 * MANY), min_size=1),
    ),
    max_size=6,
    unique_by=lambda batch: batch[:2],
)


@pytest.mark.contract("TBL-4")
@quick
@given(KINDS, st.booleans(), BATCHES, st.randoms(use_true_random=False))
def test_batches_are_no_more_than_their_rows(kind, watched, batches, rng):
    """Rows put or merged by the batch, new, written over or both, are what they are one by one."""
    rows = [
        copied(kind, f"k{key}", Row(stamp, origin, dead, None))
        for stamp, origin, dead, keys in batches
        for key in sorted(keys)
    ]
    put, one_by_one, whole = replica(kind), replica(kind), replica(kind)
    put.watched = one_by_one.watched = whole.watched = watched
    for stamp, origin, dead, keys in batches:
        row, names = Row(stamp, origin, dead, None), [f"k{key}" for key in sorted(keys)]
        put.put(row, names, [[stamp, origin.node[0]]] * len(names), 10)
        if rng.random() < 0.5:
            put.digest.settle(put.rows, 10)
    rng.shuffle(rows)
    for each in rows:
        one_by_one.merge([each], 10)
    whole.merge(Rows(*map(list, zip(*rows, strict=True))), 10)
    assert shown(put) == shown(one_by_one) == shown(whole)
    changes = [{c.key: (c.value, c.gone) for c in r.take_changes()} for r in (put, one_by_one)]
    assert not watched or {k: v for k, v in changes[0].items() if not v[1]} == {
        k: v for k, v in changes[1].items() if not v[1]
    }


@pytest.mark.contract("TBL-6")
def test_the_two_dicts_of_a_large_copy_do_not_grow_in_one_slice():
    """A dict of many rows takes long to move to a larger table: never two of them in one turn."""
    made, grown = replica(), []
    for at in range(0, 400_000, 1000):
        row, names = Row(at + 1, ORIGINS[0], False, None), [f"k{n}" for n in range(at, at + 1000)]
        before = made.rows.__sizeof__(), made.values.__sizeof__()
        if at % 2000:
            made.put(row, names, names, 10)
        else:
            made.merge(Rows(names, [row] * 1000, names), 10)
        after = made.rows.__sizeof__(), made.values.__sizeof__()
        grown.append((before[0] != after[0], before[1] != after[1]))
    large = grown[LARGE // 1000 + 20 :]
    assert (True, False) in large
    assert (False, True) in large
    assert (True, True) not in large
    assert len(made.rows) == len(made.values) == 400_000


@pytest.mark.parametrize(
    "items",
    [
        ["a"] * MANY,
        ["", *"b" * MANY],
        [""] * 40,
        ["a\0b", *"b" * MANY],
        [b"a", *"b" * MANY],
        ["a"],
        [],
    ],
)
def test_a_column_travels_as_a_list_or_as_one_text(items):
    """Many texts are one text; what cannot be told apart in one stays a list."""
    travelled = column(items)
    assert (type(travelled) is str) == (len(items) >= MANY and items[0] not in ("a\0b", b"a"))
    assert read_column(travelled) == items
    with pytest.raises(ValueError, match="a column is"):
        read_column(b"a")


@pytest.mark.contract("TBL-8")
@pytest.mark.parametrize(
    ("keys", "values", "why"),
    [
        (["a", "a"], [1, 2], "twice"),
        (["a", True], [1, 2], "bool is no key"),
        (["a"], [1, 2], "1 keys and 2 values"),
        ("a\0a", "1\x002", "twice"),
        ("a", "1\x002", "1 keys and 2 values"),
        ({"a": 1}, [1], "a column is"),
    ],
)
def test_malformed_batches_are_refused(keys, values, why):
    """Nothing of a batch is used when one of its entries is not what it should be."""
    good, bad = (
        [Schema("t").wire(), 1, None, False, False, *c] for c in ((["x"], [1]), (keys, values))
    )
    data = encode_batch(Epoch(1, 1), ORIGINS[0], [encode(good), encode(bad)])
    with pytest.raises(WireError, match=why):
        BatchReader().read(data)


GOOD = [["a", "b"], [1, 2], [list(ORIGINS[0])], [], [5], [0], [-1], [False], [0, 0]]


@pytest.mark.parametrize(
    ("field", "bad"),
    [
        (0, ["a"]),
        (0, ["a", None]),
        (1, [1]),
        (2, [["no", "origin"]]),
        (3, [["no owner"]]),
        (4, [-1]),
        (4, [5.0]),
        (5, [-1]),
        (5, [1]),
        (6, [-2]),
        (6, [0]),
        (7, [1]),
        (7, [False, False]),
        (8, [0, 1]),
        (8, [0, -1]),
        (8, [0, True]),
        (8, None),
    ],
)
def test_malformed_rows_are_refused(field, bad):
    """A copy takes rows and summaries as they should be, or none of them."""
    reader, fields = BatchReader(), [*GOOD]
    assert [row[:2] for row in unpack(reader, Kind.SET, encode(fields)).rows] == [
        (5, ORIGINS[0])
    ] * 2
    fields[field] = bad
    with pytest.raises(WireError):
        unpack(reader, Kind.SET, encode(fields))
    if field != 1:
        with pytest.raises(WireError):
            read_summary(reader, Kind.SET, encode(fields))
    for data in (fields, b"", encode(fields) + b"x", encode(fields[:-1]), encode(None)):
        with pytest.raises(WireError):
            unpack(reader, Kind.SET, data)
    for named in (7, b"a", [1, 2]):
        with pytest.raises(WireError):
            read_rids(Kind.BAG, named)


def test_versions_are_a_total_order():
    """Of two different versions exactly one beats the other."""
    rows = [Row(s, o, d, None) for s in (1, 2) for o in ORIGINS for d in (False, True)]
    for a in rows:
        for b in rows:
            assert beats(a, b) + beats(b, a) == (a != b)


@pytest.mark.contract("TBL-4")
def test_rows_that_swapped_their_versions_are_told_apart():
    """Fingerprints of two rows of one bucket do not add up to the same with the other's version."""
    keys = [key for key in (f"k{n}" for n in range(40_000)) if bucket_of(key) == 7]
    rows = [Row(stamp, origin, False, None) for stamp in range(1, 30) for origin in ORIGINS]
    for number, key in enumerate(keys[1:]):
        other, mine, theirs = keys[number], rows[number % 87], rows[(number * 7 + 1) % 87]
        one, swapped = Digest(), Digest()
        one.add_rows([key, other], [mine, theirs])
        swapped.add_rows([key, other], [theirs, mine])
        assert one.differing(swapped.packed()) == [7]
        assert one.root() != swapped.root()
        swapped.add_rows([key, other], [theirs, mine])  # out again
        assert swapped.packed() == Digest().packed()


def test_noted_batches_are_bounded():
    """Of more rows than may wait the oldest are entered as others come; the sums are the same."""
    late, at_once = Digest(), Digest()
    keys = [f"k{n}" for n in range(50_000)]
    rows = [Row(n, ORIGINS[0], False, None) for n in range(1, MAX_NOTED // len(keys) + 3)]
    for row in rows:
        late.add(keys, row)
        at_once.add_rows(keys, [row] * len(keys))
    assert late.noted == len(rows) * len(keys) > MAX_NOTED
    assert late.settle({}, MAX_NOTED)
    assert late.packed() == at_once.packed()


def test_messages_of_rows_are_bounded():
    """As many rows as fit, at least one; buckets go in groups of some thousand rows."""
    made = replica()
    made.merge([(n, Row(1, ORIGINS[0], False, None), b"x" * 1000) for n in range(50)], 10)
    assert 1 < pack(made, made.rids(), most=10_000)[1] < 12
    assert pack(made, made.rids(), most=1)[1] == 1
    assert [len(c) for c in chunks(range(COUNT), 100)] == [COUNT]
    assert len(chunks(range(COUNT), 1_000_000)[0]) == 4


@pytest.mark.contract("TBL-5")
@pytest.mark.parametrize("kind", list(Kind))
def test_rows_of_a_gone_owner_leave_and_do_not_come_back(kind):
    """Rows go with their owner's life only; late ones are refused; a later life's stay."""
    over = set()
    made = Replica(Schema("t", kind, owned=True), lambda owner: owner in over)
    old, new = Owner(NodeId("a" * 32), Incarnation(1)), Owner(NodeId("a" * 32), Incarnation(2))
    rows = [copied(kind, f"k{n}", Row(n + 1, ORIGINS[0], False, o)) for n, o in
            enumerate((old, new, None))]  # fmt: skip
    made.merge(rows, now=10)
    over.add(old)
    assert made.disown(made.rids()) == 1
    assert sorted(made.values) == ["k1", "k2"]
    assert made.merge(rows, now=10) == 0
    assert made.put(Row(9, ORIGINS[1], False, old), ["k1"], ["late"], 10) == 0
    assert made.refused == 2
    assert made.tombstones == 0
    assert made.disown(made.rids()) == 0
    over.clear()  # the owner lives after all: its rows come back from where they are
    assert made.merge(rows, now=10) == 1


@pytest.mark.contract("TBL-4")
def test_tombstones_are_bounded_in_life_and_number():
    """Each goes when it is too old, the oldest when there are too many; old ones do not return."""
    made = Replica(Schema("t"), lambda owner: False, tombstone_s=10, most_tombstones=5)
    for n in range(8):
        made.put(Row(stamp_of(n), ORIGINS[0], True, None), [n], [], stamp_of(n))
    assert made.expire(stamp_of(8), most=100) == 3
    assert made.tombstones == 5
    assert made.expire(stamp_of(15.5), most=2) == 2
    assert sorted(made.rows) == [5, 6, 7]
    assert made.put(Row(stamp_of(3), ORIGINS[0], True, None), [3], [], stamp_of(15)) == 0
    assert made.expire(stamp_of(100), most=100) == 3
    made.digest.settle(made.rows, 100)
    assert shown(made) == shown(replica())


@pytest.mark.contract("TBL-1")
@pytest.mark.parametrize("key", [1.0, True, None, ("a",), 2**64, "\ud800", b"x" * 1025, "x" * 1025])
def test_what_is_no_key_is_refused(key):
    """J3: floats and booleans would be the key of an int; others have no order or no bytes."""
    with pytest.raises(BadKey):
        check_key(key)


def test_keys_of_each_type_are_kept_apart():
    """1, "1" and b"1" are three keys, in one order on every copy."""
    made = replica(Kind.ORDERED)
    for key in ("1", 1, b"1", 0, "0"):
        made.put(Row(1, ORIGINS[0], False, None), [check_key(key)], [key], 10)
    assert list(made.scan(None, None)) == [b"1", 0, 1, "0", "1"]
    assert list(made.scan(None, None, reverse=True)) == ["1", "0", 1, 0, b"1"]
    assert list(made.scan("1", None)) == ["1"]
    assert list(made.scan(None, 1)) == [0]


@pytest.mark.contract("TBL-1")
def test_values_are_checked_and_never_aliases():
    """A value that cannot be encoded or is too large is refused; a list that is stored is ours."""
    with pytest.raises(NotEncodable):
        own_copy("k", {"x": {1, 2}}, 100)
    with pytest.raises(NotEncodable):
        own_copy("k", 2**64, 100)
    with pytest.raises(NotEncodable):
        own_copy("k", "\ud800", 100)
    for large in ("x" * 101, b"x" * 101, ["x" * 100]):
        with pytest.raises(TooLarge, match="the limit is 100"):
            own_copy("k", large, 100)
    mine = {"x": [1]}
    stored, _ = own_copy("k", mine, 100)
    mine["x"].append(2)
    assert stored == {"x": [1]}


def test_a_schema_has_a_name_and_a_kind():
    """Names are words; two schemas say in words what differs."""
    for name in ("", "a b", "x" * 64, 7):
        with pytest.raises(BadTable):
            Schema.read([name, "set", False, "last-writer"])
    with pytest.raises(BadTable):
        Schema.read(["t", "heap", False, "last-writer"])
    with pytest.raises(BadTable, match="'heap' is no kind of table: use set, ordered, bag"):
        check_kind("heap")
    assert Schema("t").objection(Schema("t")) == ""
    assert "kind is set here and bag there" in Schema("t").objection(Schema("t", Kind.BAG))


def test_a_clock_that_is_off_neither_freezes_nor_wins():
    """An hour ahead pulls; a year ahead is refused and counted; time never runs back."""
    fast, slow = Clock(), Clock()
    ahead = fast.stamp(1_000_000 + 3600)
    assert slow.observe(ahead, 1_000_000)
    assert slow.stamp(1_000_000) > ahead
    assert not slow.observe(stamp_of(1_000_000 + MAX_AHEAD_S + 1), 1_000_000)
    assert slow.refused == 1
    before = slow.last
    assert slow.stamp(5) == before + 1
    assert seconds_of(stamp_of(12.5)) == 12.5
    assert stamp_of(1) == 1000 << COUNTER_BITS


class ReplicaRules(RuleBasedStateMachine):
    """A replica against a dict of versions: what readers see, and in what order."""

    @initialize(kind=st.sampled_from([Kind.SET, Kind.ORDERED]))
    def begin(self, kind):
        self.made, self.kind, self.stamp = replica(kind), kind, 0
        self.model, self.deleted = {}, {}
        self.made.watched = True
        self.told = {}

    @rule(keys=st.lists(KEYS, min_size=1, max_size=4, unique=True), ahead=st.integers(-3, 3))
    def insert(self, keys, ahead):
        self._write(keys, ahead, dead=False)

    @rule(keys=st.lists(KEYS, min_size=1, max_size=4, unique=True), ahead=st.integers(-3, 3))
    def delete(self, keys, ahead):
        self._write(keys, ahead, dead=True)

    def _write(self, keys, ahead, dead):
        self.stamp += 2
        stamp = max(1, self.stamp + ahead)
        row = Row(stamp, ORIGINS[self.stamp // 2 % 3], dead, None)
        self.made.put(row, keys, [] if dead else [self.stamp] * len(keys), 10)
        for key in keys:
            if key not in self.deleted or self.deleted[key] < row[:3]:
                self.deleted[key] = row[:3]
                self.model.pop(key, None)
                if not dead:
                    self.model[key] = self.stamp

    @invariant()
    def the_same(self):
        if not hasattr(self, "made"):
            return
        assert dict(self.made.values) == self.model
        assert {rid: row[:3] for rid, row in self.made.rows.items()} == self.deleted
        assert self.made.tombstones == sum(row[2] for row in self.deleted.values())
        for change in self.made.take_changes():
            self.told.pop(change.key, None)
            if not change.gone:
                self.told[change.key] = change.value
        assert self.told == self.model
        if self.kind is Kind.ORDERED:
            texts = sorted(key for key in self.model if type(key) is str)
            assert list(self.made.scan("", None)) == texts
            assert list(self.made.scan("a", "b")) == [k for k in texts if "a" <= k < "b"]


TestReplica = ReplicaRules.TestCase
TestReplica.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, derandomize=True, database=None
)
