"""Scripted traces of Raft groups: commands, and what the members say, message by message.

Each file in ``traces`` has commands (``> ...``) and below each what it led to. Heartbeats are
left out unless they carry news. Set ``MESHSVC_WRITE_TRACES=1`` (or ``make traces``) to write
them anew, and review the diff.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cores import Group

from meshsvc.raft.core import COMMAND, CONFIG
from meshsvc.raft.membership import ChangeRefused
from meshsvc.raft.messages import (
    Append,
    AppendReply,
    Committed,
    Heartbeat,
    HeartbeatReply,
    SnapshotChunk,
    SnapshotReply,
    VoteReply,
    VoteRequest,
)
from meshsvc.raft.quorum import decode_config

FOLDER = Path(__file__).resolve().parent / "traces"
WRITE = bool(os.environ.get("MESHSVC_WRITE_TRACES"))


def numbers(text):
    return [int(word) for word in text.split(",") if word != "-"]


def members(config):
    text = "+".join(map(str, config.voters))
    if config.outgoing:
        text += " from " + "+".join(map(str, config.outgoing))
    return text + (" learners " + "+".join(map(str, config.learners)) if config.learners else "")


def entry(each):
    what = "noop"
    if each.kind == COMMAND:
        what = each.data.decode()
    elif each.kind == CONFIG:
        what = f"members {members(decode_config(each.data))}"
    return f"{each.index}/{each.term} {what}"


def said(message):  # noqa: PLR0911 - one line a kind
    """One message as words; entries as index/term."""
    match message:
        case VoteRequest():
            kind = "would you vote" if message.pre else "vote"
            forced = ", I was asked to" if message.forced else ""
            return f"{kind} for my log {message.last_index}/{message.last_term}{forced}?"
        case VoteReply():
            answer = "yes" if message.granted else "no"
            return (
                f"{answer}{' (pre)' if message.pre else ''}{', removed' if message.removed else ''}"
            )
        case Append():
            what = ", ".join(map(entry, message.entries)) or "nothing"
            after = f"{message.prev_index}/{message.prev_term}"
            return f"after {after} append {what}; commit {message.commit}"
        case AppendReply(rejected=True):
            return f"I lack {message.index}, maybe {message.hint_index}/{message.hint_term}"
        case AppendReply():
            return f"have {message.index}"
        case Committed():
            return f"committed up to {message.commit}/{message.commit_term}"
        case SnapshotChunk():
            done = ", the last" if message.done else ""
            return f"snapshot {message.meta.index}/{message.meta.term} chunk {message.number}{done}"
        case SnapshotReply():
            return f"snapshot {message.index}: chunk {message.number} next"
    return type(message).__name__


class Script:
    """A group and the commands of a trace."""

    def __init__(self, words):
        self.group = Group(**{key: int(value) for key, value in words.items()})
        self.group.pump()

    def do(self, line):
        command, *words = line.split()
        getattr(self, f"do_{command.replace('-', '_')}")(*words)
        self.group.pump()

    def do_run(self, seconds):
        self.group.run(float(seconds))

    def do_propose(self, me, *data):
        self.group.propose(int(me), *(word.encode() for word in data))

    def do_cut(self, which):
        self.group.isolate(*numbers(which))

    def do_heal(self):
        self.group.heal()

    def do_crash(self, me):
        self.group.crash(int(me))

    def do_restart(self, me):
        self.group.restart(int(me))

    def do_add(self, me):
        self.group.add(int(me))

    def do_transfer(self, me, to):
        self.group.raft(int(me)).transfer(int(to), self.group.now)

    def do_compact(self, me):
        self.group[int(me)].compact()

    def do_unreachable(self, me, other):
        self.group.raft(int(me)).unreachable(int(other))

    def do_change(self, me, voters, learners="-"):
        try:
            self.group.raft(int(me)).change(
                set(numbers(voters)), set(numbers(learners)), self.group.now
            )
        except ChangeRefused as error:
            self.group.log.append((int(me), int(me), str(error), True))

    def do_read(self, me):
        index = self.group.read(int(me))
        self.group.log.append((int(me), int(me), f"may read at {index}", True))

    def do_hold(self, me):
        self.group[int(me)].hold_disk = True

    def do_write(self, me):
        self.group.finish_write(int(me))

    def shown(self):
        """What was said since the last time, and where everybody stands."""
        for source, to, message, arrived in self.group.log:
            if isinstance(message, str):
                yield f"  {source}       {message}"
            elif not isinstance(message, Heartbeat | HeartbeatReply):
                lost = "" if arrived else "  (lost)"
                yield f"  {source} -> {to}  {message.term}: {said(message)}{lost}"
        self.group.log.clear()
        for me, replica in sorted(self.group.replicas.items()):
            if not replica.up:
                yield f"  {me} down"
                continue
            at = self.group.status(me)
            removed = ", removed" if at.removed else ""
            yield (
                f"  {me} {at.role.name.lower()} of term {at.term}, log {at.first}..{at.last}"
                f" durable {at.stable} committed {at.commit} applied {at.applied},"
                f" members {members(at.config)}{removed}"
            )


def played(text):
    """The text with what its commands lead to now."""
    out, script = [], None
    for line in text.splitlines():
        if line.startswith("#"):
            out.append(line)
        elif line.startswith("group "):
            script = Script(dict(zip(*[iter(line.split()[1:])] * 2, strict=True)))
            out += [line, *script.shown()]
        elif line.startswith("> "):
            script.do(line[2:])
            out += ["", line, *script.shown()]
    return "\n".join(out) + "\n"


@pytest.mark.contract("RAFT-1", "RAFT-2")
@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.txt")), ids=lambda path: path.stem)
def test_a_raft_trace_is_as_it_was_reviewed(path):
    """The messages of a scripted group are those in the file."""
    text = path.read_text("utf-8")
    now = played(text)
    if WRITE:
        path.write_text(now, "utf-8")
    assert now == text or WRITE, f"{path.name} changed: make traces, and review the diff"


def test_there_are_traces():
    """An empty folder would prove nothing."""
    assert len(list(FOLDER.glob("*.txt"))) >= 6
