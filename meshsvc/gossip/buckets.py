"""Fingerprints of what is known, in slices, so that two nodes find out where they differ.

Every node falls into one bucket by its id; the fingerprint of a bucket is the XOR of those of
the states in it. Who knows something else compares the buckets first and then only the
digests of those that differ: the cost of a difference is a kilobyte or two, where a digest of
every endpoint would be fifty bytes for each node of the cluster.
"""

from __future__ import annotations

from collections.abc import Iterable
from struct import Struct
from zlib import crc32

from meshsvc.gossip.states import BadRow
from meshsvc.model import NodeId

COUNT = 128
"""Buckets: a kilobyte of fingerprints, and eight digests for a difference among a thousand."""

_WIRE = Struct(f">{COUNT}Q")


def bucket_of(node: NodeId) -> int:
    """The bucket of a node, the same everywhere; ids need not be random for it."""
    return crc32(node.encode()) % COUNT


class Buckets:
    """The fingerprint of each bucket, and the nodes in it."""

    def __init__(self) -> None:
        self._sums = [0] * COUNT
        self._nodes: list[list[NodeId]] = [[] for _ in range(COUNT)]

    def add(self, node: NodeId, fingerprint: int) -> None:
        """A node is known that was not."""
        self._nodes[bucket_of(node)].append(node)
        self.change(node, fingerprint)

    def change(self, node: NodeId, difference: int) -> None:
        """The state of a node was replaced; ``difference`` is old XOR new fingerprint."""
        self._sums[bucket_of(node)] ^= difference

    def drop(self, node: NodeId, fingerprint: int) -> None:
        """A node is no longer known."""
        self._nodes[bucket_of(node)].remove(node)
        self.change(node, fingerprint)

    def nodes(self, buckets: Iterable[int]) -> list[NodeId]:
        """The nodes in some buckets."""
        return [node for bucket in buckets for node in self._nodes[bucket]]

    def packed(self) -> bytes:
        """All fingerprints, 8 bytes each."""
        return _WIRE.pack(*self._sums)

    def differing(self, theirs: bytes) -> list[int]:
        """The buckets in which the sender of ``theirs`` knows something else.

        Raises:
            BadRow: when these are not as many fingerprints.
        """
        if len(theirs) != _WIRE.size:
            raise BadRow("malformed", f"fingerprints of buckets are {_WIRE.size} bytes")
        pairs = zip(self._sums, _WIRE.unpack(theirs), strict=True)
        return [bucket for bucket, (mine, other) in enumerate(pairs) if mine != other]
