# pyright: reportUnknownLambdaType=false, reportUnknownArgumentType=false
# ruff: noqa: ANN401 - mutants reach into private parts
"""Bugs on purpose: each is planted in the server for the length of a block, and the simulator must find it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Any

import pytest

from coord.testing.sim import Options
from coord_server.flusher import Flusher
from coord_server.mvcc.store import Store
from coord_server.storage.backend import Batch, Bucket
from coord_server.storage.memory_disk import MemoryDisk, MemoryFile
from coord_server.storage.wal import Wal
from coord_server.storage.wal_record import encode_frame
from coord_server.storage.wal_recovery import Position, Recovered

Plant = Callable[[pytest.MonkeyPatch], None]


def _append(wal: Any, payload: bytes, write: Callable[[Any, bytes, int], None]) -> None:
    position = wal._position
    frame, chain = encode_frame(payload, position.sequence, position.chain)
    write(wal._file, frame, position.offset)
    wal._position = Position(position.offset + len(frame), position.sequence + 1, chain)


def ack_before_fsync(patch: pytest.MonkeyPatch) -> None:
    """The log is written and not synced."""
    patch.setattr(
        Wal, "_write", lambda wal, payload: _append(wal, payload, lambda f, d, o: f.pwrite(d, o))
    )


def fsync_error_ignored(patch: pytest.MonkeyPatch) -> None:
    """A failed sync of the log is taken for a success."""

    def write(file: Any, data: bytes, offset: int) -> None:
        with contextlib.suppress(OSError):
            file.pwrite_sync(data, offset)

    patch.setattr(Wal, "_write", lambda wal, payload: _append(wal, payload, write))


def fsync_repeated(patch: pytest.MonkeyPatch) -> None:
    """A failed sync is repeated, which succeeds and saves nothing."""

    def write(file: Any, data: bytes, offset: int) -> None:
        try:
            file.pwrite_sync(data, offset)
        except OSError:
            file.fsync()

    patch.setattr(Wal, "_write", lambda wal, payload: _append(wal, payload, write))


def directory_not_synced(patch: pytest.MonkeyPatch) -> None:
    """Names are not made durable."""
    patch.setattr(MemoryDisk, "fsync_dir", lambda disk, path: None)


def applied_index_apart(patch: pytest.MonkeyPatch) -> None:
    """The applied index is written before the changes, in a batch of its own."""

    def write(flusher: Any, batch: Batch) -> None:
        head, rest = Batch(), Batch()
        for bucket, key, value in batch.puts:
            (head if bucket is Bucket.META else rest).put(bucket, key, value)
        for bucket, key in batch.deletes:
            rest.delete(bucket, key)
        flusher._backend.write(head)
        flusher._backend.write(rest)

    patch.setattr(Flusher, "_write", write)


def recovery_not_synced(patch: pytest.MonkeyPatch) -> None:
    """A log that was read is taken for durable, whoever wrote it."""
    recover = Wal.recover

    def unsynced(wal: Wal) -> Recovered:
        with pytest.MonkeyPatch.context() as during:
            during.setattr(MemoryDisk, "fsync_dir", lambda disk, path: None)
            during.setattr(MemoryFile, "fsync", lambda file: None)
            return recover(wal)

    patch.setattr(Wal, "recover", unsynced)


def lease_ends_early(patch: pytest.MonkeyPatch) -> None:
    """Leases end half a TTL early."""
    from coord_server.lease.lessor import Lessor

    renew = Lessor.renew

    def early(lessor: Any, lease_id: int, now: float) -> int | None:
        ttl = renew(lessor, lease_id, now)
        if ttl is not None:
            lessor._leases[lease_id].deadline = now + ttl / 2
        return ttl

    patch.setattr(Lessor, "renew", early)
    settle = Lessor.settle

    def soon(lessor: Any, now: float) -> None:
        for lease in lessor._unsettled:
            lease.deadline = now + lease.ttl_s / 2
        settle(lessor, now)

    patch.setattr(Lessor, "settle", soon)


def stale_read(patch: pytest.MonkeyPatch) -> None:
    """A read of one key is answered from a memory of it."""
    point_body = Store.point_body

    def remembered(store: Store, key: bytes) -> bytes:
        kept: dict[bytes, tuple[int, bytes]] = vars(store).setdefault("kept", {})
        known = kept.get(key)
        if known is None or known[0] < store.revision - 3:
            known = kept[key] = (store.revision, point_body(store, key))
        return known[1]

    patch.setattr(Store, "point_body", remembered)


def partial_delete(patch: pytest.MonkeyPatch) -> None:
    """A key is back now and then although the answer says that it was deleted."""
    delete = Store.delete

    def forgetful(store: Store, key: bytes) -> None:
        delete(store, key)
        if store.revision % 5 == 0:
            store.put(key, b"ghost", 0)

    patch.setattr(Store, "delete", forgetful)


MUTANTS: dict[str, Plant] = {
    plant.__name__: plant
    for plant in (
        ack_before_fsync,
        fsync_error_ignored,
        fsync_repeated,
        directory_not_synced,
        recovery_not_synced,
        applied_index_apart,
        lease_ends_early,
        stale_read,
        partial_delete,
    )
}


def lying(options: Options) -> Options:
    """Return the options with disks whose syncs save nothing."""
    return replace(options, lying_disks=True)


@contextlib.contextmanager
def planted(name: str) -> Generator[None]:
    """Run the block with the bug in place."""
    with pytest.MonkeyPatch.context() as patch:
        MUTANTS[name](patch)
        yield
