"""Lets a node find the bench's application when its folder is on PYTHONPATH."""

from __future__ import annotations

from twisted.plugin import IPlugin
from zope.interface import implementer

from meshsvc.interfaces import IMeshApplication


@implementer(IPlugin, IMeshApplication)
class BenchApplication:
    """Drives load between shards and notes what it sees."""

    name = "benchapp"

    def make_service(self, mesh):
        """The service of one shard."""
        from benchapp.service import BenchService

        return BenchService(mesh)


benchapp = BenchApplication()
