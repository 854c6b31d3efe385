"""Putting a node's supervisor together from what the command line says."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

from twisted.application.service import IService

from meshsvc.node import notify
from meshsvc.node.exits import ExitStatus
from meshsvc.node.spawn import Launch
from meshsvc.node.start import make_log_dir, prepare
from meshsvc.node.supervisor import Supervisor


def build_supervisor(
    reactor: Any, config: str, overrides: Mapping[str, object], factory: str, daemon: bool
) -> IService:
    """The service of a node, with its data directory locked and its ports bound.

    Args:
        reactor: what it will run on; not touched before the service starts.
        config: path of the config file.
        overrides: values by ``"section.key"``.
        factory: what shards run, as ``module:function``.
        daemon: whether the process is going to leave its terminal.

    Raises:
        StartError: with the exit code and what to do.
    """
    prepared = prepare(config, os.environ, overrides)
    log_dir = make_log_dir(prepared.config.node.data_dir) if daemon else ""
    env = {**notify.without(os.environ), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    launch = Launch(factory, env, log_dir)
    status = ExitStatus()
    status.install()
    return Supervisor(reactor, prepared, launch, status, notify.here())
