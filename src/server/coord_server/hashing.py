"""Hashes of the content, to compare members, backups and other implementations.

`hash_keys` is etcd's HashKV (etcd ops: "HashKV"): CRC-32C over the records that a store at a revision,
compacted at another, has to have. Equal numbers on any two members, coord-server or etcd, mean equal
content. `hash_backend` is Maintenance.Hash: everything that this backend holds, which is comparable
with nothing but itself.
"""

from __future__ import annotations

import asyncio
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, final

from coord_server import errors
from coord_server.errors import Refused
from coord_server.mvcc.fields import key_of
from coord_server.mvcc.revision import decode_revision, encode_revision
from coord_server.storage import crc32c
from coord_server.storage.backend import APPLIED_INDEX_KEY, APPLIED_TERM_KEY, Bucket

if TYPE_CHECKING:
    from collections.abc import Iterable

    from coord_server.mvcc.store import Store
    from coord_server.storage.backend import Backend

# Records that are looked at before the loop gets its turn.
_STEP: Final = 256
_BUCKET_NAME: Final = b"key"


class Hash(NamedTuple):
    """A HashKV, and what it is the hash of. ``current`` is the revision when it was taken."""

    value: int
    revision: int
    compact_revision: int
    current: int


class Source(Protocol):
    """What hashing needs of a replica."""

    @property
    def store(self) -> Store:
        """The state."""
        ...

    async def flush(self) -> None:
        """Return when the backend holds everything that was applied before the call."""
        ...


@final
class KeyHash:
    """The hash at ``revision`` of a store compacted at ``compact_revision``, over records in order.

    A record above the compact revision always counts. One at or below it counts if the compaction
    keeps it, and if one at ``revision`` would keep it too. There is one exception in etcd: if that
    would keep nothing at all, the second condition falls away. Which of the two it is shows at the
    end, so both sums are carried along.
    """

    def __init__(self, store: Store, revision: int, compact_revision: int) -> None:
        self._at = store.record_at
        self._revision = revision
        self._compact_revision = compact_revision
        self._strict = self._lenient = crc32c.value(_BUCKET_NAME)
        self._keeps_any = False

    def feed(self, records: Iterable[tuple[bytes, bytes]]) -> None:
        """Take the next records of the backend, none above the revision."""
        strict: list[bytes] = []
        lenient: list[bytes] = []
        compacted = self._compact_revision
        for record_key, body in records:
            main, sub, tombstone = decode_revision(record_key)
            if main > compacted:
                strict += (record_key, body)
                lenient += (record_key, body)
                if self._keeps_any:
                    continue
            if tombstone:
                # A compaction never keeps one that counts: etcd passes over the one that it leaves.
                continue
            key = key_of(body)
            kept = self._at(key, self._revision) == (main, sub)
            self._keeps_any = self._keeps_any or kept
            if main <= compacted:
                if kept:
                    strict += (record_key, body)
                if self._at(key, compacted) == (main, sub):
                    lenient += (record_key, body)
        self._strict = crc32c.extend(self._strict, b"".join(strict))
        self._lenient = crc32c.extend(self._lenient, b"".join(lenient))

    @property
    def value(self) -> int:
        """The hash of what was taken."""
        return self._strict if self._keeps_any else self._lenient


async def hash_keys(source: Source, backend: Backend, revision: int) -> Hash:
    """Return the hash at a revision; 0 is the current one. Requests are served meanwhile.

    Raises `Refused` COMPACTED or FUTURE_REV.
    """
    store = source.store
    if not revision:
        revision = store.revision
    while True:
        compacted, current = store.compact_revision, store.revision
        if 0 < revision < compacted:
            raise Refused(errors.COMPACTED)
        if revision > current:
            raise Refused(errors.FUTURE_REV)
        # From here on the backend has every record that counts. Only a sweep of a compaction above
        # this one could take such a record away, and that is noticed.
        await source.flush()
        found = KeyHash(store, revision, compacted)
        end = encode_revision(max(revision, 0) + 1, 0)
        records = backend.scan(Bucket.KEY, b"", end)
        while store.compact_revision == compacted:
            piece = list(islice(records, _STEP))
            if not piece:
                return Hash(found.value, revision, compacted, current)
            found.feed(piece)
            await asyncio.sleep(0)


def hash_backend(backend: Backend) -> int:
    """Return CRC-32C over all buckets and records; for the offload thread.

    How far the log was applied is left out, so that reading twice gives the same number.
    """
    found = 0
    with backend.view() as view:
        for bucket in sorted(Bucket, key=lambda bucket: bucket.name):
            found = crc32c.extend(found, bucket.name.lower().encode())
            for key, value in view.scan(bucket):
                if bucket is Bucket.META and key in {APPLIED_INDEX_KEY, APPLIED_TERM_KEY}:
                    continue
                found = crc32c.extend(found, key)
                found = crc32c.extend(found, value)
    return found
