"""What the paths below ``/v1/tables`` answer; see ``meshsvc.admin.routes`` for how a route works.

Whatever is asked of a table that is not open on this node is answered with ``NoSuchTable``.
"""

# mypy: allow-untyped-calls
# (twisted.web is not annotated)

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred

from meshsvc.admin.answers import Problem
from meshsvc.admin.replies import Json, Route, body_of, later, text_in, texts, timeout_in
from meshsvc.admin.tables.dump import MAX_DUMPS, Dump, DumpStream, rows_of
from meshsvc.admin.tables.values import key_of, value_of
from meshsvc.errors import BadTable
from meshsvc.tables.looking.compare import Differing, Report
from meshsvc.tables.looking.service import MAX_KEYS
from meshsvc.tables.rows import check_name

if TYPE_CHECKING:
    from meshsvc.admin.http import AdminRequest, AdminSite
    from meshsvc.tables.replica import Replica
    from meshsvc.tables.table import Table
    from meshsvc.tables.writes import WriteResult

KEYS = 100
"""Differing keys named unless more are asked for."""


def _list(site: AdminSite, _: AdminRequest) -> Json:
    return Json(site.view.tables.looking.listed())


def _joins(site: AdminSite, request: AdminRequest) -> None:
    name = _named(request, None)
    later(request, _run(site.view.tables.looking.joins(name)), lambda rows: rows)


def _get(site: AdminSite, request: AdminRequest) -> Json:
    body = body_of(request, "table", "key")
    replica, key = _replica(site, body), key_of(body["key"])
    rows = list(rows_of(replica, key, site.view.tables.looking.name_of_owner))
    if not rows:
        text = f"{replica.schema.name} has no {key!r:.80}{_hint(replica, key)}"
        raise Problem(404, "NoSuchKey", text)
    return Json({"table": replica.schema.name, "rows": rows})


def _hint(replica: Replica, key: object) -> str:
    """A number that was asked for as a text is an easy mistake."""
    if isinstance(key, str) and key.lstrip("-").isdigit() and int(key) in replica.values:
        return f"; there is one of the number {key}: ask for it with --json-key"
    return ""


def _put(site: AdminSite, request: AdminRequest) -> None:
    body = body_of(request, "table", "key", "value")
    table, timeout_s = _table(site, body), timeout_in(body)
    key, value = key_of(body["key"]), value_of(body["value"])
    later(request, table.insert(key, value, timeout_s), _written)


def _delete(site: AdminSite, request: AdminRequest) -> None:
    body = body_of(request, "table", "key")
    table, timeout_s = _table(site, body), timeout_in(body)
    conditions: dict[str, Any] = {}
    if "if_value" in body:
        conditions["if_value"] = value_of(body["if_value"])
    if "if_version" in body:
        version = body["if_version"]
        if type(version) is not int:
            raise Problem(400, "BadRequest", "if_version is not a whole number")
        conditions["if_version"] = version
    later(request, table.delete(key_of(body["key"]), timeout_s=timeout_s, **conditions), _written)


def _written(result: WriteResult) -> dict[str, object]:
    return {
        "ok": result.ok,
        "changed": result.changed,
        "version": result.version,
        "acked": list(result.acked),
        "lost": result.lost,
        "rejected": result.rejected,
    }


def _diff(site: AdminSite, request: AdminRequest) -> None:
    body = body_of(request, "table")
    name, nodes, limit = text_in(body, "table"), body.get("nodes", []), body.get("limit", KEYS)
    if not texts(nodes):
        raise Problem(400, "BadRequest", "nodes is not a list of names")
    if type(limit) is not int or not 1 <= limit <= MAX_KEYS:
        raise Problem(400, "BadRequest", f"limit is not between 1 and {MAX_KEYS}")
    looking = site.view.tables.looking
    comparing = _run(looking.compare(_checked(name), nodes, limit))  # type: ignore[arg-type]
    later(request, comparing, lambda report: _report(name, report, looking.name_of_owner))


def _report(name: str, report: Report, name_of: Any) -> dict[str, object]:
    silent = [copy.name for copy in report.copies if copy.error]
    numbers: dict[bytes, int] = {}
    copies: list[dict[str, object]] = [
        {"replica": copy.name, "error": copy.error}
        if copy.error
        else {
            "replica": copy.name,
            "rows": copy.rows,
            "tombstones": copy.tombstones,
            "content": _letter(numbers.setdefault(copy.prints, len(numbers))),
        }
        for copy in report.copies
    ]
    return {
        "table": name,
        "equal": not silent and not report.differing and report.complete,
        "replicas": copies,
        "silent": silent,
        "differing": [_row(each, name_of) for each in report.differing],
        "complete": report.complete,
        "buckets_differing": report.open_buckets,
    }


def _letter(number: int) -> str:
    """Copies with the same letter hold the same."""
    return chr(ord("A") + number) if number < 26 else f"A{number}"


def _row(each: Differing, name_of: Any) -> dict[str, object]:
    bag = type(each.rid) is tuple
    row: dict[str, object] = {"key": each.rid[0] if bag else each.rid}
    if bag:
        row["value"] = each.rid[1]
    row["behind"] = list(each.behind)
    row["versions"] = {
        name: None
        if version is None
        else {
            "version": version.stamp,
            "deleted": version.dead,
            "writer": f"{name_of(version.origin.node)}/{version.origin.shard}",
        }
        for name, version in each.versions.items()
    }
    return row


def _dump(site: AdminSite, request: AdminRequest) -> None:
    name = _named(request, "table")
    assert name is not None
    replica = _replica(site, {"table": name})
    if len(site.dumps) >= MAX_DUMPS:
        raise Problem(503, "TooManyStreams", f"at most {MAX_DUMPS} tables are dumped at once")
    tables = site.view.tables
    status = {k: v for k, v in tables.status(name).items() if k not in ("peers", "joined")}
    dump = Dump(replica, status, tables.looking.name_of_owner)
    request.setHeader("content-type", "application/x-ndjson")
    request.setHeader("cache-control", "no-store")
    stream = DumpStream(dump, request, site.reactor, lambda: site.dumps.discard(stream))
    site.dumps.add(stream)
    stream.start(request.channel.transport.abortConnection)


def _run(work: Any) -> Deferred[Any]:
    return Deferred.fromCoroutine(_typed(work))


async def _typed(work: Any) -> Any:
    try:
        return await work
    except BadTable as error:
        raise Problem(404, "NoSuchTable", str(error)) from None


def _checked(name: str) -> str:
    try:
        return check_name(name)
    except BadTable as error:
        raise Problem(400, "BadRequest", str(error)) from None


def _table(site: AdminSite, body: dict[str, object]) -> Table:
    try:
        return site.view.tables.looking.table(text_in(body, "table"))
    except BadTable as error:
        raise Problem(404, "NoSuchTable", str(error)) from None


def _replica(site: AdminSite, body: dict[str, object]) -> Replica:
    return site.view.tables.looking.replica(_table(site, body).name)


def _named(request: AdminRequest, required: str | None) -> str | None:
    given: list[bytes] = request.args.get(b"table", [])
    if not given and required is None:
        return None
    if len(given) != 1 or not given[0]:
        raise Problem(400, "BadRequest", "name one table: ?table=NAME")
    return given[0].decode("utf-8", "replace")


ROUTES: dict[str, dict[str, Route]] = {
    "/v1/tables": {"GET": _list},
    "/v1/tables/joins": {"GET": _joins},
    "/v1/tables/dump": {"GET": _dump},
    "/v1/tables/get": {"POST": _get},
    "/v1/tables/put": {"POST": _put},
    "/v1/tables/delete": {"POST": _delete},
    "/v1/tables/diff": {"POST": _diff},
}
