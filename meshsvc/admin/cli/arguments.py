"""The arguments of every verb.

``--admin`` and ``-o`` may stand before or after the verb. Wrong usage ends with 64, as
sysexits.h has it, and not with argparse's own 2.
"""

from __future__ import annotations

import argparse

from meshsvc import __version__
from meshsvc.admin.cli import (
    asking,
    configs,
    dev,
    exits,
    readiness,
    repair,
    simulator,
    talking,
    verbs,
)
from meshsvc.admin.cli.arguments_store import add_store
from meshsvc.admin.cli.arguments_tables import add_tables
from meshsvc.admin.cli.client import DEFAULT_URL
from meshsvc.admin.cli.numbers import seconds, whole
from meshsvc.admin.cli.output import FORMATS
from meshsvc.admin.cli.parser import Parser, Verbs
from meshsvc.admin.targets import FORMS

_EPILOG = "exit codes: " + ", ".join(f"{code} {text}" for code, text in exits.MEANINGS.items())


def build_parser() -> Parser:
    """The parser; it sets ``verb`` to the function to call with the namespace."""
    common = Parser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument(
        "--admin", metavar="URL", help=f"the node to ask (MESHSVC_ADMIN, else {DEFAULT_URL})"
    )
    common.add_argument("-o", "--output", choices=FORMATS, help="default: table")
    parser = Parser(
        prog="meshsvc",
        description="Start and look after the nodes of a meshsvc cluster.",
        epilog=_EPILOG,
        parents=[common],
    )
    parser.add_argument("--version", action="version", version=f"meshsvc {__version__}")
    verbs_of = Verbs(parser.add_subparsers(metavar="VERB", required=True), common)
    verbs_of.adding.add_parser("run", help="Run a node; the same as twistd -n meshsvc run.")
    _add_dev(verbs_of)
    _add_showing(verbs_of)
    _add_talking(verbs_of)
    _add_config(verbs_of)
    add_store(verbs_of)
    add_tables(verbs_of)
    _add_repair(verbs_of)
    _add_sim(verbs_of)
    return parser


def _add_showing(to: Verbs) -> None:
    to.add("status", verbs.status)
    to.add("members", verbs.members)
    mesh = to.add("mesh", verbs.mesh)
    form = to.below(mesh, required=False).add("form", verbs.form)
    form.add_argument("--epoch", required=True, metavar="T.A", help="term and attempt, as 3.1")
    to.add("shards", verbs.shards)
    to.add("plugins", verbs.plugins)
    rtt = to.add("rtt", talking.rtt)
    rtt.add_argument("a", metavar="A", help="the node that measures")
    rtt.add_argument("b", metavar="B", help="the node it measures to")
    to.add("discovery", readiness.discovery)
    to.add("ready", readiness.ready)
    wait = to.add("wait", readiness.wait)
    text = "wait for /readyz to say yes (which is what there is to wait for)"
    wait.add_argument("--ready", action="store_true", default=True, help=text)
    wait.add_argument("--timeout", type=seconds, default=30.0, metavar="SECONDS", help="(30)")


def _add_talking(to: Verbs) -> None:
    call = to.add("call", talking.call)
    call.add_argument("target", metavar="TARGET", help=FORMS)
    call.add_argument("verb_name", metavar="VERB", help="for example sys.echo")
    call.add_argument("json", metavar="JSON", nargs="?", default="null", help="- reads stdin")
    call.add_argument("--timeout", type=seconds, default=5.0, metavar="SECONDS", help="(5)")
    events = to.add("events", talking.events)
    events.set_defaults(until_interrupted=True)
    events.add_argument("-f", "--follow", action="store_true", help="go on with what happens")
    events.add_argument("--limit", type=whole(1), metavar="N", help="end after N events")
    send = to.below(events, required=False).add("send", asking.send_event)
    query = to.add("query", asking.query)
    for parser, example in ((send, "deploy"), (query, "app.sessions, or ping")):
        parser.add_argument("name", metavar="NAME", help=f"for example {example}")
        parser.add_argument("json", metavar="JSON", nargs="?", default="null", help="- reads stdin")
    send.set_defaults(until_interrupted=False)
    send.add_argument("--coalesce", action="store_true", help="only the latest of it matters")
    query.add_argument("--timeout", type=seconds, default=5.0, metavar="SECONDS", help="(5)")
    query.add_argument("--node", action="append", metavar="NODE", help="ask it, not all; repeat")
    query.add_argument("--tag", action="append", metavar="KEY=VALUE", help="ask those; repeat")


def _add_config(to: Verbs) -> None:
    config = to.adding.add_parser("config", help="Check or show a config file.")
    below = to.below(config, required=True)
    check, show = below.add("check", configs.check), below.add("show", configs.show)
    for parser in (check, show):
        parser.add_argument("file", metavar="FILE")
        text = "as for run: overrides the file"
        parser.add_argument(
            "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help=text
        )
    show.add_argument("--origin", action="store_true", help="where each value was set")


def _add_repair(to: Verbs) -> None:
    parser = to.add("repair", repair.repair)
    parser.add_argument("data_dir", metavar="DATA_DIR", help="of a node that is stopped")
    parser.add_argument("--shard", type=whole(0), metavar="N", help="only this shard")
    text = "move what is damaged aside: that replica starts empty, as a new member"
    parser.add_argument("--rebuild", action="store_true", help=text)


def _add_sim(to: Verbs) -> None:
    sim = to.adding.add_parser("sim", help="Simulate whole clusters: faults, checks, replay.")
    below = to.below(sim, required=True)
    run, replay = below.add("run", simulator.run), below.add("replay", simulator.replay)
    below.add("scenarios", simulator.scenarios)
    run.add_argument("--seeds", type=whole(1), default=20, metavar="N", help="how many (20)")
    run.add_argument("--seed", type=whole(0), default=0, metavar="K", help="the first of them (0)")
    run.add_argument("--jobs", type=whole(1), default=1, metavar="J", help="processes (1)")
    replay.add_argument("seed", type=whole(0), metavar="SEED")
    replay.add_argument("--html", metavar="FILE", help="write a page to look at it as well")
    for parser in (run, replay):
        text = "a name from `meshsvc sim scenarios`, or a .toml file (swarm)"
        parser.add_argument("--scenario", default="swarm", metavar="S", help=text)


def _add_dev(to: Verbs) -> None:
    parser = to.add("dev", dev.dev)
    parser.add_argument("--nodes", type=whole(1, 256), default=3, metavar="N", help="(3)")
    parser.add_argument(
        "--shards",
        type=whole(1, 256),
        default=2,
        metavar="N",
        help="per node, at most as many as CPUs (2)",
    )
    parser.add_argument("--dir", default="dev-cluster", help="where all of it lives (dev-cluster)")
    parser.add_argument("--heal", action="store_true", help="restart nodes that end")
    text = "n1 gets this port and the next three, n2 starts ten higher; default: free ones"
    parser.add_argument("--base-port", type=whole(1, 65535), metavar="PORT", help=text)
