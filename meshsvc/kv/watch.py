"""Who is told what changed: every event once, in order, whole revisions, none left out.

Why that holds: nothing is queued for a watcher. A watcher is a place in the store's log of
changes, ``next_revision``; what is before it was sent, what is from there on will be. Those that
are up to date share one such place and are served together after each turn's writes; others
read on from history, in slices, until they have caught up. A watcher whose sink is full just
stays where it is, at no cost to anybody. One that falls behind compaction is ended, and told so.

The hub tells nothing by itself: ``flush``, ``sync`` and ``tick`` are called by whoever writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from meshsvc.kv import api
from meshsvc.kv.api import Event, EventBatch, EventKind, KeyValue, WatchCreate, WatchResponse
from meshsvc.kv.backend import WatchSink
from meshsvc.kv.batches import fragments, whole_revisions
from meshsvc.kv.errors import Compacted, TooManyRequests
from meshsvc.kv.index import NUMBER, Version
from meshsvc.kv.interests import Interest, Interests, Wish, wish
from meshsvc.kv.mvcc import Mvcc
from meshsvc.kv.streams import Stream, Watch

MAX_WATCHES = 100_000
"""In all streams of a node: about 100 MB, and a flush that touches all of them takes 0.1 s."""

PROGRESS_S = 600.0
"""How long a watcher that asked for progress hears nothing before it is told the revision."""

DUPLICATE_ID = "mvcc: duplicate watch ID provided on the WatchStream"
EMPTY_RANGE = "mvcc: watcher range is empty"
TOO_SLOW = "the watch stream fell {} bytes behind: read the keys and watch anew"


@dataclass(frozen=True, slots=True)
class Limits:
    """How much at a time.

    Attributes:
        backlog: bytes that may pass a full sink by before its stream is closed; a client that
            far behind does better to read the keys anew.
        batch: bytes at which a response is cut; a third of what clients can take at least.
        slice_events: changes gone through in one step; each may go to many watchers.
    """

    backlog: int = 16 * 1024 * 1024
    batch: int = 512 * 1024
    slice_events: int = 500


class WatchHub:
    """All watches of a node.

    Args:
        mvcc: gives the store, which is another one after a snapshot was restored.
        header: gives the header for a revision.
        wake: called when there is something for ``sync`` to do.
        encode: called once with each event, before the first watcher gets it, if given.
        limits: how much at a time.

    Attributes:
        revision: up to which those that are up to date have been served.
    """

    def __init__(
        self,
        mvcc: Callable[[], Mvcc],
        header: Callable[[int], api.Header],
        wake: Callable[[], None],
        encode: Callable[[Event], bytes] | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._mvcc = mvcc
        self._header = header
        self._wake = wake
        self._encode = encode
        self._limits = limits or Limits()
        self._streams: dict[Stream, None] = {}
        self._synced = Interests()
        self._behind = Interests()
        self._behind_count = 0
        self._count = 0
        self._serving = False
        self._asked: dict[Stream, None] = {}
        self._now = 0.0
        self.revision = mvcc().revision

    @property
    def watches(self) -> int:
        """How many watches there are."""
        return self._count

    @property
    def behind(self) -> int:
        """How many of them read history."""
        return self._behind_count

    def stream(self, sink: WatchSink) -> Stream:
        """Open a stream."""
        stream = Stream(self, sink)
        self._streams[stream] = None
        return stream

    # --- what streams ask for ----------------------------------------------------------

    def create(self, stream: Stream, request: WatchCreate) -> int:
        """Begin a watch on a stream; see ``backend.WatchStream``."""
        if stream not in self._streams:
            return api.NO_WATCH
        mvcc = self._mvcc()
        wanted = wish(request)
        reason = self._refusal(stream, request, wanted)
        if reason:
            self._say(stream, api.NO_WATCH, created=True, canceled=True, cancel_reason=reason)
            return api.NO_WATCH
        watch_id = request.watch_id or stream.free_id()
        start = request.start_revision or mvcc.revision + 1
        watch = Watch(watch_id, stream, wanted, start, request.fragment)
        if request.progress_notify:
            watch.progress_at = self._now + PROGRESS_S
        stream.watches[watch_id] = watch
        self._count += 1
        self._enter(watch)
        self._say(stream, watch_id, created=True)
        return watch_id

    def cancel(self, stream: Stream, watch_id: int) -> None:
        """End one watch of a stream."""
        watch = stream.watches.get(watch_id)
        if watch is not None:
            self._forget(watch)
            self._say(stream, watch_id, canceled=True)

    def close(self, stream: Stream) -> None:
        """End all watches of a stream."""
        if stream in self._streams:
            del self._streams[stream]
            for watch in list(stream.watches.values()):
                self._forget(watch)

    def close_all(self, reason: str) -> None:
        """End every stream and tell why."""
        for stream in list(self._streams):
            self._shut(stream, reason)

    def resume(self, stream: Stream) -> None:
        """A stream that was paused goes on where it stopped."""
        stream.paused = False
        stream.backlog = 0
        for watch in stream.watches.values():
            if watch.lagging:
                self._leave(watch)
                watch.lagging = False
                self._enter(watch)
        self._tell_progress()
        if self._behind_count:
            self._wake()

    def request_progress(self, stream: Stream) -> None:
        """Tell a stream, as soon as that is so, which revision all its watches have reached."""
        self._asked[stream] = None
        self._tell_progress()

    def _tell_progress(self) -> None:
        for stream in list(self._asked) if not self._serving else ():
            if stream not in self._streams:
                del self._asked[stream]
            elif not stream.paused and all(
                watch.synced and not watch.lagging for watch in stream.watches.values()
            ):
                del self._asked[stream]
                self._progress(stream, api.NO_WATCH)

    # --- what the writer calls ---------------------------------------------------------

    def flush(self) -> bool:
        """Serve those that are up to date with what was written since, a slice of it.

        Returns:
            whether there is more.
        """
        mvcc = self._mvcc()
        if not len(self._synced):
            self.revision = mvcc.revision
            return False
        first = self.revision + 1
        self.revision = self._slice_end(mvcc, first, mvcc.revision)
        self._serve(self._synced, first, self.revision, None)
        self._tell_progress()
        return self.revision < mvcc.revision

    def sync(self) -> bool:
        """Bring those that read history a slice further.

        Returns:
            whether there is more to do.
        """
        mvcc = self._mvcc()
        ready = dict.fromkeys(self._readers())
        lost = [watch for watch in ready if watch.next_revision < mvcc.compact_revision]
        for watch in lost:
            del ready[watch]
            self._forget(watch)
            revision = mvcc.compact_revision
            self._say(watch.stream, watch.watch_id, canceled=True, compact_revision=revision)
        if ready:
            first = max(min(watch.next_revision for watch in ready), mvcc.first_change)
            last = self._slice_end(mvcc, first, self.revision)
            self._serve(self._behind, first, last, ready)
            self._catch_up(ready, last)
            self._tell_progress()
        return next(self._readers(), None) is not None

    def tick(self, now: float) -> None:
        """Tell progress to those who asked for it and heard nothing for long."""
        self._now = now
        for stream in list(self._streams):
            for watch in list(stream.watches.values()):
                if watch.progress_at is None or watch.progress_at > now:
                    continue
                if watch.synced and not stream.paused:
                    watch.progress_at = now + PROGRESS_S
                    self._progress(stream, watch.watch_id)

    def restored(self) -> None:
        """The store is another one now: everybody reads on from where they were."""
        before, self.revision = self.revision, self._mvcc().revision
        for interest in list(self._synced):
            for watch in list(interest.watches):
                self._leave(watch)
                if not watch.lagging:
                    watch.next_revision = max(watch.next_revision, before + 1)
                watch.lagging = False
                self._enter(watch)

    # --- how it is done ----------------------------------------------------------------

    def _readers(self) -> Iterator[Watch]:
        """Those that read history and whose sink can take more."""
        for interest in self._behind:
            for watch in interest.watches:
                if not watch.stream.paused:
                    yield watch

    def _refusal(self, stream: Stream, request: WatchCreate, wanted: Wish) -> str:
        first, end = wanted.interval
        if end is not None and end <= first:
            return EMPTY_RANGE
        if request.start_revision < 0:
            return Compacted.text
        if request.watch_id in stream.watches and request.watch_id:
            return DUPLICATE_ID
        if self._count >= MAX_WATCHES:
            return TooManyRequests.text
        return ""

    def _enter(self, watch: Watch) -> None:
        compacted = watch.next_revision < self._mvcc().compact_revision
        if watch.next_revision > self.revision and not compacted:
            watch.synced = True
            self._synced.add(watch)
        else:
            self._behind.add(watch)
            self._behind_count += 1
            self._wake()

    def _leave(self, watch: Watch) -> None:
        if watch.synced:
            watch.synced = False
            self._synced.remove(watch)
        else:
            self._behind.remove(watch)
            self._behind_count -= 1

    def _forget(self, watch: Watch) -> None:
        self._leave(watch)
        del watch.stream.watches[watch.watch_id]
        self._count -= 1

    def _shut(self, stream: Stream, reason: str) -> None:
        self.close(stream)
        stream.sink.watch_closed(reason)

    def _say(self, stream: Stream, watch_id: int, **what: Any) -> None:
        header = self._header(self._mvcc().revision)
        stream.sink.watch_response(WatchResponse(watch_id, header, **what))

    def _progress(self, stream: Stream, watch_id: int) -> None:
        # Not the store's revision: what was written since the last flush has not been sent.
        stream.sink.watch_response(WatchResponse(watch_id, self._header(self.revision)))

    def _slice_end(self, mvcc: Mvcc, first: int, limit: int) -> int:
        """The last of the revisions from ``first`` on that make a slice."""
        last, events = first - 1, 0
        while last < limit and events < self._limits.slice_events:
            last += 1
            events += len(mvcc.changes(last))
        return last

    def _serve(
        self, interests: Interests, first: int, last: int, only: dict[Watch, None] | None
    ) -> None:
        """Send the changes of some revisions to all who wait for them, or to ``only`` some."""
        mvcc = self._mvcc()
        touched: dict[int, Interest] = {}
        for revision in range(first, last + 1):
            for version in mvcc.changes(revision):
                plain: Event | None = None
                full: Event | None = None
                for interest in interests.of(version[0]):
                    wish = interest.wish
                    if not (wish.puts if version[NUMBER] else wish.deletes):
                        continue
                    if wish.prev_kv:
                        event = full = full or self._event(mvcc, version, revision, True)
                    else:
                        event = plain = plain or self._event(mvcc, version, revision, False)
                    interest.events.append(event)
                    touched[id(interest)] = interest
        header = self._header(last)
        self._serving = True
        try:
            for interest in touched.values():
                events, interest.events = interest.events, []
                self._deliver(interest, events, only, header)
        finally:
            self._serving = False

    def _event(self, mvcc: Mvcc, version: Version, revision: int, with_prev: bool) -> Event:
        kind = EventKind.PUT if version[NUMBER] else EventKind.DELETE
        before = None
        if with_prev and version[NUMBER] != 1 and revision > mvcc.compact_revision:
            before = mvcc.index.at(version[0], revision - 1)
        prev_kv = KeyValue._make(before) if before is not None else None
        event = Event(kind, KeyValue._make(version), prev_kv)
        if self._encode is not None:
            event.encoded = self._encode(event)
        return event

    def _deliver(
        self,
        interest: Interest,
        events: list[Event],
        only: dict[Watch, None] | None,
        header: api.Header,
    ) -> None:
        shared = whole_revisions(events, self._limits.batch)
        oldest = events[0].kv.mod_revision
        for watch in list(interest.watches):
            if only is not None and watch not in only:
                continue
            batches = shared
            if watch.next_revision > oldest and not watch.lagging:
                start = watch.next_revision
                mine = [event for event in events if event.kv.mod_revision >= start]
                batches = whole_revisions(mine, self._limits.batch)
            self._give(watch, batches, header)

    def _give(self, watch: Watch, batches: list[EventBatch], header: api.Header) -> None:
        stream, limit = watch.stream, self._limits.batch
        for position, batch in enumerate(batches):
            if stream.watches.get(watch.watch_id) is not watch:
                return  # the sink ended it, in answer to another response
            if stream.paused:
                self._miss(watch, batches[position:])
                return
            pieces = fragments(batch, limit) if watch.fragment else [batch]
            for number, piece in enumerate(pieces, 1):
                response = WatchResponse(
                    watch.watch_id, header, piece, fragment=number < len(pieces)
                )
                stream.sink.watch_response(response)
            if watch.progress_at is not None:
                watch.progress_at = self._now + PROGRESS_S

    def _miss(self, watch: Watch, batches: list[EventBatch]) -> None:
        """A watcher stays where it is, because its sink is full."""
        stream = watch.stream
        if not watch.lagging:
            watch.lagging = True
            watch.next_revision = batches[0].events[0].kv.mod_revision
        stream.backlog += sum([batch.size for batch in batches])
        if stream.backlog > self._limits.backlog:
            self._shut(stream, TOO_SLOW.format(stream.backlog))

    def _catch_up(self, ready: dict[Watch, None], last: int) -> None:
        for watch in ready:
            if watch.stream.watches.get(watch.watch_id) is not watch or watch.lagging:
                watch.lagging = False
                continue
            watch.next_revision = max(watch.next_revision, last + 1)
            if watch.next_revision > self.revision:
                self._leave(watch)
                self._enter(watch)
