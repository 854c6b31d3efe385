"""A dev cluster whose store is what a test is about: who leads, who belongs, clients of each."""

import base64
import json
import threading
from pathlib import Path

import grpc
from dev_cluster import DevCluster, Node, free_port, wait_until
from processes import Etcdctl

from meshsvc.etcd.proto import kv_pb2

CONFIG = """
[node]
name = "{name}"
cluster = "{cluster}"
data_dir = "{data_dir}"
cpu_allocation = 1
pin_cores = false
[listen]
peer = "127.0.0.1:{peer}"
admin = "127.0.0.1:{admin}"
etcd = "127.0.0.1:{etcd}"
[seeds]
addresses = [{seeds}]
[mesh]
roster = [{roster}]
[store]
expect = 3
"""


class Further(Node):
    """A node that ``meshsvc dev`` does not know of."""

    def __init__(self, cluster, name, row):
        super().__init__(cluster, name)
        self.own_row = row

    @property
    def row(self):
        return self.own_row


class StoreCluster(DevCluster):
    """See the module's docstring."""

    def __exit__(self, *_):
        super().__exit__()
        for log in self.directory.glob("c/*/*.log"):
            text = log.read_text(errors="replace")
            assert "Traceback" not in text, (
                f"{log}:\n{text[text.index('Traceback') - 500 :][:3000]}"
            )

    def groups(self, node):
        """{group: row} as a node shows them; empty while it cannot be asked."""
        row = node.get("store")
        return {each["group"]: each for each in row["groups"]} if row and "groups" in row else {}

    def leader(self, nodes=None):
        """The node that leads the keyspace, as all these nodes see it; None while they do not."""
        nodes = nodes or self.nodes
        names = {self.groups(node).get("default", {}).get("leader") for node in nodes}
        found = [node for node in self.nodes if names == {node.name}]
        return found[0] if found else None

    def well(self, nodes=None):
        """All agree who leads, and exactly these nodes vote in both groups."""
        nodes = nodes or self.nodes
        names = sorted(node.name for node in nodes)
        for node in nodes:
            groups = self.groups(node)
            if len(groups) != 2 or any(not each["leader"] for each in groups.values()):
                return None
            if any(each["voters"] != names or each["learners"] for each in groups.values()):
                return None
        return self.leader(nodes)

    def wait_well(self, nodes=None, timeout_s=40):
        return wait_until(lambda: self.well(nodes), timeout_s, self.describe_store)

    def describe_store(self):
        return json.dumps({node.name: node.get("store") for node in self.nodes}, indent=1)

    def ctl(self, *nodes):
        """etcdctl, with these nodes as endpoints."""
        return Etcdctl(*(int(node.row["etcd"].rpartition(":")[2]) for node in nodes or self.nodes))

    def start(self, node):
        """Start a node that ended, and wait until all is well."""
        self.start_again(node)
        return self.wait_well()

    def new_node(self, name, directory, cluster="dev", seeds=()):
        """A node beside those of ``meshsvc dev``, not started yet."""
        row = {"name": name, "data_dir": str(directory / "data")}
        ports = {listener: free_port() for listener in ("peer", "admin", "etcd")}
        row |= {listener: f"127.0.0.1:{port}" for listener, port in ports.items()}
        roster = [node.name for node in self.nodes] if seeds else [name]
        quoted = {"seeds": seeds, "roster": roster}
        text = CONFIG.format(
            name=name,
            cluster=cluster,
            data_dir=row["data_dir"],
            **ports,
            **{key: ", ".join(f'"{each}"' for each in value) for key, value in quoted.items()},
        )
        config = Path(directory / "meshsvc.toml")
        config.write_text(text)
        return Further(self, name, row | {"config": str(config)})

    def start_new(self, node):
        process = self.run_node(node.row["config"])
        self.pids[node.name] = process.pid
        return process


def put(node, key, value, timeout_s=10.0):
    """Put by JSON; the status, 200 for done."""
    body = {
        name: base64.b64encode(text.encode()).decode()
        for name, text in (("key", key), ("value", value))
    }
    return node.http("/v3/kv/put", body, timeout_s, port="etcd")[0]


class Writers:
    """Threads that put until they are told to stop, each through a gRPC channel to all nodes.

    ``acked`` is {key: last value that was acknowledged}, ``failed`` what was not.
    """

    def __init__(self, nodes, count=4):
        self.acked, self.failed = {}, []
        self._stop = threading.Event()
        self._at = "ipv4:" + ",".join(node.row["etcd"] for node in nodes)
        self._threads = [threading.Thread(target=self._write, args=(n,)) for n in range(count)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    @property
    def total(self):
        return sum(int(value) + 1 for value in dict(self.acked).values())

    def _write(self, number):
        options = [("grpc.lb_policy_name", "round_robin")]
        with grpc.insecure_channel(self._at, options=options) as channel:
            call = channel.unary_unary(
                "/etcdserverpb.KV/Put",
                request_serializer=kv_pb2.PutRequest.SerializeToString,
                response_deserializer=kv_pb2.PutResponse.FromString,
            )
            key, value = f"w/{number}", 0
            while not self._stop.is_set():
                request = kv_pb2.PutRequest(key=key.encode(), value=str(value).encode())
                try:
                    call(request, timeout=10)
                except grpc.RpcError as error:
                    self.failed.append((key, value, error.code(), error.details()))
                else:
                    self.acked[key] = str(value)
                value += 1
