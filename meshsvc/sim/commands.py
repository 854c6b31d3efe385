"""What can be done to a cluster, as one line of text each; scenarios and traces use these.

start n1 | stop n1 | crash n1 | power-off n1      a node; ``all`` for every node, ``leader`` for
                                                  the one whose replica leads the store
wipe n1                                           an empty disk for a node that does not run
kill n1/0                                         one shard process
pause n1 | resume n1 | slow n1 20 ms              SIGSTOP, SIGCONT, a busy machine
partition n1 n2 | n3 n4                           both ways; nodes not named stay with all
one-way n1 n2                                     what n1 sends does not reach n2
isolate n1                                        nothing reaches or leaves n1
heal                                              ends partitions and clogs
clog n1 n2 2 s                                    what n1 sends to n2 arrives after that
reset n1 n2 | half-open n1 n2                     a connection breaks, for both or for n1
weather delay 50 ms jitter 10 ms loss 0.1         everywhere
disk n1 eio 0.1 | disk n1 full | disk n1 well     what its disk does
disk n1 flip 0.3 | disk n1 slow 800 ms            it misreads; a save takes up to that long
power-cut n1 3                                    the power of n1 fails at that operation
wait 3 s                                          let time pass (in traces)
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from meshsvc.errors import StartError
from meshsvc.node.config_units import parse_duration
from meshsvc.sim.disk import Faults
from meshsvc.sim.store.faults import leader
from meshsvc.sim.weather import Weather

if TYPE_CHECKING:
    from meshsvc.sim.cluster import Cluster
    from meshsvc.sim.processes import SimNode


CALM_TRIES = 31
"""Seconds in which a node that was stopping has ended: its budget is 30."""


FORMS = {
    **{each: f"{each} NODE..." for each in ("start", "stop", "crash", "power-off", "wipe")},
    **{each: f"{each} NODE..." for each in ("pause", "resume")},
    "kill": "kill NODE/SHARD",
    "slow": "slow NODE DURATION, or slow NODE 0",
    "partition": "partition NODE... | NODE...",
    "one-way": "one-way NODE NODE",
    "isolate": "isolate NODE",
    "heal": "heal",
    "clog": "clog NODE NODE DURATION",
    "reset": "reset NODE NODE",
    "half-open": "half-open NODE NODE",
    "weather": "weather delay DURATION jitter DURATION loss SHARE, of which any may be left out",
    "disk": "disk NODE eio SHARE, flip SHARE, slow DURATION, full or well",
    "power-cut": "power-cut NODE OPERATION",
    "wait": "wait DURATION",
}
"""How each command is written; a NODE is n1 and so on, in some also ``all`` or ``leader``."""


class BadCommand(ValueError):
    """A line that is no command, or cannot be done; the text says what was expected."""


def check_word(verb: str) -> None:
    """Refuse what is no command.

    Raises:
        BadCommand: naming those there are.
    """
    if verb not in FORMS:
        raise BadCommand(f"{verb!r} is no command: there are {', '.join(FORMS)}")


class Commands:
    """Does what a line says."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._verbs = {
            "start": lambda words: self._each(words, "start"),
            "stop": lambda words: self._each(words, "stop"),
            "crash": lambda words: self._each(words, "crash"),
            "power-off": lambda words: self._each(words, "power_off"),
            "pause": lambda words: self._each(words, "pause"),
            "resume": lambda words: self._each(words, "resume"),
            "wipe": self._wipe,
            "kill": self._kill,
            "slow": self._slow,
            "partition": self._partition,
            "one-way": self._one_way,
            "isolate": self._isolate,
            "heal": self._heal,
            "clog": self._clog,
            "reset": self._reset,
            "half-open": self._half_open,
            "weather": self._weather,
            "disk": self._disk,
            "power-cut": self._power_cut,
            "wait": self._wait,
        }

    def do(self, line: str) -> None:
        """Carry out one line.

        Raises:
            BadCommand: when it cannot be read.
        """
        verb, *words = line.split() or [""]
        check_word(verb)
        try:
            self._verbs[verb](words)
        except (ValueError, LookupError) as error:
            raise BadCommand(f"{line!r} cannot be done: {error}; write {FORMS[verb]}") from error
        self._cluster.fault()

    def calm(self) -> None:
        """End every fault, and start every node that does not run."""
        cluster = self._cluster
        cluster.note("", "calm", "faults stop")
        cluster.tables.calm = cluster.store.calm = True
        cluster.net.sky.clear()
        cluster.net.sky.everywhere = replace(cluster.net.sky.everywhere, loss=0.0)
        for node in cluster.nodes:
            node.disk.faults = Faults()
            node.disk.stop_after = None
            if node.paused:
                node.resume()
            if cluster.slowed.pop(node.name, None):
                node.slow(0.0)
        self._bring_up(CALM_TRIES)
        cluster.fault()

    def _bring_up(self, tries: int) -> None:
        """Start what is down, and what is about to be, once it is."""
        waiting = [node for node in self._cluster.nodes if node.state == "stopping"]
        for node in self._cluster.nodes:
            if node.state in ("down", "off"):
                node.start()
        if waiting and tries:
            self._cluster.time.after(1.0, self._bring_up, tries - 1)

    # --- nodes ---------------------------------------------------------------------------

    def _nodes(self, words: list[str]) -> list[SimNode]:
        if words == ["all"]:
            return list(self._cluster.nodes)
        return [
            leader(self._cluster) if word == "leader" else self._cluster.node(word)
            for word in words
        ]

    def _each(self, words: list[str], what: str) -> None:
        for node in self._nodes(words):
            getattr(node, what)()

    def _wipe(self, words: list[str]) -> None:
        for node in self._nodes(words):
            if node.state in ("down", "off"):
                self._cluster.note(node.name, "disk", "is replaced by an empty one")
                node.disk.wipe()

    def _kill(self, words: list[str]) -> None:
        name, _, index = words[0].partition("/")
        self._cluster.node(name).kill_shard(int(index))

    def _slow(self, words: list[str]) -> None:
        node = self._cluster.node(words[0])
        cost_s = parse_duration(" ".join(words[1:])) if words[1:] != ["0"] else 0.0
        self._cluster.slowed[node.name] = cost_s
        node.slow(cost_s)

    # --- the network ---------------------------------------------------------------------

    def _sides(self, words: list[str]) -> tuple[list[SimNode], list[SimNode]]:
        cut = words.index("|")
        return self._nodes(words[:cut]), self._nodes(words[cut + 1 :])

    def _partition(self, words: list[str]) -> None:
        left, right = self._sides(words)
        self._cluster.note("", "partition", " ".join(words))
        for a in left:
            for b in right:
                self._cut(a, b)
                self._cut(b, a)

    def _one_way(self, words: list[str]) -> None:
        a, b = self._nodes(words)
        self._cluster.note("", "one-way", f"{a.name} does not reach {b.name}")
        self._cut(a, b)

    def _isolate(self, words: list[str]) -> None:
        [node] = self._nodes(words)
        others = [other.name for other in self._cluster.nodes if other is not node]
        self._partition([node.name, "|", *others])

    def _cut(self, a: SimNode, b: SimNode) -> None:
        self._cluster.net.sky.block(a.host.name, b.host.name)

    def _heal(self, words: list[str]) -> None:
        self._cluster.note("", "heal", "")
        self._cluster.net.sky.clear()

    def _clog(self, words: list[str]) -> None:
        a, b = self._nodes(words[:2])
        until = self._cluster.time.now + parse_duration(" ".join(words[2:]))
        self._cluster.note("", "clog", f"{a.name} to {b.name} until {until:.3f}")
        self._cluster.net.sky.clog(a.host.name, b.host.name, until)

    def _reset(self, words: list[str]) -> None:
        a, b = self._nodes(words)
        self._cluster.note("", "reset", f"{a.name} {b.name}")
        net = self._cluster.net
        net.sky.hurt(a.host.name, b.host.name)
        for end in net.ends():
            if end.host is a.host and net.other(end).host is b.host:
                end.abortConnection()

    def _half_open(self, words: list[str]) -> None:
        a, b = self._nodes(words)
        self._cluster.note("", "half-open", f"{a.name} loses {b.name}, which is not told")
        net = self._cluster.net
        net.sky.hurt(a.host.name, b.host.name)
        for end in net.ends():
            if end.host is a.host and net.other(end).host is b.host:
                end.break_silently()

    def _weather(self, words: list[str]) -> None:
        sky = self._cluster.net.sky
        self._cluster.note("", "weather", " ".join(words))
        sky.everywhere = read_weather(words, sky.everywhere)

    # --- disks ---------------------------------------------------------------------------

    def _disk(self, words: list[str]) -> None:
        node, what = self._cluster.node(words[0]), words[1]
        self._cluster.note(node.name, "disk", " ".join(words[1:]))
        self._cluster.expected_logs += (OSError, StartError)
        if what == "well":
            node.disk.faults = Faults()
        elif what == "full":
            node.disk.faults.full = True
        elif what in ("eio", "flip"):
            setattr(node.disk.faults, what, float(words[2]))
        elif what == "slow":
            node.disk.faults.fsync_s = parse_duration(" ".join(words[2:]))
        else:
            raise ValueError("say eio P, flip P, full, slow DURATION or well")

    def _power_cut(self, words: list[str]) -> None:
        self._cluster.node(words[0]).disk.stop_after = int(words[1])

    def _wait(self, words: list[str]) -> None:
        self._cluster.run(parse_duration(" ".join(words)))


def read_weather(words: list[str], now: Weather) -> Weather:
    """Read ``delay 50 ms loss 0.1`` and so on; what is not named stays as it is."""
    changes: dict[str, float] = {}
    at = 0
    while at < len(words):
        key = words[at]
        if key in ("delay", "jitter"):
            changes[key + "_s"] = parse_duration(" ".join(words[at + 1 : at + 3]))
            at += 3
        else:
            changes[key] = float(words[at + 1])
            at += 2
    return replace(now, **changes)
