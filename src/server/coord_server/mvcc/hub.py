"""Who watches what, and how each watcher gets every matching event once, in order, whole revisions.

Watchers of the same range form a *group*. An applied event is found to concern a group with one
look-up (a dict for single keys, an interval index for ranges) and is filed there once. At the end of
a turn ``flush`` turns what was filed into responses: one response for each revision and watcher, whose
events are encoded once and shared by all watchers of all groups (etcd API: Watch).

A watcher is in one of these states.

- *synced*: everything up to the hub's revision was delivered to its sink, or lies in its backlog.
- *unsynced*: it needs history, from ``next_revision`` on. It waits in a queue for ``catch_up``.
- *future*: its start revision has not come yet.
- *compacted*: history that it needed is gone. It was told so, and gets nothing more.

Back-pressure. A *sink* is the stream behind one or many watchers. When it says it has no room, events
of its watchers go to their backlogs, and leave many to a response once there is room. When backlogs
grow beyond a bound they are dropped, and their watchers turn unsynced: what was dropped is read from
history again. So memory is bounded, and nothing is lost, doubled or torn apart: all backlogs together
hold ``HUB_BACKLOG_BYTES``, and what streams were given and have not sent is ``UNSENT_BYTES`` over all
of them, or what one may always have if that is more, and beyond that one event as large as it is.

Everything here runs to its end when called; no clock, no I/O. Sinks take bytes and must not call back.
"""

from __future__ import annotations

import heapq
from collections import deque
from typing import TYPE_CHECKING, Final

from coord.runtime import invariant
from coord.wire.fast import HeaderStamp, delimited, varint, watch_event_field
from coord_server.mvcc.events import DELETE, Event
from coord_server.mvcc.fragments import Frame, responses
from coord_server.mvcc.interval import RangeMap
from coord_server.mvcc.watch_group import Due, Group, History

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# Distinct revisions in one response to a watcher that catches up (etcd API: Watch).
BATCH_REVISIONS: Final = 1_000
# A response that could hold many revisions is closed at this size; receivers often stop at 4 MiB.
BATCH_BYTES: Final = 1 << 20
# Bytes handed to a sink within one flush before its further watchers go to their backlogs.
OUTBOX_BYTES: Final = 256 << 10
# Backlogs of one sink, and of all, before watchers fall back to history.
SINK_BACKLOG_BYTES: Final = 1 << 20
HUB_BACKLOG_BYTES: Final = 64 << 20
# Sinks share this much of responses that hold many revisions, and each gets the least at any rate.
UNSENT_BYTES: Final = 64 << 20
LEAST_BATCH_BYTES: Final = 64 << 10
# Found bytes that cost a turn as much as an event.
_BYTES_PER_CHARGE: Final = 4 << 10
# What one waiting response costs besides its events: an entry of a list and a tuple.
_ENTRY_BYTES: Final = 96

# The bits of a variant: how a watcher's responses differ from those of its group.
WITH_PREVIOUS: Final = 1
WITHOUT_PUTS: Final = 2
WITHOUT_DELETES: Final = 4

FUTURE: Final = "future"
UNSYNCED: Final = "unsynced"
SYNCED: Final = "synced"
COMPACTED: Final = "compacted"
REMOVED: Final = "removed"

_PREVIOUS_TAG: Final = 0x1A


class Sink:
    """Where watchers' responses go: one stream.

    ``deliver`` takes responses in order and returns whether there is room for more; if not, the hub
    waits for ``WatchHub.resume``.
    """

    __slots__ = (
        "backlog_bytes", "blocked", "deliver", "held", "outbox", "outbox_bytes", "parked",
        "watcher_count",
    )  # fmt: skip

    def __init__(self, deliver: Callable[[list[bytes]], bool]) -> None:
        self.deliver: Callable[[list[bytes]], bool] = deliver
        self.blocked: bool = False
        self.outbox: list[bytes] = []
        self.outbox_bytes: int = 0
        # Watchers with a backlog, the longest waiting first, and unsynced ones that wait for room.
        self.held: dict[Watcher, None] = {}
        self.backlog_bytes: int = 0
        self.parked: list[Watcher] = []
        self.watcher_count: int = 0


class Watcher:
    """One range, one sink, and how far it has got. The hub alone changes it after ``add``."""

    __slots__ = (
        "backlog", "charge", "dues", "end", "fragment_bytes", "group", "id_field", "key",
        "next_revision", "served", "share", "sink", "start", "state", "variant",
    )  # fmt: skip

    def __init__(
        self,
        sink: Sink,
        watch_id: int,
        key: bytes,
        end: bytes,
        *,
        variant: int = 0,
        fragment_bytes: int = 0,
    ) -> None:
        """``key`` and ``end`` are as on the wire: no end means one key, a zero byte means from key.

        ``fragment_bytes``: responses of this size and more are split; 0 means never.
        """
        self.sink: Sink = sink
        self.key: bytes = key
        self.end: bytes = end
        self.variant: int = variant
        self.fragment_bytes: int = fragment_bytes
        self.id_field: bytes = b"\x10" + varint(watch_id) if watch_id else b""
        # Watchers of one group with equal ``share`` get equal bytes.
        self.share: tuple[int, int, int] = (variant, watch_id, fragment_bytes)
        self.state: str = REMOVED
        # What was asked for: before it comes there is nothing to promise.
        self.start: int = 0
        self.next_revision: int = 0
        self.group: Group | None = None
        # (revision, header, events) of each revision that could not leave yet.
        self.backlog: list[Frame] = []
        # Its part of what its sink's backlogs cost, and what it holds together with others.
        self.charge: int = 0
        self.dues: list[Due] = []
        # Set when a response with events leaves; whoever sends progress clears it.
        self.served: bool = False

    @property
    def caught_up(self) -> bool:
        """Whether everything up to the hub's revision was handed to the sink."""
        return self.state == SYNCED and not self.backlog

    def has_seen(self, revision: int) -> bool:
        """Tell whether progress may be told at the hub's ``revision``: caught up, and begun by then."""
        return self.start <= revision and self.caught_up


class WatchHub:
    """All watchers of a member.

    ``header`` encodes field 1 of a response for a revision; ``wake`` is called when ``catch_up`` has
    something to do. Both are set by whoever serves the watchers.
    """

    def __init__(self, store: History) -> None:
        self._store = store
        stamp = HeaderStamp(0, 0)
        self.header: Callable[[int], bytes] = lambda revision: stamp.field(revision, 0)
        self.wake: Callable[[], None] = lambda: None
        self._groups: RangeMap[Group] = RangeMap()
        self._dirty: list[Group] = []
        self._queue: deque[Watcher] = deque()
        self._future: list[tuple[int, int, Watcher]] = []
        self._serial = 0
        self._backlog_bytes = 0
        self._sink_count = 0
        self.watcher_count: int = 0

    @property
    def backlog_bytes(self) -> int:
        """What all backlogs hold, in bytes; responses that several share count once."""
        return self._backlog_bytes

    # What the replica calls.

    def notify(self, events: Sequence[Event], revision: int) -> None:
        """File the events of one applied entry, in (revision, sub revision) order.

        ``revision`` is the store's, after the entry. Called before anything else can look at the
        store; the responses leave with the next ``flush``.
        """
        if len(self._groups):
            around = self._groups.around
            dirty = self._dirty
            for event in events:
                groups = around(event.key)
                if groups:
                    filed = (event, watch_event_field(event.body))
                    for group in groups:
                        if not group.pending:
                            dirty.append(group)
                        group.pending.append(filed)
        if self._future and self._future[0][0] <= revision:
            self._begin_future(revision)

    def flush(self) -> None:
        """Hand the responses of all filed events to their sinks. Cheap when there are none."""
        if not self._dirty:
            return
        dirty, self._dirty = self._dirty, []
        touched: dict[Sink, None] = {}
        for group in dirty:
            pending, group.pending = group.pending, []
            if group.cohorts:
                self._fan_out(group, pending, touched)
            for listener in list(group.listeners):
                listener([event for event, _ in pending])
        for sink in touched:
            if not sink.blocked:
                self._hand_over(sink)
                if sink.held:
                    self._drain(sink)

    # What the streams call.

    def add(self, watcher: Watcher, start: int) -> None:
        """Begin: deliver matching events with revision >= ``start``; 0 means from now on.

        History that is in memory leaves at once, so the creation must have been answered before.
        Older history is read in turns with that of others.
        """
        self.flush()
        self._count(watcher, 1)
        watcher.start = start
        current = self._store.revision
        if start <= 0 or start == current + 1:
            self._join(watcher)
        elif start > current:
            watcher.state = FUTURE
            watcher.next_revision = start
            self._serial += 1
            heapq.heappush(self._future, (start, self._serial, watcher))
        else:
            watcher.state = UNSYNCED
            watcher.next_revision = start
            if start < self._store.oldest_in_memory or watcher.sink.blocked:
                self._enqueue(watcher)
            else:
                self._advance(watcher, {})

    def remove(self, watcher: Watcher) -> None:
        """End: nothing more is delivered. A watcher that has ended already is passed over."""
        if watcher.state == REMOVED:
            return
        self.flush()
        if watcher.state != COMPACTED:
            self._count(watcher, -1)
        if watcher.group is not None:
            self._leave(watcher)
        # Queues find out when they come across it.
        watcher.state = REMOVED

    def resume(self, sink: Sink) -> None:
        """There is room again: send backlogs, the longest waiting first, then go on with history."""
        self.flush()
        sink.blocked = False
        self._drain(sink)
        if not sink.blocked and sink.parked:
            self._queue.extend(sink.parked)
            sink.parked = []
            self.wake()

    def catch_up(self, budget: int) -> bool:
        """Read history for unsynced watchers in turn, about ``budget`` events; tell if there is more.

        Watchers of one range that need the same revisions share one reading.
        """
        self.flush()
        read: dict[tuple[bytes, bytes, int], tuple[Sequence[Event], int]] = {}
        while budget > 0 and self._queue:
            watcher = self._queue.popleft()
            if watcher.state != UNSYNCED:
                continue
            if watcher.sink.blocked:
                watcher.sink.parked.append(watcher)
                continue
            budget -= self._advance(watcher, read)
        return bool(self._queue)

    def before_replacement(self) -> None:
        """Make every synced watcher read on from history: the state is about to be replaced."""
        self.flush()
        following = self._store.revision + 1
        for group in self._groups.items():
            for watcher in [w for cohort in group.cohorts.values() for w in cohort]:
                watcher.next_revision = watcher.backlog[0][0] if watcher.backlog else following
                self._fall_back(watcher)

    def after_replacement(self) -> None:
        """Go on with a later state; whoever listens inside the server looks at it anew."""
        self._begin_future(self._store.revision)
        for group in self._groups.items():
            for listener in list(group.listeners):
                listener([])
        self.wake()

    def listen(
        self, key: bytes, end: bytes, run: Callable[[list[Event]], None]
    ) -> Callable[[], None]:
        """Call ``run`` with the matching events of each turn from now on; return how to stop that.

        For waits inside the server. ``run`` must not call the hub.
        """
        self.flush()
        group = self._group(key, end)
        group.listeners.append(run)

        def stop() -> None:
            if run in group.listeners:
                group.listeners.remove(run)
                self._forget_if_empty(group)

        return stop

    # Synced watchers.

    def _fan_out(
        self, group: Group, pending: list[tuple[Event, bytes]], touched: dict[Sink, None]
    ) -> None:
        frames_of: dict[int, tuple[list[Frame], int]] = {}
        late: dict[int, list[Watcher]] = {}
        for share, cohort in group.cohorts.items():
            variant = share[0]
            found = frames_of.get(variant)
            if found is None:
                found = frames_of[variant] = self._frames(pending, variant)
            frames, size = found
            if not frames:
                continue
            messages: list[bytes] | None = None
            for watcher in cohort:
                sink = watcher.sink
                if sink.blocked or watcher.backlog or sink.outbox_bytes > OUTBOX_BYTES:
                    late.setdefault(variant, []).append(watcher)
                    touched[sink] = None
                    continue
                if messages is None:
                    messages = responses(watcher.id_field, watcher.fragment_bytes, frames)
                watcher.served = True
                outbox = sink.outbox
                if not outbox:
                    touched[sink] = None
                outbox += messages
                sink.outbox_bytes += size
        for variant, watchers in late.items():
            frames, size = frames_of[variant]
            due = Due(size)
            for watcher in watchers:
                self._hold(watcher, frames, due, size // len(watchers))

    def _frames(
        self, pending: Sequence[tuple[Event, bytes]], variant: int
    ) -> tuple[list[Frame], int]:
        """Return the responses of a variant without their watch ids, and their size in bytes."""
        if variant:
            pending = self._filtered(pending, variant)
        frames: list[Frame] = []
        size = 0
        place = 0
        while place < len(pending):
            event, fields = pending[place]
            revision = event.mod_revision
            place += 1
            if place < len(pending) and pending[place][0].mod_revision == revision:
                parts = [fields]
                while place < len(pending) and pending[place][0].mod_revision == revision:
                    parts.append(pending[place][1])
                    place += 1
                fields = b"".join(parts)
            header = self.header(revision)
            frames.append((revision, header, fields))
            size += len(header) + len(fields) + 2
        return frames, size

    def _filtered(
        self, pending: Sequence[tuple[Event, bytes]], variant: int
    ) -> list[tuple[Event, bytes]]:
        kept: list[tuple[Event, bytes]] = []
        for event, field in pending:
            if variant & (WITHOUT_DELETES if event.kind == DELETE else WITHOUT_PUTS):
                continue
            kept.append(
                (event, self._with_previous(event, field) if variant & WITH_PREVIOUS else field)
            )
        return kept

    def _with_previous(self, event: Event, field: bytes) -> bytes:
        """Return the event's field with the pair as of the revision before, where that is known."""
        before = event.mod_revision - 1
        if event.is_create or before < self._store.compact_revision:
            # Not even if the pair is still at hand: it would depend on when this member started.
            return field
        body = event.body_with_prev
        if body is not None:
            return watch_event_field(body)
        previous = self._store.value_at(event.key, before)
        if previous is None:
            return field
        return watch_event_field(event.body + delimited(_PREVIOUS_TAG, previous))

    def _hold(self, watcher: Watcher, frames: list[Frame], due: Due, part: int) -> None:
        """Put frames into a backlog; ``part`` is this watcher's fair part of what is due for them."""
        sink = watcher.sink
        entries = _ENTRY_BYTES * len(frames)
        charge = part + entries
        cost = entries if due.holders else entries + due.size
        too_much = (
            sink.backlog_bytes + charge > SINK_BACKLOG_BYTES
            or self._backlog_bytes + cost > HUB_BACKLOG_BYTES
        )
        if too_much:
            watcher.next_revision = (watcher.backlog or frames)[0][0]
            self._fall_back(watcher)
            return
        due.holders += 1
        watcher.dues.append(due)
        watcher.backlog += frames
        watcher.charge += charge
        sink.backlog_bytes += charge
        self._backlog_bytes += cost
        sink.held.setdefault(watcher)

    def _drain(self, sink: Sink) -> None:
        """Send backlogs until there is none or no room; a watcher's next part waits for the others'."""
        limit = self._batch_bytes()
        while sink.held and not sink.blocked:
            watcher = next(iter(sink.held))
            del sink.held[watcher]
            count = size = 0
            for _, _, fields in watcher.backlog:
                if count == BATCH_REVISIONS or (count and size + len(fields) > limit):
                    break
                count += 1
                size += len(fields)
            part = watcher.backlog[:count]
            if count == len(watcher.backlog):
                self._drop_backlog(watcher)
            else:
                del watcher.backlog[:count]
                self._backlog_bytes -= _ENTRY_BYTES * count
                sink.held[watcher] = None
            fields = b"".join([fields for _, _, fields in part])
            revision, header, _ = part[-1]
            watcher.served = True
            sink.outbox += responses(
                watcher.id_field, watcher.fragment_bytes, [(revision, header, fields)]
            )
            sink.outbox_bytes += size
            if sink.outbox_bytes > OUTBOX_BYTES or not sink.held:
                self._hand_over(sink)

    def _drop_backlog(self, watcher: Watcher) -> None:
        watcher.sink.held.pop(watcher, None)
        watcher.sink.backlog_bytes -= watcher.charge
        watcher.charge = 0
        self._backlog_bytes -= _ENTRY_BYTES * len(watcher.backlog)
        watcher.backlog = []
        dues, watcher.dues = watcher.dues, []
        for due in dues:
            due.holders -= 1
            if not due.holders:
                self._backlog_bytes -= due.size

    def _hand_over(self, sink: Sink) -> None:
        outbox, sink.outbox = sink.outbox, []
        sink.outbox_bytes = 0
        if outbox:
            sink.blocked = not sink.deliver(outbox)

    def _batch_bytes(self) -> int:
        """Return the size at which a response that holds many revisions is closed."""
        return min(BATCH_BYTES, max(LEAST_BATCH_BYTES, UNSENT_BYTES // max(1, self._sink_count)))

    # Groups.

    def _count(self, watcher: Watcher, difference: int) -> None:
        """Count a watcher that begins or ends, and with its first or last one the sink."""
        self.watcher_count += difference
        sink = watcher.sink
        before = sink.watcher_count
        sink.watcher_count += difference
        if not before or not sink.watcher_count:
            self._sink_count += difference

    def _group(self, key: bytes, end: bytes) -> Group:
        group = self._groups.get(key, end)
        if group is None:
            group = Group(key, end)
            self._groups.add(key, end, group)
        return group

    def _forget_if_empty(self, group: Group) -> None:
        if not group.cohorts and not group.listeners:
            self._groups.remove(group.key, group.end)

    def _join(self, watcher: Watcher) -> None:
        invariant(not self._dirty, "a watcher becomes synced between turns")
        watcher.state = SYNCED
        watcher.group = self._group(watcher.key, watcher.end)
        watcher.group.cohorts.setdefault(watcher.share, {})[watcher] = None

    def _leave(self, watcher: Watcher) -> None:
        group = watcher.group
        if group is not None:
            watcher.group = None
            cohort = group.cohorts[watcher.share]
            del cohort[watcher]
            if not cohort:
                del group.cohorts[watcher.share]
            self._forget_if_empty(group)
        self._drop_backlog(watcher)

    # Watchers that are not synced.

    def _fall_back(self, watcher: Watcher) -> None:
        """Make a synced watcher read on from history at its ``next_revision``."""
        self._leave(watcher)
        watcher.state = UNSYNCED
        self._enqueue(watcher)

    def _enqueue(self, watcher: Watcher) -> None:
        if watcher.sink.blocked:
            watcher.sink.parked.append(watcher)
        else:
            self._queue.append(watcher)
            self.wake()

    def _begin_future(self, revision: int) -> None:
        while self._future and self._future[0][0] <= revision:
            watcher = heapq.heappop(self._future)[2]
            if watcher.state == FUTURE:
                watcher.state = UNSYNCED
                self._enqueue(watcher)

    def _advance(
        self,
        watcher: Watcher,
        read: dict[tuple[bytes, bytes, int], tuple[Sequence[Event], int]],
    ) -> int:
        """Send one batch of history; return what it cost, in events or what takes as long."""
        store = self._store
        start = watcher.next_revision
        if start < store.compact_revision:
            self._end_compacted(watcher)
            return 1
        stop = store.revision
        before = store.examined
        key = (watcher.key, watcher.end, start)
        found = read.get(key)
        if found is None:
            found = read[key] = store.history(
                watcher.key, watcher.end, start, stop, BATCH_REVISIONS, self._batch_bytes()
            )
        events, following = found
        frames, size = self._frames(
            [(event, watch_event_field(event.body)) for event in events], watcher.variant
        )
        if frames:
            watcher.served = True
            watcher.sink.outbox += _packed(watcher, frames, self.header(stop))
        watcher.next_revision = following
        if following > stop:
            self._join(watcher)
        self._hand_over(watcher.sink)
        if watcher.state == UNSYNCED:
            self._enqueue(watcher)
        return max(1, len(events), store.examined - before, size // _BYTES_PER_CHARGE)

    def _end_compacted(self, watcher: Watcher) -> None:
        watcher.state = COMPACTED
        self._count(watcher, -1)
        message = b"".join(
            (
                self.header(0),
                watcher.id_field,
                b"\x20\x01",
                b"\x28" + varint(self._store.compact_revision),
            )
        )
        watcher.sink.outbox.append(message)
        self._hand_over(watcher.sink)


def _packed(watcher: Watcher, frames: Sequence[Frame], header: bytes) -> list[bytes]:
    """Return responses that hold many frames each, cut at revisions, with the one header."""
    packed: list[Frame] = []
    parts: list[bytes] = []
    size = 0
    for _, _, fields in frames:
        if parts and size + len(fields) > BATCH_BYTES:
            packed.append((0, header, b"".join(parts)))
            parts = []
            size = 0
        parts.append(fields)
        size += len(fields)
    packed.append((0, header, b"".join(parts)))
    return responses(watcher.id_field, watcher.fragment_bytes, packed)
