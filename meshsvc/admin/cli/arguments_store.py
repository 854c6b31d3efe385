"""The arguments of the verbs of the store: kv, lease, lock, elect, raft, snapshot."""

from __future__ import annotations

from meshsvc.admin.cli import kv, leases, locks, raft, snapshots
from meshsvc.admin.cli.numbers import seconds, whole
from meshsvc.admin.cli.parser import Parser, Verbs
from meshsvc.admin.cli.store_client import lease_id

_MAX_TTL_S = 9_000_000_000
"""What etcd takes as the longest lease, in seconds."""


def add_store(to: Verbs) -> None:
    """Add the verbs."""
    store = Parser(add_help=False)
    text = "where the store listens (MESHSVC_STORE, else what the node says)"
    store.add_argument("--store", metavar="URL", help=text)
    _add_kv(to.group("kv", "Read, write and watch the keys of the store.", store))
    _add_lease(to.group("lease", "Leases: what keys put with them live by.", store))
    _add_lock(to, store)
    _add_raft(to.group("raft", "The groups that keep the store: how they are, and who leads."))
    _add_snapshot(
        to.group("snapshot", "The store as a file: save it, look at it, restore it."), store
    )


def _add_kv(to: Verbs) -> None:
    get, put, delete = to.add("get", kv.get), to.add("put", kv.put), to.add("del", kv.delete)
    txn, watch = to.add("txn", kv.txn), to.add("watch", kv.watch)
    for parser in (get, delete, watch):
        _add_span(parser)
    get.add_argument("--limit", type=whole(0), default=0, metavar="N", help="0: no limit")
    get.add_argument("--keys-only", action="store_true")
    get.add_argument("--count-only", action="store_true")
    get.add_argument("--value-only", action="store_true", help="print the bytes of the values")
    text = "answer from this node alone, perhaps with what is old"
    get.add_argument("--serializable", action="store_true", help=text)
    get.add_argument("--sort-by", choices=kv.SORTS)
    get.add_argument("--order", choices=kv.ORDERS)
    get.add_argument("--revision", type=whole(0), default=0, metavar="R", help="as it was at R")
    put.add_argument("key", metavar="KEY")
    put.add_argument("value", metavar="VALUE", help="- reads standard input")
    put.add_argument("--lease", type=lease_id, default=0, metavar="ID")
    for parser in (put, delete, watch):
        parser.add_argument("--prev", action="store_true", help="show what was there before")
    watch.set_defaults(until_interrupted=True)
    watch.add_argument("--revision", type=whole(0), default=0, metavar="R", help="from R on")
    watch.add_argument("--limit", type=whole(1), metavar="N", help="end after N changes")
    text = "FIELD(KEY) OPERATOR VALUE; FIELD version, create, mod, value, lease; OPERATOR = != < >"
    _add_repeated(txn, "--if", "compare", "COMPARE", text)
    text = "put KEY VALUE, get KEY [--prefix], del KEY [--prefix]"
    _add_repeated(txn, "--then", "then", "OPERATION", text)
    _add_repeated(txn, "--else", "other", "OPERATION", "as --then")


def _add_repeated(parser: Parser, flag: str, dest: str, metavar: str, text: str) -> None:
    text += "; may be given several times"
    parser.add_argument(flag, dest=dest, metavar=metavar, action="append", default=[], help=text)


def _add_span(parser: Parser) -> None:
    parser.add_argument("key", metavar="KEY")
    several = parser.add_mutually_exclusive_group()
    several.add_argument("--prefix", action="store_true", help="all keys that begin with KEY")
    several.add_argument("--from-key", action="store_true", help="KEY and all keys after it")
    several.add_argument("--range-end", metavar="END", help="the keys from KEY up to END")


def _add_lease(to: Verbs) -> None:
    to.add("grant", leases.grant).add_argument("ttl", type=whole(1, _MAX_TTL_S), metavar="SECONDS")
    to.add("list", leases.leases)
    keepalive, ttl = to.add("keepalive", leases.keepalive), to.add("ttl", leases.ttl)
    for parser in (to.add("revoke", leases.revoke), keepalive, ttl):
        parser.add_argument("id", type=lease_id, metavar="ID")
    keepalive.set_defaults(until_interrupted=True)
    keepalive.add_argument("--once", action="store_true")
    ttl.add_argument("--keys", action="store_true", help="list the keys it holds")


def _add_lock(to: Verbs, store: Parser) -> None:
    lock, elect = to.add("lock", locks.lock, store), to.add("elect", locks.elect, store)
    for parser in (lock, elect):
        parser.add_argument("name", metavar="NAME")
        text = "gone this long after the last sign of life (10)"
        ttl = whole(1, _MAX_TTL_S)
        parser.add_argument("--ttl", type=ttl, default=10, metavar="SECONDS", help=text)
        text = "give up after this long; default: wait on"
        parser.add_argument("--timeout", type=seconds, metavar="SECONDS", help=text)
    lock.usage = f"{lock.prog} NAME [options] [-- COMMAND ...]"
    lock.epilog = (
        "COMMAND runs under the lock, with MESHSVC_LOCK_KEY in its environment, and its exit"
        " code is that of meshsvc; without one the lock is held until interrupted"
    )
    elect.add_argument("value", nargs="?", metavar="VALUE", help="what the others see of a leader")
    elect.add_argument("--listen", action="store_true", help="print who leads, now and later")


def _add_raft(to: Verbs) -> None:
    to.add("status", raft.status)
    transfer = to.add("transfer", raft.transfer)
    transfer.add_argument("node", metavar="NODE", help="who is to lead: its name, or its id")
    text = "for each of the two groups (5)"
    transfer.add_argument("--timeout", type=seconds, default=5.0, metavar="SECONDS", help=text)


def _add_snapshot(to: Verbs, store: Parser) -> None:
    save, status = to.add("save", snapshots.save, store), to.add("status", snapshots.status)
    restore = to.add("restore", snapshots.restore)
    for parser in (save, status, restore):
        parser.add_argument("file", metavar="FILE")
    text = "from the disk of a node that is stopped, when no quorum is left"
    save.add_argument("--data-dir", metavar="DIR", help=text)
    restore.add_argument("--config", metavar="NODE.toml", help="of the node, which is stopped")
    restore.add_argument("--data-dir", metavar="DIR", help="instead of --config, with the next two")
    restore.add_argument("--name", metavar="NAME", help="the node's, as in its config")
    restore.add_argument("--cluster", metavar="CLUSTER", help="the cluster's, as in its config")
