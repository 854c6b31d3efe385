"""Cluster and Maintenance: members, status, alarms, hashes, leadership, snapshots."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from google.protobuf.message import Message

from meshsvc.etcd.proto import upkeep_pb2 as pb
from meshsvc.etcd.rpc import Procedure, Streaming, Unary
from meshsvc.etcd.rpcs_kv import fill_header
from meshsvc.etcd.rpcs_snapshot import SnapshotCall
from meshsvc.kv import upkeep
from meshsvc.kv.backend import KvBackend

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

M = TypeVar("M", bound=Message)
Members = Callable[[KvBackend, Any], "Deferred[upkeep.MembersResult]"]


def member(m: upkeep.KvMember) -> pb.Member:
    """One member as protobuf."""
    return pb.Member(
        ID=m.member_id,
        name=m.name,
        peerURLs=m.peer_urls,
        clientURLs=m.client_urls,
        isLearner=m.is_learner,
    )


def members_result(response_type: type[Message]) -> Callable[[upkeep.MembersResult], bytes]:
    """How a member list is encoded as one of the responses that hold one."""

    def encode(result: upkeep.MembersResult) -> bytes:
        m: Any = response_type()
        fill_header(m.header, result.header)
        m.members.extend(map(member, result.members))
        if response_type is pb.MemberAddResponse and result.member is not None:
            m.member.CopyFrom(member(result.member))
        return bytes(m.SerializeToString())

    return encode


def header_only(response_type: type[Message]) -> Callable[[Any], bytes]:
    """How a result is encoded that is nothing but a header."""

    def encode(result: Any) -> bytes:
        m: Any = response_type()
        fill_header(m.header, result.header)
        return bytes(m.SerializeToString())

    return encode


def status_result(result: upkeep.StatusResult) -> bytes:
    """A replica's state, encoded."""
    m = pb.StatusResponse(
        version=result.version,
        dbSize=result.db_size,
        leader=result.leader,
        raftIndex=result.raft_index,
        raftTerm=result.raft_term,
        raftAppliedIndex=result.raft_applied_index,
        errors=result.errors,
        dbSizeInUse=result.db_size_in_use,
        isLearner=result.is_learner,
    )
    fill_header(m.header, result.header)
    return m.SerializeToString()


def alarm_result(result: upkeep.AlarmResult) -> bytes:
    """Alarms, encoded."""
    m = pb.AlarmResponse()
    fill_header(m.header, result.header)
    for entry in result.alarms:
        m.alarms.add(memberID=entry.member_id, alarm=int(entry.alarm))
    return m.SerializeToString()


def hash_result(result: upkeep.HashResult) -> bytes:
    """A hash of everything, encoded."""
    m = pb.HashResponse(hash=result.hash)
    fill_header(m.header, result.header)
    return m.SerializeToString()


def hash_kv_result(result: upkeep.HashKvResult) -> bytes:
    """A hash of keys and history, encoded."""
    m = pb.HashKVResponse(hash=result.hash, compact_revision=result.compact_revision)
    fill_header(m.header, result.header)
    return m.SerializeToString()


def _list(store: KvBackend, m: pb.MemberListRequest) -> Deferred[upkeep.MembersResult]:
    return store.member_list(upkeep.MemberList(m.linearizable))


def _add(store: KvBackend, m: pb.MemberAddRequest) -> Deferred[upkeep.MembersResult]:
    return store.member_add(upkeep.MemberAdd(tuple(m.peerURLs), m.isLearner))


def _remove(store: KvBackend, m: pb.MemberRemoveRequest) -> Deferred[upkeep.MembersResult]:
    return store.member_remove(upkeep.MemberRemove(m.ID))


def _update(store: KvBackend, m: pb.MemberUpdateRequest) -> Deferred[upkeep.MembersResult]:
    return store.member_update(upkeep.MemberUpdate(m.ID, tuple(m.peerURLs)))


def _promote(store: KvBackend, m: pb.MemberPromoteRequest) -> Deferred[upkeep.MembersResult]:
    return store.member_promote(upkeep.MemberPromote(m.ID))


def _status(store: KvBackend, _m: pb.StatusRequest) -> Deferred[upkeep.StatusResult]:
    return store.status()


def _alarm(store: KvBackend, m: pb.AlarmRequest) -> Deferred[upkeep.AlarmResult]:
    return store.alarm(upkeep.AlarmRequest(m.action, m.memberID, m.alarm))


def _defragment(store: KvBackend, _m: pb.DefragmentRequest) -> Deferred[upkeep.DefragmentResult]:
    return store.defragment()


def _hash(store: KvBackend, _m: pb.HashRequest) -> Deferred[upkeep.HashResult]:
    return store.hash()


def _hash_kv(store: KvBackend, m: pb.HashKVRequest) -> Deferred[upkeep.HashKvResult]:
    return store.hash_kv(upkeep.HashKv(m.revision))


def _move_leader(store: KvBackend, m: pb.MoveLeaderRequest) -> Deferred[upkeep.MoveLeaderResult]:
    return store.move_leader(upkeep.MoveLeader(m.targetID))


def _members(request: type[Message], response: type[Message], call: Members) -> Unary:
    return Unary(request, response, call, members_result(response))


CLUSTER: dict[str, Procedure] = {
    "MemberAdd": _members(pb.MemberAddRequest, pb.MemberAddResponse, _add),
    "MemberRemove": _members(pb.MemberRemoveRequest, pb.MemberRemoveResponse, _remove),
    "MemberUpdate": _members(pb.MemberUpdateRequest, pb.MemberUpdateResponse, _update),
    "MemberList": _members(pb.MemberListRequest, pb.MemberListResponse, _list),
    "MemberPromote": _members(pb.MemberPromoteRequest, pb.MemberPromoteResponse, _promote),
}

MAINTENANCE: dict[str, Procedure] = {
    "Alarm": Unary(pb.AlarmRequest, pb.AlarmResponse, _alarm, alarm_result),
    "Status": Unary(pb.StatusRequest, pb.StatusResponse, _status, status_result),
    "Defragment": Unary(
        pb.DefragmentRequest,
        pb.DefragmentResponse,
        _defragment,
        header_only(pb.DefragmentResponse),
    ),
    "Hash": Unary(pb.HashRequest, pb.HashResponse, _hash, hash_result),
    "HashKV": Unary(pb.HashKVRequest, pb.HashKVResponse, _hash_kv, hash_kv_result),
    "Snapshot": Streaming(pb.SnapshotRequest, pb.SnapshotResponse, SnapshotCall, True),
    "MoveLeader": Unary(
        pb.MoveLeaderRequest,
        pb.MoveLeaderResponse,
        _move_leader,
        header_only(pb.MoveLeaderResponse),
    ),
}
