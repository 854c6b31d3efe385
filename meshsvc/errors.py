"""Every error meshsvc raises: ``LocalError`` (you misused it), ``RemoteError`` (the peer did).

Each says what happened, to whom, and what to do. An ``ask`` ends in a reply or exactly one
of the ``CallError`` kinds; ``retriable`` tells whether trying again can help.
"""

from __future__ import annotations


class MeshsvcError(Exception):
    """Root of everything raised on purpose by meshsvc."""


class LocalError(MeshsvcError):
    """This side was used wrongly: fix the call, the config or the handler."""


class RemoteError(MeshsvcError):
    """The other side, or the way to it, failed."""


# --- local -------------------------------------------------------------------------------


class NotEncodable(LocalError):
    """A payload holds a value that has no strict CBOR form, or is too deep or too large."""


class BadName(LocalError, ValueError):
    """Something was given a name it cannot have; the text says which ones it can."""


class VerbTaken(LocalError):
    """A verb was registered twice in one shard."""


class NoSuchTarget(LocalError):
    """A node or shard was addressed that the membership does not list."""


class NoOwner(LocalError):
    """A key was addressed while no node is alive to own it."""


class BadKey(LocalError):
    """What was given is no key of a table; the text says what to use."""


class BadTable(LocalError):
    """A table has a name or a schema that it cannot have; the text says what to use."""


class TooLarge(LocalError):
    """A value, or a batch of rows, is over its limit; nothing of it was done."""


class SchemaConflict(LocalError):
    """A table was opened as one kind and is another already."""


class ConfigError(LocalError):
    """One or more config values are wrong; ``problems`` lists each with path and line."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class StartError(LocalError):
    """The node cannot start; ``exit_code`` is what the process ends with (sysexits.h)."""

    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code


class EpochSuperseded(LocalError):
    """A mesh attempt ended because a greater epoch was seen."""

    def __init__(self, mine: object, theirs: object) -> None:
        super().__init__(
            f"epoch {mine} is superseded by {theirs}: waiting for CreateMesh({theirs}) or later"
        )
        self.mine = mine
        self.theirs = theirs


class EpochConflict(LocalError):
    """The same epoch arrived with another roster; the mesh in place stays."""


# --- the wire ----------------------------------------------------------------------------


class WireError(RemoteError):
    """Bytes from a peer break the protocol; the link they came over is closed."""

    reason = "malformed"


class FrameTooLarge(WireError):
    """A frame over the limit was announced."""

    reason = "frame-too-large"


class TrailingBytes(WireError):
    """Bytes follow the one value that a frame may hold."""

    reason = "trailing-bytes"


class TagRefused(WireError):
    """A frame holds a CBOR tag."""

    reason = "tag"


class UnknownCode(WireError):
    """A message code is in nobody's registry."""

    reason = "unknown-code"


class WrongRole(WireError):
    """A message came from a side that may not send it."""

    reason = "wrong-role"


class Refused(RemoteError):
    """A peer refused the link, or this side refused the peer; ``reason`` is typed."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class LinkLost(RemoteError):
    """A link ended; ``reason`` is typed."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


# --- calls -------------------------------------------------------------------------------


class CallError(RemoteError):
    """How an ``ask`` ends when it does not end in a reply."""

    kind = "CallError"
    retriable = False


class UnknownVerb(CallError):
    """The target shard has no handler for the verb."""

    kind = "UnknownVerb"


class HandlerFailed(CallError):
    """The handler raised; ``type`` and ``text`` are those of its exception."""

    kind = "HandlerFailed"

    def __init__(self, type: str, text: str = "") -> None:
        super().__init__(f"{type}: {text}")
        self.type = type
        self.text = text


class TimedOut(CallError):
    """No answer came before the deadline; the handler may or may not have run."""

    kind = "TimedOut"
    retriable = True


class Disconnected(CallError):
    """The way to the target, or that life of the target, is gone."""

    kind = "Disconnected"
    retriable = True


class Overloaded(CallError):
    """An outbox or the target's table of running calls is full."""

    kind = "Overloaded"
    retriable = True


class Fenced(CallError):
    """This node may not act: it knows itself cut off from the controller."""

    kind = "Fenced"
    retriable = True


class Cancelled(CallError):
    """The caller cancelled."""

    kind = "Cancelled"


class Indeterminate(CallError):
    """The one who decides was lost in mid-call: it may have happened or not. Look it up."""

    kind = "Indeterminate"


CALL_ERRORS: dict[str, type[CallError]] = {
    cls.kind: cls
    for cls in (
        *(UnknownVerb, HandlerFailed, TimedOut, Disconnected, Overloaded, Fenced, Cancelled),
        Indeterminate,
    )
}
