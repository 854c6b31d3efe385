"""Every program here, one after the other; flags are passed on. Exit code 1 if a goal is missed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAMS = (
    "messaging.py",
    "failure.py",
    "start.py",
    "isolation.py",
    "http2.py",
    "raft.py",
    "sim.py",
    "journal.py",
    "tables.py",
    "kv_core.py",
)

here = Path(__file__).resolve().parent
codes = [
    subprocess.run([sys.executable, here / name, *sys.argv[1:]], check=False).returncode
    for name in PROGRAMS
]
raise SystemExit(max(codes))
