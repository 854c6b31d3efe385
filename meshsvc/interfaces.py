"""The extension points: every zope Interface that a plugin may provide, in this one file.

Each is found with ``twisted.plugin.getPlugins``. A plugin that raises while it is imported
or started is left out, counted and listed with its traceback by ``meshsvc plugins``; it
never stops the node. What runs on the reactor must not block it: meshsvc measures reactor
lag and reports it, but cannot take the time back.
"""

from __future__ import annotations

from zope.interface import Attribute, Interface

# zope interfaces declare methods without ``self``, which is not what pylint or mypy expect
# of a class body; mypy-zope understands it.


class IMeshApplication(Interface):
    """A service started in every shard of every node that has it installed.

    ``make_service`` may raise: the shard goes on without the application. The service's
    ``startService`` may raise: the same. Its handlers may raise: the caller gets
    ``HandlerFailed``, nobody else notices. Its ``stopService`` may return a Deferred, which
    is waited for within the drain budget.
    """

    name = Attribute("The name (str) that config sections and logs use; unique in a node.")

    def make_service(mesh):  # type: ignore[no-untyped-def]
        """Build the service of this shard.

        Args:
            mesh: the ``meshsvc.node.context.MeshContext`` of this shard.

        Returns:
            a ``twisted.application.service.IService`` provider.
        """


class IEndpointSubscriber(Interface):
    """Reacts to changes of membership, in the order this node learned them.

    Each subscriber has a bounded queue of its own and is called one event at a time; it may
    return a Deferred, and gets the next event when that fires. A subscriber that is slow,
    raises or calls back into the membership delays nobody but itself. When its queue
    overruns it gets one ``Resync`` with the whole view in place of what it missed.
    """

    name = Attribute("The name (str) used in logs and metrics.")

    def endpoint_event(event):  # type: ignore[no-untyped-def]
        """Take one event of ``meshsvc.gossip.events``; may return a Deferred."""


class IDiscoveryBackend(Interface):
    """Says where peers are, each time it is asked; used on shard 0 of each node.

    What an implementation may get wrong, and what meshsvc then does:

    * it raises, from either method, or its Deferred fails: what was found before stays, the
      status shows the reason, and it is asked again after a second (a ``start`` that raised
      is called again first);
    * it hangs: after ``[discovery] timeout`` the check counts as failed and its Deferred is
      cancelled; whatever that fires with later is ignored. The next check asks again, so a
      backend whose own question cannot be cancelled must not pile them up;
    * it answers something that is no list of addresses: as if it had failed. Single entries
      that are no address are left out, counted and named in the status; the others are used;
    * it answers duplicates, or this node itself: they are told apart, and make no harm;
    * it answers nobody: that is an answer. Nodes that gossip knows stay in contact anyway;
    * it blocks the reactor: nothing can be done about that but to measure it. Use
      ``deferToThread`` for what blocks.
    """

    name = Attribute("The name (str) that ``[discovery] backend`` selects it by.")

    def start(options, reactor):  # type: ignore[no-untyped-def]
        """Get ready to be asked; must not block.

        Args:
            options: the ``[discovery.options]`` table, a mapping.
            reactor: the reactor of shard 0; use it for timers and connections.

        A backend may also have ``stop()``, without arguments, which is called when the node
        stops; what it raises is logged.
        """

    def get_nodes():  # type: ignore[no-untyped-def]
        """Where peers are now.

        Returns:
            a Deferred of an iterable of addresses, each a text ``"host:port"`` (``[v6]:port``)
            or a ``meshsvc.model.Address``; at most 1000 are used. The iterable may have an
            attribute ``notes``, texts about what could not be found beside the rest (see
            ``meshsvc.discovery.addresses.Found``). Never called while an earlier call of it
            is waited for.
        """


class IMeshController(Interface):
    """Decides which nodes form the mesh, and mints the epoch they do it under.

    Exactly one node acts as controller at a time; what makes that true is the provider's
    affair (configuration for ``static``, an election for ``raft``).
    """

    name = Attribute("The name (str) that ``[mesh] controller`` selects it by.")

    def start(now):  # type: ignore[no-untyped-def]
        """Begin; whatever it decides comes out of ``take_events``."""

    def members_changed(view, now):  # type: ignore[no-untyped-def]
        """The nodes this node sees alive, as a tuple of ``NodeInfo``, changed."""

    def tick(now):  # type: ignore[no-untyped-def]
        """Do what is due at ``now`` (seconds)."""

    def deadline():  # type: ignore[no-untyped-def]
        """When ``tick`` is next wanted, in seconds, or None."""

    def take_events():  # type: ignore[no-untyped-def]
        """The decisions since the last call, oldest first."""


class IPlacement(Interface):
    """Maps a key to the node and the shard that own it.

    Must be a pure function of its arguments: every node computes it for itself, and two
    that see the same candidates must answer the same.
    """

    name = Attribute("The name (str) that config selects it by.")

    def owner(key, candidates):  # type: ignore[no-untyped-def]
        """The owner of a key.

        Args:
            key: str or bytes.
            candidates: sequence of (node id, number of shards), in any order.

        Returns:
            ``ShardAddress``, or None when there are no candidates.
        """


class IConflictResolver(Interface):
    """Decides what becomes of a key that two nodes hold with different values when they join.

    Asked once for each such key, on one of the two nodes, in slices between which the reactor
    runs. It must not block. When it raises, or answers a value that a table cannot hold, that
    join ends without a trace on either side and is tried again later, with growing waits.
    """

    name = Attribute("The name (str) that a table is opened with to use it.")

    def resolve(key, older, newer):  # type: ignore[no-untyped-def]
        """The value that both sides go on with.

        Args:
            key: of the row; str, bytes or int.
            older, newer: the two values, by version. Not to be changed.

        Returns:
            a value that a table can hold; it may be one of the two.
        """
