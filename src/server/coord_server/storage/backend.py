"""The ordered store behind the MVCC rules: what it promises, and the batch that it takes.

Both implementations (``lmdb_backend.py``, ``memory_backend.py``) pass the same tests.
"""

from __future__ import annotations

from enum import IntEnum, unique
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager


@unique
class Bucket(IntEnum):
    """A separate key space of the backend; the numbers are part of the format on disk."""

    META = 0
    KEY = 1
    LEASE = 2
    MEMBERS = 3
    ALARM = 4
    AUTH = 5


# LMDB's limit, in bytes. Keys of the KEY bucket are 17 or 18 bytes; user keys live in values.
MAX_KEY_BYTES = 511

# Entry of the META bucket that holds the index of the last log entry whose changes the backend has.
# 8 bytes, big endian. Written in the same batch as those changes.
APPLIED_INDEX_KEY = b"applied_index"
# The term of that entry, likewise.
APPLIED_TERM_KEY = b"applied_term"


class Batch:
    """Changes that become durable together: first all deletes, then all puts, in order."""

    __slots__ = ("deletes", "puts")

    def __init__(self) -> None:
        self.puts: list[tuple[Bucket, bytes, bytes]] = []
        self.deletes: list[tuple[Bucket, bytes]] = []

    def put(self, bucket: Bucket, key: bytes, value: bytes) -> None:
        """Set ``key`` to ``value``; the last put of a key in a batch wins."""
        self.puts.append((bucket, key, value))

    def delete(self, bucket: Bucket, key: bytes) -> None:
        """Remove ``key`` if it is there; a put of the same key in this batch comes after."""
        self.deletes.append((bucket, key))

    def __len__(self) -> int:
        return len(self.puts) + len(self.deletes)


class BackendError(Exception):
    """The backend can't be opened, read or written; the node must not go on."""


class View(Protocol):
    """All buckets as they were at one moment, between two batches."""

    def scan(self, bucket: Bucket) -> Iterator[tuple[bytes, bytes]]:
        """Yield the records of a bucket in ascending order. Raises BackendError if the backend is closed."""
        ...


class Backend(Protocol):
    """Ordered byte strings in buckets, written in atomic and durable batches.

    ``write`` may run in the offload thread while the loop thread reads: a reader sees a record either
    as before or as after the batch. A second writer waits for the first.
    """

    def get(self, bucket: Bucket, key: bytes) -> bytes | None:
        """Return the value of ``key``, or None."""
        ...

    def scan(
        self, bucket: Bucket, start: bytes = b"", end: bytes | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        """Yield the records of ``[start, end)`` in ascending order; ``end=None`` has no upper bound.

        Records are read in pieces, so a long scan shows each record as it is when it is reached;
        it holds no transaction between two steps and may be left at any point.
        """
        ...

    def write(self, batch: Batch) -> None:
        """Apply ``batch`` atomically; durable on return.

        Raises BackendError or OSError when that failed; the content is then unknown and the node
        stops.
        """
        ...

    def view(self) -> AbstractContextManager[View]:
        """Hold the content of this moment while batches go on; for the offload thread, one at a time.

        A second view waits for the first. Space that becomes free meanwhile is not used again before
        the view ends, and a batch that needs a larger map waits for it.
        """
        ...

    def defragment(self) -> None:
        """Give free space back to the file system: write the content anew and put it in the old one's place.

        For the offload thread. Reads go on, batches wait. A crash at any point leaves the old file or
        the new one. Raises BackendError or OSError; unless the moment of the exchange itself failed,
        the old content stays in use.
        """
        ...

    def size_bytes(self) -> int:
        """Bytes that the backend takes on disk, free pages included."""
        ...

    def in_use_bytes(self) -> int:
        """Bytes of ``size_bytes`` that hold records."""
        ...

    def close(self) -> None:
        """Give up files and memory. The backend must not be used afterwards; a second call is fine."""
        ...
