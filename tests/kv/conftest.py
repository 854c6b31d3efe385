"""What tests of the store share."""

from __future__ import annotations

import sys
from pathlib import Path

# Tests are not a package: their helpers are found here.
sys.path.insert(0, str(Path(__file__).parent))
