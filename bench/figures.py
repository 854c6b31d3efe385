"""Figures and how they are shown: medians of rounds, ratios, goals."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path


@dataclass(frozen=True)
class Figure:
    """One line of the result; ``goal`` is ("<=" or ">=", ratio)."""

    name: str
    unit: str
    ours: float
    yardstick: float
    ratio: float
    goal: tuple[str, float]
    against: str

    @property
    def met(self) -> bool:
        """Whether the ratio keeps the goal."""
        sign, bound = self.goal
        return self.ratio <= bound if sign == "<=" else self.ratio >= bound


def figure(
    name: str,
    unit: str,
    ours: Sequence[float],
    yardstick: Sequence[float],
    goal: tuple[str, float],
    against: str,
) -> Figure:
    """A figure from paired rounds: medians, and the median of the ratios of each round."""
    pairs = zip(ours, yardstick, strict=False)
    ratios = [mine / other for mine, other in pairs if other]
    return Figure(
        name,
        unit,
        statistics.median(ours or [0.0]),
        statistics.median(yardstick or [0.0]),
        statistics.median(ratios or [0.0]),
        goal,
        against,
    )


def percentile(values: Iterable[float], share: float) -> float:
    """The value that ``share`` (0 to 1) of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def options(description: str) -> argparse.ArgumentParser:
    """The flags that every program has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--yardstick", action="store_true", help="only the other side")
    parser.add_argument("--rounds", type=int, help="how many rounds")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    return parser


def show(title: str, figures: Sequence[Figure], notes: Sequence[str], where: Path | None) -> int:
    """Print the table; returns 0 when every goal is met, else 1."""
    print(f"\n{title}")
    print(f"  {'figure':34} {'meshsvc':>12} {'yardstick':>12}  {'ratio':>7}  goal")
    for each in figures:
        goal = f"{each.goal[0]} {each.goal[1]:g} x {each.against}"
        verdict = "met" if each.met else "MISSED"
        print(
            f"  {each.name:34} {_short(each.ours):>12} {_short(each.yardstick):>12}"
            f"  {each.ratio:7.2f}  {goal} ({each.unit}): {verdict}"
        )
    for note in notes:
        print(f"  - {note}")
    sys.stdout.flush()
    if where:
        rows = [asdict(each) | {"met": each.met} for each in figures]
        where.write_text(json.dumps({"title": title, "figures": rows}, indent=2) + "\n")
    return 0 if all(each.met for each in figures) else 1


def show_yardstick(rows: dict[str, Sequence[float]], unit: dict[str, str]) -> None:
    """Print the medians of the other side alone."""
    for name, values in rows.items():
        shown = ", ".join(_short(value) for value in values)
        print(f"  {name:34} {_short(statistics.median(values)):>12} {unit[name]}   [{shown}]")


def progress(text: str) -> None:
    """Say what runs, on the terminal."""
    print(f"  {text}", file=sys.stderr, flush=True)


def need_zmq() -> None:
    """Install pyzmq into the Python that runs, unless it is there."""
    if find_spec("zmq") is None:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "pyzmq"]
        subprocess.run(pip, check=True, stdin=subprocess.DEVNULL)


def need_debian(command: str, package: str) -> str:
    """The path of a command, installed from Debian's packages when it is missing."""
    if shutil.which(command) is None:
        env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        for words in (["update"], ["install", "-y", "--no-install-recommends", package]):
            done = subprocess.run(  # noqa: PLW1510 - its output is shown
                ["apt-get", "-qq", *words], env=env, capture_output=True, text=True
            )
            if done.returncode:
                raise SystemExit(f"{command} is missing and apt-get failed:\n{done.stderr}")
    found = shutil.which(command)
    if found is None:
        raise SystemExit(f"{package} is installed and has no {command}")
    return found


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"
