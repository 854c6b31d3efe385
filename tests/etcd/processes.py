"""Servers and clients as processes: ours over an in-memory group, Debian's etcd and etcdctl."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
START_S = 20.0


class Ours:
    """``serve.py``; ``ports`` has one entry a replica."""

    def __init__(self, replicas: int = 1) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "serve.py"), str(replicas)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            raise AssertionError(f"the server did not start:\n{self.log()}")
        self.ports: list[int] = json.loads(line)

    @property
    def port(self) -> int:
        return self.ports[0]

    def log(self) -> str:
        """What the server wrote to its standard error."""
        self._errors.seek(0)
        return self._errors.read().decode("utf-8", "replace")

    def stop(self) -> None:
        """End it; a traceback in its log fails the test."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=START_S)
        log = self.log()
        self._errors.close()
        assert "Traceback" not in log, log


class RealEtcd:
    """One member of Debian's etcd."""

    def __init__(self) -> None:
        program = shutil.which("etcd")
        assert program, "Debian's etcd-server is not installed: apt-get install etcd-server"
        self._dir = tempfile.mkdtemp()
        self.port, peer = _free_port(), _free_port()
        client_url, peer_url = (f"http://127.0.0.1:{port}" for port in (self.port, peer))
        self.process = subprocess.Popen(
            [
                *(program, "--data-dir", self._dir, "--log-level", "error"),
                *("--listen-client-urls", client_url, "--advertise-client-urls", client_url),
                *("--listen-peer-urls", peer_url),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _wait_for(self.port)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=START_S)
        shutil.rmtree(self._dir, ignore_errors=True)


class Etcdctl:
    """Debian's etcdctl against some endpoints."""

    def __init__(self, *ports: int) -> None:
        self._program = shutil.which("etcdctl")
        assert self._program, "Debian's etcd-client is not installed: apt-get install etcd-client"
        self._endpoints = ",".join(f"127.0.0.1:{port}" for port in ports)

    def __call__(self, *args: str, ok: bool = True, text: str | None = None, within_s=30) -> str:
        """Run it; its output, or with ``ok=False`` its errors."""
        done = subprocess.run(
            self._command(args),
            input=text,
            capture_output=True,
            text=True,
            timeout=within_s,
            env=self._env(),
            check=False,
        )
        assert (done.returncode == 0) == ok, f"{args}: {done.stdout}{done.stderr}"
        return done.stdout if ok else done.stderr

    def start(self, *args: str) -> subprocess.Popen[str]:
        """Start it and leave it running."""
        return subprocess.Popen(
            self._command(args),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self._env(),
        )

    def _command(self, args: tuple[str, ...]) -> list[str]:
        return [str(self._program), "--endpoints", self._endpoints, *args]

    def _env(self) -> dict[str, str]:
        return {**os.environ, "ETCDCTL_API": "3"}


def end(process: subprocess.Popen[str]) -> str:
    """Stop a client that was left running; what it wrote."""
    process.terminate()
    out, _ = process.communicate(timeout=START_S)
    return out


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(port: int) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise AssertionError(f"nothing listens on {port} after {START_S} s")
