"""The registry of sessions: the whole use of a replicated table.

One row a user who is on-line, owned by the node that holds the connection:

* ``insert_new_or_lookup`` lets exactly one session in; who finds another's row deletes that
  row, if it is still the same one, and tries again;
* whoever holds a connection follows the table: a row of its own that is gone, or is somebody
  else's by now, means that the connection is to be closed;
* when a node dies its rows are deleted by the library, on every node.

So nobody has to call anybody: the table is all there is to agree on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count

from meshsvc.errors import CallError, LocalError

TABLE = "presence"
TRIES = 5
"""Rounds against others who sign in under the same name; each lasts a few milliseconds."""


class SignInFailed(Exception):
    """Nobody could be asked, or too many sign in under one name at once: try again."""


class Registry:
    """The sessions of one shard, and what is known of all the others."""

    def __init__(self, mesh) -> None:
        self._mesh = mesh
        self._numbers = count(1)
        self._mine: dict[str, tuple[dict, Callable[[], None]]] = {}

    async def open(self) -> None:
        """Open the table; reads are local from then on."""
        self._table = await self._mesh.tables.open(TABLE, kind="ordered", owned=True)
        self._unsubscribe = self._table.subscribe(self._changed)

    def close(self) -> None:
        """Follow the table no longer."""
        if hasattr(self, "_unsubscribe"):
            self._unsubscribe()

    # --- reading: no network, no waiting --------------------------------------------------

    def online(self, prefix: str = "") -> Iterator[tuple[str, dict]]:
        """The users whose names begin with ``prefix``, in order, and where they are."""
        end = prefix + "\U0010ffff" if prefix else None
        return self._table.range(prefix or None, end)

    def where(self, user: str) -> dict | None:
        """Where a user is, or None."""
        return self._table.get(user)

    def __len__(self) -> int:
        return len(self._table)

    # --- writing --------------------------------------------------------------------------

    async def sign_in(self, user: str, kicked: Callable[[], None]) -> dict:
        """Put a session in, in place of any other of this user.

        Args:
            user: the name.
            kicked: called once when another session has taken this one's place.

        Returns:
            the row: node, shard, number of the session, since when (unix seconds).

        Raises:
            SignInFailed: when it is not in; trying again can help.
        """
        mesh = self._mesh
        row = {"node": mesh.name, "shard": mesh.shard, "session": next(self._numbers)}
        row["since"] = int(mesh.clock.seconds())
        for _ in range(TRIES):
            try:
                added, found = await self._table.insert_new_or_lookup(user, row)
                if added or found == row:
                    self._mine[user] = (row, kicked)
                    self._check(user)
                    return row
                await self._table.delete(user, if_value=found)
            except (CallError, LocalError) as error:
                raise SignInFailed(f"{user} is not signed in: {error}") from error
        raise SignInFailed(f"{user} signs in too often at once: try again")

    async def sign_out(self, user: str, row: dict) -> None:
        """Take a session out; another one's row is left alone."""
        mine = self._mine.get(user)
        if mine is not None and mine[0] == row:
            del self._mine[user]
        await self._table.delete(user, if_value=row)

    # --- following ------------------------------------------------------------------------

    def _changed(self, changes) -> None:
        for change in changes:
            if change.key in self._mine:
                self._check(change.key)

    def _check(self, user: str) -> None:
        row, kicked = self._mine[user]
        if self._table.get(user) != row:
            del self._mine[user]
            kicked()
