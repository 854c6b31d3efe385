"""What the store answers when it does not do what was asked: etcd's codes, etcd's texts.

Clients recognise these failures by text (``etcdctl``, client libraries), so both the gRPC
status code and the text are those of etcd 3.4 and later (its ``rpctypes`` package). Each is a
type of its own; ``code`` and ``text`` belong to the type.
"""

from __future__ import annotations

from typing import ClassVar

from meshsvc.errors import RemoteError

INVALID_ARGUMENT = 3
NOT_FOUND = 5
PERMISSION_DENIED = 7
RESOURCE_EXHAUSTED = 8
FAILED_PRECONDITION = 9
OUT_OF_RANGE = 11
UNIMPLEMENTED = 12
UNAVAILABLE = 14
DATA_LOSS = 15
UNAUTHENTICATED = 16


class KvError(RemoteError):
    """The root: ``code`` is the gRPC status code, ``text`` its message.

    ``retriable`` tells whether the same request may succeed later. A write that failed with
    an ``Unavailable`` kind may or may not have happened.
    """

    code: ClassVar[int] = 2
    text: ClassVar[str] = "etcdserver: unknown error"
    retriable: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__(self.text)


class InvalidArgument(KvError):
    """The request can never be right."""

    code = INVALID_ARGUMENT


class EmptyKey(InvalidArgument):
    """A request names no key."""

    text = "etcdserver: key is not provided"


class NotBytes(InvalidArgument):
    """A key or a value that is no bytes: replicas would keep it, and fail to serve it."""

    text = "etcdserver: a key or value is not bytes"


class KeyNotFound(InvalidArgument):
    """A put that keeps the value or the lease found no key; also an empty txn operation."""

    text = "etcdserver: key not found"


class ValueProvided(InvalidArgument):
    """A put that keeps the value came with one."""

    text = "etcdserver: value is provided"


class LeaseProvided(InvalidArgument):
    """A put that keeps the lease came with one."""

    text = "etcdserver: lease is provided"


class TooManyOps(InvalidArgument):
    """A txn holds more operations, or compares, than ``MAX_TXN_OPS``."""

    text = "etcdserver: too many operations in txn request"


class DuplicateKey(InvalidArgument):
    """A txn would change one key twice."""

    text = "etcdserver: duplicate key given in txn request"


class RequestTooLarge(InvalidArgument):
    """A request is over ``MAX_REQUEST_BYTES``."""

    text = "etcdserver: request is too large"


class InvalidSortOption(InvalidArgument):
    """A range names a sort order or target that does not exist (etcd 3.5 and later)."""

    text = "etcdserver: invalid sort option"


class MemberBadUrls(InvalidArgument):
    """A member was given without addresses, or with wrong ones."""

    text = "etcdserver: given member URLs are invalid"


class Compacted(KvError):
    """The revision is below what is kept."""

    code = OUT_OF_RANGE
    text = "etcdserver: mvcc: required revision has been compacted"


class FutureRevision(KvError):
    """The revision is above the store's."""

    code = OUT_OF_RANGE
    text = "etcdserver: mvcc: required revision is a future revision"


class NoSpace(KvError):
    """The quota is used up: deletes and compaction still work."""

    code = RESOURCE_EXHAUSTED
    text = "etcdserver: mvcc: database space exceeded"
    retriable = True


class TooManyRequests(KvError):
    """More requests wait for their turn in the log than may."""

    code = RESOURCE_EXHAUSTED
    text = "etcdserver: too many requests"
    retriable = True


class LeaseNotFound(KvError):
    """No lease has that id, or no more."""

    code = NOT_FOUND
    text = "etcdserver: requested lease not found"


class LeaseExists(KvError):
    """A lease with that id exists."""

    code = FAILED_PRECONDITION
    text = "etcdserver: lease already exists"


class LeaseTtlTooLarge(KvError):
    """A lease was asked for longer than ``MAX_LEASE_TTL_S``."""

    code = OUT_OF_RANGE
    text = "etcdserver: too large lease TTL"


class MemberExists(KvError):
    """A member with that id exists."""

    code = FAILED_PRECONDITION
    text = "etcdserver: member ID already exist"


class PeerUrlExists(KvError):
    """A member with one of these addresses exists."""

    code = FAILED_PRECONDITION
    text = "etcdserver: Peer URLs already exists"


class MemberNotFound(KvError):
    """No member has that id."""

    code = NOT_FOUND
    text = "etcdserver: member not found"


class MemberNotEnoughStarted(KvError):
    """The change would leave fewer live voters than a quorum."""

    code = FAILED_PRECONDITION
    text = "etcdserver: re-configuration failed due to not enough started members"


class MemberNotLearner(KvError):
    """Only a learner can be promoted."""

    code = FAILED_PRECONDITION
    text = "etcdserver: can only promote a learner member"


class LearnerNotReady(KvError):
    """The learner is too far behind to be promoted."""

    code = FAILED_PRECONDITION
    text = "etcdserver: can only promote a learner member which is in sync with leader"


class TooManyLearners(KvError):
    """The group has as many learners as it may."""

    code = FAILED_PRECONDITION
    text = "etcdserver: too many learner members in cluster"


class NotLeader(KvError):
    """Only the leader can do this."""

    code = FAILED_PRECONDITION
    text = "etcdserver: not leader"
    retriable = True


class BadLeaderTransferee(KvError):
    """Leadership was to go to who cannot have it."""

    code = FAILED_PRECONDITION
    text = "etcdserver: bad leader transferee"


class Unavailable(KvError):
    """The store cannot say now; a write may have happened all the same."""

    code = UNAVAILABLE
    retriable = True


class NoLeader(Unavailable):
    """The group has no leader."""

    text = "etcdserver: no leader"


class LeaderChanged(Unavailable):
    """The leader changed while the request was on its way."""

    text = "etcdserver: leader changed"


class TimedOut(Unavailable):
    """No answer came in time."""

    text = "etcdserver: request timed out"


class TimedOutLeaderFailed(Unavailable):
    """No answer came in time, and the leader was lost meanwhile."""

    text = "etcdserver: request timed out, possibly due to previous leader failure"


class TimedOutConnectionLost(Unavailable):
    """No answer came in time, and the way to the leader was lost meanwhile."""

    text = "etcdserver: request timed out, possibly due to connection lost"


class Stopped(Unavailable):
    """This node is going down."""

    text = "etcdserver: server stopped"


class Unhealthy(Unavailable):
    """The group cannot do this while members are missing."""

    text = "etcdserver: unhealthy cluster"


class NotSupportedForLearner(Unavailable):
    """A learner does not serve this."""

    text = "etcdserver: rpc not supported for learner"


class Corrupt(KvError):
    """The replicas differ."""

    code = DATA_LOSS
    text = "etcdserver: corrupt cluster"


def _kinds(root: type[KvError]) -> list[type[KvError]]:
    found = [root]
    for kind in root.__subclasses__():
        found += _kinds(kind)
    return found


KV_ERRORS: dict[str, type[KvError]] = {kind.text: kind for kind in _kinds(KvError)}
"""By text, to make one again on the other end of a link."""
