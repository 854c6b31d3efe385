"""Lets meshsvc find the application; imports nothing of it until a shard starts it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.plugin import IPlugin
from zope.interface import implementer

from meshsvc.interfaces import IMeshApplication

if TYPE_CHECKING:
    from twisted.application.service import IService


@implementer(IPlugin, IMeshApplication)
class Presence:
    """The application object; one service of it runs in every shard."""

    name = "presence"

    def make_service(self, mesh) -> IService:
        """Build the service of one shard."""
        from presence.service import PresenceService  # noqa: PLC0415

        return PresenceService(mesh)


presence = Presence()
