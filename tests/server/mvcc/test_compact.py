"""Compact: what stays, what goes, in which steps, and over restarts."""

from __future__ import annotations

import pytest

from coord_server import errors
from coord_server.errors import Refused
from coord_server.mvcc.revision import decode_revision, encode_revision, encode_tombstone
from coord_server.mvcc.store import REVISION_KEY, StoreLimits, encode_number
from coord_server.storage.backend import Batch, Bucket
from coord_server.storage.memory_backend import MemoryBackend
from tests.server.mvcc.driver import TO_END, Driver


def records(driver: Driver) -> list[tuple[int, int, bool]]:
    driver.flush()
    return [decode_revision(key) for key, _ in driver.backend.scan(Bucket.KEY)]


def refused(driver: Driver, revision: int) -> errors.ErrorSpec:
    with pytest.raises(Refused) as caught:
        driver.compact(revision)
    return caught.value.spec


@pytest.fixture
def driver() -> Driver:
    """a: put 2, put 3, delete 5, put 7; b: put 4; c: put 6, delete 8."""
    driver = Driver()
    driver.put(b"a", b"2")
    driver.put(b"a", b"3")
    driver.put(b"b", b"4")
    driver.delete(b"a")
    driver.put(b"c", b"6")
    driver.put(b"a", b"7")
    driver.delete(b"c")
    return driver


def test_revision_rules(driver: Driver) -> None:
    assert refused(driver, -1) is errors.COMPACTED
    assert refused(driver, 9) is errors.FUTURE_REV
    assert driver.compact(0).header.revision == 8
    assert refused(driver, 0) is errors.COMPACTED
    driver.compact(5)
    assert refused(driver, 5) is errors.COMPACTED
    assert refused(driver, 4) is errors.COMPACTED
    driver.compact(8)


def test_gotcha_49_and_50_no_revision_no_events(driver: Driver) -> None:
    assert driver.compact(4).header.revision == 8
    assert driver.last.events == []
    assert refused(driver, 4) is errors.COMPACTED
    assert driver.store.revision == 8


@pytest.mark.parametrize("flushed", [False, True])
@pytest.mark.parametrize(
    ("revision", "kept"),
    [
        (1, [2, 3, 4, -5, 6, 7, -8]),
        (2, [2, 3, 4, -5, 6, 7, -8]),
        (3, [3, 4, -5, 6, 7, -8]),
        # A tombstone at exactly the compact revision stays for watches that start there.
        (5, [4, -5, 6, 7, -8]),
        (6, [4, 6, 7, -8]),
        (7, [4, 6, 7, -8]),
        (8, [4, 7, -8]),
    ],
)
def test_what_is_kept(driver: Driver, revision: int, kept: list[int], flushed: bool) -> None:
    if flushed:
        driver.flush()
    before = {r: driver.everything(r) for r in range(revision, 9)}
    driver.compact(revision)
    driver.sweep()
    assert [-main if tombstone else main for main, _, tombstone in records(driver)] == kept
    for again in (driver, driver.restart()):
        assert {r: again.everything(r) for r in range(revision, 9)} == before


def test_a_kept_tombstone_goes_with_the_next_compaction(driver: Driver) -> None:
    driver.compact(8)
    driver.sweep()
    driver.put(b"d")
    driver.compact(9)
    driver.sweep()
    assert records(driver) == [(4, 0, False), (7, 0, False), (9, 0, False)]
    assert driver.store.history(b"c", b"", 9, 9, 9) == ([], 10)


def test_reads_are_right_during_the_sweep(driver: Driver) -> None:
    before = {r: driver.everything(r) for r in (7, 8)}
    driver.compact(7)
    steps = 0
    while driver.store.compact_some(1):
        steps += 1
        assert {r: driver.everything(r) for r in (7, 8)} == before
    assert steps
    assert not driver.store.compacting


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_an_unfinished_sweep_goes_on_after_a_restart(driver: Driver, steps: int) -> None:
    driver.flush()
    driver.compact(8)
    for _ in range(steps):
        driver.store.compact_some(1)
    if driver.store.compacting:
        driver = driver.restart()
        assert driver.store.compacting
    assert driver.store.compact_revision == 8
    driver.sweep()
    assert records(driver) == [(4, 0, False), (7, 0, False), (8, 0, True)]
    assert not driver.restart().store.compacting


def test_a_second_compaction_takes_over_the_sweep(driver: Driver) -> None:
    driver.compact(3)
    driver.compact(8)
    driver.sweep()
    assert records(driver) == [(4, 0, False), (7, 0, False), (8, 0, True)]


def test_the_revision_never_goes_back(driver: Driver) -> None:
    driver.delete(b"\x00", TO_END)
    driver.compact(driver.store.revision)
    driver.sweep()
    driver = driver.restart()
    assert (driver.store.revision, driver.everything()) == (9, {})
    assert driver.put(b"next").header.revision == 10


def test_the_revision_does_not_depend_on_records() -> None:
    backend = MemoryBackend()
    batch = Batch()
    batch.put(Bucket.META, REVISION_KEY, encode_number(42))
    backend.write(batch)
    assert Driver(backend).put(b"k").header.revision == 43


def test_sweeping_without_a_cache() -> None:
    driver = Driver(limits=StoreLimits(record_cache_bytes=0, recent_events=1))
    for value in range(5):
        driver.put(b"k", b"%d" % value)
        driver.flush()
    driver.compact(5)
    driver.sweep()
    assert (driver.everything(), driver.everything(5)) == ({b"k": b"4"}, {b"k": b"3"})
    assert records(driver) == [(5, 0, False), (6, 0, False)]


def test_keys_of_records() -> None:
    assert encode_revision(2, 0) == bytes.fromhex("0000000000000002" + "5f" + "00" * 8)
    assert encode_tombstone(0x0102, 3) == bytes.fromhex(
        "0000000000000102" + "5f" + "00" * 7 + "03" + "74"
    )
    order = [
        encode_revision(2, 0),
        encode_tombstone(2, 1),
        encode_revision(2, 2),
        encode_revision(256, 0),
    ]
    assert sorted(order) == order
    assert [decode_revision(key) for key in order] == [
        (2, 0, False),
        (2, 1, True),
        (2, 2, False),
        (256, 0, False),
    ]
    for broken in (b"", bytes(17), order[0] + b"x", order[0][:-1], order[1] + b"t"):
        with pytest.raises(ValueError, match="not the key of a record"):
            decode_revision(broken)


def test_who_waits_for_a_sweep_hears_of_its_end_and_of_other_content(driver: Driver) -> None:
    store = driver.store
    told: list[int] = []
    store.on_swept = lambda: told.append(store.compact_revision)
    driver.flush()
    store.compact(4)
    while store.compact_some(1):
        assert told == []
    assert told == [4]
    store.compact(6)
    store.load()  # the backend has heard of no compaction
    assert not store.compacting
    assert told == [4, -1]
