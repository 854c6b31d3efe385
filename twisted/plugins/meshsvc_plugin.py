"""Tells twistd that there is a ``meshsvc`` subcommand; names its module without importing it."""

from twisted.application.service import ServiceMaker

meshsvc = ServiceMaker(
    "meshsvc",
    "meshsvc.node.tap",
    "A clustered service: one supervisor and one process per core.",
    "meshsvc",
)
