"""The registry of messages: bytes pinned by golden vectors, roles and fields checked."""

import dataclasses
import json
from pathlib import Path

import cbor2
import pytest

from meshsvc.errors import UnknownCode, WireError, WrongRole
from meshsvc.wire import messages
from meshsvc.wire.registry import Role, decode_message, encode_message, registered

GOLDEN = Path(__file__).with_name("golden_messages.json")
SAMPLES = {
    "int": 7,
    "str": "text",
    "bytes": b"\x01\x02",
    "bool": True,
    "float": 1.5,
    "tuple[object, ...]": (1, "a"),
}


def sample(cls):
    return cls(*[SAMPLES[str(field.type)] for field in dataclasses.fields(cls)])


EVERY = sorted(registered(), key=lambda row: row[0])


@pytest.mark.contract("WIRE-3")
def test_golden_vectors_pin_the_bytes():
    """Each message encodes to the bytes on file; a change here is a change of the protocol."""
    now = {cls.__name__: encode_message(sample(cls)).hex() for _, cls, _ in EVERY}
    assert now == json.loads(GOLDEN.read_text(encoding="utf-8"))


@pytest.mark.contract("WIRE-3")
@pytest.mark.parametrize(
    ("code", "cls", "senders"), EVERY, ids=lambda v: getattr(v, "__name__", "")
)
def test_each_message_is_taken_from_its_roles_and_from_no_other(code, cls, senders):
    """A message decodes for each role that may send it, and is WrongRole for the rest."""
    value = sample(cls)
    body = encode_message(value)
    assert dataclasses.is_dataclass(cls)
    assert cls.__dataclass_params__.frozen
    for role in Role:
        if role in senders:
            assert decode_message(body, role) == value
        else:
            with pytest.raises(WrongRole, match=cls.__name__):
                decode_message(body, role)


@pytest.mark.contract("WIRE-4")
def test_fields_of_a_newer_minor_version_are_ignored():
    """A longer array decodes to the fields this version knows."""
    body = cbor2.dumps([4, 9, "a new field", {"more": 1}])
    assert decode_message(body, Role.PEER) == messages.Ping(9)


@pytest.mark.contract("WIRE-2")
@pytest.mark.parametrize(
    ("value", "error"),
    [
        ([99, 1], UnknownCode),
        ([4], WireError),
        ([4, "1"], WireError),
        ([4, True], WireError),
        ([], WireError),
        ({}, WireError),
        (4, WireError),
        (["4", 1], WireError),
        ([True, 1], WireError),
    ],
)
def test_what_is_no_message_is_a_wire_error(value, error):
    """Unknown codes, missing fields and wrong types are typed errors."""
    with pytest.raises(error):
        decode_message(cbor2.dumps(value), Role.PEER)
