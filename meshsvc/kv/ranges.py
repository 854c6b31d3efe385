"""Range: from a request to keys, counted, filtered, sorted and cut the way etcd does it.

Two things about etcd's order of steps show in answers: ``count`` is of the whole range, before
revision bounds and limit; and a limit cuts after filtering and sorting, if an order is asked for.
"""

from __future__ import annotations

from collections.abc import Generator
from operator import itemgetter

from meshsvc.kv.api import Header, KeyValue, Range, RangeResult, SortOrder, SortTarget
from meshsvc.kv.errors import InvalidSortOption
from meshsvc.kv.index import (
    CREATED,
    MOD,
    NUMBER,
    VALUE,
    Bounds,
    Version,
    bounds,
)
from meshsvc.kv.mvcc import Mvcc

SLICE_KEYS = 4_000
"""Keys looked at between two yields: about 4 ms."""

_COLUMNS: dict[int, int] = {
    SortTarget.KEY: 0,
    SortTarget.VERSION: NUMBER,
    SortTarget.CREATE: CREATED,
    SortTarget.MOD: MOD,
    SortTarget.VALUE: VALUE,
}

Slices = Generator[None, None, RangeResult]


def run(mvcc: Mvcc, request: Range, header: Header) -> RangeResult:
    """Answer a range at once.

    Raises:
        FutureRevision, Compacted: by the request's revision.
    """
    if not request.range_end and request.revision <= 0:
        return _get(mvcc, request, header)
    slices = in_slices(mvcc, request, header)
    while True:
        try:
            next(slices)
        except StopIteration as done:
            result: RangeResult = done.value
            return result


def in_slices(mvcc: Mvcc, request: Range, header: Header) -> Slices:
    """Answer a range in steps, all as of the revision at the first step; pins the store."""
    revision = mvcc.readable(request.revision)
    interval = bounds(request.key, request.range_end)
    mvcc.pin()
    try:
        if request.count_only:
            count = yield from _count(mvcc, interval, revision)
            return RangeResult((), False, count, header)
        wanted = _stop_after(request)
        found, count = yield from _collect(mvcc, interval, revision, wanted)
    finally:
        mvcc.unpin()
    found = _arranged(request, found)
    more = 0 < request.limit < len(found)
    return RangeResult(_shown(request, found), more, count, header)


def is_small(mvcc: Mvcc, request: Range) -> bool:
    """Whether a range is answered within one slice, so that slicing it is not worth it."""
    if not request.range_end or 0 < _stop_after(request) < SLICE_KEYS:
        return True
    return mvcc.index.width(bounds(request.key, request.range_end)) <= SLICE_KEYS


def check_sort(request: Range) -> None:
    """Refuse a sort order or target that does not exist."""
    if not 0 <= request.sort_order <= max(SortOrder) or request.sort_target not in _COLUMNS:
        raise InvalidSortOption


def _get(mvcc: Mvcc, request: Range, header: Header) -> RangeResult:
    found = mvcc.index.latest(request.key)
    if found is None:
        return RangeResult((), False, 0, header)
    if request.count_only:
        return RangeResult((), False, 1, header)
    return RangeResult(_shown(request, _within(request, [found])), False, 1, header)


def _stop_after(request: Range) -> int:
    """How many keys need to be read for a limit, 0 for all: sorting has to see all of them.

    With a target and no order etcd sorts what the limit left, so only that is read here too.
    """
    if request.limit <= 0 or request.sort_order or _is_bounded(request):
        return 0
    return request.limit + 1


def _is_bounded(request: Range) -> bool:
    return bool(
        request.min_mod_revision
        or request.max_mod_revision
        or request.min_create_revision
        or request.max_create_revision
    )


def _count(mvcc: Mvcc, interval: Bounds, revision: int) -> Generator[None, None, int]:
    if revision == mvcc.current:
        return mvcc.index.count(interval)
    _, count = yield from _collect(mvcc, interval, revision, 0)
    return count


def _collect(
    mvcc: Mvcc, interval: Bounds, revision: int, wanted: int
) -> Generator[None, None, tuple[list[Version], int]]:
    """The first ``wanted`` versions (0: all), and how many there are."""
    found: list[Version] = []
    count, index = 0, mvcc.index
    now = revision == mvcc.current
    cursor, end = interval
    total = index.count(interval) if now and wanted else -1
    while True:
        # Written while the answer is being put together: look at past versions from then on.
        look = index.latest if revision == mvcc.current else None
        for looked, key in enumerate(index.keys((cursor, end)), 1):
            version = look(key) if look else index.at(key, revision)
            if version is not None:
                count += 1
                if not wanted or len(found) < wanted:
                    found.append(version)
                elif total >= 0:
                    return found, total
            if looked >= SLICE_KEYS:
                break
        else:
            return found, count if total < 0 else total
        cursor = key + b"\x00"
        yield


def _within(request: Range, found: list[Version]) -> list[Version]:
    if not _is_bounded(request):
        return found
    low_mod, high_mod = request.min_mod_revision, request.max_mod_revision
    low_new, high_new = request.min_create_revision, request.max_create_revision
    return [
        version
        for version in found
        if not (high_mod and version[MOD] > high_mod)
        and not (low_mod and version[MOD] < low_mod)
        and not (high_new and version[CREATED] > high_new)
        and not (low_new and version[CREATED] < low_new)
    ]


def _arranged(request: Range, found: list[Version]) -> list[Version]:
    """Filtered and sorted; keys come in order, so sorting by them is at most turning round."""
    found = _within(request, found)
    column = _COLUMNS[request.sort_target]
    down = request.sort_order == SortOrder.DESCEND
    if column:
        found.sort(key=itemgetter(column), reverse=down)
    elif down:
        found.reverse()
    return found


def _shown(request: Range, found: list[Version]) -> tuple[KeyValue, ...]:
    if request.limit > 0:
        del found[request.limit :]
    if request.keys_only:
        return tuple([KeyValue(*version[:4], b"", version[5]) for version in found])
    return tuple(map(KeyValue._make, found))
