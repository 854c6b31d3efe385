"""Every procedure of etcd's v3 API that is served, by the path that etcd's clients call."""

from __future__ import annotations

from meshsvc.etcd.rpc import Procedure
from meshsvc.etcd.rpcs_kv import KV
from meshsvc.etcd.rpcs_lease import LEASE
from meshsvc.etcd.rpcs_upkeep import CLUSTER, MAINTENANCE
from meshsvc.etcd.rpcs_watch import WATCH

PROCEDURES: dict[str, Procedure] = {
    f"/etcdserverpb.{service}/{name}": procedure
    for service, procedures in (
        ("KV", KV),
        ("Watch", WATCH),
        ("Lease", LEASE),
        ("Cluster", CLUSTER),
        ("Maintenance", MAINTENANCE),
    )
    for name, procedure in procedures.items()
}

SERVICES = frozenset(path.split("/")[1] for path in PROCEDURES)


def unknown(path: str) -> str:
    """The text of the UNIMPLEMENTED answer to a path that is none of ``PROCEDURES``."""
    service, _, method = path.lstrip("/").partition("/")
    if service in SERVICES:
        return f"unknown method {method} for service {service}"
    return f"unknown service {service}"
