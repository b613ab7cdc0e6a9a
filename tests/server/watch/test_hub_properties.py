# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false
"""The hub against the definition of a watch: random watchers, slow streams, compaction, small bounds."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from typing_extensions import override

from coord.wire import fast, rpc_pb2
from coord_server.mvcc import hub as hub_module
from coord_server.mvcc.events import DELETE, PUT, Event
from coord_server.mvcc.hub import (
    COMPACTED,
    WITH_PREVIOUS,
    WITHOUT_DELETES,
    WITHOUT_PUTS,
    Watcher,
    WatchHub,
)
from tests.server.watch.model import ListStore, Stream, contains

KEYS = [b"a", b"a/1", b"a/2", b"b", b"b/1", b"c"]
RANGES = [
    (b"a", b""),
    (b"a/1", b""),
    (b"a/", b"a0"),
    (b"a", b"b"),
    (b"b", b"\x00"),
    (b"\x00", b"\x00"),
    (b"a/2", b"c"),
]
keys = st.sampled_from(KEYS)
changes = st.lists(
    st.tuples(st.sampled_from([PUT, PUT, DELETE]), keys, st.binary(max_size=40)),
    min_size=1,
    max_size=4,
    unique_by=lambda change: change[1],
)


@dataclass(eq=False)
class Observed:
    """One watcher, and everything that came for it."""

    watcher: Watcher
    stream: Stream
    first: int
    events: list[tuple[int, int, bytes, bytes, bytes | None]] = field(
        default_factory=list[tuple[int, int, bytes, bytes, bytes | None]]
    )
    progress: int = 0
    compacted_at: int | None = None
    removed: bool = False
    parts: list[rpc_pb2.WatchResponse] = field(default_factory=list[rpc_pb2.WatchResponse])


def told(event: Event, store: ListStore, variant: int) -> tuple[int, int, bytes, bytes]:
    pair = rpc_pb2.WatchResponse.FromString(fast.watch_event_field(event.body)).events[0]
    return event.mod_revision, event.kind, event.key, pair.kv.value


class HubMachine(RuleBasedStateMachine):
    @initialize(knows_previous=st.booleans())
    def start(self, knows_previous: bool) -> None:
        self.store = ListStore()
        self.store.knows_previous = knows_previous
        self.hub = WatchHub(self.store)
        self.woken = False
        self.hub.wake = self.wake
        self.streams = [Stream(), Stream(), Stream()]
        self.observed: list[dict[int, Observed]] = [{}, {}, {}]
        self.next_id = 0

    def wake(self) -> None:
        self.woken = True

    # What happens.

    @rule(made=st.lists(changes, min_size=1, max_size=6))
    def write(self, made: list[list[tuple[int, bytes, bytes]]]) -> None:
        for change in made:
            events = self.store.write(change)
            self.hub.notify(events, self.store.revision)

    @rule()
    def flush(self) -> None:
        self.hub.flush()

    @rule(
        number=st.integers(0, 2),
        range_=st.sampled_from(RANGES),
        variant=st.sampled_from(
            [0, 0, WITH_PREVIOUS, WITHOUT_PUTS, WITHOUT_DELETES | WITH_PREVIOUS]
        ),
        back=st.none() | st.integers(-5, 30),
        fragment=st.sampled_from([0, 0, 80]),
    )
    def watch(
        self,
        number: int,
        range_: tuple[bytes, bytes],
        variant: int,
        back: int | None,
        fragment: int,
    ) -> None:
        stream = self.streams[number]
        watch_id = self.next_id
        self.next_id += 1
        start = 0 if back is None else max(1, self.store.revision + 1 - back)
        watcher = Watcher(stream.sink, watch_id, *range_, variant=variant, fragment_bytes=fragment)
        observed = Observed(watcher, stream, start or self.store.revision + 1)
        self.observed[number][watch_id] = observed
        self.hub.add(watcher, start)

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        number = data.draw(st.integers(0, 2))
        running = [o for o in self.observed[number].values() if not o.removed]
        if running:
            chosen = data.draw(st.sampled_from(running))
            self.hub.remove(chosen.watcher)
            self.collect()
            chosen.removed = True

    @rule(number=st.integers(0, 2), room=st.integers(0, 400))
    def fill(self, number: int, room: int) -> None:
        self.streams[number].room = room

    @rule(number=st.integers(0, 2), room=st.integers(1, 400))
    def empty(self, number: int, room: int) -> None:
        stream = self.streams[number]
        stream.room = room
        if stream.sink.blocked:
            self.hub.resume(stream.sink)

    @rule(budget=st.integers(1, 5))
    def catch_up(self, budget: int) -> None:
        self.hub.catch_up(budget)

    @precondition(lambda self: self.store.revision > 1)
    @rule(data=st.data())
    def compact(self, data: st.DataObject) -> None:
        low = max(1, self.store.compact_revision + 1)
        if low <= self.store.revision:
            self.store.compact_revision = data.draw(st.integers(low, self.store.revision))

    @rule(number=st.integers(0, 2))
    def progress(self, number: int) -> None:
        self.hub.flush()
        self.collect()
        for observed in self.observed[number].values():
            if observed.watcher.caught_up and observed.first <= self.store.revision:
                observed.progress = self.store.revision

    # What must hold.

    @invariant()
    def collect(self) -> None:
        if not hasattr(self, "store"):
            return
        for stream, observed in zip(self.streams, self.observed, strict=True):
            for response in stream.take():
                self.take(observed[response.watch_id], response)

    def take(self, observed: Observed, response: rpc_pb2.WatchResponse) -> None:
        assert not observed.removed
        assert observed.compacted_at is None
        if response.canceled:
            assert response.compact_revision == self.store.compact_revision
            assert response.header.revision == 0
            assert not response.cancel_reason
            observed.compacted_at = response.compact_revision
            assert observed.watcher.state == COMPACTED
            return
        observed.parts.append(response)
        if response.fragment:
            assert observed.watcher.fragment_bytes
            return
        parts, observed.parts = observed.parts, []
        events = [event for part in parts for event in part.events]
        assert events
        assert {part.header.revision for part in parts} == {response.header.revision}
        assert response.header.revision <= self.store.revision
        assert response.header.revision >= events[-1].kv.mod_revision
        if observed.events:  # atomic: a revision is never continued
            assert events[0].kv.mod_revision > observed.events[-1][0]
        assert events[0].kv.mod_revision > observed.progress  # bookmarkable
        for event in events:
            previous = event.prev_kv.SerializeToString() if event.HasField("prev_kv") else None
            observed.events.append(
                (event.kv.mod_revision, event.type, event.kv.key, event.kv.value, previous)
            )

    @override
    def teardown(self) -> None:
        if not hasattr(self, "store"):
            return
        for stream in self.streams:
            stream.room = 1 << 60
            if stream.sink.blocked:
                self.hub.resume(stream.sink)
        while self.hub.catch_up(100):
            assert self.woken
        self.hub.flush()
        self.collect()
        for observed in self.observed:
            for one in observed.values():
                self.compare(one)
        for stream in self.streams:
            assert stream.sink.backlog_bytes == 0

    def compare(self, one: Observed) -> None:
        watcher = one.watcher
        wanted = [
            event
            for event in self.store.log
            if event.mod_revision >= one.first
            and contains(watcher.key, watcher.end, event.key)
            and not watcher.variant & (WITHOUT_DELETES if event.kind == DELETE else WITHOUT_PUTS)
        ]
        expected = [told(event, self.store, watcher.variant) for event in wanted]
        got = [event[:4] for event in one.events]
        if one.removed or one.compacted_at is not None:
            expected = expected[: len(got)]
        assert got == expected
        if one.compacted_at is None and not one.removed:
            assert not one.parts
        for event, (*_, previous) in zip(wanted, one.events, strict=False):
            if not watcher.variant & WITH_PREVIOUS or event.is_create:
                assert previous is None
            elif previous is not None:
                assert previous == self.store.value_at(event.key, event.mod_revision - 1)


@pytest.fixture(autouse=True)
def _small_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in [
        ("BATCH_REVISIONS", 3),
        ("BATCH_BYTES", 120),
        ("OUTBOX_BYTES", 200),
        ("SINK_BACKLOG_BYTES", 600),
        ("HUB_BACKLOG_BYTES", 1_000),
    ]:
        monkeypatch.setattr(hub_module, name, value)


def test_every_watcher_gets_its_events() -> None:
    run_state_machine_as_test(HubMachine, settings=settings(stateful_step_count=40))
