"""The arguments of ``meshsvc tables``."""

from __future__ import annotations

from meshsvc.admin.cli import tables, tables_dump
from meshsvc.admin.cli.numbers import seconds, whole
from meshsvc.admin.cli.parser import Parser, Verbs

MAX_KEYS = 10_000


def add_tables(to: Verbs) -> None:
    """Add the verbs."""
    below = to.group("tables", "Replicated tables: read, write and compare their copies.")
    below.add("list", tables.list_)
    dump, get = below.add("dump", tables_dump.dump), below.add("get", tables.get)
    put, delete = below.add("put", tables.put), below.add("delete", tables.delete)
    diff, joins = below.add("diff", tables.diff), below.add("join-status", tables.join_status)
    for parser in (dump, get, put, delete, diff):
        parser.add_argument("table", metavar="TABLE")
    for parser in (get, put, delete):
        _add_key(parser)
    text = 'JSON, with bytes as {"base64": "..."}; - reads stdin'
    put.add_argument("json", metavar="JSON", help=text)
    delete.add_argument("--if-value", metavar="JSON", help="only a row that holds this")
    text = "only a row of this version"
    delete.add_argument("--if-version", type=whole(0), metavar="VERSION", help=text)
    for parser in (put, delete):
        parser.add_argument("--timeout", type=seconds, default=5.0, metavar="SECONDS", help="(5)")
    diff.add_argument("node", metavar="NODE", nargs="*", help="only copies on these; default: all")
    text = "name at most N differing keys (100)"
    diff.add_argument("--limit", type=whole(1, MAX_KEYS), default=100, metavar="N", help=text)
    joins.add_argument("table", metavar="TABLE", nargs="?")
    text = "until all are joined, with a bar on a terminal"
    joins.add_argument("--wait", type=seconds, metavar="SECONDS", help=text)


def _add_key(parser: Parser) -> None:
    parser.add_argument("key", metavar="KEY", help="a text")
    text = 'KEY is JSON: 17 is a number, {"base64": "..."} bytes'
    parser.add_argument("--json-key", action="store_true", help=text)
