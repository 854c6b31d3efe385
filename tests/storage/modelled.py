"""What a journal must remember, written as plainly as can be, and workloads to check it with."""

from __future__ import annotations

from random import Random

from meshsvc.storage.journal import JournalSettings
from meshsvc.storage.opening import open_journal
from meshsvc.storage.records import Append, Compact, Entry, HardState, Reset

FOLDER = "/d/shard-0/journal"
NODE = "ab" * 16
SMALL = JournalSettings(segment=700, step=256, slice=150, reserve=512)
"""Sizes at which a short workload rolls, moves and drops segments."""


class Model:
    """All groups: {group: (hard state, compacted, entries)}."""

    def __init__(self, groups=None):
        self.groups = dict(groups or {})

    def copy(self):
        return Model(self.groups)

    def apply(self, change):
        hard, compacted, entries = self.groups.get(change.group, (HardState(), (0, 0), ()))
        if isinstance(change, Append):
            hard = change.hard_state or hard
            cut = change.truncate_from
            if cut is None and change.entries:
                cut = change.entries[0].index
            if cut is not None:
                entries = tuple(e for e in entries if e.index < cut)
            entries += change.entries
        elif isinstance(change, Compact) and change.index <= compacted[0]:
            return
        elif isinstance(change, Compact):
            [term] = [e.term for e in entries if e.index == change.index]
            compacted = (change.index, term)
            entries = tuple(e for e in entries if e.index > change.index)
        else:
            compacted, entries = (change.index, change.term), ()
        self.groups[change.group] = (hard, compacted, entries)

    def __eq__(self, other):
        return self._told() == other._told()

    def _told(self):
        nothing = (HardState(), (0, 0), ())
        return {group: state for group, state in self.groups.items() if state != nothing}

    __hash__ = None


def opened(disk, settings=SMALL, node=NODE, shard=0, rng=None, folder=FOLDER):
    rng = rng or Random(5)
    return open_journal(disk, folder, node, shard, lambda: rng.getrandbits(64), settings)


def content(journal):
    """What a journal that was just opened holds, as a model."""
    model = Model()
    for group in journal.groups():
        state = journal.group(group)
        entries = journal.take_entries(group)
        assert [e.term for e in entries] == list(state.terms)
        model.groups[group] = (state.hard_state, state.compacted, entries)
    return model


def some_changes(seed, steps, groups=3, largest=80):
    """Batches of changes that fit each other: what several Raft groups may ask for."""
    rng = Random(seed)
    model, batches = Model(), []
    for number in range(steps):
        batch = []
        for _ in range(rng.randrange(1, 4)):
            change = _some_change(rng, model, rng.randrange(groups), number, largest)
            model.apply(change)
            batch.append(change)
        batches.append(batch)
    return batches


def _some_change(rng, model, group, number, largest):
    hard, compacted, entries = model.groups.get(group, (HardState(), (0, 0), ()))
    kind = rng.random()
    if group == 0 and number > 5:
        kind = 1.0  # this one is never compacted, and so keeps old segments alive
        if rng.random() < 0.8:
            return Append(0)
    if kind < 0.15 and len(entries) > 2:
        return Compact(group, entries[rng.randrange(len(entries))].index)
    if kind < 0.18:
        return Reset(group, compacted[0] + len(entries) + 7, hard.term + 1)
    first = compacted[0] + 1
    last = compacted[0] + len(entries)
    start = last + 1 if rng.random() < 0.8 else rng.randrange(first, last + 2)
    new = tuple(
        Entry(start + i, number + 1, i % 256, rng.randbytes(rng.randrange(largest)))
        for i in range(rng.randrange(4))
    )
    hard = HardState(number + 1, rng.getrandbits(64), last) if rng.random() < 0.5 else None
    cut = start if not new and start <= last and rng.random() < 0.5 else None
    return Append(group, hard, new, cut)
