"""A shard with its admin side: what ``twistd meshsvc shard`` runs by default.

The node's floor knows nothing of admin; this is where shard 0 gets its admin port.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from twisted.application.service import IService
from twisted.logger import Logger

from meshsvc.node.boot import Boot
from meshsvc.node.channel import ShardChannel
from meshsvc.node.shard import Shard

if TYPE_CHECKING:
    from meshsvc.node.shardzero import ShardZero

log = Logger()


def build_shard(boot: Boot, channel: ShardChannel, reactor: Any) -> IService:
    """The service of one shard process; shard 0 answers the admin port.

    Args:
        boot: who this shard is.
        channel: its channel to the supervisor.
        reactor: Twisted's.
    """
    shard = Shard(boot, channel, reactor)
    if boot.shard == 0:
        # Only shard 0 pays for what only shard 0 does.
        from meshsvc.node.shardzero import ShardZero  # noqa: PLC0415

        _add_admin(shard, ShardZero(shard))
    return shard


def _add_admin(shard: Shard, zero: ShardZero) -> None:
    if "admin" not in shard.boot.listeners:
        return
    from meshsvc.admin.http import admin_site  # noqa: PLC0415
    from meshsvc.admin.nodeview import ShardZeroView  # noqa: PLC0415

    site = admin_site(ShardZeroView(shard, zero, time.time), shard.config.admin.hosts)

    def serve() -> None:
        listening = shard.listeners.listen("admin", site)
        listening.addErrback(
            lambda failure: log.error("no admin port: {why}", why=failure.getErrorMessage())
        )

    shard.every_start.append(serve)
