"""A snapshot of the leader becomes this member's state.

The content goes into a second backend beside the one in use, in the offload thread and at its own pace.
When raft says that it counts, the second takes the place of the first in one step on disk, and what is
in memory is loaded anew. Then the log begins behind it. A crash before the step leaves the old member,
behind the step the new one: a mark in the backend says that its log may be from before.
"""

from __future__ import annotations

import contextlib
import struct
from typing import TYPE_CHECKING, Final, final

from coord.runtime import invariant
from coord_server.failpoints import failpoint
from coord_server.storage.backend import Batch, Bucket
from coord_server.storage.snapshot_file import SnapshotFile

if TYPE_CHECKING:
    from collections.abc import Callable

    from coord_server.raft import SnapshotMeta
    from coord_server.storage.backend import Backend
    from coord_server.storage.disk import Disk
    from coord_server.storage.replaceable_backend import ReplaceableBackend
    from coord_server.storage.store_place import StorePlace

INSTALLED_KEY: Final = b"installed_snapshot"
_POSITION: Final = struct.Struct(">QQ")
_BATCH_BYTES: Final = 4 << 20
_BATCH_RECORDS: Final = 20_000

_BETWEEN_BATCHES = failpoint("install.batch")
_BEFORE_SWITCH = failpoint("install.before_switch")
_AFTER_SWITCH = failpoint("install.after_switch")


def installed_position(backend: Backend) -> tuple[int, int]:
    """Return the (index, term) of the last snapshot that was installed here; zeros if none was."""
    value = backend.get(Bucket.META, INSTALLED_KEY)
    if value is None:
        return 0, 0
    index, term = _POSITION.unpack(value)
    return index, term


@final
class Installation:
    """Makes and swaps backends. ``make_backend`` opens one in a directory."""

    def __init__(
        self,
        *,
        disk: Disk,
        place: StorePlace,
        backend: ReplaceableBackend,
        make_backend: Callable[[str], Backend],
    ) -> None:
        self._disk = disk
        self._place = place
        self._backend = backend
        self._make_backend = make_backend
        self._prepared: tuple[SnapshotMeta, Backend] | None = None

    def prepare(self, path: str, meta: SnapshotMeta) -> None:
        """Fill the other backend from a verified file. For the offload thread, one at a time.

        Raises BrokenSnapshot, BackendError or OSError; nothing of the member has changed then.
        """
        self.forget()
        self._place.clear_other()
        fresh = self._make_backend(self._place.other)
        try:
            with contextlib.closing(SnapshotFile(self._disk, path)) as file:
                _fill(fresh, file, meta)
        except BaseException:
            fresh.close()
            raise
        self._prepared = (meta, fresh)

    def swap(self, meta: SnapshotMeta) -> None:
        """Put what was prepared in the place of the backend in use; durable on return."""
        prepared, self._prepared = self._prepared, None
        invariant(prepared is not None, "a snapshot is prepared before it is installed")
        if prepared is None:
            return
        invariant(prepared[0].index == meta.index, "the prepared snapshot is the one that counts")
        _BEFORE_SWITCH()
        self._place.switch()
        _AFTER_SWITCH()
        self._backend.replace(prepared[1])

    def discard(self, path: str) -> None:
        """Remove the file, and what the backend before the last swap has left. For the offload thread."""
        with contextlib.suppress(FileNotFoundError):
            self._disk.unlink(path)
        if self._prepared is None:
            self._place.clear_other()

    def forget(self) -> None:
        """Close what was prepared and not swapped in."""
        prepared, self._prepared = self._prepared, None
        if prepared is not None:
            prepared[1].close()


def _fill(backend: Backend, file: SnapshotFile, meta: SnapshotMeta) -> None:
    batch = Batch()
    size = 0
    for bucket, key, value in file.records():
        if bucket is Bucket.META and key == INSTALLED_KEY:
            continue  # the leader's own
        batch.put(bucket, key, value)
        size += len(key) + len(value)
        if size >= _BATCH_BYTES or len(batch) >= _BATCH_RECORDS:
            _BETWEEN_BATCHES()
            backend.write(batch)
            batch = Batch()
            size = 0
    batch.put(Bucket.META, INSTALLED_KEY, _POSITION.pack(meta.index, meta.term))
    backend.write(batch)
