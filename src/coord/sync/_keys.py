"""The twin of the part of a client that reads, writes and watches keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from coord import client
from coord.store.batch import DEFAULT_MAX_BYTES
from coord.store.kv import SortBy
from coord.store.paging import DEFAULT_PAGE_SIZE
from coord.sync._portal import Iteration, Twin
from coord.sync.batch import Batch
from coord.sync.stm import StmTxn, run_stm
from coord.sync.txn import Txn
from coord.sync.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from coord.store.stm import StmResult
    from coord.store.stm_txn import Isolation
    from coord.store.values import DeleteResult, KeyValue, PutResult, RangeResult, WatchFilter


T = TypeVar("T")


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

    def pages(
        self,
        prefix: str | bytes | None = None,
        *,
        start: str | bytes | None = None,
        end: str | bytes | None = None,
        page_size: int = DEFAULT_PAGE_SIZE,
        revision: int | None = None,
        keys_only: bool = False,
        timeout: float | None = None,
    ) -> Iteration[RangeResult]:
        """Read a range of any size, page by page, as it was at one revision; see :meth:`coord.Client.pages`."""
        pages = self._async.pages(
            prefix,
            start=start,
            end=end,
            page_size=page_size,
            revision=revision,
            keys_only=keys_only,
            timeout=timeout,
        )
        return Iteration(self._portal, pages)

    def iterate(
        self,
        prefix: str | bytes | None = None,
        *,
        start: str | bytes | None = None,
        end: str | bytes | None = None,
        page_size: int = DEFAULT_PAGE_SIZE,
        revision: int | None = None,
        keys_only: bool = False,
        timeout: float | None = None,
    ) -> Iteration[KeyValue]:
        """Iterate over the pairs of a range of any size, as it was at one revision; see :meth:`coord.Client.pages`."""
        pairs = self._async.iterate(
            prefix,
            start=start,
            end=end,
            page_size=page_size,
            revision=revision,
            keys_only=keys_only,
            timeout=timeout,
        )
        return Iteration(self._portal, pairs)

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
        ignore_value: bool = False,
        ignore_lease: bool = False,
        timeout: float | None = None,
    ) -> PutResult:
        """Write one pair, attached to the lease with this id if given; see :meth:`coord.Client.put`.

        After :class:`AmbiguousResult`, ``resolve()`` returns the pair as it is.
        """
        return self._portal.call(
            self._async.put(
                key,
                value,
                lease=lease,
                prev_kv=prev_kv,
                ignore_value=ignore_value,
                ignore_lease=ignore_lease,
                timeout=timeout,
            )
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

    def batch(
        self,
        *,
        max_ops: int | None = None,
        max_bytes: int = DEFAULT_MAX_BYTES,
        timeout: float | None = None,
    ) -> Batch:
        """Collect independent operations and send them in few transactions; see :meth:`coord.Client.batch`."""
        batch = self._async.batch(max_ops=max_ops, max_bytes=max_bytes, timeout=timeout)
        return Batch(self._portal, batch)

    def stm(
        self,
        fn: Callable[[StmTxn], T],
        *,
        isolation: Isolation = "serializable_snapshot",
        max_attempts: int = 50,
        timeout: float | None = 30.0,
        prefetch: Iterable[str | bytes] = (),
        marker: bool = True,
    ) -> StmResult[T]:
        """Run ``fn(tx)`` on this thread as one transaction, again until no other has come in between.

        See :meth:`coord.Client.stm`. ``timeout`` is looked at whenever ``fn`` reads, and at the commit.
        """
        run = self._async._stm_run(  # noqa: SLF001 - one product, two faces  # pyright: ignore[reportPrivateUsage]
            isolation, max_attempts, timeout, prefetch, marker=marker
        )
        return run_stm(self._portal, run, fn)

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
