"""Makes ``conftest_tables`` importable, and its fixtures known."""

from __future__ import annotations

import sys
from pathlib import Path

if str(Path(__file__).parent) not in sys.path:
    sys.path.insert(0, str(Path(__file__).parent))

from conftest_tables import cluster

__all__ = ["cluster"]
