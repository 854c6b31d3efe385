"""What each path of the admin side answers.

To add a question, add a function here and its line in ``ROUTES``. A route gets the site and
the request; it returns an answer, or None when it will answer later, or raises ``Problem``.
"""

# mypy: allow-untyped-calls
# (twisted.web is not annotated)

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import CancelledError

from meshsvc.admin.answers import Problem, read_object
from meshsvc.admin.events import MAX_STREAMS, EventStream
from meshsvc.admin.metrics import CONTENT_TYPE, expose
from meshsvc.admin.targets import parse_target
from meshsvc.model import Epoch

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred
    from twisted.python.failure import Failure

    from meshsvc.admin.http import AdminRequest, AdminSite

MAX_TIMEOUT_S = 600.0
"""A call by hand that takes ten minutes is a job, and wants another interface."""

DEFAULT_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Json:
    """An answer that is encoded as JSON."""

    value: object
    status: int = 200


@dataclass(frozen=True, slots=True)
class Raw:
    """An answer that is bytes already."""

    body: bytes
    content_type: str = "application/json"
    status: int = 200


Route = Callable[["AdminSite", "AdminRequest"], "Json | Raw | None"]


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
    _later(request, site.view.discovery(), lambda row: row)


def _readyz(site: AdminSite, _: AdminRequest) -> Json:
    ready, reasons = site.view.ready()
    return Json({"ready": ready, "reasons": reasons}, 200 if ready else 503)


def _livez(site: AdminSite, _: AdminRequest) -> Json:
    live, reasons = site.view.live()
    return Json({"live": live, "reasons": reasons}, 200 if live else 503)


def _metrics(site: AdminSite, _: AdminRequest) -> Raw:
    return Raw(expose(site.view.metrics()), CONTENT_TYPE)


def _call(site: AdminSite, request: AdminRequest) -> None:
    body = _body(request, "target", "verb")
    target, verb = _text(body, "target"), _text(body, "verb")
    try:
        parse_target(target)
    except ValueError as error:
        raise Problem(400, "BadRequest", str(error)) from None
    calling = site.view.call(target, verb, body.get("payload"), _timeout(body))
    _later(request, calling, lambda reply: {"reply": reply})


def _query(site: AdminSite, request: AdminRequest) -> None:
    body = _body(request, "name")
    name, tags = _text(body, "name"), body.get("tags")
    nodes: Any = body.get("nodes")
    if nodes is not None and not _texts(nodes):
        raise Problem(400, "BadRequest", "nodes is not a list of names")
    if tags is not None and not isinstance(tags, dict):
        raise Problem(400, "BadRequest", "tags is not an object")
    asking = site.view.query(name, body.get("payload"), _timeout(body), nodes, tags)
    _later(request, asking, lambda answers: answers)


def _send_event(site: AdminSite, request: AdminRequest) -> None:
    body = _body(request, "name")
    name, coalesce = _text(body, "name"), body.get("coalesce", False)
    if not isinstance(coalesce, bool):
        raise Problem(400, "BadRequest", "coalesce is not true or false")
    sending = site.view.send_event(name, body.get("payload"), coalesce)
    _later(request, sending, lambda _: {"sent": True, "name": name})


def _form(site: AdminSite, request: AdminRequest) -> None:
    text = _text(_body(request, "epoch"), "epoch")
    try:
        epoch = Epoch.parse(text)
    except ValueError as error:
        raise Problem(400, "BadRequest", str(error)) from None
    _later(request, site.view.form_mesh(epoch), lambda mesh: mesh)


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
    "/v1/call": {"POST": _call},
    "/v1/query": {"POST": _query},
    "/v1/events": {"GET": _events, "POST": _send_event},
    "/metrics": {"GET": _metrics},
    "/livez": {"GET": _livez},
    "/readyz": {"GET": _readyz},
}
"""What is served, by path and method."""


def _body(request: AdminRequest, *required: str) -> dict[str, object]:
    kind = (request.getHeader("content-type") or "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Problem(415, "NotJson", "send the body with Content-Type: application/json")
    content = request.content
    assert content is not None
    return read_object(content.read(), *required)


def _text(body: dict[str, object], key: str) -> str:
    value = body[key]
    if not isinstance(value, str) or not value:
        raise Problem(400, "BadRequest", f"{key} is not a text")
    return value


def _texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _timeout(body: dict[str, object]) -> float:
    timeout_s = body.get("timeout_s", DEFAULT_TIMEOUT_S)
    if isinstance(timeout_s, bool) or not isinstance(timeout_s, int | float):
        raise Problem(400, "BadRequest", "timeout_s is not a number of seconds")
    if not 0 < timeout_s <= MAX_TIMEOUT_S:
        raise Problem(400, "BadRequest", f"timeout_s is not between 0 and {MAX_TIMEOUT_S:g}")
    return float(timeout_s)


def _later(request: AdminRequest, asking: Deferred[Any], shape: Callable[[Any], object]) -> None:
    """Answer when a Deferred fires; a client that leaves before cancels it."""

    def gone(_: Failure) -> None:
        asking.cancel()

    def failed(failure: Failure) -> None:
        if failure.check(CancelledError) is not None:
            return  # by ``gone``: there is nobody to tell
        assert failure.value is not None
        request.fail(failure.value)

    request.notifyFinish().addErrback(gone)
    asking.addCallback(lambda reply: request.answer(Json(shape(reply)))).addErrback(failed)
