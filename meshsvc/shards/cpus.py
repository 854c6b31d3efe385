"""How many shards a node runs and which CPU each gets: ``cpu_allocation`` made concrete.

The grammar is ``"all"``, a number N, a half-open range ``"a..b"`` of CPU numbers, or a list of
CPU numbers. Text forms of the number and the list are read too, for the environment and flags.

The rules: what the process may use is its affinity mask, and how much of it the CPU quota of
its cgroup; nothing is ever remapped, so a CPU that was named and is not allowed is an error.
More shards than that are refused pinned or not, because shards that share a core stall each
other's heartbeats. Everything here runs before a port is bound. The mask must be read before
this process pins itself, and is an argument, as is the quota.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from meshsvc.errors import ConfigError, StartError
from meshsvc.model import MAX_SHARDS

KEY = "cpu_allocation"
"""The config key that every message names."""

EX_CONFIG = 78
"""Exit code of a node whose configuration cannot work on this machine (sysexits.h)."""

FORMS = '"all", a number of shards, a range "a..b" (b not included), or a list of CPU numbers'

Reader = Callable[[str], str | None]
"""Reads a file as text, or returns None when there is none: the caller's file system."""


@dataclass(frozen=True, slots=True)
class Everything:
    """As many shards as CPUs are allowed and the quota pays for."""


@dataclass(frozen=True, slots=True)
class Count:
    """This many shards, on the first CPUs that are allowed."""

    shards: int


@dataclass(frozen=True, slots=True)
class Listed:
    """One shard on each of these CPUs; ``text`` is how the config spelled a range, or empty."""

    cpus: tuple[int, ...]
    text: str = ""


Allocation = Everything | Count | Listed


def parse_allocation(value: object) -> Allocation:
    """Read a value of ``cpu_allocation``.

    Args:
        value: str, int, or a sequence of int, as TOML, the environment or a flag gives it.

    Raises:
        ConfigError: when the value has none of the forms, or asks for no shards at all.
    """
    if type(value) is int:
        return _count(value)
    if isinstance(value, str):
        return _parse_text(value.strip())
    if isinstance(value, (list, tuple)):
        return _listed(tuple(value), "")
    raise _wrong(value, f"write {FORMS}")


def dump_allocation(spec: Allocation) -> str | int | list[int]:
    """The config value that ``parse_allocation`` reads back as ``spec``."""
    if isinstance(spec, Everything):
        return "all"
    if isinstance(spec, Count):
        return spec.shards
    return spec.text or list(spec.cpus)


def allocate(
    spec: Allocation, allowed: Sequence[int], quota: float | None, pin: bool
) -> tuple[tuple[int, ...], ...]:
    """The CPUs of each shard, by shard index; with ``pin`` false, an empty tuple for each.

    Args:
        spec: what was configured.
        allowed: the CPU numbers of the process's affinity mask, in any order.
        quota: CPUs' worth of time the cgroup grants, or None for no limit. A fraction is
            rounded down, to 1 at least: a shard that is throttled looks dead to its peers.
        pin: whether each shard is bound to its CPU.

    Raises:
        StartError: when that is no shard, more than there can be, or names a CPU that is not
            allowed while ``pin`` is set.
    """
    cpus = tuple(sorted(set(allowed)))
    room = len(cpus) if quota is None else min(len(cpus), max(1, int(quota)))
    chosen = _chosen(spec, cpus, room)
    if pin and isinstance(spec, Listed):
        _check_allowed(chosen, cpus)
    _check_count(len(chosen), room, len(cpus))
    return tuple((cpu,) for cpu in chosen) if pin else ((),) * len(chosen)


def cgroup_quota(read: Reader) -> float | None:
    """The CPU time the cgroups of this process grant, in CPUs, or None for no limit.

    Every level up to the root can hold a limit, and the least one rules. Both layouts are
    read: version 2 (``cpu.max``) and version 1 (``cpu.cfs_quota_us``).
    """
    limits: list[float] = []
    for line in (read("/proc/self/cgroup") or "").splitlines():
        _, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        for folder in _levels(path):
            if not names:
                limits += _limit_v2(read(f"/sys/fs/cgroup{folder}/cpu.max"))
            elif "cpu" in names.split(","):
                base = f"/sys/fs/cgroup/{names}{folder}/cpu.cfs"
                limits += _limit(read(f"{base}_quota_us"), read(f"{base}_period_us"))
    return min(limits, default=None)


def _parse_text(text: str) -> Allocation:
    if text == "all":
        return Everything()
    if _is_number(text):
        return _count(int(text))
    if text.startswith("[") and text.endswith("]"):
        items = [item.strip() for item in text[1:-1].split(",")] if text[1:-1].strip() else []
        return _listed(tuple(int(item) if _is_number(item) else item for item in items), "")
    if ".." in text:
        return _parse_range(text)
    if text.startswith("numa"):
        raise _wrong(text, f"NUMA forms are not supported; write {FORMS}")
    raise _wrong(text, f"write {FORMS}")


def _parse_range(text: str) -> Listed:
    ends = [end.strip() for end in text.split("..")]
    if len(ends) != 2 or not all(_is_number(end) for end in ends):
        raise _wrong(text, 'a range has two CPU numbers, for example "0..4"')
    first, end = int(ends[0]), int(ends[1])
    if first >= end:
        raise _wrong(text, f"the range is empty, as {end} itself is not included")
    # Judged before the range is spelled out: "0..9999999999" must not cost memory.
    _check_overflow(end - first, text)
    return _listed(tuple(range(first, end)), f"{first}..{end}")


def _count(shards: int) -> Count:
    if shards < 1:
        raise _wrong(shards, "a node has at least one shard (ShardsCountZero)")
    _check_overflow(shards, shards)
    return Count(shards)


def _listed(items: tuple[object, ...], text: str) -> Listed:
    if not items:
        raise _wrong([], "the list is empty; a node has at least one shard (ShardsCountZero)")
    _check_overflow(len(items), f"a list of {len(items)} CPUs")
    cpus = tuple(item for item in items if type(item) is int and item >= 0)
    if len(cpus) != len(items):
        raise _wrong(list(items), "a list holds CPU numbers, for example [0, 2]")
    twice = sorted({cpu for cpu in cpus if cpus.count(cpu) > 1})
    if twice:
        raise _wrong(list(items), f"CPU {_names(twice)} is listed twice")
    return Listed(cpus, text)


def _chosen(spec: Allocation, cpus: tuple[int, ...], room: int) -> tuple[int, ...]:
    if isinstance(spec, Everything):
        # A machine may have more CPUs than a node may have shards; "all" is then the most.
        return cpus[: min(room, MAX_SHARDS)]
    if isinstance(spec, Listed):
        return spec.cpus
    # Numbers beyond the mask stand for CPUs that are missing; the count is judged next.
    return (cpus + (-1,) * spec.shards)[: spec.shards]


def _check_allowed(chosen: tuple[int, ...], cpus: tuple[int, ...]) -> None:
    outside = [cpu for cpu in chosen if cpu not in cpus]
    if outside:
        raise _cannot(
            f"CPU {_names(outside)} is not allowed to this process, which may use {_names(cpus)}:"
            " choose among those, or set pin_cores = false"
        )


def _check_count(shards: int, room: int, allowed: int) -> None:
    if not shards:
        raise _cannot("no CPU is allowed to this process, hence no shard (ShardsCountZero)")
    if shards > MAX_SHARDS:
        raise _cannot(f"{shards} shards, at most {MAX_SHARDS} can run (ShardsCountOverflow)")
    if shards > room:
        why = "affinity mask" if room == allowed else "cgroup CPU quota"
        raise _cannot(f"{shards} shards, but the {why} leaves CPUs for {room}: ask for fewer")


def _check_overflow(shards: int, value: object) -> None:
    if shards > MAX_SHARDS:
        raise _wrong(
            value, f"{shards} shards are too many, at most {MAX_SHARDS} (ShardsCountOverflow)"
        )


def _levels(path: str) -> list[str]:
    folders = [""]
    for part in path.strip("/").split("/"):
        if part and part != "..":  # a path above the namespace's root cannot be read
            folders.append(f"{folders[-1]}/{part}")
    return folders


def _limit_v2(text: str | None) -> list[float]:
    words = (text or "").split()
    return _limit(words[0], words[1]) if len(words) == 2 else []


def _limit(quota: str | None, period: str | None) -> list[float]:
    quota, period = (quota or "").strip(), (period or "").strip()
    if not (_is_number(quota) and _is_number(period)) or not int(quota) or not int(period):
        return []  # "max" and -1 are no limit, and so is a file that makes no sense
    return [int(quota) / int(period)]


def _is_number(text: str) -> bool:
    # Nine digits: no CPU has more, and int() of a megabyte of digits takes seconds.
    return text.isascii() and text.isdecimal() and len(text) <= 9


def _names(cpus: Sequence[int]) -> str:
    return ", ".join(str(cpu) for cpu in cpus) or "none"


def _wrong(value: object, text: str) -> ConfigError:
    return ConfigError((f"{KEY} = {value!r}: {text}",))


def _cannot(text: str) -> StartError:
    return StartError(f"{KEY}: {text}", EX_CONFIG)
