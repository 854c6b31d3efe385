"""Which URL is which procedure, and which HTTP status is which gRPC status."""

from __future__ import annotations

from meshsvc.etcd.rpc import Procedure
from meshsvc.etcd.rpcs import PROCEDURES

VERSIONS = ("v3", "v3beta")
"""The prefix of etcd 3.4 and later, and that of 3.3, which 3.4 still serves."""

_NAMES = {
    "kv/range": "KV/Range",
    "kv/put": "KV/Put",
    "kv/deleterange": "KV/DeleteRange",
    "kv/txn": "KV/Txn",
    "kv/compaction": "KV/Compact",
    "watch": "Watch/Watch",
    "lease/grant": "Lease/LeaseGrant",
    "lease/revoke": "Lease/LeaseRevoke",
    "kv/lease/revoke": "Lease/LeaseRevoke",
    "lease/keepalive": "Lease/LeaseKeepAlive",
    "lease/timetolive": "Lease/LeaseTimeToLive",
    "kv/lease/timetolive": "Lease/LeaseTimeToLive",
    "lease/leases": "Lease/LeaseLeases",
    "kv/lease/leases": "Lease/LeaseLeases",
    "cluster/member/add": "Cluster/MemberAdd",
    "cluster/member/remove": "Cluster/MemberRemove",
    "cluster/member/update": "Cluster/MemberUpdate",
    "cluster/member/list": "Cluster/MemberList",
    "cluster/member/promote": "Cluster/MemberPromote",
    "maintenance/alarm": "Maintenance/Alarm",
    "maintenance/status": "Maintenance/Status",
    "maintenance/defragment": "Maintenance/Defragment",
    "maintenance/hash": "Maintenance/HashKV",
    "maintenance/snapshot": "Maintenance/Snapshot",
    "maintenance/transfer-leadership": "Maintenance/MoveLeader",
}

PATHS: dict[str, tuple[str, Procedure]] = {
    f"/{version}/{url}": (f"/etcdserverpb.{name}", PROCEDURES[f"/etcdserverpb.{name}"])
    for version in VERSIONS
    for url, name in _NAMES.items()
}
"""URL path to (gRPC path, procedure)."""

AUTH = tuple(f"/{version}/auth/" for version in VERSIONS)
"""Known to etcd, not served here: answered with UNIMPLEMENTED instead of 404."""

HTTP_STATUS = {
    0: 200,
    1: 408,
    2: 500,
    3: 400,
    4: 504,
    5: 404,
    6: 409,
    7: 403,
    8: 429,
    9: 412,
    10: 409,
    11: 400,
    12: 501,
    13: 500,
    14: 503,
    15: 500,
    16: 401,
}
"""gRPC status to HTTP status, as the gateway of etcd 3.4 has it."""
