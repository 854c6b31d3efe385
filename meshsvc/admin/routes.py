"""What each path of the admin side answers.

To add a question, add a function here and its line in ``ROUTES``. A route gets the site and
the request; it returns an answer, or None when it will answer later, or raises ``Problem``.
"""

# mypy: allow-untyped-calls
# (twisted.web is not annotated)

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from meshsvc.admin.answers import Problem
from meshsvc.admin.events import MAX_STREAMS, EventStream
from meshsvc.admin.metrics import CONTENT_TYPE, expose
from meshsvc.admin.replies import Json, Raw, Route, body_of, later, text_in, texts, timeout_in
from meshsvc.admin.tables.routes import ROUTES as TABLES
from meshsvc.admin.targets import parse_target
from meshsvc.model import Epoch

if TYPE_CHECKING:
    from meshsvc.admin.http import AdminRequest, AdminSite


def _status(site: AdminSite, _: AdminRequest) -> Json:
    ready, reasons = site.view.ready()
    # This runs in a shard, whose parent is the supervisor: the process to signal.
    row = {"pid": os.getppid()} | site.view.status()
    return Json(row | {"ready": ready, "reasons": reasons})


def _members(site: AdminSite, _: AdminRequest) -> Json:
    return Json(site.view.members())


def _mesh(site: AdminSite, _: AdminRequest) -> Json:
    return Json(site.view.mesh())


def _shards(site: AdminSite, _: AdminRequest) -> Json:
    return Json(site.view.shards())


def _plugins(site: AdminSite, _: AdminRequest) -> Json:
    return Json(site.view.plugins())


def _discovery(site: AdminSite, request: AdminRequest) -> None:
    later(request, site.view.discovery(), lambda row: row)


def _readyz(site: AdminSite, _: AdminRequest) -> Json:
    ready, reasons = site.view.ready()
    return Json({"ready": ready, "reasons": reasons}, 200 if ready else 503)


def _livez(site: AdminSite, _: AdminRequest) -> Json:
    live, reasons = site.view.live()
    return Json({"live": live, "reasons": reasons}, 200 if live else 503)


def _metrics(site: AdminSite, _: AdminRequest) -> Raw:
    return Raw(expose(site.view.metrics()), CONTENT_TYPE)


def _call(site: AdminSite, request: AdminRequest) -> None:
    body = body_of(request, "target", "verb")
    target, verb = text_in(body, "target"), text_in(body, "verb")
    try:
        parse_target(target)
    except ValueError as error:
        raise Problem(400, "BadRequest", str(error)) from None
    calling = site.view.call(target, verb, body.get("payload"), timeout_in(body))
    later(request, calling, lambda reply: {"reply": reply})


def _query(site: AdminSite, request: AdminRequest) -> None:
    body = body_of(request, "name")
    name, tags = text_in(body, "name"), body.get("tags")
    nodes: Any = body.get("nodes")
    if nodes is not None and not texts(nodes):
        raise Problem(400, "BadRequest", "nodes is not a list of names")
    if tags is not None and not isinstance(tags, dict):
        raise Problem(400, "BadRequest", "tags is not an object")
    asking = site.view.query(name, body.get("payload"), timeout_in(body), nodes, tags)
    later(request, asking, lambda answers: answers)


def _send_event(site: AdminSite, request: AdminRequest) -> None:
    body = body_of(request, "name")
    name, coalesce = text_in(body, "name"), body.get("coalesce", False)
    if not isinstance(coalesce, bool):
        raise Problem(400, "BadRequest", "coalesce is not true or false")
    sending = site.view.send_event(name, body.get("payload"), coalesce)
    later(request, sending, lambda _: {"sent": True, "name": name})


def _form(site: AdminSite, request: AdminRequest) -> None:
    text = text_in(body_of(request, "epoch"), "epoch")
    try:
        epoch = Epoch.parse(text)
    except ValueError as error:
        raise Problem(400, "BadRequest", str(error)) from None
    later(request, site.view.form_mesh(epoch), lambda mesh: mesh)


def _store(site: AdminSite, request: AdminRequest) -> None:
    later(request, site.view.store(), lambda row: row)


def _transfer(site: AdminSite, request: AdminRequest) -> None:
    body = body_of(request, "node")
    moving = site.view.transfer_store(text_in(body, "node"), timeout_in(body))
    later(request, moving, lambda row: row)


def _events(site: AdminSite, request: AdminRequest) -> Raw | None:
    kind = "application/x-ndjson"
    if request.args.get(b"follow") == [b"0"] or request.method == b"HEAD":
        return Raw(b"".join(site.feed.recent), kind)
    if len(site.feed.streams) >= MAX_STREAMS:
        raise Problem(503, "TooManyStreams", f"at most {MAX_STREAMS} follow events at once")
    request.setHeader("content-type", kind)
    request.setHeader("cache-control", "no-store")
    stream = EventStream(site.feed, request, site.reactor)
    stream.start(request.channel.transport.abortConnection)
    return None


ROUTES: dict[str, dict[str, Route]] = {
    "/v1/status": {"GET": _status},
    "/v1/members": {"GET": _members},
    "/v1/mesh": {"GET": _mesh},
    "/v1/mesh/form": {"POST": _form},
    "/v1/shards": {"GET": _shards},
    "/v1/plugins": {"GET": _plugins},
    "/v1/discovery": {"GET": _discovery},
    "/v1/store": {"GET": _store},
    "/v1/store/transfer": {"POST": _transfer},
    "/v1/call": {"POST": _call},
    "/v1/query": {"POST": _query},
    "/v1/events": {"GET": _events, "POST": _send_event},
    **TABLES,
    "/metrics": {"GET": _metrics},
    "/livez": {"GET": _livez},
    "/readyz": {"GET": _readyz},
}
"""What is served, by path and method."""
