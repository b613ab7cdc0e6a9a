"""Changes of the past, from memory and from records."""

from __future__ import annotations

import pytest

from coord.wire import kv_pb2
from coord_server import errors
from coord_server.errors import Refused
from coord_server.mvcc import past
from coord_server.mvcc.events import PUT, Event, RecentEvents
from coord_server.mvcc.store import StoreLimits
from tests.server.mvcc.driver import TO_END, Driver, put, txn_of

FEW = StoreLimits(record_cache_bytes=0, recent_events=2)


def changes(
    driver: Driver, key: bytes, end: bytes, start: int, limit: int = 100
) -> list[tuple[int, bytes]]:
    events, _ = driver.store.history(key, end, start, driver.store.revision, limit)
    return [(event.mod_revision, event.key) for event in events]


@pytest.fixture(params=["memory", "unflushed", "flushed", "half flushed", "restarted"])
def driver(request: pytest.FixtureRequest) -> Driver:
    """Revision 2 puts a; 3 puts b and c; 4 deletes a; 5 puts b."""
    driver = Driver(limits=None if request.param == "memory" else FEW)
    driver.put(b"a", b"1")
    driver.txn(txn_of(put(b"c", b"2"), put(b"b", b"3")))
    if request.param == "half flushed":
        driver.flush()
    driver.delete(b"a")
    driver.put(b"b", b"4")
    if request.param == "flushed":
        driver.flush()
    return driver.restart() if request.param == "restarted" else driver


def test_all_of_it_in_order(driver: Driver) -> None:
    expected = [(2, b"a"), (3, b"c"), (3, b"b"), (4, b"a"), (5, b"b")]
    assert changes(driver, b"\x00", TO_END, 1) == expected
    assert changes(driver, b"\x00", TO_END, 3) == expected[1:]
    assert changes(driver, b"\x00", TO_END, 5) == expected[4:]
    assert changes(driver, b"\x00", TO_END, 6) == []


def test_a_key_and_a_range(driver: Driver) -> None:
    assert changes(driver, b"a", b"", 1) == [(2, b"a"), (4, b"a")]
    assert changes(driver, b"b", b"c", 1) == [(3, b"b"), (5, b"b")]
    assert changes(driver, b"b", TO_END, 1) == [(3, b"c"), (3, b"b"), (5, b"b")]


def test_the_limit_counts_revisions_and_cuts_none(driver: Driver) -> None:
    events, following = driver.store.history(b"\x00", TO_END, 1, 5, 2)
    assert ([event.mod_revision for event in events], following) == ([2, 3, 3], 4)
    events, following = driver.store.history(b"\x00", TO_END, following, 5, 2)
    assert ([event.mod_revision for event in events], following) == ([4, 5], 6)


def test_bodies(driver: Driver) -> None:
    events, _ = driver.store.history(b"\x00", TO_END, 1, 5, 100)
    decoded = [kv_pb2.Event.FromString(event.body) for event in events]
    assert [
        (e.type, e.kv.key, e.kv.value, e.kv.create_revision, e.kv.version) for e in decoded
    ] == [
        (kv_pb2.Event.PUT, b"a", b"1", 2, 1),
        (kv_pb2.Event.PUT, b"c", b"2", 3, 1),
        (kv_pb2.Event.PUT, b"b", b"3", 3, 1),
        (kv_pb2.Event.DELETE, b"a", b"", 0, 0),
        (kv_pb2.Event.PUT, b"b", b"4", 3, 2),
    ]
    assert [event.is_create for event in events] == [True, True, True, False, False]


def test_pairs_before(driver: Driver) -> None:
    body = driver.store.value_at(b"b", 4)
    assert body is not None
    assert kv_pb2.KeyValue.FromString(body).value == b"3"
    assert driver.store.value_at(b"a", 4) is None
    assert driver.store.value_at(b"never", 4) is None
    driver.compact(4)
    assert driver.store.value_at(b"b", 3) is None
    assert driver.store.value_at(b"b", 4) == body


def test_gotcha_58_the_compact_revision_itself_is_there(driver: Driver) -> None:
    driver.compact(4)
    driver.sweep()
    assert changes(driver, b"\x00", TO_END, 4) == [(4, b"a"), (5, b"b")]
    with pytest.raises(Refused) as refused:
        driver.store.history(b"\x00", TO_END, 3, 5, 100)
    assert refused.value.spec is errors.COMPACTED
    assert changes(driver.restart(), b"\x00", TO_END, 4) == [(4, b"a"), (5, b"b")]


def test_while_a_batch_is_being_written(driver: Driver) -> None:
    expected = [*changes(driver, b"\x00", TO_END, 1), (6, b"d"), (7, b"e")]
    driver.put(b"d")
    batch = driver.applier.take_batch()
    driver.put(b"e")
    assert changes(driver, b"\x00", TO_END, 1) == expected
    assert batch is not None
    driver.backend.write(batch)
    # The backend has it and the applier does not know yet: nothing may come twice.
    assert changes(driver, b"\x00", TO_END, 1) == expected
    driver.applier.flushed()
    assert changes(driver, b"\x00", TO_END, 1) == expected


def test_one_call_does_not_walk_through_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(past, "EXAMINED_PER_CALL", 3)
    driver = Driver()
    for key in (b"a", b"x", b"x", b"x", b"x", b"a"):
        driver.put(key)
    assert driver.store.history(b"a", b"", 1, 7, 100)[1] == 5
    events, following = driver.store.history(b"a", b"", 5, 7, 100)
    assert ([event.mod_revision for event in events], following) == ([7], 8)


def test_one_call_does_not_hold_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver()
    for _ in range(6):
        driver.put(b"a", b"x" * 1_000)
    events, following = driver.store.history(b"a", b"", 2, 7, 100, 2_500)
    assert ([event.mod_revision for event in events], following) == ([2, 3, 4], 5)
    # What does not match is looked at, too.
    monkeypatch.setattr(past, "EXAMINED_BYTES_PER_CALL", 1_500)
    assert driver.store.history(b"b", b"", 2, 7, 100, 2_500) == ([], 4)


def event(revision: int, size: int = 1) -> Event:
    return Event(PUT, b"k", revision, revision, b"x" * size, None)


def test_recent_events_let_go_of_whole_revisions() -> None:
    recent = RecentEvents(2, max_events=3, max_bytes=1 << 20)
    recent.extend([event(2), event(2), event(3)])
    assert recent.oldest == 2
    recent.extend([event(4)])
    assert recent.oldest == 3
    assert [e.mod_revision for e in recent.between(3, 9)] == [3, 4]
    recent.extend([event(5)] * 5)
    assert recent.oldest == 6
    assert recent.between(6, 9) == []


def test_recent_events_are_bounded_by_bytes() -> None:
    recent = RecentEvents(2, max_events=100, max_bytes=10_000)
    for revision in range(2, 3000):
        recent.extend([event(revision, 1000)])
    assert [e.mod_revision for e in recent.between(recent.oldest, 9999)] == [
        2996,
        2997,
        2998,
        2999,
    ][-4:]


def test_oldest_in_memory() -> None:
    driver = Driver(limits=FEW)
    assert driver.store.oldest_in_memory == 2
    for _ in range(3):
        driver.put(b"k")
    assert driver.store.oldest_in_memory == 3
    assert driver.restart().store.oldest_in_memory == 5
