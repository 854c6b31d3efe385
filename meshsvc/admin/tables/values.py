"""Keys and values of tables as JSON: what JSON does not have, bytes, is ``{"base64": "..."}``."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from meshsvc.admin.answers import Problem
from meshsvc.tables.rows import KEY_TYPES, Key

MAX_DEPTH = 64
"""Nesting that is read; a payload holds less."""


def value_of(found: Any, depth: int = 0) -> Any:
    """A value of a body as a table stores it.

    Raises:
        Problem: 400 for a ``base64`` that is none, or what is nested too deep.
    """
    if depth > MAX_DEPTH:
        raise Problem(400, "BadRequest", f"the value is nested over {MAX_DEPTH} deep")
    if isinstance(found, dict):
        if found.keys() == {"base64"}:
            return _bytes(found["base64"])
        return {key: value_of(item, depth + 1) for key, item in found.items()}
    if isinstance(found, list):
        return [value_of(item, depth + 1) for item in found]
    return found


def key_of(found: Any) -> Key:
    """A key of a body: a text, a whole number, or ``{"base64": ...}`` for bytes.

    Raises:
        Problem: 400 for anything else.
    """
    key = value_of(found)
    if type(key) not in KEY_TYPES:
        text = f'{found!r:.80} is no key: give a text, a whole number or {{"base64": "..."}}'
        raise Problem(400, "BadRequest", text)
    return key  # type: ignore[no-any-return]


def _bytes(text: object) -> bytes:
    try:
        if not isinstance(text, str):
            raise ValueError(f"{text!r:.40} is no text")
        return base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error) as error:
        raise Problem(400, "BadRequest", f"bad base64: {error}") from None
