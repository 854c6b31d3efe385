import sys
from pathlib import Path

HERE = Path(__file__).parent

for folder in (
    HERE,
    HERE / "planting",
    HERE.parent / "messaging",
    HERE.parent / "link",
    HERE.parent / "mesh",
    HERE.parent / "kv",
    HERE.parent / "storage",
):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
