"""A process that appends as fast as it can and says what is durable, until it is killed.

Run with a data directory; writes ``group index`` for each append that was acknowledged.
"""

from __future__ import annotations

import random
import sys

from twisted.internet import reactor

from meshsvc.counters import Counters
from meshsvc.storage.files import RealFileSystem
from meshsvc.storage.journal import JournalSettings
from meshsvc.storage.records import Entry, HardState, SnapshotMeta
from meshsvc.storage.service import JournalService, WriterThread
from meshsvc.storage.store import open_store

GROUPS = 3
SETTINGS = JournalSettings(segment=64 * 1024, step=16 * 1024, slice=8 * 1024, reserve=64 * 1024)


def data_of(group, index):
    return f"{group}.{index}.".encode() * (1 + index % 20)


def append(service, log, group, index):
    entry = Entry(index, 1, 0, data_of(group, index))
    done = log.append(HardState(1, group, index - 1), (entry,))

    def acknowledged(_):
        sys.stdout.write(f"{group} {index}\n")
        sys.stdout.flush()
        if index % 200 == 0:
            saved = log.save_snapshot(SnapshotMeta(index, 1), [data_of(group, index)] * 3)
            saved.addCallback(lambda _: log.compact(index - 50))
        append(service, log, group, index + 1)

    done.addCallback(acknowledged)


def main(data_dir):
    mint = random.SystemRandom()

    def opened(_):
        for group in range(GROUPS):
            log = service.group(group)
            found = log.load()
            append(service, log, group, found.compacted_index + len(found.entries) + 1)

    service = JournalService(
        reactor,
        WriterThread(reactor),
        lambda: open_store(
            RealFileSystem(), data_dir, "ab" * 16, 0, lambda: mint.getrandbits(64), SETTINGS
        ),
        lambda code, text: reactor.stop(),
        Counters(),
    )
    service.open().addCallback(opened)
    # The parent kills it long before; this is for when the parent is gone.
    reactor.callLater(60, reactor.stop)
    reactor.run()


if __name__ == "__main__":
    main(sys.argv[1])
