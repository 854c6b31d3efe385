"""What routes share: the kinds of answers, and reading what a request brought."""

# mypy: allow-untyped-calls
# (twisted.web is not annotated)

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import CancelledError

from meshsvc.admin.answers import Problem, read_object

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


def body_of(request: AdminRequest, *required: str) -> dict[str, object]:
    """The JSON object that was sent, with the required keys in it; raises ``Problem``."""
    kind = (request.getHeader("content-type") or "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Problem(415, "NotJson", "send the body with Content-Type: application/json")
    content = request.content
    assert content is not None
    return read_object(content.read(), *required)


def text_in(body: dict[str, object], key: str) -> str:
    """A text that is not empty; raises ``Problem``."""
    value = body[key]
    if not isinstance(value, str):
        raise Problem(400, "BadRequest", f"{key} is not a text")
    if not value:
        raise Problem(400, "BadRequest", f"{key} is empty")
    return value


def texts(value: object) -> bool:
    """Whether it is a list of texts."""
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def timeout_in(body: dict[str, object]) -> float:
    """``timeout_s``, or the default; raises ``Problem``."""
    timeout_s = body.get("timeout_s", DEFAULT_TIMEOUT_S)
    if isinstance(timeout_s, bool) or not isinstance(timeout_s, int | float):
        raise Problem(400, "BadRequest", "timeout_s is not a number of seconds")
    if not 0 < timeout_s <= MAX_TIMEOUT_S:
        raise Problem(400, "BadRequest", f"timeout_s is not between 0 and {MAX_TIMEOUT_S:g}")
    return float(timeout_s)


def later(request: AdminRequest, asking: Deferred[Any], shape: Callable[[Any], object]) -> None:
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
