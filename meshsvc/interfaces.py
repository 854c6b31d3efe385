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
