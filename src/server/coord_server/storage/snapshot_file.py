"""A snapshot in one file: every record of a backend at one moment, and a checksum behind it.

Format, little endian::

    magic            8 bytes, ``coordsn1``
    about            length (4 bytes) and JSON: where it comes from, for people and tools
    records          bucket (1), length of the key (4), of the value (4), key, value; any number
    end              bucket 255, number of records (8)
    zeros            up to a multiple of 512 bytes
    SHA-256          32 bytes over everything before; written by whoever saves the stream

The last two are etcd's (etcd ops: "Snapshot stream"): its clients look at the size modulo 512 to see
whether a file came whole. The records are ours; etcd's tools cannot look into them.
"""

from __future__ import annotations

import hashlib
import json
import struct
from typing import TYPE_CHECKING, Any, Final, Protocol

from coord_server.failpoints import failpoint
from coord_server.storage.backend import Bucket
from coord_server.storage.disk import OpenMode, no_space, parent_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from coord_server.storage.backend import Backend, View
    from coord_server.storage.disk import Disk

MAGIC: Final = b"coordsn1"
ALIGNMENT: Final = 512
HASH_BYTES: Final = 32

_ABOUT: Final = struct.Struct("<I")
_RECORD: Final = struct.Struct("<BII")
_END: Final = struct.Struct("<BQ")
_END_MARK: Final = 255
_BUCKETS: Final = {int(bucket): bucket for bucket in Bucket}
_PIECE_BYTES: Final = 1 << 20
# Longest `about` that is believed.
_MAX_ABOUT: Final = 1 << 20

_WRITING = failpoint("snapshot.writing")


class Sink(Protocol):
    """What a snapshot is written to, piece after piece: a DiskFile, or something before one."""

    def pwrite(self, data: bytes, offset: int) -> None:
        """Write all of ``data``. Raises OSError."""
        ...


def check_room(disk: Disk, path: str, backend: Backend) -> None:
    """Raise OSError if a snapshot of ``backend`` does not fit where ``path`` is.

    Asked before it is begun: an attempt would take the last room from log and backend, which end the
    server when they find none.
    """
    directory = parent_of(path)
    if disk.free_bytes(directory) < backend.in_use_bytes():
        raise no_space(directory)


class BrokenSnapshot(Exception):
    """The file is no snapshot of ours, or not the one that was saved."""


def write_snapshot(
    file: Sink,
    view: View,
    about: Mapping[str, str | int],
    *,
    is_wanted: Callable[[], bool] = lambda: True,
) -> int:
    """Write the content of ``view`` without the hash; return its size in bytes.

    Nothing is synced: the file is a way to a client. Stops early, with an incomplete file, when
    ``is_wanted`` says no. Raises OSError or BackendError.
    """
    text = json.dumps(about, sort_keys=True).encode()
    piece = bytearray(MAGIC + _ABOUT.pack(len(text)) + text)
    offset = count = 0
    for bucket in Bucket:
        for key, value in view.scan(bucket):
            piece += _RECORD.pack(bucket, len(key), len(value))
            piece += key
            piece += value
            count += 1
            if len(piece) >= _PIECE_BYTES:
                if not is_wanted():
                    return offset
                _WRITING()
                file.pwrite(bytes(piece), offset)
                offset += len(piece)
                piece.clear()
    piece += _END.pack(_END_MARK, count)
    piece += bytes(-(offset + len(piece)) % ALIGNMENT)
    _WRITING()
    file.pwrite(bytes(piece), offset)
    return offset + len(piece)


class SnapshotFile:
    """A saved snapshot, opened for reading; ``digest`` is the hash that it carries.

    Raises OSError, or BrokenSnapshot with a sentence that names the file.
    """

    def __init__(self, disk: Disk, path: str) -> None:
        self._path = path
        self._file = disk.open(path, OpenMode.READ)
        self._size = self._file.size() - HASH_BYTES
        head = self._file.pread(len(MAGIC), 0)
        if head != MAGIC:
            self.close()
            raise BrokenSnapshot(f"{path} is no snapshot of coord-server")
        if self._size <= 0 or self._size % ALIGNMENT:
            self.close()
            raise BrokenSnapshot(f"{path} was cut off, or its hash is missing")
        self.digest = self._file.pread(HASH_BYTES, self._size)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def verify(self) -> None:
        """Compare the content with the hash. Raises BrokenSnapshot when they differ."""
        found = hashlib.sha256()
        for offset in range(0, self._size, _PIECE_BYTES):
            found.update(self._file.pread(min(_PIECE_BYTES, self._size - offset), offset))
        if found.digest() != self.digest:
            raise BrokenSnapshot(
                f"{self._path} is damaged: expected sha256 {self.digest.hex()}, got {found.hexdigest()}"
            )

    def about(self) -> Mapping[str, Any]:
        """Return what the writer said about the snapshot."""
        return self._about()[0]

    def _about(self) -> tuple[Mapping[str, Any], int]:
        start = len(MAGIC) + _ABOUT.size
        (size,) = _ABOUT.unpack(self._take(len(MAGIC), _ABOUT.size))
        if size > _MAX_ABOUT:
            raise BrokenSnapshot(f"{self._path} is damaged")
        try:
            content: Any = json.loads(self._take(start, size))
        except ValueError:
            content = None
        if not isinstance(content, dict):
            raise BrokenSnapshot(f"{self._path} is damaged")
        return content, start + size  # pyright: ignore[reportUnknownVariableType] - any JSON

    def _take(self, offset: int, size: int) -> bytes:
        data = self._file.pread(size, offset)
        if len(data) < size:
            raise BrokenSnapshot(f"{self._path} is damaged")
        return data

    def records(self) -> Iterator[tuple[Bucket, bytes, bytes]]:
        """Yield all records; the file has been verified."""
        offset = self._about()[1]
        data = b""
        at = count = 0
        while True:
            if len(data) - at < _END.size:
                offset, data, at = self._more(offset, data[at:], _END.size)
            if data[at] == _END_MARK:
                if _END.unpack_from(data, at)[1] != count:
                    raise BrokenSnapshot(f"{self._path} is damaged")
                return
            number, key_size, value_size = _RECORD.unpack_from(data, at)
            bucket = _BUCKETS.get(number)
            if bucket is None:
                raise BrokenSnapshot(f"{self._path} is damaged")
            whole = _RECORD.size + key_size + value_size
            if len(data) - at < whole:
                offset, data, at = self._more(offset, data[at:], whole)
            key_end = at + _RECORD.size + key_size
            yield (
                bucket,
                data[at + _RECORD.size : key_end],
                data[key_end : key_end + value_size],
            )
            at += whole
            count += 1

    def _more(self, offset: int, rest: bytes, needed: int) -> tuple[int, bytes, int]:
        """Return (next offset, bytes at hand, 0) with at least ``needed`` bytes at hand."""
        size = min(max(_PIECE_BYTES, needed - len(rest)), self._size - offset)
        data = rest + self._file.pread(size, offset)
        if len(data) < needed:
            raise BrokenSnapshot(f"{self._path} is damaged")
        return offset + size, data, 0
