"""cpu_allocation: every form and every bad form, with affinity and quota as arguments."""

from __future__ import annotations

import pytest

from meshsvc.errors import ConfigError, StartError
from meshsvc.model import MAX_SHARDS
from meshsvc.shards.cpus import (
    Count,
    Everything,
    Listed,
    allocate,
    cgroup_quota,
    dump_allocation,
    parse_allocation,
)

pytestmark = pytest.mark.contract("SHD-1")

GOOD = {
    "all": Everything(),
    " all ": Everything(),
    4: Count(4),
    "4": Count(4),
    "0..4": Listed((0, 1, 2, 3), "0..4"),
    "2..3": Listed((2,), "2..3"),
    "[0, 2]": Listed((0, 2)),
    (3, 1): Listed((3, 1)),
}

BAD = [
    (0, "ShardsCountZero"),
    ("0", "ShardsCountZero"),
    (-1, "ShardsCountZero"),
    ("-1", "a number of shards"),
    ("", "a number of shards"),
    ("ALL", "a number of shards"),
    ("4.0", "a number of shards"),
    (4.0, "a number of shards"),
    (True, "a number of shards"),
    (None, "a number of shards"),
    ({"cores": 4}, "a number of shards"),
    ("3..3", "empty"),
    ("4..3", "empty"),
    ("1..2..3", "two CPU numbers"),
    ("x..8", "two CPU numbers"),
    ("1..", "two CPU numbers"),
    ("..", "two CPU numbers"),
    ("-1..2", "two CPU numbers"),
    ("0..9999999", "ShardsCountOverflow"),
    ("0..99999999999999999999", "two CPU numbers"),
    ("1...3", "two CPU numbers"),
    (MAX_SHARDS + 1, "ShardsCountOverflow"),
    ("٤", "a number of shards"),
    ([], "ShardsCountZero"),
    ("[]", "ShardsCountZero"),
    ([0, "1"], "CPU numbers"),
    ("[0, x]", "CPU numbers"),
    ([0, -1], "CPU numbers"),
    ([True], "CPU numbers"),
    ([1, 1], "listed twice"),
    (list(range(MAX_SHARDS + 1)), "ShardsCountOverflow"),
    ("numa:auto", "NUMA"),
    ("numa:foo=1", "NUMA"),
    ("numa:nodes", "NUMA"),
]


@pytest.mark.parametrize(("value", "spec"), GOOD.items(), ids=repr)
def test_good_forms_parse_and_round_trip(value, spec):
    """Each good form has one meaning, and a dump of it reads back as the same."""
    assert parse_allocation(value) == spec
    assert parse_allocation(dump_allocation(spec)) == spec


@pytest.mark.parametrize(("value", "words"), BAD, ids=lambda case: repr(case)[:24])
def test_bad_forms_are_refused_with_the_key_named(value, words):
    """Each bad form is a ConfigError that names the key and says what is wrong."""
    with pytest.raises(ConfigError) as caught:
        parse_allocation(value)
    (problem,) = caught.value.problems
    assert problem.startswith("cpu_allocation = ")
    assert words in problem


@pytest.mark.parametrize(
    ("spec", "allowed", "quota", "cpus"),
    [
        (Everything(), [0, 1, 2, 3], None, (0, 1, 2, 3)),
        (Everything(), [3, 2], None, (2, 3)),
        (Everything(), [0, 1, 2, 3], 2.5, (0, 1)),
        (Everything(), [0, 1, 2, 3], 0.5, (0,)),
        (Everything(), [0, 1], 8.0, (0, 1)),
        (Everything(), range(300), None, tuple(range(MAX_SHARDS))),
        (Count(2), [2, 3], None, (2, 3)),
        (Count(2), [5, 4, 3, 2], None, (2, 3)),
        (Listed((2, 3), "2..4"), [0, 1, 2, 3], None, (2, 3)),
        (Listed((3, 0)), [0, 1, 2, 3], 2.0, (3, 0)),
    ],
)
def test_shards_are_drawn_from_mask_and_quota(spec, allowed, quota, cpus):
    """Pinned shards get one allowed CPU each; unpinned ones the same number of empty sets."""
    assert allocate(spec, allowed, quota, True) == tuple((cpu,) for cpu in cpus)
    assert allocate(spec, allowed, quota, False) == ((),) * len(cpus)


@pytest.mark.parametrize(
    ("spec", "allowed", "quota", "words"),
    [
        (Everything(), [], None, "ShardsCountZero"),
        (Count(3), [0, 1], None, "affinity mask leaves CPUs for 2"),
        (Count(3), [0, 1, 2, 3], 2.9, "cgroup CPU quota leaves CPUs for 2"),
        (Count(5), [0, 1, 2, 3], 4.5, "affinity mask leaves CPUs for 4"),
        (Listed((4, 5, 6), "4..7"), [0, 1], None, "leaves CPUs for 2"),
        (Count(300), range(400), None, "ShardsCountOverflow"),
    ],
)
def test_too_many_shards_are_refused_pinned_or_not(spec, allowed, quota, words):
    """More shards than mask or quota allow is a StartError with both numbers, exit code 78."""
    with pytest.raises(StartError, match=words) as caught:
        allocate(spec, allowed, quota, False)
    assert caught.value.exit_code == 78


@pytest.mark.parametrize("value", ["4..6", [4, 5], "0..5", [1, 5, 4]])
def test_a_cpu_outside_the_mask_is_refused_when_pinned(value):
    """The CPUs that are not allowed are named, and so are those that are."""
    with pytest.raises(StartError, match=r"CPU .*\b4\b.* may use 0, 1") as caught:
        allocate(parse_allocation(value), [0, 1], None, True)
    assert caught.value.exit_code == 78
    assert "cpu_allocation" in str(caught.value)


def test_a_cpu_outside_the_mask_is_fine_unpinned():
    """Without pinning only the number of shards counts."""
    assert allocate(parse_allocation("4..6"), [0, 1], None, False) == ((), ())


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, None),
        ({"/proc/self/cgroup": "0::/\n"}, None),
        ({"/proc/self/cgroup": "0::/a/b\n", "/sys/fs/cgroup/a/b/cpu.max": "max 100000\n"}, None),
        (
            {
                "/proc/self/cgroup": "0::/a/b\n",
                "/sys/fs/cgroup/a/b/cpu.max": "300000 100000\n",
                "/sys/fs/cgroup/a/cpu.max": "150000 100000\n",
            },
            1.5,
        ),
        ({"/proc/self/cgroup": "0::/../x\n", "/sys/fs/cgroup/cpu.max": "200000 100000"}, 2.0),
        ({"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "junk"}, None),
        ({"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "5 0"}, None),
        (
            {
                "/proc/self/cgroup": "4:memory:/m\n3:cpu,cpuacct:/a\n",
                "/sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us": "250000\n",
                "/sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us": "100000\n",
                "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
                "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            2.5,
        ),
    ],
)
def test_the_least_quota_of_all_levels_rules(files, quota):
    """Both cgroup layouts are read level by level; no limit, or a file of junk, is None."""
    assert cgroup_quota(files.get) == quota
