"""Load on a store that is not bound by Python: h2load for gRPC, wrk for JSON.

A run is a number of equal requests over a number of connections. What h2load calls a success
is an HTTP status; that a put was one in earnest is checked by the store's revision.
"""

from __future__ import annotations

import base64
import re
import struct
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from figures import need_debian, percentile
from store_servers import Store, put

PUT, RANGE = "/etcdserverpb.KV/Put", "/etcdserverpb.KV/Range"
VALUE = b"v" * 100
KEY = b"bench/key"


@dataclass(frozen=True)
class Run:
    """What a run brought: requests a second, CPU of all servers and latency in microseconds."""

    rate: float
    cpu_us: float
    p50_us: float = 0.0
    p99_us: float = 0.0


def grpc_puts(store: Store, at: str, count: int, clients: int) -> Run:
    """Puts of 100 bytes, each client with one under way."""
    before = put(at, KEY, VALUE)
    run = _h2load(store, at, PUT, _field(1, KEY) + _field(2, VALUE), count, clients)
    made = put(at, KEY, VALUE) - before - 1
    if made < count:
        raise SystemExit(f"{store.name}: only {made} of {count} puts were done")
    return run


def grpc_gets(store: Store, at: str, count: int, clients: int) -> Run:
    """Linearizable reads of one key."""
    put(at, KEY, VALUE)
    return _h2load(store, at, RANGE, _field(1, KEY), count, clients)


def json_puts(store: Store, at: str, seconds: float, clients: int) -> Run:
    """Puts of 100 bytes over the JSON gateway."""
    key, value = (base64.b64encode(each).decode() for each in (KEY, VALUE))
    script = f"""
wrk.method = "POST"
wrk.body   = '{{"key": "{key}", "value": "{value}"}}'
wrk.headers["Content-Type"] = "application/json"
"""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        before, cpu = put(at, KEY, VALUE), store.cpu_s()
        words = [need_debian("wrk", "wrk"), "-t1", f"-c{clients}", f"-d{seconds:g}s"]
        words += ["-s", file.name, f"http://{at}/v3/kv/put"]
        text = _output(words)
    used = store.cpu_s() - cpu
    made = put(at, KEY, VALUE) - before - 1
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    if bad:
        raise SystemExit(f"{store.name}: {bad[1]} JSON puts failed")
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1])  # type: ignore[index]
    return Run(rate, used / max(1, made) * 1e6)


def _h2load(store: Store, at: str, path: str, message: bytes, count: int, clients: int) -> Run:
    with tempfile.TemporaryDirectory() as folder:
        body, log = Path(folder) / "body", Path(folder) / "log"
        body.write_bytes(b"\0" + struct.pack(">I", len(message)) + message)
        words = [need_debian("h2load", "nghttp2-client"), f"-n{count}", f"-c{clients}", "-m1"]
        words += ["-t1", f"--log-file={log}", f"--data={body}"]
        words += ["-H", "content-type: application/grpc", "-H", "te: trailers"]
        before = store.cpu_s()
        text = _output([*words, f"http://{at}{path}"])
        used = store.cpu_s() - before
        took = [int(line.split("\t")[2]) for line in log.read_text().splitlines()]
    done = int(re.search(r"(\d+) succeeded", text)[1])  # type: ignore[index]
    if done < count:
        raise SystemExit(f"{store.name}: {count - done} of {count} requests failed\n{text}")
    rate = float(re.search(r"finished in .*, ([\d.]+) req/s", text)[1])  # type: ignore[index]
    return Run(rate, used / count * 1e6, percentile(took, 0.5), percentile(took, 0.99))


def _output(words: list[str]) -> str:
    done = subprocess.run(  # noqa: PLW1510 - its output is shown
        words, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=600
    )
    if done.returncode:
        raise SystemExit(f"{words[0]} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def _field(number: int, data: bytes) -> bytes:
    """One length-delimited field of a protobuf message; shorter than 128 bytes."""
    return bytes([number << 3 | 2, len(data)]) + data
