"""What ``meshsvc sim`` does; the admin floor calls it with the parsed arguments."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from statistics import median

from meshsvc.admin.cli import exits
from meshsvc.admin.cli.exits import CliError
from meshsvc.admin.cli.output import show_row, show_rows
from meshsvc.sim.flights import Flights
from meshsvc.sim.replay import page
from meshsvc.sim.runner import Result, Run, be_quiet, checked, run_seeds
from meshsvc.sim.scenario import BadScenario, Scenario, load, names

MAX_REPORTS = 3
"""Failures that are shown in full; the others are named by their seed."""


def run(args: argparse.Namespace) -> int:
    """Run seeds, report those that failed, sum up."""
    _load(args.scenario)
    be_quiet()
    seeds = range(args.seed, args.seed + args.seeds)
    began = time.monotonic()
    bad: list[Result] = []
    results: list[Result] = []
    for result in run_seeds(args.scenario, seeds, args.jobs):
        results.append(result)
        if not result.ok:
            bad.append(result)
            if len(bad) <= MAX_REPORTS:
                _say(result.report())
        _progress(len(results), len(seeds), len(bad))
    took_s = time.monotonic() - began
    show_row(args.output, summary(args.scenario, results, took_s), tuple(_SUMMARY))
    return exits.UNHEALTHY if bad else exits.OK


def replay(args: argparse.Namespace) -> int:
    """Run one seed again, print its log, write a page when asked to."""
    if args.html and not Path(args.html).absolute().parent.is_dir():
        raise CliError(exits.IO, f"the folder of {args.html} is not there: make it first")
    be_quiet()
    simulation = Run(_load(args.scenario), args.seed)
    if args.html:
        simulation.cluster.net.flights = Flights()
    result = simulation.go()
    sys.stdout.write(simulation.cluster.trace.text())
    if args.html:
        with open(args.html, "w", encoding="utf-8") as file:
            file.write(page(simulation, result))
        _say(f"wrote {args.html}")
    _say(f"hash {result.digest}, {result.events} events, {result.virtual_s:.1f} virtual seconds")
    if result.ok:
        return exits.OK
    _say(f"violation: {result.violation}")
    return exits.UNHEALTHY


def scenarios(args: argparse.Namespace) -> int:
    """List what there is."""
    rows = [{"name": name, "text": load(name).text} for name in names()]
    show_rows(args.output, rows, ("name", "text"))
    return exits.OK


_SUMMARY = {
    "scenario": "which",
    "seeds": "how many ran",
    "failed": "how many broke an invariant",
    "failed_seeds": "which",
    "virtual_hours": "simulated, of whole clusters",
    "cluster_hours_per_hour": "simulated hours an hour of this machine",
    "converge_p50_s": "how long convergence took after the faults",
    "converge_max_s": "and at most",
}


def summary(scenario: str, results: list[Result], took_s: float) -> dict[str, object]:
    """One row over many results."""
    virtual_s = sum(result.virtual_s for result in results)
    times = [result.converged_s for result in results if result.ok]
    return {
        "scenario": scenario,
        "seeds": len(results),
        "failed": sum(not result.ok for result in results),
        "failed_seeds": [result.seed for result in results if not result.ok],
        "virtual_hours": round(virtual_s / 3600, 2),
        "cluster_hours_per_hour": round(virtual_s / took_s, 1) if took_s else 0.0,
        "converge_p50_s": round(median(times), 2) if times else None,
        "converge_max_s": round(max(times), 2) if times else None,
    }


def _load(name: str) -> Scenario:
    try:
        return checked(load(name))
    except BadScenario as error:
        raise CliError(exits.USAGE, str(error)) from None


def _progress(done: int, of: int, bad: int) -> None:
    if sys.stderr.isatty():
        end = "\n" if done == of else ""
        sys.stderr.write(f"\r{done}/{of} seeds, {bad} failed{end}")
        sys.stderr.flush()


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
