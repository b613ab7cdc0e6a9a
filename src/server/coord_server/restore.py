"""Starting a new member from a saved snapshot (``--coord-restore-snapshot``).

The snapshot goes into an empty backend in batches, between two marks: the first batch says that a
restore has begun, the last says that it is done and of which snapshot. Killed in between, the next start
with the same flag begins again; without the flag it is refused, since half a store must not serve. Once
done, the flag means nothing any more, so a supervisor may keep it on the command line.

The new member is of a new cluster (etcd ops: "snapshot restore"): keys, revisions, leases and alarms are
kept, while members, ids and the place in the old log are not.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from coord_server.bootstrap import DataDirError
from coord_server.failpoints import failpoint
from coord_server.storage.backend import APPLIED_INDEX_KEY, APPLIED_TERM_KEY, Batch, Bucket
from coord_server.storage.snapshot_file import BrokenSnapshot, SnapshotFile

if TYPE_CHECKING:
    from coord_server.log import Log
    from coord_server.storage.backend import Backend
    from coord_server.storage.disk import Disk

RESTORING_KEY: Final = b"restoring"
RESTORED_KEY: Final = b"restored_from"
_BATCH_BYTES: Final = 4 << 20
_BATCH_RECORDS: Final = 20_000
_OF_THE_OLD_MEMBER: Final = frozenset(
    (APPLIED_INDEX_KEY, APPLIED_TERM_KEY, RESTORING_KEY, RESTORED_KEY)
)

_BETWEEN_BATCHES = failpoint("restore.batch")


def check_whole(backend: Backend, store: str) -> None:
    """Raise DataDirError if a restore was begun here and not finished."""
    if backend.get(Bucket.META, RESTORING_KEY) is not None:
        raise DataDirError(
            f"{store} holds a part of a snapshot: the restore was interrupted; start again with "
            "--coord-restore-snapshot, or with an empty data directory"
        )


def restore(disk: Disk, path: str, backend: Backend, log: Log, *, root: str, has_log: bool) -> None:
    """Fill the backend from the snapshot in ``path``, unless it is filled from that already.

    Raises DataDirError: the file is no good, or the data directory ``root`` (with ``has_log``) holds
    something else. OSError and BackendError pass through.
    """
    restored = backend.get(Bucket.META, RESTORED_KEY)
    try:
        file = SnapshotFile(disk, path)
    except OSError as error:
        if restored is not None:
            return
        raise DataDirError(f"cannot read snapshot {path}: {error.strerror or error}") from error
    except BrokenSnapshot as error:
        raise DataDirError(str(error)) from error
    with contextlib.closing(file):
        if restored == file.digest:
            log.info("already restored from this snapshot", path=path)
            return
        begun = backend.get(Bucket.META, RESTORING_KEY) is not None
        if has_log or restored is not None or (not begun and _holds_anything(backend)):
            raise DataDirError(
                f"data directory {root} is not empty: a snapshot is restored into a new one"
            )
        try:
            file.verify()
            count = _fill(backend, file)
        except BrokenSnapshot as error:
            raise DataDirError(str(error)) from error
        log.info("restored snapshot", path=path, records=count, **file.about())


def _holds_anything(backend: Backend) -> bool:
    return any(next(backend.scan(bucket), None) is not None for bucket in Bucket)


def _fill(backend: Backend, file: SnapshotFile) -> int:
    batch = Batch()
    batch.put(Bucket.META, RESTORING_KEY, file.digest)
    backend.write(batch)
    for bucket in Bucket:
        _empty(backend, bucket)
    batch = Batch()
    count = size = 0
    for bucket, key, value in file.records():
        if bucket is Bucket.MEMBERS or (bucket is Bucket.META and key in _OF_THE_OLD_MEMBER):
            continue
        batch.put(bucket, key, value)
        count += 1
        size += len(key) + len(value)
        if size >= _BATCH_BYTES or len(batch) >= _BATCH_RECORDS:
            _BETWEEN_BATCHES()
            backend.write(batch)
            batch = Batch()
            size = 0
    _BETWEEN_BATCHES()
    batch.delete(Bucket.META, RESTORING_KEY)
    batch.put(Bucket.META, RESTORED_KEY, file.digest)
    backend.write(batch)
    return count


def _empty(backend: Backend, bucket: Bucket) -> None:
    """Remove what an interrupted restore has left, but not its mark."""
    batch = Batch()
    for key, _ in backend.scan(bucket):
        if bucket is not Bucket.META or key != RESTORING_KEY:
            batch.delete(bucket, key)
            if len(batch) >= _BATCH_RECORDS:
                backend.write(batch)
                batch = Batch()
    backend.write(batch)
