"""The table ``[applications.presence]``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

DEFAULT = "tcp:127.0.0.1:0"
"""A free port of each node, which it tells in its tag ``presence``."""


@dataclass(frozen=True, slots=True)
class Options:
    """``listen`` is a listener of the node's ``[listen]`` table, or ``tcp:[HOST:]PORT``."""

    listen: str = DEFAULT

    @classmethod
    def read(cls, table: Mapping[str, object]) -> Options:
        """Check a table.

        Raises:
            ValueError: naming what is wrong and what it should be.
        """
        unknown = sorted(set(table) - {"listen"})
        if unknown:
            text = f"{', '.join(unknown)}: no such option; there is only listen"
            raise ValueError(f"[applications.presence]: {text}")
        listen = table.get("listen", DEFAULT)
        if type(listen) is not str or not listen:
            text = f'listen must be a listener\'s name or "tcp:PORT", not {listen!r}'
            raise ValueError(f"[applications.presence]: {text}")
        return cls(listen)
