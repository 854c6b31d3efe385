"""Hypothesis strategies for requests over a handful of keys, so that they meet each other."""

from __future__ import annotations

from hypothesis import strategies as st

from meshsvc.kv import api
from meshsvc.kv.upkeep import AlarmRequest

KEYS = [b"a", b"ab", b"b", b"ba", b"c", b"\xff"]
LEASES = [0, 7, 8]

keys = st.sampled_from(KEYS)
ends = st.sampled_from([b"", b"", b"\0", b"b", b"bb", b"c", b"a", b"\xff\xff"])
values = st.sampled_from([b"", b"x", b"y", b"z" * 40])
revisions = st.integers(0, 30)
bound = st.just(0) | st.integers(1, 25)

ranges = st.builds(
    api.Range,
    keys,
    ends,
    st.just(0) | st.integers(1, 4),
    st.just(0) | revisions,
    st.sampled_from([0, 1, 2]),
    st.sampled_from([0, 1, 2, 3, 4]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([False, False, True]),
    bound,
    bound,
    bound,
    bound,
)


def _put(key, value, lease, prev_kv, keep_value, keep_lease):
    return api.Put(
        key,
        b"" if keep_value else value,
        0 if keep_lease else lease,
        prev_kv,
        keep_value,
        keep_lease,
    )


seldom = st.sampled_from([False, False, False, False, True])
puts = st.builds(
    _put, keys, values, st.sampled_from([0, 0, *LEASES]), st.booleans(), seldom, seldom
)
deletes = st.builds(api.DeleteRange, keys, ends, st.booleans())
compares = st.builds(
    lambda key, result, target, number, value, end: api.Compare(
        key, result, target, value if target == 3 else number, end
    ),
    keys,
    st.integers(0, 3),
    st.integers(0, 4),
    st.integers(0, 12),
    values,
    ends,
)


def _txns(ops):
    branch = st.lists(ops, max_size=3).map(tuple)
    return st.builds(api.Txn, st.lists(compares, max_size=2).map(tuple), branch, branch)


txns = st.recursive(puts | deletes | ranges, _txns, max_leaves=6).filter(
    lambda op: isinstance(op, api.Txn)
) | _txns(puts | deletes | ranges)

compactions = st.builds(api.Compact, st.integers(-1, 30))
grants = st.builds(
    api.LeaseGrant, st.sampled_from([-1, 1, 5, 9_000_000_001]), st.sampled_from(LEASES)
)
revokes = st.builds(api.LeaseRevoke, st.sampled_from(LEASES))
alarms = st.builds(AlarmRequest, st.sampled_from([0, 1, 2, 2]), st.just(1), st.just(1))

writes = st.one_of(puts, puts, puts, deletes, txns, txns, grants, revokes)
commands = st.one_of(writes, writes, writes, compactions, alarms)
