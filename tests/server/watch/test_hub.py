"""What the hub promises beyond delivery: shared bytes, bounded backlogs, fair turns, fragments."""

from __future__ import annotations

import pytest

from coord.wire import rpc_pb2
from coord_server.mvcc import hub as hub_module
from coord_server.mvcc.fragments import split_response
from coord_server.mvcc.hub import WITH_PREVIOUS, Watcher, WatchHub
from tests.server.watch.model import ListStore, Stream


class Bench:
    def __init__(self) -> None:
        self.store = ListStore()
        self.hub = WatchHub(self.store)
        self.woken = 0
        self.hub.wake = self.wake

    def wake(self) -> None:
        self.woken += 1

    def put(self, key: bytes, value: bytes = b"v") -> None:
        self.hub.notify(self.store.put(key, value), self.store.revision)

    def watch(
        self, stream: Stream, key: bytes, end: bytes = b"", *, watch_id: int = 0, start: int = 0
    ) -> Watcher:
        watcher = Watcher(stream.sink, watch_id, key, end)
        self.hub.add(watcher, start)
        return watcher


def revisions(stream: Stream) -> list[list[int]]:
    return [[event.kv.mod_revision for event in response.events] for response in stream.take()]


def test_equal_responses_are_one_object() -> None:
    bench = Bench()
    streams = [Stream() for _ in range(3)]
    for stream in streams:
        bench.watch(stream, b"k")
    bench.put(b"k")
    bench.hub.flush()
    first = streams[0].received[0]
    assert all(stream.received[0] is first for stream in streams)


def test_nothing_leaves_before_the_flush_and_a_turn_is_one_delivery() -> None:
    bench = Bench()
    deliveries: list[int] = []
    stream = Stream()

    def deliver(messages: list[bytes]) -> bool:
        deliveries.append(len(messages))
        return True

    stream.sink.deliver = deliver
    for watch_id in range(4):
        bench.watch(stream, b"a", b"b", watch_id=watch_id)
    for _ in range(3):
        bench.put(b"a")
    assert deliveries == []
    bench.hub.flush()
    assert deliveries == [12]
    bench.hub.flush()
    assert deliveries == [12]


def test_events_wait_while_a_stream_is_full_and_leave_together() -> None:
    bench = Bench()
    stream = Stream(room=1)
    watcher = bench.watch(stream, b"k")
    for _ in range(4):
        bench.put(b"k")
        bench.hub.flush()
    assert revisions(stream) == [[2]]
    assert len(watcher.backlog) == 3
    stream.room = 1 << 20
    bench.hub.resume(stream.sink)
    last = rpc_pb2.WatchResponse.FromString(stream.received[0])
    assert last.header.revision == 5
    assert revisions(stream) == [[3, 4, 5]]
    assert watcher.caught_up
    assert stream.sink.backlog_bytes == 0
    bench.put(b"k")
    bench.hub.flush()
    assert revisions(stream) == [[6]]


def test_a_backlog_beyond_its_bound_becomes_history(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "SINK_BACKLOG_BYTES", 500)
    bench = Bench()
    stream = Stream(room=1)
    watcher = bench.watch(stream, b"k")
    peak = 0
    for _ in range(20):
        bench.put(b"k", b"x" * 50)
        bench.hub.flush()
        peak = max(peak, stream.sink.backlog_bytes)
    assert 0 < peak <= 500
    assert watcher.state == hub_module.UNSYNCED
    assert watcher.backlog == []
    assert revisions(stream) == [[2]]
    stream.room = 1 << 20
    bench.hub.resume(stream.sink)
    assert bench.woken
    assert not bench.hub.catch_up(100)
    assert revisions(stream) == [list(range(3, 22))]
    assert watcher.caught_up


def test_backlogs_are_due_as_long_as_somebody_holds_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "HUB_BACKLOG_BYTES", 8_000)
    bench = Bench()
    quick, slow = Stream(), [Stream(room=1) for _ in range(10)]
    watchers = [bench.watch(stream, b"k") for stream in [*slow, quick]]
    bench.put(b"k")
    bench.hub.flush()
    for _ in range(2):
        bench.put(b"k", b"x" * 2_000)
        bench.hub.flush()
    # Two events, held by ten: paid for once, for all that they are.
    assert all(watcher.backlog for watcher in watchers[:-1])
    assert bench.hub.backlog_bytes > 4_000
    for watcher in watchers[1:]:
        bench.hub.remove(watcher)
    # The last one holds them alone, however many of its range have left.
    assert bench.hub.backlog_bytes > 4_000
    for _ in range(2):
        bench.put(b"k", b"x" * 2_000)
        bench.hub.flush()
    assert watchers[0].state == hub_module.UNSYNCED
    assert bench.hub.backlog_bytes == 0


def test_one_slow_watcher_among_many_quick_ones_pays_for_what_it_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hub_module, "SINK_BACKLOG_BYTES", 3_000)
    bench = Bench()
    watchers = [bench.watch(Stream(), b"k") for _ in range(50)]
    watcher = bench.watch(Stream(room=1), b"k")
    for _ in range(4):
        bench.put(b"k", b"x" * 1_000)
        bench.hub.flush()
    assert watcher.state == hub_module.UNSYNCED
    assert all(watcher.caught_up for watcher in watchers)


def test_many_streams_share_what_may_be_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "UNSENT_BYTES", 4_000)
    monkeypatch.setattr(hub_module, "LEAST_BATCH_BYTES", 100)
    bench = Bench()
    for _ in range(12):
        bench.put(b"k", b"x" * 400)
    first = Stream()
    bench.watch(first, b"k", start=2)
    assert [len(batch) for batch in revisions(first)] == [10]
    others = [bench.watch(Stream(), b"other") for _ in range(3)]
    second = Stream()
    bench.watch(second, b"k", start=2)
    assert [len(batch) for batch in revisions(second)] == [2]
    for watcher in others:
        bench.hub.remove(watcher)
    third = Stream()
    bench.watch(third, b"k", start=2)
    assert [len(batch) for batch in revisions(third)] == [4]


def test_a_walk_that_finds_nothing_is_paid_for() -> None:
    bench = Bench()
    for _ in range(1_000):
        bench.put(b"other")
    streams = [Stream() for _ in range(10)]
    for number, stream in enumerate(streams):
        stream.sink.blocked = True
        bench.watch(stream, b"k%d" % number, start=2)
        bench.hub.resume(stream.sink)
    for _ in range(9):
        assert bench.hub.catch_up(1_000)
    assert not bench.hub.catch_up(1_000)


def test_history_that_is_not_in_memory_waits_for_its_turn() -> None:
    bench = Bench()
    for _ in range(3):
        bench.put(b"k")
    bench.store.oldest_in_memory = 3
    old, recent = Stream(), Stream()
    bench.watch(old, b"k", start=2)
    bench.watch(recent, b"k", start=3)
    assert (revisions(old), revisions(recent)) == ([], [[3, 4]])
    assert bench.woken
    assert not bench.hub.catch_up(100)
    assert revisions(old) == [[2, 3, 4]]


def test_what_lags_behind_a_compaction_is_told(monkeypatch: pytest.MonkeyPatch) -> None:  # 75
    monkeypatch.setattr(hub_module, "SINK_BACKLOG_BYTES", 10)
    bench = Bench()
    stream = Stream(room=1)
    bench.watch(stream, b"k", watch_id=3)
    for _ in range(5):
        bench.put(b"k")
        bench.hub.flush()
    bench.store.compact_revision = 4
    stream.room = 1 << 20
    bench.hub.resume(stream.sink)
    bench.hub.catch_up(100)
    delivered, ended = stream.take()
    assert [event.kv.mod_revision for event in delivered.events] == [2]
    assert (ended.watch_id, ended.canceled, ended.compact_revision) == (3, True, 4)
    assert ended.header.revision == 0
    assert bench.hub.watcher_count == 0


def test_history_is_read_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "BATCH_REVISIONS", 2)
    bench = Bench()
    for _ in range(6):
        bench.put(b"a")
        bench.put(b"b")
    first, second = Stream(), Stream()
    bench.watch(first, b"a", start=2)
    bench.watch(second, b"b", start=2)
    # One batch each at once, then the rest in turns.
    assert revisions(first) == [[2, 4]]
    assert revisions(second) == [[3, 5]]
    assert bench.hub.catch_up(1)
    assert revisions(first) == [[6, 8]]
    assert revisions(second) == []
    assert bench.hub.catch_up(1)
    assert revisions(second) == [[7, 9]]
    assert not bench.hub.catch_up(1_000)
    assert revisions(first) == [[10, 12]]
    assert revisions(second) == [[11, 13]]


def test_watchers_of_one_range_share_a_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "SINK_BACKLOG_BYTES", 10)
    bench = Bench()
    stream = Stream(room=1)
    for watch_id in range(5):
        bench.watch(stream, b"k", watch_id=watch_id)
    for _ in range(3):
        bench.put(b"k")
        bench.hub.flush()
    readings: list[int] = []
    history = bench.store.history

    def counted(*call: object) -> object:
        readings.append(1)
        return history(*call)  # type: ignore[arg-type]

    monkeypatch.setattr(bench.store, "history", counted)
    stream.room = 1 << 20
    bench.hub.resume(stream.sink)
    bench.hub.catch_up(1_000)
    assert len(readings) == 1
    assert len(stream.take()) == 10


def test_batches_are_cut_by_size_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "BATCH_BYTES", 250)
    bench = Bench()
    for _ in range(5):
        bench.put(b"k", b"x" * 90)
    stream = Stream()
    bench.watch(stream, b"k", start=2)
    # A reading ends with the revision that reaches the bound, which a response must not exceed.
    assert revisions(stream) == [[2, 3], [4]]
    assert not bench.hub.catch_up(100)
    assert revisions(stream) == [[5, 6]]


@pytest.mark.parametrize("at_hand", [True, False])
def test_a_previous_pair_that_is_compacted_is_left_out(at_hand: bool) -> None:  # 66
    bench = Bench()
    bench.store.knows_previous = at_hand
    for _ in range(3):
        bench.put(b"k")
    bench.store.compact_revision = 3
    stream = Stream()
    bench.hub.add(Watcher(stream.sink, 0, b"k", b"", variant=WITH_PREVIOUS), 3)
    (response,) = stream.take()
    assert [event.HasField("prev_kv") for event in response.events] == [False, True]


def test_listeners_get_a_turn_at_a_time() -> None:
    bench = Bench()
    turns: list[list[bytes]] = []
    stop = bench.hub.listen(b"a", b"b", lambda events: turns.append([e.key for e in events]))
    bench.put(b"a")
    bench.put(b"a/b")
    bench.put(b"b")
    bench.hub.flush()
    bench.put(b"a")
    bench.hub.flush()
    assert turns == [[b"a", b"a/b"], [b"a"]]
    stop()
    stop()
    bench.put(b"a")
    bench.hub.flush()
    assert len(turns) == 2


@pytest.mark.parametrize("limit", [1, 60, 70, 200, 10_000])
def test_fragments(limit: int) -> None:
    event = rpc_pb2.WatchResponse()
    fields = b""
    for number in range(6):
        event.Clear()
        event.events.add().kv.key = b"%d" % number * (10 * number + 1)
        fields += event.SerializeToString()
    head = rpc_pb2.WatchResponse(watch_id=5).SerializeToString()
    messages = split_response(head, fields, limit)
    parts = [rpc_pb2.WatchResponse.FromString(message) for message in messages]
    assert b"".join(rpc_pb2.WatchResponse(events=p.events).SerializeToString() for p in parts) == (
        fields
    )
    assert [part.fragment for part in parts] == [True] * (len(parts) - 1) + [False]
    assert all(part.watch_id == 5 for part in parts)
    assert all(part.ByteSize() < limit or len(part.events) == 1 for part in parts)
    if limit == 1:
        assert len(parts) == 6
    if limit == 10_000:
        assert len(parts) == 1
