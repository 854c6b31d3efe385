"""The preface: 24 bytes by which a socket finds its shard."""

from __future__ import annotations

import pytest

from meshsvc.errors import WireError
from meshsvc.link import preface
from meshsvc.model import LinkClass, NodeId

NODE = NodeId("00112233445566778899aabbccddeeff")


def test_its_bytes() -> None:
    """The layout is pinned: magic, version, class, zeroes, node id."""
    packed = preface.pack(LinkClass.DATA, NODE)
    assert packed.hex() == "4d535643" + "01" + "01" + "0000" + NODE
    assert len(packed) == preface.PREFACE_BYTES


@pytest.mark.parametrize("link_class", list(LinkClass))
def test_it_comes_back(link_class: LinkClass) -> None:
    """parse undoes pack, whatever follows."""
    found = preface.parse(preface.pack(link_class, NODE) + b"more")
    assert found == preface.Preface(link_class, NODE)


@pytest.mark.contract("MESH-6")
@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: xxxx",
        b"MSVC\x02\x00\x00\x00" + b"i" * 16,
        b"MSVC\x01\x02\x00\x00" + b"i" * 16,
        b"MSVC\x01\x00\x00\x01" + b"i" * 16,
        b"\x00" * 24,
    ],
)
def test_garbage_is_refused(data: bytes) -> None:
    """Another magic, version or class, or what must be zero and is not: a WireError."""
    with pytest.raises(WireError):
        preface.parse(data)


def test_garbage_shows_in_its_first_byte() -> None:
    """A beginning that cannot become a preface is told from one that can."""
    packed = preface.pack(LinkClass.DATA, NODE)
    assert all(preface.could_be(packed[:n]) for n in range(25))
    assert not preface.could_be(b"G")
    assert not preface.could_be(b"MSX")


def test_a_bad_node_id_is_our_mistake() -> None:
    """A node id that is not 32 hex digits is a ValueError here, not bytes on the wire."""
    with pytest.raises(ValueError, match="32 hex"):
        preface.pack(LinkClass.DATA, NodeId("ab"))
