"""``meshsvc tables dump``: a whole table, printed as it comes.

Nothing is kept but the first rows, from which a table for people gets its widths. A stream
that ends before its last line says so is a failure, so that half a table is not taken for one.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

from meshsvc.admin.cli import exits
from meshsvc.admin.cli.client import AdminClient
from meshsvc.admin.cli.exits import CliError
from meshsvc.admin.cli.output import cell, line
from meshsvc.admin.cli.progress import Progress
from meshsvc.admin.cli.tables import LARGE, as_shown, columns_of

PEEK = 200
"""Rows that decide the widths of the columns; later ones may stick out."""

MAX_WIDTH = 60


def dump(args: argparse.Namespace) -> int:
    """Print all rows of a table, as this node holds it; with -o jsonl one JSON object a line."""
    path = f"/v1/tables/dump?{urlencode({'table': args.table})}"
    rows = _rows(AdminClient(args.admin), path)
    if args.output == "jsonl":
        for row in rows:
            print(line(row))
    elif args.output == "json":
        _print_list(rows)
    else:
        _print_columns(rows)
    return exits.OK


def _rows(client: AdminClient, path: str) -> Iterator[dict[str, Any]]:
    """The rows of the stream.

    Raises:
        CliError: when it ends before its end.
    """
    stream = client.lines(path)
    head: dict[str, Any] = next(stream, {})
    total = head.get("table", {}).get("keys", 0)
    # Rows on the terminal are progress enough.
    progress = Progress("dump", total >= LARGE and not sys.stdout.isatty())
    count = 0
    for row in stream:
        if "end" in row:
            progress.clear()
            return
        count += 1
        progress.show(count, total)
        yield row
    progress.clear()
    text = f"the dump ended after {count} of {total} rows"
    raise CliError(exits.UNREACHABLE, f"{text}: the node is gone, or this was too slow to read")


def _print_list(rows: Iterator[dict[str, Any]]) -> None:
    separator = "["
    for row in rows:
        print(f"{separator}\n  {line(row)}", end="")
        separator = ","
    print("\n]" if separator == "," else "[]")


def _print_columns(rows: Iterator[dict[str, Any]]) -> None:
    first = list(itertools.islice(rows, PEEK))
    columns = columns_of(first)
    heads = dict(zip(columns, (name.upper() for name in columns), strict=True))
    shown = (as_shown("table", row) for row in itertools.chain(first, rows))
    sample = [heads, *(as_shown("table", row) for row in first)]
    widths = [min(MAX_WIDTH, max(len(cell(row.get(name))) for row in sample)) for name in columns]
    for row in itertools.chain([heads], shown):
        texts = (cell(row.get(name)) for name in columns)
        print("  ".join(t.ljust(w) for t, w in zip(texts, widths, strict=True)).rstrip())
