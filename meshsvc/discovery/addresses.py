"""What a backend answered, made into addresses: whatever it is, nothing here raises.

A backend is somebody else's code: it may answer addresses as text, the same one twice, this
node's own, things that are no address at all, or no sequence of anything.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any

from meshsvc.model import Address

MAX_ADDRESSES = 1000
"""More than any cluster has nodes, as for ``[seeds] addresses``: each is dialed."""

MAX_SCANNED = 10_000
"""Entries looked at: an endless generator must not hold the reactor."""

MAX_NOTES = 16
"""Texts kept about what was wrong: enough to see what sort of mistake it is."""

NOTE_CHARS = 200


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of a backend.

    Attributes:
        addresses: to dial, each once, in the order they came.
        notes: what was wrong with parts of it, in words, at most 16.
        refused: how many entries were left out.
    """

    addresses: tuple[Address, ...]
    notes: tuple[str, ...] = ()
    refused: int = 0

    @property
    def useless(self) -> bool:
        """Whether nothing in it was of use, although it was not empty."""
        return not self.addresses and bool(self.notes)


class Found(tuple[Any, ...]):
    """Addresses, and what could not be found beside them: for backends that look in parts.

    A plain tuple to those who do not care. ``notes`` are texts, one for each part that
    brought nothing.
    """

    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, addresses: Iterable[Address | str], notes: Iterable[str] = ()) -> Found:
        """Build one; both may be empty."""
        found = cls(addresses)
        found.notes = tuple(notes)
        return found


def read_answer(answer: Any) -> Answer:
    """The usable part of whatever a backend's ``get_nodes`` came to."""
    if isinstance(answer, str | bytes | dict) or not hasattr(answer, "__iter__"):
        what = type(answer).__name__
        return Answer((), (f"it answered a {what}, not a list of addresses",), 1)
    good: dict[Address, None] = {}
    notes = [_short(str(note)) for note in islice(getattr(answer, "notes", ()), MAX_NOTES)]
    refused = 0
    for entry in islice(_safely(answer, notes), MAX_SCANNED):
        address = _address(entry)
        if address is None or len(good) >= MAX_ADDRESSES:
            refused += 1
            if len(notes) < MAX_NOTES:
                notes.append(_objection(entry, address))
        else:
            good[address] = None
    return Answer(tuple(good), tuple(notes[:MAX_NOTES]), refused)


def dialable(text: str) -> Address:
    """Read ``host:port`` with a port that can be dialed.

    Raises:
        ValueError: saying what is wrong with it.
    """
    address = Address.parse(text)
    if not address.port:
        raise ValueError(f"{text!r} has port 0, which cannot be dialed")
    if any(ord(char) <= ord(" ") for char in address.host) or len(address.host) > 255:
        raise ValueError(f"{text!r} has a host that is none: a name or an IP address")
    return address


def _safely(answer: Iterable[Any], notes: list[str]) -> Iterable[Any]:
    """The entries, up to where the iterable itself fails."""
    try:
        yield from answer
    except Exception as error:
        notes.append(_short(f"its list ended in {type(error).__name__}: {error}"))


def _address(entry: Any) -> Address | None:
    try:
        return dialable(str(entry) if type(entry) in (str, Address) else "")
    except ValueError:
        return None


def _objection(entry: Any, address: Address | None) -> str:
    if address is not None:
        return f"more than {MAX_ADDRESSES} addresses: the rest was left out"
    try:
        shown = repr(entry)
    except Exception:
        shown = f"a {type(entry).__name__}"
    return _short(f"{shown} is not an address: host:port is")


def _short(text: str) -> str:
    return text if len(text) <= NOTE_CHARS else text[: NOTE_CHARS - 3] + "..."
