"""What commands print: aligned columns for people, JSON for programs.

Texts may come from other nodes, so control characters never reach the terminal.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

FORMATS = ("table", "json", "jsonl")


def show_rows(output: str, rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> None:
    """Print a list of rows; ``columns`` are the keys a table shows."""
    if output == "jsonl":
        for row in rows:
            print(line(row))
    elif output == "json":
        print(pretty(rows))
    else:
        print(table(rows, columns))


def show_row(output: str, row: dict[str, Any], columns: Sequence[str]) -> None:
    """Print one row: as a table, a line for each of the columns it has."""
    if output == "table":
        shown = [column for column in columns if row.get(column) not in (None, [], {})]
        width = max((len(column) for column in shown), default=0)
        for column in shown:
            print(f"{column:<{width}}  {cell(row[column])}")
    else:
        print(line(row) if output == "jsonl" else pretty(row))


def table(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> str:
    """Rows under headings, columns as wide as their widest cell, numbers to the right."""
    cells = [[cell(row.get(column)) for column in columns] for row in rows]
    heads = [column.upper() for column in columns]
    widths = [max(map(len, each)) for each in zip(heads, *cells, strict=True)]
    right = [
        bool(rows) and all(isinstance(row.get(column), int | float | None) for row in rows)
        for column in columns
    ]
    lines = []
    for texts in (heads, *cells):
        aligned = zip(texts, widths, right, strict=True)
        each = (text.rjust(wide) if num else text.ljust(wide) for text, wide, num in aligned)
        lines.append("  ".join(each).rstrip())
    return "\n".join(lines)


def cell(value: object) -> str:
    """One value on one line."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.2f}"
    if isinstance(value, list) and not any(isinstance(item, dict | list) for item in value):
        return ", ".join(map(cell, value)) or "-"
    if isinstance(value, dict) and not any(isinstance(v, dict | list) for v in value.values()):
        return ", ".join(f"{cell(key)}={cell(item)}" for key, item in value.items()) or "-"
    return printable(value if isinstance(value, str) else line(value))


def printable(text: str) -> str:
    """The text with what is not printable escaped."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def line(value: object) -> str:
    """JSON on one line."""
    return json.dumps(value, ensure_ascii=not _wide())


def pretty(value: object) -> str:
    """JSON as people read it."""
    return json.dumps(value, indent=2, ensure_ascii=not _wide())


def _wide() -> bool:
    # Python has no stdout when the shell closed it: what is printed goes nowhere then.
    return (getattr(sys.stdout, "encoding", None) or "").lower().startswith("utf")
