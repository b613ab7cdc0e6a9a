"""The part of a client that reads, writes and watches keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coord.errors import InvalidArgument
from coord.store.keys import prefix_range, to_bytes, to_key
from coord.store.kv import SortBy, range_request
from coord.store.txn import Txn
from coord.store.values import WatchFilter
from coord.store.watch import WatchSpec
from coord.watching import Watch

if TYPE_CHECKING:
    from collections.abc import Collection

    from coord.core import Core
    from coord.store.values import DeleteResult, KeyValue, PutResult, RangeResult


class KeyCalls:
    """Keys, transactions and watches of a :class:`coord.Client`."""

    _core: Core

    async def get(
        self,
        key: str | bytes,
        *,
        revision: int | None = None,
        serializable: bool = False,
        timeout: float | None = None,
    ) -> KeyValue | None:
        """Return the pair at ``key``, None if there is none.

        ``revision`` reads the past; ``serializable=True`` allows the answering member to be behind, for speed.
        """
        return await self._core.kv.get(
            key, revision=revision, serializable=serializable, timeout=timeout
        )

    async def get_range(  # noqa: PLR0913 - the options of etcd's Range
        self,
        start: str | bytes,
        end: str | bytes,
        *,
        limit: int = 0,
        revision: int | None = None,
        sort_by: SortBy = SortBy.KEY,
        descending: bool = False,
        keys_only: bool = False,
        count_only: bool = False,
        serializable: bool = False,
        min_mod_revision: int = 0,
        max_mod_revision: int = 0,
        min_create_revision: int = 0,
        max_create_revision: int = 0,
        timeout: float | None = None,
    ) -> RangeResult:
        r"""Read ``[start, end)``; an ``end`` of ``b"\0"`` means everything from ``start`` on.

        ``limit`` 0 is no limit; ``count`` of the result counts the keys that the limit cut off, too.
        The four bounds leave out keys by their revisions; ``count`` still counts them.
        """
        request = range_request(
            to_key(start),
            to_bytes(end, "end"),
            limit=limit,
            revision=revision,
            sort_by=sort_by,
            descending=descending,
            keys_only=keys_only,
            count_only=count_only,
            serializable=serializable,
            min_mod_revision=min_mod_revision,
            max_mod_revision=max_mod_revision,
            min_create_revision=min_create_revision,
            max_create_revision=max_create_revision,
        )
        return await self._core.kv.range(request, timeout=timeout)

    async def get_prefix(  # noqa: PLR0913 - the options of etcd's Range
        self,
        prefix: str | bytes,
        *,
        limit: int = 0,
        revision: int | None = None,
        sort_by: SortBy = SortBy.KEY,
        descending: bool = False,
        keys_only: bool = False,
        count_only: bool = False,
        serializable: bool = False,
        min_mod_revision: int = 0,
        max_mod_revision: int = 0,
        min_create_revision: int = 0,
        max_create_revision: int = 0,
        timeout: float | None = None,
    ) -> RangeResult:
        """Read all keys that start with ``prefix``; an empty one means all keys. As :meth:`get_range`."""
        start, end = prefix_range(prefix)
        return await self.get_range(
            start,
            end,
            limit=limit,
            revision=revision,
            sort_by=sort_by,
            descending=descending,
            keys_only=keys_only,
            count_only=count_only,
            serializable=serializable,
            min_mod_revision=min_mod_revision,
            max_mod_revision=max_mod_revision,
            min_create_revision=min_create_revision,
            max_create_revision=max_create_revision,
            timeout=timeout,
        )

    async def count(self, prefix: str | bytes, *, timeout: float | None = None) -> int:
        """Return how many keys start with ``prefix``."""
        return await self._core.kv.count(prefix, timeout=timeout)

    async def put(
        self,
        key: str | bytes,
        value: str | bytes,
        *,
        lease: int | None = None,
        prev_kv: bool = False,
        timeout: float | None = None,
    ) -> PutResult:
        """Write one pair, attached to the lease with this id if given.

        After :class:`AmbiguousResult`, ``resolve()`` returns the pair as it is.
        """
        return await self._core.kv.put(
            key, value, lease=lease or 0, prev_kv=prev_kv, timeout=timeout
        )

    async def delete(
        self, key: str | bytes, *, prev_kv: bool = False, timeout: float | None = None
    ) -> DeleteResult:
        """Delete one key; a missing one is no error.

        After :class:`AmbiguousResult`, ``resolve()`` returns what is there now.
        """
        return await self._core.kv.delete(to_key(key), prev_kv=prev_kv, timeout=timeout)

    async def delete_range(
        self,
        start: str | bytes,
        end: str | bytes,
        *,
        prev_kv: bool = False,
        timeout: float | None = None,
    ) -> DeleteResult:
        """Delete ``[start, end)`` at one revision."""
        return await self._core.kv.delete(
            to_key(start), to_bytes(end, "end"), prev_kv=prev_kv, timeout=timeout
        )

    async def delete_prefix(
        self, prefix: str | bytes, *, prev_kv: bool = False, timeout: float | None = None
    ) -> DeleteResult:
        """Delete all keys that start with ``prefix`` at one revision; an empty one means all keys."""
        start, end = prefix_range(prefix)
        return await self._core.kv.delete(start, end, prev_kv=prev_kv, timeout=timeout)

    async def compact(
        self, revision: int, *, physical: bool = False, timeout: float | None = None
    ) -> int:
        """Forget history below ``revision`` and return the current revision.

        ``physical=True`` waits until it is gone from the disk, too.
        Raises :class:`Compacted` when that was done before, :class:`FutureRevision`.
        """
        return await self._core.kv.compact(revision, physical=physical, timeout=timeout)

    def txn(self) -> Txn:
        """Build a transaction: ``client.txn().when(...).then(...).otherwise(...).commit()``."""
        return Txn(self._core.txn)

    # Watches.

    def watch(
        self,
        key: str | bytes,
        *,
        end: str | bytes | None = None,
        prefix: bool = False,
        start_revision: int | None = None,
        prev_kv: bool = False,
        filters: Collection[WatchFilter] = (),
        progress_notify: bool = False,
        resync: bool = False,
    ) -> Watch:
        """Watch ``key``, ``[key, end)``, or with ``prefix=True`` all keys that start with ``key``.

        From ``start_revision`` on, which may be in the past; None means from when the watch is entered.
        ``prev_kv`` adds the pair before each change, as far as history reaches.
        ``resync=True`` goes on when history that is still needed has been compacted: instead of raising
        :class:`Compacted` it reads the range again, and delivers what is different from what it has delivered as one
        batch with ``resync`` set, without previous pairs. For that it reads all keys when it opens, and keeps some 250
        bytes for each; ``start_revision`` must not lie in the future then (:class:`FutureRevision`).
        """
        if prefix and end is not None:
            raise InvalidArgument("give either end or prefix, not both")
        if start_revision is not None and start_revision <= 0:
            raise InvalidArgument(
                f"start_revision must be None (now) or at least 1, not {start_revision}"
            )
        if prefix:
            first, last = prefix_range(key)
        else:
            first, last = to_key(key), b"" if end is None else to_bytes(end, "end")
        spec = WatchSpec(
            key=first,
            end=last,
            start_revision=start_revision or 0,
            prev_kv=prev_kv,
            no_put=WatchFilter.NO_PUT in filters,
            no_delete=WatchFilter.NO_DELETE in filters,
            progress_notify=progress_notify,
        )
        return Watch(self._core, spec, resync=resync)
