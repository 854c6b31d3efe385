"""Reading the tables of a scenario: every mistake of a file at once, each with its key, what
stands there and what is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

_NUMBERS = (int, float)


@dataclass(frozen=True, slots=True)
class Kind:
    """What a key takes, in words, and what reads it; that raises ValueError for anything else."""

    expected: str
    read: Callable[[Any], Any]


Kinds = Mapping[str, Kind]


@dataclass(slots=True)
class Reading:
    """What was found wrong so far, with places below the table that is read."""

    problems: list[str] = field(default_factory=list)

    def table(self, data: Any, kinds: Kinds, below: str = "") -> dict[str, Any]:
        """The values of a table that are right."""
        if not isinstance(data, dict):
            self.problems.append(f"{below or 'it'}: got {data!r:.60}, expected a table")
            return {}
        values = {}
        for key, value in data.items():
            at = f"{below}.{key}" if below else key
            kind = kinds.get(key)
            if kind is None:
                self.problems.append(f"{at}: unknown key, {_nearest(key, kinds)}")
                continue
            try:
                values[key] = kind.read(value)
            except (ValueError, TypeError):
                self.problems.append(f"{at}: got {value!r:.60}, expected {kind.expected}")
        return values


def _nearest(key: str, kinds: Kinds) -> str:
    near = get_close_matches(key, kinds, 1)
    return f"nearest: {near[0]}" if near else f"there are {', '.join(kinds)}"


def number(least: float, most: float) -> Kind:
    """One number within bounds."""

    def read(value: Any) -> Any:
        if type(value) not in _NUMBERS or not least <= value <= most:
            raise ValueError
        return value

    return Kind(f"a number from {least:g} to {most:g}", read)


def whole(least: int, most: int) -> Kind:
    """One whole number within bounds."""

    def read(value: Any) -> int:
        if type(value) is not int or not least <= value <= most:
            raise ValueError
        return value

    return Kind(f"a whole number from {least} to {most}", read)


def spread(of: Kind) -> Kind:
    """One number, or two of which each seed draws one between: (low, high)."""

    def read(value: Any) -> tuple[Any, Any]:
        low, high = value if isinstance(value, list) else (value, value)
        if of.read(low) > of.read(high):
            raise ValueError
        return (low, high)

    return Kind(f"{of.expected}, or a range of them: [low, high]", read)


def text(known: Sequence[str] = ()) -> Kind:
    """A text; one of the known ones when any are given."""

    def read(value: Any) -> str:
        if not isinstance(value, str) or (known and value not in known):
            raise ValueError
        return value

    return Kind(f"one of {', '.join(map(repr, known))}" if known else "a text", read)


def texts() -> Kind:
    """A list of texts."""

    def read(value: Any) -> tuple[str, ...]:
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise ValueError
        return tuple(value)

    return Kind("a list of texts", read)


def anything(kind: type) -> Kind:
    """A table or a list, which is read further elsewhere."""

    def read(value: Any) -> Any:
        if not isinstance(value, kind):
            raise ValueError
        return value

    return Kind("a table" if kind is dict else "a list of tables: [[step]]", read)
