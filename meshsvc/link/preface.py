"""The first 24 bytes of a dialer: enough to choose a shard before anything is decoded.

Layout: ``MSVC``, version (1 byte), link class (1 byte), two zero bytes, the 16 bytes of the
dialer's node id. Whoever accepts the socket peeks at it; the link itself reads it and holds
the Hello that follows against it. It proves nothing: the Hello is what is judged.
"""

from __future__ import annotations

from dataclasses import dataclass

from meshsvc.errors import WireError
from meshsvc.model import LinkClass, NodeId

MAGIC = b"MSVC"
VERSION = 1
PREFACE_BYTES = 24
NODE_ID_BYTES = 16


@dataclass(frozen=True, slots=True)
class Preface:
    """What a dialer says before its Hello."""

    link_class: LinkClass
    node_id: NodeId


def pack(link_class: LinkClass, node_id: NodeId) -> bytes:
    """The 24 bytes.

    Raises:
        ValueError: when the node id is not 32 hex digits.
    """
    raw = bytes.fromhex(node_id)
    if len(raw) != NODE_ID_BYTES:
        raise ValueError(f"{node_id!r} is not a node id: 32 hex digits")
    return MAGIC + bytes((VERSION, link_class, 0, 0)) + raw


def parse(data: bytes) -> Preface:
    """Read the first 24 bytes of ``data``, which holds at least as many.

    Raises:
        WireError: when they are not a preface of this version.
    """
    if data[:4] != MAGIC:
        raise WireError("the stream does not start with a meshsvc preface")
    version, link_class, *zeroes = data[4:8]
    if version != VERSION:
        raise WireError(f"preface version {version} came, {VERSION} is spoken here")
    if link_class not in (LinkClass.CONTROL, LinkClass.DATA) or any(zeroes):
        raise WireError(f"the preface asks for an unknown link class ({link_class})")
    return Preface(LinkClass(link_class), NodeId(data[8:PREFACE_BYTES].hex()))


def could_be(data: bytes) -> bool:
    """Whether up to 24 bytes may still become a preface: garbage is cut at its first byte."""
    return data[:4] == MAGIC[: len(data)]
