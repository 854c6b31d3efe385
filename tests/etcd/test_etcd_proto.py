"""The protobuf modules: made from their sources, and etcd's on the wire."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from aetcd.rpc import kv_pb2 as their_kv
from aetcd.rpc import rpc_pb2 as their_rpc
from google.protobuf.descriptor import Descriptor
from google.protobuf.descriptor_pb2 import FieldDescriptorProto
from grpc_tools import protoc

from meshsvc.etcd.proto import kv_pb2, lease_pb2, upkeep_pb2
from meshsvc.etcd.rpc import Streaming
from meshsvc.etcd.rpcs import PROCEDURES

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "meshsvc/etcd/proto").glob("*.proto"))
MODULES = (kv_pb2, lease_pb2, upkeep_pb2)


def test_the_modules_are_what_their_sources_say(tmp_path: Path) -> None:
    """``make proto`` would change nothing."""
    names = [path.relative_to(ROOT).as_posix() for path in SOURCES]
    outs = [f"--python_out={tmp_path}", f"--pyi_out={tmp_path}"]
    assert protoc.main(["protoc", f"-I{ROOT}", *outs, *names]) == 0
    made = sorted(path for path in tmp_path.rglob("*_pb2.py*"))
    assert len(made) == 2 * len(SOURCES)
    for path in made:
        committed = ROOT / path.relative_to(tmp_path)
        assert committed.read_text() == path.read_text(), f"{committed.name}: run make proto"


def fields(message: Descriptor) -> dict[str, tuple[int, str, bool]]:
    """Name to (number, type, repeated)."""
    return {
        f.name: (f.number, FieldDescriptorProto.Type.Name(f.type), f.is_repeated)
        for f in message.fields
    }


def ours() -> dict[str, Descriptor]:
    found = {}
    for module in MODULES:
        found.update(module.DESCRIPTOR.message_types_by_name)
    return found


@pytest.mark.contract("KV-5")
@pytest.mark.parametrize("name", sorted(ours()))
def test_messages_are_those_of_etcd(name: str) -> None:
    """Each message has the field names, numbers and types, and enums the values, that etcd has."""
    theirs = {
        **their_kv.DESCRIPTOR.message_types_by_name,
        **their_rpc.DESCRIPTOR.message_types_by_name,
    }
    assert fields(ours()[name]) == fields(theirs[name])
    for enum in ours()[name].enum_types:
        wanted = theirs[name].enum_types_by_name[enum.name]
        assert [(v.name, v.number) for v in enum.values] == [
            (v.name, v.number) for v in wanted.values
        ]


@pytest.mark.contract("KV-4", "KV-5")
def test_services_are_those_of_etcd() -> None:
    """Every method of KV, Watch, Lease, Cluster and Maintenance is served under its path."""
    missing = set()
    for service in their_rpc.DESCRIPTOR.services_by_name.values():
        for method in service.methods:
            procedure = PROCEDURES.get(f"/{service.full_name}/{method.name}")
            if procedure is None:
                missing.add(f"{service.name}.{method.name}")
                continue
            assert procedure.request_type.DESCRIPTOR.name == method.input_type.name
            assert procedure.response_type.DESCRIPTOR.name == method.output_type.name
            assert isinstance(procedure, Streaming) == method.server_streaming
    assert {name for name in missing if not name.startswith("Auth.")} == {"Maintenance.Downgrade"}


def test_both_packages_live_in_one_process() -> None:
    """Our messages are registered under a name of our own, so etcd's clients can be imported."""
    assert kv_pb2.DESCRIPTOR.package == "meshsvc.etcd"
    assert "aetcd.rpc.rpc_pb2" in sys.modules
