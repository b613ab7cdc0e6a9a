"""What every Backend promises: LMDB, memory, and memory with a journal."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coord_server.storage.backend import Backend, Batch, Bucket
from coord_server.storage.lmdb_backend import LmdbBackend
from coord_server.storage.memory_backend import MemoryBackend
from coord_server.storage.memory_disk import MemoryDisk

if TYPE_CHECKING:
    from pathlib import Path

Opener = Callable[[], Backend]
KEYS = st.binary(min_size=1, max_size=3)
WRITES = st.lists(
    st.lists(st.tuples(st.sampled_from(Bucket), KEYS, st.none() | st.binary(max_size=5))),
    max_size=6,
)


class Places:
    """Opens backends of one kind; the same place again after a close."""

    def __init__(self, kind: str, path: Path) -> None:
        self.kind = kind
        self._path = path
        self._count = 0
        self._opened: list[Backend] = []
        self.fresh()

    def fresh(self) -> None:
        self._count += 1
        self._disk = MemoryDisk()
        (self._path / str(self._count)).mkdir()

    def open(self) -> Backend:
        backend: Backend
        if self.kind == "lmdb":
            backend = LmdbBackend(f"{self._path}/{self._count}", map_bytes=1 << 20)
        else:
            backend = (
                MemoryBackend(self._disk, "/db") if "journal" in self.kind else MemoryBackend()
            )
        self._opened.append(backend)
        return backend

    def close_all(self) -> None:
        for backend in self._opened:
            backend.close()


@pytest.fixture(params=["lmdb", "memory", "memory with a journal"])
def places(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Places]:
    places = Places(request.param, tmp_path)
    yield places
    places.close_all()


def batch_of(*puts: tuple[Bucket, bytes, bytes], deletes: list[tuple[Bucket, bytes]]) -> Batch:
    batch = Batch()
    for put in puts:
        batch.put(*put)
    for delete in deletes:
        batch.delete(*delete)
    return batch


def test_an_empty_backend(places: Places) -> None:
    backend = places.open()
    assert backend.get(Bucket.META, b"k") is None
    assert list(backend.scan(Bucket.KEY)) == []
    backend.write(Batch())
    assert backend.size_bytes() >= backend.in_use_bytes() >= 0
    backend.close()
    backend.close()


def test_buckets_are_apart_and_deletes_come_first(places: Places) -> None:
    backend = places.open()
    backend.write(
        batch_of((Bucket.KEY, b"k", b"1"), (Bucket.META, b"k", b"2"), deletes=[(Bucket.KEY, b"k")])
    )
    assert backend.get(Bucket.KEY, b"k") == b"1"
    assert backend.get(Bucket.META, b"k") == b"2"
    backend.write(
        batch_of((Bucket.KEY, b"k", b"3"), (Bucket.KEY, b"k", b"4"), deletes=[(Bucket.META, b"k")])
    )
    assert backend.get(Bucket.KEY, b"k") == b"4"
    assert backend.get(Bucket.META, b"k") is None


def test_scans_are_ordered_and_half_open(places: Places) -> None:
    backend = places.open()
    keys = [b"%06d" % n for n in range(0, 3000, 2)]
    backend.write(batch_of(*((Bucket.KEY, k, k) for k in reversed(keys)), deletes=[]))
    assert [k for k, _ in backend.scan(Bucket.KEY)] == keys
    assert [k for k, _ in backend.scan(Bucket.KEY, b"000010", b"000016")] == keys[5:8]
    assert [k for k, _ in backend.scan(Bucket.KEY, b"000011", b"000015")] == keys[6:8]
    assert [k for k, _ in backend.scan(Bucket.KEY, b"002990")] == keys[1495:]
    assert list(backend.scan(Bucket.KEY, b"9")) == []
    assert list(backend.scan(Bucket.KEY, b"5", b"4")) == []


def test_scans_of_large_records_are_whole(places: Places) -> None:
    backend = places.open()
    keys = [b"%d" % n for n in range(8)]
    backend.write(batch_of(*((Bucket.KEY, k, k * 400_000) for k in keys), deletes=[]))
    assert [(k, len(v)) for k, v in backend.scan(Bucket.KEY)] == [(k, 400_000) for k in keys]
    with backend.view() as view:
        assert [k for k, _ in view.scan(Bucket.KEY)] == keys


def test_a_scan_may_be_left_and_the_store_written_meanwhile(places: Places) -> None:
    backend = places.open()
    backend.write(
        batch_of(*((Bucket.KEY, b"%06d" % n, b"x" * 50) for n in range(2000)), deletes=[])
    )
    scan = backend.scan(Bucket.KEY)
    assert next(scan)[0] == b"000000"
    backend.write(
        batch_of(
            (Bucket.META, b"m", b"v"), deletes=[(Bucket.KEY, b"%06d" % n) for n in range(1800)]
        )
    )
    rest = [key for key, _ in scan]
    assert rest == sorted(rest)
    assert rest[-200:] == [b"%06d" % n for n in range(1800, 2000)]
    list(zip(range(3), backend.scan(Bucket.KEY), strict=False))
    backend.write(batch_of(deletes=[(Bucket.META, b"m")]))


@settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(writes=WRITES)
def test_any_history_gives_what_a_dict_gives(
    places: Places, writes: list[list[tuple[Bucket, bytes, bytes | None]]]
) -> None:
    places.fresh()
    backend = places.open()
    model: dict[Bucket, dict[bytes, bytes]] = {bucket: {} for bucket in Bucket}
    for changes in writes:
        batch = Batch()
        for bucket, key, value in changes:
            if value is None:
                batch.delete(bucket, key)
        for bucket, key, value in changes:
            if value is not None:
                batch.put(bucket, key, value)
        backend.write(batch)
        for bucket, key in batch.deletes:
            model[bucket].pop(key, None)
        for bucket, key, value in batch.puts:
            model[bucket][key] = value
    if places.kind != "memory":
        backend.close()
        backend = places.open()
    for bucket in Bucket:
        assert list(backend.scan(bucket)) == sorted(model[bucket].items())
    backend.close()


def test_one_thread_writes_while_another_reads(places: Places) -> None:
    backend = places.open()
    failures: list[BaseException] = []

    def write() -> None:
        try:
            for n in range(60):
                number = b"%04d" % n
                backend.write(
                    batch_of(
                        *((Bucket.KEY, number + b"%03d" % i, b"v" * 300) for i in range(100)),
                        (Bucket.META, b"count", number),
                        deletes=[],
                    )
                )
        except BaseException as error:  # noqa: BLE001 - reported by the test
            failures.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    while writer.is_alive():
        count = backend.get(Bucket.META, b"count")
        if count is not None:
            assert len(list(backend.scan(Bucket.KEY, count, count + b"\xff"))) == 100
        list(zip(range(3), backend.scan(Bucket.KEY), strict=False))
    writer.join()
    assert failures == []
    assert sum(1 for _ in backend.scan(Bucket.KEY)) == 6000
    assert backend.in_use_bytes() > 6000 * 300


def test_a_view_is_one_moment(places: Places) -> None:
    backend = places.open()
    backend.write(batch_of(*((Bucket.KEY, b"%05d" % n, b"old") for n in range(1500)), deletes=[]))
    with backend.view() as view:
        scan = view.scan(Bucket.KEY)
        first = next(scan)
        changes = batch_of(
            *((Bucket.KEY, b"%05d" % n, b"new") for n in range(1000, 2000)),
            (Bucket.LEASE, b"l", b""),
            deletes=[(Bucket.KEY, b"%05d" % n) for n in range(1000)],
        )
        backend.write(changes)
        assert [first, *scan] == [(b"%05d" % n, b"old") for n in range(1500)]
        assert list(view.scan(Bucket.LEASE)) == []
    assert [value for _, value in backend.scan(Bucket.KEY)] == [b"new"] * 1000
    with backend.view() as view:
        assert list(view.scan(Bucket.KEY)) == list(backend.scan(Bucket.KEY))
        assert list(view.scan(Bucket.LEASE)) == [(b"l", b"")]


def test_defragmenting_keeps_everything_and_gives_space_back(places: Places) -> None:
    backend = places.open()
    keys = [b"%05d" % n for n in range(3000)]
    backend.write(batch_of(*((Bucket.KEY, key, b"x" * 500) for key in keys), deletes=[]))
    backend.write(
        batch_of(
            (Bucket.META, b"m", b"1"), deletes=[(Bucket.KEY, key) for key in keys if key[-1] % 10]
        )
    )
    before = {bucket: list(backend.scan(bucket)) for bucket in Bucket}
    full = backend.size_bytes()
    backend.defragment()
    assert {bucket: list(backend.scan(bucket)) for bucket in Bucket} == before
    if places.kind == "lmdb":
        assert backend.size_bytes() < full / 4
    assert backend.size_bytes() <= full
    # It goes on as before, and is what the next start finds.
    backend.write(batch_of((Bucket.META, b"after", b"2"), deletes=[(Bucket.META, b"m")]))
    assert list(backend.scan(Bucket.META)) == [(b"after", b"2")]
    if places.kind != "memory":
        backend.close()
        backend = places.open()
    assert list(backend.scan(Bucket.META)) == [(b"after", b"2")]
    assert list(backend.scan(Bucket.KEY)) == before[Bucket.KEY]


def test_reads_and_batches_go_on_beside_views_and_defragmentations(places: Places) -> None:
    backend = places.open()
    failures: list[BaseException] = []
    views: list[bytes | None] = []
    done = threading.Event()

    def maintain() -> None:
        try:
            while not done.is_set():
                backend.defragment()
                with backend.view() as view:
                    content = dict(view.scan(Bucket.KEY))
                    last = dict(view.scan(Bucket.META)).get(b"count")
                    assert len(content) == (0 if last is None else 20 * (int(last) + 1))
                    views.append(last)
        except BaseException as error:  # noqa: BLE001 - reported by the test
            failures.append(error)

    worker = threading.Thread(target=maintain)
    worker.start()
    for n in range(80):
        number = b"%04d" % n
        backend.write(
            batch_of(
                *((Bucket.KEY, number + b"%03d" % i, b"v" * 900) for i in range(20)),
                (Bucket.META, b"count", number),
                deletes=[],
            )
        )
        assert backend.get(Bucket.META, b"count") == number
        assert len(list(backend.scan(Bucket.KEY, number, number + b"\xff"))) == 20
        assert backend.size_bytes() >= backend.in_use_bytes() > 0
    done.set()
    worker.join()
    assert failures == []
    assert views
