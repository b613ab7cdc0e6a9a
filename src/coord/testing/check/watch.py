"""Whether watchers saw what they were promised (etcd API: Watch, "Guarantees").

The reference is the list of all changes, from the model. For each watcher, with fragments joined:

- *created*: its creation is answered before anything else;
- *ordered*, *unique*, *atomic*: revisions never fall, no event comes twice, no revision is spread over
  two responses;
- *reliable*: from the first to the last revision seen nothing is missing, nothing is there that did not
  happen or was not asked for (*filter*), and events of a revision keep their order;
- *resumable*: the first event is the first one from the start revision on;
- *bookmarkable*: progress never falls, comes not before the start revision, and divides the events:
  all up to it before, all beyond it after;
- *content*: value, versions and lease are those of the change; *previous*: the pair as of the revision
  before, if asked for; missing only for creations and where a compaction has been;
- *compacted*: a watcher is ended for lack of history only if it lacked some, and is if it did;
- *complete*: who stays to the end has seen everything;
- *ended*: nothing comes after the end.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from coord.testing.check.verdict import Verdict, Violation, verdict_of
from coord.testing.history import (
    Call,
    Pair,
    Record,
    Return,
    SeenEvent,
    WatchEnded,
    WatchOpened,
    WatchResponded,
    key_bytes,
    key_text,
    value_text,
)
from coord.testing.model import Change, Version, in_range
from coord.wire import rpc_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence


@dataclass(slots=True)
class _Life:
    """One watcher, from its records."""

    opened: WatchOpened
    responses: list[WatchResponded] = field(default_factory=list[WatchResponded])
    ended: WatchEnded | None = None


def check_watches(
    changes: Sequence[Change],
    records: Iterable[Record],
    *,
    text: Callable[[bytes], str] = value_text,
) -> Verdict:
    """Judge the watches of a run. ``changes`` are all changes, in their order.

    ``text`` makes of their values what the history holds: those of a ``Reference`` are texts already.
    """
    reference = _Reference(changes, text)
    lives: dict[str, _Life] = {}
    late: list[Violation] = []
    compactions: dict[int, int] = {}
    for record in records:
        match record:
            case WatchOpened():
                lives[record.watcher] = _Life(record)
            case WatchResponded():
                life = lives[record.watcher]
                if life.ended is None:
                    life.responses.append(record)
                else:
                    late.append(_violation("ended", record.watcher, "a response after the end"))
            case WatchEnded():
                lives[record.watcher].ended = record
            case Call() if record.op == "Compact":
                request = rpc_pb2.CompactionRequest.FromString(record.request)
                compactions[record.id] = request.revision
                reference.compaction_begins(record.ts, request.revision)
            case Return() if record.id in compactions and record.status == "ok":
                reference.compaction_done(record.ts, compactions[record.id], record.revision)
            case _:
                pass
    for life in lives.values():
        late += _Check(life, reference).run()
    return verdict_of("watch", len(lives), late)


def _violation(rule: str, watcher: str, text: str) -> Violation:
    return Violation(rule=rule, operations=(watcher,), text=text)


class _Reference:
    """All changes, the versions of each key, and the compactions with their times."""

    def __init__(self, changes: Sequence[Change], text: Callable[[bytes], str]) -> None:
        self.changes = changes
        self.text = text
        self.revisions = [change.revision for change in changes]
        self._begun: list[tuple[int, int]] = []
        self._done: list[tuple[int, int, int]] = []
        self._versions: dict[bytes, list[tuple[int, Version | None]]] = {}
        for change in changes:
            self._versions.setdefault(change.key, []).append((change.revision, change.now))

    def compaction_begins(self, ts: int, revision: int) -> None:
        self._begun.append((ts, revision))

    def compaction_done(self, ts: int, revision: int, at: int) -> None:
        self._done.append((ts, revision, at))

    def may_be_compacted(self, ts: int) -> int:
        """Return the highest compaction that had been asked for by then."""
        return max((revision for begun, revision in self._begun if begun <= ts), default=-1)

    def is_compacted(self, ts: int, reached: int) -> int:
        """Return the highest compaction that was certainly done by then, on a member that had ``reached``.

        A watch may be opened on a member that lags behind: it knows of the compaction for sure only once
        it has a revision that came later.
        """
        known = (each for done, each, at in self._done if done <= ts and at < reached)
        return max(known, default=-1)

    def between(self, first: int, last: int) -> Sequence[Change]:
        """Return the changes of a span of revisions, both ends included."""
        begin = bisect_left(self.revisions, first)
        return self.changes[begin : bisect_right(self.revisions, last, lo=begin)]

    def before(self, key: bytes, revision: int) -> tuple[int, Version | None]:
        """Return a key's version just before a revision, and since when."""
        versions = self._versions.get(key, [])
        place = bisect_left(versions, revision, key=lambda version: version[0])
        return versions[place - 1] if place else (0, None)


class _Check:
    """One watcher's life against the reference."""

    def __init__(self, life: _Life, reference: _Reference) -> None:
        self._life = life
        self._opened = life.opened
        self._reference = reference
        self._found: list[Violation] = []
        self._first = self._opened.start
        self._last = 0  # revision of the last event
        self._progress = 0
        self._events: list[SeenEvent] = []

    def run(self) -> list[Violation]:
        """Return the violations."""
        responses = self._life.responses
        if responses and not responses[0].created:
            self._report("created", "something came before the answer to the creation")
        created = next((r for r in responses if r.created), None)
        if created is not None and self._first <= 0:
            self._first = created.revision + 1
        for response in self._joined():
            self._take(response)
        self._check_reference()
        self._check_end()
        return self._found

    def _report(self, rule: str, text: str) -> None:
        self._found.append(_violation(rule, self._opened.watcher, text))

    def _joined(self) -> Iterable[WatchResponded]:
        """Return the responses with fragments put together."""
        parts: list[SeenEvent] = []
        for response in self._life.responses:
            if response.created:
                continue
            if response.fragment:
                parts += response.events
                continue
            if parts and not response.events:
                self._report("atomic", "something stands between the fragments of a response")
            if parts:
                yield WatchResponded(
                    watcher=response.watcher,
                    ts=response.ts,
                    revision=response.revision,
                    events=(*parts, *response.events),
                )
                parts = []
            else:
                yield response
        if parts:
            # The connection went in the midst of a response: it was never delivered.
            last = parts[-1].pair.mod_revision
            if self._life.ended is not None and self._life.ended.reached >= last:
                self._report("atomic", "the last fragment of a response never came")

    def _take(self, response: WatchResponded) -> None:
        if response.progress:
            self._take_progress(response)
            return
        if not response.events:
            self._report("filter", f"a response without events at revision {response.revision}")
            return
        if response.events[0].pair.mod_revision == self._last:
            self._report("atomic", f"revision {self._last} is spread over two responses")
        for event in response.events:
            revision = event.pair.mod_revision
            if revision < self._last:
                self._report("ordered", f"revision {revision} after {self._last}")
            if revision <= self._progress:
                self._report("bookmarkable", f"revision {revision} after progress {self._progress}")
            self._last = max(self._last, revision)
            self._check_event(event, response.ts)
            self._events.append(event)
        if response.revision < self._last:
            self._report("header", f"{response.revision} over an event of {self._last}")

    def _take_progress(self, response: WatchResponded) -> None:
        revision = response.revision
        if revision < max(self._progress, self._last):
            self._report(
                "bookmarkable", f"progress {revision} after {max(self._progress, self._last)}"
            )
        if 0 < self._opened.start > revision:
            self._report("bookmarkable", f"progress {revision} before start {self._opened.start}")
        expected = self._wanted(self._first, revision)
        if expected and expected[-1].revision > self._last:
            self._report(
                "bookmarkable", f"progress {revision}, and {expected[-1].revision} never came"
            )
        self._progress = max(self._progress, revision)

    def _wants(self, change: Change) -> bool:
        asked = self._opened
        # An empty key on the wire stands for the zero byte.
        if not in_range(change.key, asked.key or b"\x00", asked.end):
            return False
        return not (asked.no_deletes if change.now is None else asked.no_puts)

    def _wanted(self, first: int, last: int) -> list[Change]:
        return [change for change in self._reference.between(first, last) if self._wants(change)]

    # Each event by itself.

    def _check_event(self, event: SeenEvent, ts: int) -> None:
        asked, pair = self._opened, event.pair
        if asked.no_deletes if event.is_delete else asked.no_puts:
            self._report("filter", f"an event of the kind that is filtered at {pair.mod_revision}")
        if event.is_delete and (pair.create_revision or pair.version or pair.value or pair.lease):
            self._report("content", f"a deletion with more than a key at {pair.mod_revision}")
        previous = event.previous
        if not asked.prev_kv:
            if previous is not None:
                self._report("previous", f"not asked for, at {pair.mod_revision}")
            return
        key = key_bytes(pair.key)
        revision, version = self._reference.before(key, pair.mod_revision)
        if previous is not None:
            if version is None:
                self._report("previous", f"of nothing, at {pair.mod_revision}")
            elif previous != _pair(key, version, self._reference.text):
                self._report("previous", f"not the pair of {revision}, at {pair.mod_revision}")
        elif version is not None and pair.mod_revision > self._reference.may_be_compacted(ts):
            self._report("previous", f"missing without a compaction, at {pair.mod_revision}")

    # All events together.

    def _check_reference(self) -> None:
        seen = [_told(event) for event in self._events]
        if len(set(seen)) != len(seen) and not self._touched_twice():
            self._report("unique", f"{_first_double(seen)} came twice")
        text = self._reference.text
        expected = [_happened(change, text) for change in self._wanted(self._first, self._last)]
        if [event[:3] for event in seen] == [event[:3] for event in expected]:
            for event, change in zip(seen, expected, strict=True):
                if event != change:
                    self._report("content", f"{event} instead of {change}")
            return
        missing = [event for event in expected if event[:3] not in {each[:3] for each in seen}]
        extra = [event for event in seen if event[:3] not in {each[:3] for each in expected}]
        if missing and expected[0] == missing[0]:
            rule = "resumable" if self._opened.start > 0 else "reliable"
            self._report(rule, f"starts after {missing[0]}, the first from {self._first} on")
        elif missing:
            self._report("reliable", f"{len(missing)} are missing, the first is {missing[0]}")
        if extra:
            self._report("reliable", f"{len(extra)} never happened here, the first is {extra[0]}")
        if not missing and not extra:
            self._report("ordered", "events of one revision are not in the order of its changes")

    def _touched_twice(self) -> bool:
        """Tell whether a transaction changed one key twice: then an event rightly has a double."""
        changes = [
            (change.revision, change.key) for change in self._wanted(self._first, self._last)
        ]
        return len(set(changes)) != len(changes)

    def _check_end(self) -> None:
        ended = self._life.ended
        start = self._opened.start
        created = next((r for r in self._life.responses if r.created), None)
        reached = 0 if created is None else created.revision
        if 0 < start < self._reference.is_compacted(self._opened.ts, reached):
            if self._events:
                self._report("compacted", "events of a watch from before the compaction")
            elif ended is not None and ended.reached and not ended.compact_revision:
                self._report("compacted", "a watch from before the compaction goes on")
        if ended is None:
            return
        if ended.compact_revision:
            needed = max(self._first, self._last + 1, self._progress + 1)
            if needed >= ended.compact_revision:
                self._report(
                    "compacted", f"ended for {ended.compact_revision}, and it needed {needed}"
                )
            if ended.compact_revision > self._reference.may_be_compacted(ended.ts):
                self._report("compacted", f"nobody compacted to {ended.compact_revision}")
        elif ended.reached:
            rest = self._wanted(max(self._last + 1, self._first), ended.reached)
            if rest:
                self._report("complete", f"{len(rest)} never came, the first of {rest[0].revision}")


# Comparable forms of events: revision, key, kind, then what the pair says.
_Told = tuple[int, str, bool, str, int, int, int]


def _told(event: SeenEvent) -> _Told:
    pair = event.pair
    if event.is_delete:
        return (pair.mod_revision, pair.key, True, "", 0, 0, 0)
    return (
        pair.mod_revision, pair.key, False,
        pair.value, pair.create_revision, pair.version, pair.lease,
    )  # fmt: skip


def _happened(change: Change, text: Callable[[bytes], str]) -> _Told:
    key, now = key_text(change.key), change.now
    if now is None:
        return (change.revision, key, True, "", 0, 0, 0)
    return (
        change.revision, key, False, text(now.value), now.create, now.version, now.lease
    )  # fmt: skip


def _pair(key: bytes, version: Version, text: Callable[[bytes], str]) -> Pair:
    return Pair(
        key=key_text(key),
        value=text(version.value),
        create_revision=version.create,
        mod_revision=version.mod,
        version=version.version,
        lease=version.lease,
    )


def _first_double(seen: Sequence[_Told]) -> _Told | None:
    known: set[_Told] = set()
    for event in seen:
        if event in known:
            return event
        known.add(event)
    return None
