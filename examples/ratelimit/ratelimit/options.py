"""The table ``[applications.ratelimit]``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from ratelimit.buckets import Limit


@dataclass(frozen=True, slots=True)
class Options:
    """``listen`` is a listener of the node's ``[listen]`` table, or ``tcp:PORT``."""

    rate: float = 10.0
    burst: int = 10
    listen: str = "client"

    @property
    def limit(self) -> Limit:
        """What every key is held to."""
        return Limit(self.rate, self.burst)

    @classmethod
    def read(cls, table: Mapping[str, object]) -> Options:
        """Check a table.

        Raises:
            ValueError: naming every wrong key and what it should be.
        """
        known = {field.name: field.default for field in fields(cls)}
        values = known | dict(table)
        rate, burst, listen = (values[name] for name in known)
        problems = [
            f"{name} is not an option: choose from {', '.join(known)}"
            for name in sorted(set(table) - set(known))
        ]
        if type(rate) not in (int, float) or not 0 < rate < float("inf"):
            problems.append(f"rate must be a number above 0 (tokens a second), not {rate!r}")
        if type(burst) is not int or burst < 1:
            problems.append(f"burst must be a whole number of at least 1, not {burst!r}")
        if type(listen) is not str or not listen:
            problems.append(f'listen must be a listener\'s name or "tcp:PORT", not {listen!r}')
        if problems:
            raise ValueError("[applications.ratelimit]: " + "; ".join(problems))
        return cls(float(rate), burst, listen)
