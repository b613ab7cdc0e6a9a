"""The Backend on LMDB: a copy-on-write B+tree in one memory-mapped file.

Readers and the writer do not wait for each other, with two exceptions. The map is a fixed window of
address space; making it larger moves it, and a reader in the middle of it would touch memory that is
gone. So reads and the move exclude each other, while commits run beside reads. And a defragmentation
ends by closing one file and opening another, which takes milliseconds and excludes everybody.

Three locks, always taken in this order: the *writer* (one batch, growth or defragmentation at a time),
*pinned* (a view is open, so the map must stay where it is), the *map* (a read, or a change of the map).
"""

from __future__ import annotations

import contextlib
import errno
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import lmdb as _lmdb
from typing_extensions import override

from coord_server.failpoints import failpoint
from coord_server.storage.backend import MAX_KEY_BYTES, Backend, BackendError, Batch, Bucket, View
from coord_server.storage.disk import RealDisk, exclusive
from coord_server.storage.lmdb_disk import created_whole, disk_failure, reserve_lock_file

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

T = TypeVar("T")

# The package ships no types; what touches it stays in this file.
lmdb: Any = _lmdb

# Room to start with, in bytes: address space, not disk space; the file grows as pages are used.
DEFAULT_MAP_BYTES = 1 << 28

# The map doubles up to this step, then grows by it: a 100 GiB store need not reserve 200.
_MAX_GROWTH_BYTES = 8 << 30

# A batch may rewrite the path from the root for each of its records; measured, pages amount to less
# than three times the bytes that were put. Guessing low costs one repeated batch, nothing more.
_PAGES_PER_PUT_BYTES = 3
_SLACK_BYTES = 1 << 20

# Records that a scan copies out in one read transaction: so many, or the one that reaches this size.
_SCAN_RECORDS = 512
_SCAN_BYTES = 1 << 20

# Records in one transaction of a defragmentation.
_COPY_RECORDS = 16 * _SCAN_RECORDS

_NAMES = {bucket: bucket.name.lower().encode() for bucket in Bucket}

# LMDB's name for the file, and ours for the one that is to take its place.
_FILE = "data.mdb"
_FRESH = "defragmented.tmp"

_BEFORE_SWAP = failpoint("defragment.before_swap")
_AFTER_SWAP = failpoint("defragment.after_swap")


class LmdbBackend(Backend):
    """Records in the directory ``path``, which this process alone must hold.

    One object per path and process (LMDB's rule). ``map_bytes`` is the first size of the map. Raises
    BackendError if the files are no database of ours.
    """

    def __init__(self, path: str, *, map_bytes: int = DEFAULT_MAP_BYTES) -> None:
        self._path = path
        # Excludes reads and the move of the map from each other; held for microseconds.
        self._map = exclusive()
        # The map moves only while no transaction is open, so a second writer waits here.
        self._writer = exclusive()
        # Held by an open view and by whoever would pull the map away under it.
        self._pinned = exclusive()
        self._disk = RealDisk()
        # What a crash left of a defragmentation.
        with contextlib.suppress(FileNotFoundError):
            self._disk.unlink(f"{path}/{_FRESH}")
        self._open(map_bytes)
        self._closed = False
        # LMDB syncs its file and not the directory that the file is new in.
        self._disk.fsync_dir(path)

    def _open(self, map_bytes: int) -> None:
        reserve_lock_file(self._disk, self._path)
        with created_whole(self._disk, f"{self._path}/{_FILE}"):
            self._env: Any = self._checked(
                lambda: lmdb.open(
                    self._path,
                    map_size=map_bytes,
                    max_dbs=len(Bucket),
                    mode=0o600,
                    # Random access: reading ahead would fill memory with neighbours nobody asked for.
                    readahead=False,
                    # Pages are padded with whatever was in memory; nothing secret comes from there.
                    meminit=False,
                    max_spare_txns=2,
                )
            )
        self._map_bytes: int = self._env.info()["map_size"]
        self._page_bytes: int = self._env.stat()["psize"]
        try:
            self._tables: dict[Bucket, Any] = {
                bucket: self._checked(partial(self._env.open_db, name))
                for bucket, name in _NAMES.items()
            }
        except BaseException:
            self._env.close()
            raise

    def _checked(self, act: Callable[[], T]) -> T:
        try:
            return act()
        except lmdb.Error as exc:
            raise self._failure(exc) from exc

    def _failure(self, error: Any, path: str = "") -> BackendError | OSError:  # noqa: ANN401 - of LMDB
        """Return what to raise: the system's error if the disk is at fault."""
        code = getattr(error, "code", errno.ENOSPC if isinstance(error, lmdb.DiskError) else 0)
        failure = disk_failure(self._disk, self._path, code)
        return failure or BackendError(f"{path or self._path}: {error}")

    @override
    def get(self, bucket: Bucket, key: bytes) -> bytes | None:
        try:
            with self._map, self._env.begin() as txn:
                value: bytes | None = txn.get(key, db=self._tables[bucket])
        except lmdb.Error as exc:
            raise self._failure(exc) from exc
        return value

    @override
    def scan(
        self, bucket: Bucket, start: bytes = b"", end: bytes | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        after: bytes | None = None
        while True:
            piece, has_more = self._piece(bucket, start, end, after)
            yield from piece
            if not has_more:
                return
            after = piece[-1][0]

    def _piece(
        self, bucket: Bucket, start: bytes, end: bytes | None, after: bytes | None
    ) -> tuple[list[tuple[bytes, bytes]], bool]:
        """Return the next records of a scan, and whether it may go on behind them."""
        try:
            with self._map, self._env.begin() as txn:
                return _piece(txn, self._tables[bucket], start, end, after)
        except lmdb.Error as exc:
            raise self._failure(exc) from exc

    @override
    def write(self, batch: Batch) -> None:
        puts: dict[Bucket, list[tuple[bytes, bytes]]] = {}
        size = 0
        for bucket, key, value in batch.puts:
            puts.setdefault(bucket, []).append((key, value))
            size += len(key) + len(value)
            if len(key) > MAX_KEY_BYTES:
                raise BackendError(f"key of {len(key)} bytes in bucket {bucket.name}")
        needed = _PAGES_PER_PUT_BYTES * size + _SLACK_BYTES
        with self._writer:
            if self.size_bytes() + needed > self._map_bytes:
                self._grow(needed)
            while not self._write(puts, batch.deletes, needed):
                pass

    def _write(
        self,
        puts: dict[Bucket, list[tuple[bytes, bytes]]],
        deletes: list[tuple[Bucket, bytes]],
        needed: int,
    ) -> bool:
        """Write in one transaction; False if the map had to change first and nothing was written."""
        try:
            with self._env.begin(write=True) as txn:
                for bucket, key in deletes:
                    txn.delete(key, db=self._tables[bucket])
                for bucket, items in puts.items():
                    with txn.cursor(self._tables[bucket]) as cursor:
                        cursor.putmulti(items)
        except lmdb.MapFullError:
            # The transaction is gone by now, so the map may move.
            self._grow(needed)
            return False
        except lmdb.MapResizedError:
            self._grow_to(0)
            return False
        except lmdb.Error as exc:
            raise self._failure(exc) from exc
        return True

    def _grow(self, needed: int) -> None:
        self._grow_to(self._map_bytes + max(needed, min(self._map_bytes, _MAX_GROWTH_BYTES)))

    def _grow_to(self, size: int) -> None:
        """Set the size of the map; 0 takes over what another process has set."""
        with self._pinned, self._map:
            self._checked(lambda: self._env.set_mapsize(size))
            self._map_bytes = self._env.info()["map_size"]

    @override
    @contextlib.contextmanager
    def view(self) -> Generator[View]:
        with self._writer:
            # Batches that come meanwhile should find room without a move of the map.
            if not self._closed and 2 * self.size_bytes() > self._map_bytes:
                self._grow(0)
        with self._pinned:
            if self._closed:
                raise BackendError(f"{self._path} is closed")
            txn = self._checked(self._env.begin)
            try:
                yield _LmdbView(self, txn)
            finally:
                txn.abort()

    def view_piece(
        self,
        txn: Any,  # noqa: ANN401 - of LMDB
        bucket: Bucket,
        after: bytes,
    ) -> tuple[list[tuple[bytes, bytes]], bool]:
        """Return the next records of a view, and whether it may go on behind them."""
        if self._closed:
            raise BackendError(f"{self._path} is closed")
        return self._checked(partial(_piece, txn, self._tables[bucket], after, None, after or None))

    @override
    def defragment(self) -> None:
        fresh = f"{self._path}/{_FRESH}"
        with self._writer, self._pinned:
            if self._closed:
                raise BackendError(f"{self._path} is closed")
            try:
                self._copy_to(fresh)
            except BaseException:
                with contextlib.suppress(OSError):
                    self._disk.unlink(fresh)
                raise
            with self._map:
                self._exchange(fresh)

    def _copy_to(self, path: str) -> None:
        """Write every record into a new file, durable on return.

        LMDB can copy a file itself, but page by page: a page that lost most of its records to a
        compaction would stay as empty as it is.
        """
        with contextlib.suppress(FileNotFoundError):
            self._disk.unlink(path)
        fresh: Any = self._checked(
            lambda: lmdb.open(
                path,
                subdir=False,
                lock=False,
                map_size=self._map_bytes,
                max_dbs=len(Bucket),
                mode=0o600,
                meminit=False,
                sync=False,
            )
        )
        try:
            with self._env.begin() as txn:
                for bucket, name in _NAMES.items():
                    self._copy_table(_LmdbView(self, txn), bucket, fresh, name)
            fresh.sync(force=True)
        except lmdb.Error as exc:
            raise self._failure(exc, path) from exc
        finally:
            fresh.close()
        self._disk.fsync_dir(self._path)

    @staticmethod
    def _copy_table(view: View, bucket: Bucket, fresh: Any, name: bytes) -> None:  # noqa: ANN401 - of LMDB
        table = fresh.open_db(name)
        records = view.scan(bucket)
        while piece := list(islice(records, _COPY_RECORDS)):
            with fresh.begin(write=True) as txn, txn.cursor(table) as cursor:
                # In small turns: the interpreter's lock is held during each.
                for start in range(0, len(piece), _SCAN_RECORDS):
                    cursor.putmulti(piece[start : start + _SCAN_RECORDS], append=True)

    def _exchange(self, fresh: str) -> None:
        # One process may not have two environments in one place, so the old one is closed first.
        map_bytes = self._map_bytes
        self._env.close()
        try:
            _BEFORE_SWAP()
            self._disk.rename(fresh, f"{self._path}/{_FILE}")
            self._disk.fsync_dir(self._path)
            _AFTER_SWAP()
        finally:
            self._open(map_bytes)

    @property
    def map_bytes(self) -> int:
        """The present size of the map."""
        return self._map_bytes

    @override
    def size_bytes(self) -> int:
        with self._map:
            last_page: int = self._checked(self._env.info)["last_pgno"]
        return (last_page + 1) * self._page_bytes

    @override
    def in_use_bytes(self) -> int:
        pages = 0
        with self._map, self._env.begin() as txn:
            for table in [None, *self._tables.values()]:
                stat = txn.stat(db=table) if table is not None else self._env.stat()
                pages += stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
        return pages * self._page_bytes

    @override
    def close(self) -> None:
        if not self._closed:
            # Ends a view at its next piece; a copy runs to its end.
            self._closed = True
            with self._writer, self._pinned, self._map:
                self._env.close()


class _LmdbView(View):
    """One read transaction, in pieces so that a backend that closes need not wait for its end."""

    def __init__(self, backend: LmdbBackend, txn: Any) -> None:  # noqa: ANN401 - of LMDB
        self._backend = backend
        self._txn = txn

    @override
    def scan(self, bucket: Bucket) -> Iterator[tuple[bytes, bytes]]:
        after = b""
        while True:
            piece, has_more = self._backend.view_piece(self._txn, bucket, after)
            yield from piece
            if not has_more:
                return
            after = piece[-1][0]


def _piece(
    txn: Any,  # noqa: ANN401 - of LMDB
    table: Any,  # noqa: ANN401 - of LMDB
    start: bytes,
    end: bytes | None,
    after: bytes | None,
) -> tuple[list[tuple[bytes, bytes]], bool]:
    """Return a piece of the records from ``start``, or behind ``after``, to ``end``; and if it is full."""
    piece: list[tuple[bytes, bytes]] = []
    size = 0
    with txn.cursor(table) as cursor:
        more: bool = cursor.set_range(start if after is None else after)
        if more and after is not None and cursor.key() == after:
            more = cursor.next()
        if not more:
            return piece, False
        for key, value in cursor:
            if end is not None and key >= end:
                break
            piece.append((key, value))
            size += len(value)
            if len(piece) == _SCAN_RECORDS or size >= _SCAN_BYTES:
                return piece, True
    return piece, False
