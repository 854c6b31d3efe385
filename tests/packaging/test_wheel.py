"""The wheel: it builds from the tree and holds the package and the one plugin file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> ZipFile:
    where = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", where],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=60,
    )
    (built,) = where.glob("meshsvc-*.whl")
    return ZipFile(built)


def test_the_plugin_is_in_the_wheel(wheel: ZipFile) -> None:
    """twistd finds ``meshsvc`` after an install from the wheel: its plugin file is there."""
    plugins = [name for name in wheel.namelist() if name.startswith("twisted/")]
    assert plugins == ["twisted/plugins/meshsvc_plugin.py"]


def test_every_module_is_in_the_wheel(wheel: ZipFile) -> None:
    """Every module of the tree is shipped, the typing marker too, and nothing else is."""
    tree = {p.relative_to(ROOT).as_posix() for p in (ROOT / "meshsvc").rglob("*.py")}
    shipped = {name for name in wheel.namelist() if name.endswith(".py")}
    assert shipped == tree | {"twisted/plugins/meshsvc_plugin.py"}
    assert "meshsvc/py.typed" in wheel.namelist()
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"meshsvc", "twisted"}


def test_the_command_is_in_the_wheel(wheel: ZipFile) -> None:
    """The wheel declares the ``meshsvc`` command and carries the license."""
    (entry_points,) = (n for n in wheel.namelist() if n.endswith("/entry_points.txt"))
    assert b"meshsvc = meshsvc.admin.cli.main:main" in wheel.read(entry_points)
    assert any(name.endswith("/licenses/LICENSE") for name in wheel.namelist())
