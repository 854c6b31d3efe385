"""``meshsvc lock`` and ``meshsvc elect``: be the only one, for as long as a lease lives.

The recipe is that of etcd's concurrency package, so that these locks and those of other
clients exclude each other: whoever wants NAME puts NAME/LEASE under a lease of its own, and
has it when no key below NAME/ was created before. A thread of its own renews the lease; when
that fails for as long as the lease lives, the lock counts as lost, and the command that ran
under it is ended. The lock is given up only once that command has ended, whatever signal comes:
while it runs, nobody else is let in.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from meshsvc.admin.cli import exits
from meshsvc.admin.cli.exits import CliError
from meshsvc.admin.cli.leases import granted, renewed
from meshsvc.admin.cli.output import line, show_row
from meshsvc.admin.cli.store_client import (
    StoreClient,
    encoded,
    kv_row,
    prefix_end,
    shown,
    store_of,
)

TERM_S = 5.0
"""How long a command may take to end once its lock is lost, or it was told to, before it is
told more firmly."""

POLL_S = 0.1
"""How often a command under a lock, and the lock, are looked at."""


LEAST_S = 2.0
"""How long an answer may take however soon the lock is wanted: to give up takes answers too."""


class Claim:
    """One place in the queue for a name, kept for as long as its lease is renewed."""

    def __init__(self, store: StoreClient, name: str, value: str, ttl_s: int) -> None:
        self._store = store
        self.lost = threading.Event()
        self._stop = threading.Event()
        self._prefix = os.fsencode(name) + b"/"
        row = granted(store, ttl_s)
        self._lease, self._ttl_s = int(row["id"], 16), int(row["ttl_s"])
        self.key = self._prefix + f"{self._lease:x}".encode()
        self._keeping = threading.Thread(target=self._keep, daemon=True)
        self._keeping.start()
        self._created = self._enter(value)

    def _keep(self) -> None:
        store = StoreClient(self._store.url)  # a connection is one thread's
        until = time.monotonic() + self._ttl_s
        while not self._stop.wait(self._ttl_s / 3):
            try:
                left = renewed(store, self._lease)
            except CliError:
                left = 0 if time.monotonic() >= until else -1
            if left == 0:
                self.lost.set()
                return
            if left > 0:
                until = time.monotonic() + left

    def _enter(self, value: str) -> int:
        key = encoded(self.key)
        put = {"key": key, "value": encoded(value), "lease": self._lease}
        body = {
            "compare": [{"key": key, "target": "CREATE", "result": "EQUAL", "create_revision": 0}],
            "success": [{"request_put": put}],
        }
        answer = self._store.post("/v3/kv/txn", body)
        return int(answer["header"]["revision"])

    def wait(self, timeout_s: float | None) -> bool:
        """Wait for the turn; False when it did not come within ``timeout_s`` seconds."""
        until = None if timeout_s is None else time.monotonic() + timeout_s
        while not self.lost.is_set():
            before = self._before()
            if before is None:
                return True
            if not self._await_gone(before, until):
                return False
        raise CliError(exits.RETRY, "the lease ended while waiting: the store was out of reach")

    def _before(self) -> str | None:
        """The key of whoever comes just before, as the API spells it."""
        body = {
            "key": encoded(self._prefix),
            "range_end": encoded(prefix_end(self._prefix)),
            "max_create_revision": self._created - 1,
            "sort_order": "DESCEND",
            "sort_target": "CREATE",
            "limit": 1,
        }
        found = self._store.post("/v3/kv/range", body).get("kvs", [])
        return str(found[0]["key"]) if found else None

    def _await_gone(self, key: str, until: float | None) -> bool:
        """Wait until a key changes, for a lease's time at most; False when out of time."""
        left = float(self._ttl_s) if until is None else min(self._ttl_s, until - time.monotonic())
        if left <= 0:
            return False
        watching = StoreClient(self._store.url, left)
        try:
            stream = watching.results("/v3/watch", {"create_request": {"key": key}}, left)
            for result in stream:
                if result.get("created") and self._before() != key:
                    return True  # it went before the watch began
                if result.get("events") or result.get("canceled"):
                    return True
        except CliError as error:
            if error.code not in (exits.UNREACHABLE, exits.RETRY):
                raise
        finally:
            watching.close()
        return until is None or time.monotonic() < until

    def leave(self) -> None:
        """Give the place up; the next one has its turn."""
        self._stop.set()
        self._store.post("/v3/lease/revoke", {"ID": self._lease})


def lock(args: argparse.Namespace) -> int:
    """Take a lock, and hold it while a command runs, or until interrupted."""
    return _held(args, "", lambda claim: _hold(args, claim, {"lock": shown(encoded(claim.key))}))


def elect(args: argparse.Namespace) -> int:
    """Campaign for a name with a value and lead until interrupted, or --listen to who leads."""
    if args.listen:
        return _listen(args)
    if args.value is None:
        raise CliError(exits.USAGE, "give the VALUE to lead with, or --listen")

    def lead(claim: Claim) -> int:
        row = {"name": args.name, "leader": args.value, "key": shown(encoded(claim.key))}
        return _hold(args, claim, row)

    return _held(args, args.value, lead)


def _held(args: argparse.Namespace, value: str, then: Callable[[Claim], int]) -> int:
    _check(args)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the place is left in order
    store = store_of(args)
    if args.timeout is not None:
        store.timeout_s = min(store.timeout_s, max(LEAST_S, args.timeout))
    claim = Claim(store, args.name, value, args.ttl)
    try:
        if not claim.wait(args.timeout):
            waited = f"{args.timeout:g} s"
            raise CliError(exits.RETRY, f"{args.name} was held by others for {waited}: try again")
        return then(claim)
    finally:
        _leave(claim)


def _check(args: argparse.Namespace) -> None:
    if not args.name:
        raise CliError(exits.USAGE, "NAME is empty: name what only one may do at a time")
    if args.command == []:
        raise CliError(exits.USAGE, "there is no COMMAND behind the --: name one, or leave it out")


def _leave(claim: Claim) -> None:
    try:
        claim.leave()
    except CliError as error:
        if not claim.lost.is_set():
            print(f"meshsvc: the lease is left to run out: {error}", file=sys.stderr)


def _hold(args: argparse.Namespace, claim: Claim, row: dict[str, Any]) -> int:
    if args.command:
        return _run(args.command, claim)
    args.until_interrupted = True
    show_row(args.output, row, list(row))
    sys.stdout.flush()
    claim.lost.wait()
    raise CliError(exits.RETRY, f"{args.name} is lost: the lease was not renewed in time")


def _run(command: list[str], claim: Claim) -> int:
    environment = os.environ | {"MESHSVC_LOCK_KEY": shown(encoded(claim.key))}
    told: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        # From here on a signal raises nothing: it could do so before the command is known.
        signal.signal(number, lambda number, _: told.append(number))
    try:
        running = subprocess.Popen(command, env=environment)
    except OSError as error:
        raise CliError(exits.USAGE, f"{command[0]} cannot be run: {error.strerror}") from None
    while running.poll() is None:
        if claim.lost.wait(POLL_S):
            print("meshsvc: the lock is lost: ending the command", file=sys.stderr)
            _end(running, told)
            return exits.RETRY
        # A terminal's SIGINT has reached the command as well, which gets time to end by itself.
        if told and not (told[0] == signal.SIGINT and _ends(running, told)):
            _end(running, told)
    # Of a command that a signal ended, what a shell would say.
    return running.returncode if running.returncode >= 0 else 128 - running.returncode


def _end(running: subprocess.Popen[bytes], told: list[int]) -> None:
    running.send_signal(signal.SIGTERM)
    if not _ends(running, told):
        running.kill()
        running.wait()


def _ends(running: subprocess.Popen[bytes], told: list[int]) -> bool:
    """Whether it ends in time; one more signal says that there was enough of it."""
    signals, until = len(told), time.monotonic() + TERM_S
    while running.poll() is None:
        if len(told) > signals or time.monotonic() >= until:
            return False
        time.sleep(POLL_S)
    return True


def _listen(args: argparse.Namespace) -> int:
    """Print who leads, each time that changes."""
    _check(args)
    store = store_of(args)
    args.until_interrupted = True
    prefix = os.fsencode(args.name) + b"/"
    below = {"key": encoded(prefix), "range_end": encoded(prefix_end(prefix))}
    first = {"sort_order": "ASCEND", "sort_target": "CREATE", "limit": 1}
    last = None
    for _ in store.results("/v3/watch", {"create_request": below}):
        kvs = StoreClient(store.url).post("/v3/kv/range", below | first).get("kvs", [])
        found = kv_row(kvs[0]) if kvs else None
        now = None if found is None else (found["key"], found["value"])
        if now == last:
            continue
        last = now
        row = {"name": args.name, "leader": found["value"] if found else None}
        if args.output == "table":
            print(row["leader"] if found else "(nobody)", flush=True)
        else:
            print(line(row), flush=True)
    return exits.UNHEALTHY
