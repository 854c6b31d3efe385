"""What the front of the etcd API costs: puts over gRPC and JSON, against etcd's in the same run.

Ours stands before a dict (``http2_server.py``): HTTP/2, gRPC, protobuf and dispatch, no store.
etcd's is the whole of Debian's etcd on a tmpfs, as its front cannot be had alone: its CPU holds
Raft and bbolt as well. The load is ``h2load``, which is not Python-bound. Server CPU per put
moves less with noise than the rate.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from figures import figure, need_debian, options, progress, show, show_yardstick

from meshsvc.etcd.grpc import pack
from meshsvc.etcd.proto import kv_pb2

HERE = Path(__file__).resolve().parent
TICKS_S = os.sysconf("SC_CLK_TCK")
RATE = re.compile(r"finished in [\d.]+\w+, ([\d.]+) req/s")
DONE = re.compile(r"(\d+) succeeded, (\d+) failed")
KEY, VALUE = b"k" * 20, b"v" * 100


@dataclass(frozen=True)
class Server:
    """A process and the port that it serves on."""

    pid: int
    port: int

    def cpu_s(self) -> float:
        """CPU seconds that it has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_S


@contextlib.contextmanager
def ours() -> Iterator[Server]:
    """The dict."""
    command = [sys.executable, str(HERE / "http2_server.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield Server(process.pid, int(process.stdout.readline()))
        process.terminate()


@contextlib.contextmanager
def etcd() -> Iterator[Server]:
    """Debian's etcd, one member."""
    program = need_debian("etcd", "etcd-server")
    folder = tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
    client, peer = free_port(), free_port()
    url = f"http://127.0.0.1:{client}"
    command = [
        *(program, "--data-dir", folder, "--log-level", "error"),
        *("--listen-client-urls", url, "--advertise-client-urls", url),
        *("--listen-peer-urls", f"http://127.0.0.1:{peer}"),
    ]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        wait_for(client)
        yield Server(process.pid, client)
        process.terminate()
    shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(port: int, within_s: float = 20.0) -> None:
    """Until somebody listens on a port."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                time.sleep(1.0)  # etcd elects itself
                return
        time.sleep(0.05)
    raise SystemExit(f"nothing listens on port {port}")


def load(server: Server, kind: str, puts: int, body: Path) -> tuple[float, float]:
    """(puts a second, server CPU microseconds a put)."""
    program = need_debian("h2load", "nghttp2-client")
    if kind == "grpc":
        path, words = "etcdserverpb.KV/Put", ["-c", "4", "-m", "64"]
        words += ["-H", "content-type: application/grpc", "-H", "te: trailers"]
    else:
        path, words = "v3/kv/put", ["-c", "64", "--h1"]
    command = [program, "-n", str(puts), *words, "-d", str(body)]
    before = server.cpu_s()
    done = subprocess.run(
        [*command, f"http://127.0.0.1:{server.port}/{path}"],
        capture_output=True,
        text=True,
        check=True,
    )
    used = server.cpu_s() - before
    rate, counts = RATE.search(done.stdout), DONE.search(done.stdout)
    assert rate, done.stdout
    assert counts, done.stdout
    assert counts[1] == str(puts), done.stdout
    return float(rate[1]), used / puts * 1e6


def bodies(folder: Path) -> dict[str, Path]:
    """Files with the request of each kind."""
    grpc, text = folder / "grpc", folder / "json"
    grpc.write_bytes(pack(kv_pb2.PutRequest(key=KEY, value=VALUE).SerializeToString()))
    encoded = {"key": base64.b64encode(KEY).decode(), "value": base64.b64encode(VALUE).decode()}
    text.write_text(json.dumps(encoded))
    return {"grpc": grpc, "json": text}


def main() -> int:
    """Measure and print."""
    args = options(__doc__.splitlines()[0]).parse_args()
    rounds = args.rounds or (2 if args.quick else 5)
    puts = {"grpc": 50_000 if args.quick else 200_000, "json": 5_000 if args.quick else 20_000}
    measured: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder, etcd() as theirs, ours() as mine:
        files = bodies(Path(folder))
        sides = {"etcd": theirs} if args.yardstick else {"etcd": theirs, "meshsvc": mine}
        for number in range(rounds):
            for kind, count in puts.items():
                for side, server in sides.items():
                    progress(f"round {number}: {kind} puts, {side}")
                    rate, cpu = load(server, kind, count, files[kind])
                    measured.setdefault(f"{side} {kind} rate", []).append(rate)
                    measured.setdefault(f"{side} {kind} cpu", []).append(cpu)
    if args.yardstick:
        show_yardstick(measured, {n: "1/s" if n.endswith("rate") else "us" for n in measured})
        return 0
    figures = [
        figure(
            f"{kind} puts, {what}",
            "1/s" if what == "rate" else "CPU us",
            measured[f"meshsvc {kind} {what}"],
            measured[f"etcd {kind} {what}"],
            (">=", 0.5) if what == "rate" else ("<=", 2),
            "etcd's",
        )
        for kind in puts
        for what in ("rate", "cpu")
    ]
    notes = [
        "ours before a dict, etcd whole on a tmpfs; neither is pinned",
        "20-byte keys, 100-byte values",
    ]
    return show("front of the etcd API", figures, notes, args.json)


if __name__ == "__main__":
    raise SystemExit(main())
