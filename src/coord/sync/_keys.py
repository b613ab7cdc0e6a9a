"""The twin of the part of a client that reads, writes and watches keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coord import client
from coord.store.kv import SortBy
from coord.sync._portal import Twin
from coord.sync.txn import Txn
from coord.sync.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Collection

    from coord.store.values import DeleteResult, KeyValue, PutResult, RangeResult, WatchFilter


class KeyCalls(Twin[client.Client]):
    """Keys, transactions and watches of a :class:`coord.sync.Client`."""

    __slots__ = ()

    def get(
        self,
        key: str | bytes,
        *,
        revision: int | None = None,
        serializable: bool = False,
        timeout: float | None = None,
    ) -> KeyValue | None:
        """Return the pair at ``key``, None if there is none."""
        return self._portal.call(
            self._async.get(key, revision=revision, serializable=serializable, timeout=timeout)
        )

    def get_range(  # noqa: PLR0913 - the options of etcd's Range
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
        """Read ``[start, end)``; see :meth:`coord.Client.get_range`."""
        return self._portal.call(
            self._async.get_range(
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
        )

    def get_prefix(  # noqa: PLR0913 - the options of etcd's Range
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
        """Read all keys that start with ``prefix``; an empty one means all keys."""
        return self._portal.call(
            self._async.get_prefix(
                prefix,
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
        )

    def count(self, prefix: str | bytes, *, timeout: float | None = None) -> int:
        """Return how many keys start with ``prefix``."""
        return self._portal.call(self._async.count(prefix, timeout=timeout))

    def put(
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
        return self._portal.call(
            self._async.put(key, value, lease=lease, prev_kv=prev_kv, timeout=timeout)
        )

    def delete(
        self, key: str | bytes, *, prev_kv: bool = False, timeout: float | None = None
    ) -> DeleteResult:
        """Delete one key; a missing one is no error."""
        return self._portal.call(self._async.delete(key, prev_kv=prev_kv, timeout=timeout))

    def delete_range(
        self,
        start: str | bytes,
        end: str | bytes,
        *,
        prev_kv: bool = False,
        timeout: float | None = None,
    ) -> DeleteResult:
        """Delete ``[start, end)`` at one revision."""
        return self._portal.call(
            self._async.delete_range(start, end, prev_kv=prev_kv, timeout=timeout)
        )

    def delete_prefix(
        self, prefix: str | bytes, *, prev_kv: bool = False, timeout: float | None = None
    ) -> DeleteResult:
        """Delete all keys that start with ``prefix`` at one revision; an empty one means all keys."""
        return self._portal.call(
            self._async.delete_prefix(prefix, prev_kv=prev_kv, timeout=timeout)
        )

    def compact(
        self, revision: int, *, physical: bool = False, timeout: float | None = None
    ) -> int:
        """Forget history below ``revision`` and return the current revision."""
        return self._portal.call(self._async.compact(revision, physical=physical, timeout=timeout))

    def txn(self) -> Txn:
        """Build a transaction: ``client.txn().when(...).then(...).otherwise(...).commit()``."""
        return Txn(self._portal, self._async.txn())

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
        """Watch ``key``, ``[key, end)``, or with ``prefix=True`` all keys that start with ``key``."""
        watch = self._async.watch(
            key,
            end=end,
            prefix=prefix,
            start_revision=start_revision,
            prev_kv=prev_kv,
            filters=filters,
            progress_notify=progress_notify,
            resync=resync,
        )
        return Watch(self._portal, watch)
