"""A Backend in memory, optionally kept in one journal file so that it survives crashes.

Without a disk it serves ``memory:``, where nothing outlives the process. With one it has the crash
behaviour of the real backend: a batch is there entirely or not at all. The journal is a plain list
of batches, rewritten when most of it is history: right for tests and simulation, not for data.
"""

from __future__ import annotations

import contextlib
import struct
from bisect import bisect_left
from typing import TYPE_CHECKING

from typing_extensions import override

from coord_server.storage import crc32c
from coord_server.storage.backend import Backend, Batch, Bucket, View
from coord_server.storage.disk import Disk, DiskFile, OpenMode, exclusive, parent_of

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

_RECORD = struct.Struct("<II")  # payload length, CRC-32C of the payload
_ITEM = struct.Struct("<BBII")  # put or delete, bucket, key length, value length
_PUT = 1
_DELETE = 0

# Rewriting starts when the journal is this many times larger than its live content, and not small.
_REWRITE_FACTOR = 4
_REWRITE_MIN_BYTES = 1 << 16


class _Table:
    """One bucket: a dict, and its keys in order, sorted again when they are asked for after a change.

    Written by one thread while another reads. Each step is one call into C on plain bytes, which the
    interpreter lock makes atomic; the version tells a reader that its order was made half-way.
    """

    __slots__ = ("_order", "_ordered_version", "_version", "records", "size_bytes")

    def __init__(self) -> None:
        self.records: dict[bytes, bytes] = {}
        self.size_bytes = 0
        self._version = 0
        self._ordered_version = 0
        self._order: list[bytes] = []

    def delete(self, key: bytes) -> None:
        value = self.records.pop(key, None)
        if value is not None:
            self.size_bytes -= len(key) + len(value)

    def put(self, key: bytes, value: bytes) -> None:
        self.delete(key)
        self.records[key] = value
        self.size_bytes += len(key) + len(value)

    def changed(self) -> None:
        self._version += 1

    def order(self) -> list[bytes]:
        version = self._version
        if self._ordered_version == version:
            return self._order
        # Keys arrive nearly in order (revisions rise), which makes this close to linear.
        order = self._order = sorted(self.records)
        self._ordered_version = version
        return order


class MemoryBackend(Backend):
    """Records in dicts. With ``disk`` and ``path`` each batch is synced to a journal before it counts."""

    def __init__(self, disk: Disk | None = None, path: str = "") -> None:
        self._tables = {bucket: _Table() for bucket in Bucket}
        self._disk = disk
        self._path = path
        self._file: DiskFile | None = None
        self._end = 0
        self._writer = exclusive()
        if disk is not None:
            self._open_journal(disk)

    @override
    def get(self, bucket: Bucket, key: bytes) -> bytes | None:
        return self._tables[bucket].records.get(key)

    @override
    def scan(
        self, bucket: Bucket, start: bytes = b"", end: bytes | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        table = self._tables[bucket]
        order = table.order()
        stop = len(order) if end is None else bisect_left(order, end)
        for i in range(bisect_left(order, start), stop):
            value = table.records.get(order[i])
            if value is not None:
                yield order[i], value

    @override
    def write(self, batch: Batch) -> None:
        with self._writer:
            self._write(batch)

    def _write(self, batch: Batch) -> None:
        if self._file is not None:
            payload = _encode(batch)
            record = _RECORD.pack(len(payload), crc32c.value(payload)) + payload
            self._file.pwrite_sync(record, self._end)
            self._end += len(record)
        self._apply(batch)
        if self._end > _REWRITE_MIN_BYTES and self._end > _REWRITE_FACTOR * self.in_use_bytes():
            self._rewrite()

    def _apply(self, batch: Batch) -> None:
        for bucket, key in batch.deletes:
            self._tables[bucket].delete(key)
        for bucket, key, value in batch.puts:
            self._tables[bucket].put(key, value)
        for table in self._tables.values():
            table.changed()

    @override
    @contextlib.contextmanager
    def view(self) -> Generator[View]:
        with self._writer:
            records = {bucket: table.records.copy() for bucket, table in self._tables.items()}
        yield _MemoryView(records)

    @override
    def defragment(self) -> None:
        with self._writer:
            self._rewrite()

    @override
    def size_bytes(self) -> int:
        return max(self._end, self.in_use_bytes())

    @override
    def in_use_bytes(self) -> int:
        return sum(table.size_bytes for table in self._tables.values())

    @override
    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open_journal(self, disk: Disk) -> None:
        self._file = disk.open(self._path, OpenMode.CREATE)
        # Always: whoever made it may have been killed before its name was durable.
        disk.fsync_dir(parent_of(self._path))
        data = self._file.pread(self._file.size(), 0)
        offset = 0
        while offset + _RECORD.size <= len(data):
            length, checksum = _RECORD.unpack_from(data, offset)
            payload = data[offset + _RECORD.size : offset + _RECORD.size + length]
            if not length or len(payload) < length or crc32c.value(payload) != checksum:
                break
            self._apply(_decode(payload))
            offset += _RECORD.size + length
        # What follows is the batch that a crash interrupted. It must not be mistaken for a record
        # once a shorter one has been written over its beginning.
        if offset < len(data):
            self._file.truncate(offset)
            self._file.fsync()
        self._end = offset

    def _rewrite(self) -> None:
        if self._disk is None or self._file is None:
            return
        everything = Batch()
        for bucket, table in self._tables.items():
            everything.puts.extend((bucket, key, value) for key, value in table.records.items())
        payload = _encode(everything)
        record = _RECORD.pack(len(payload), crc32c.value(payload)) + payload
        self._file.close()
        self._disk.write_file_atomic(self._path, record)
        self._file = self._disk.open(self._path, OpenMode.WRITE)
        self._end = len(record)


class _MemoryView(View):
    """Copies of the dicts; the records themselves are shared."""

    def __init__(self, records: dict[Bucket, dict[bytes, bytes]]) -> None:
        self._records = records

    @override
    def scan(self, bucket: Bucket) -> Iterator[tuple[bytes, bytes]]:
        yield from sorted(self._records[bucket].items())


def _encode(batch: Batch) -> bytes:
    parts: list[bytes] = []
    for bucket, key in batch.deletes:
        parts += (_ITEM.pack(_DELETE, bucket, len(key), 0), key)
    for bucket, key, value in batch.puts:
        parts += (_ITEM.pack(_PUT, bucket, len(key), len(value)), key, value)
    return b"".join(parts) or _ITEM.pack(_DELETE, Bucket.META, 0, 0)


def _decode(payload: bytes) -> Batch:
    batch = Batch()
    offset = 0
    while offset < len(payload):
        kind, bucket, key_size, value_size = _ITEM.unpack_from(payload, offset)
        offset += _ITEM.size
        key = payload[offset : offset + key_size]
        offset += key_size
        value = payload[offset : offset + value_size]
        offset += value_size
        if kind == _PUT:
            batch.put(Bucket(bucket), key, value)
        else:
            batch.delete(Bucket(bucket), key)
    return batch
