"""The part of a client that reads, writes and watches keys."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from coord.errors import InvalidArgument
from coord.store.batch import DEFAULT_MAX_BYTES, Batch
from coord.store.keys import prefix_range, to_bytes, to_key
from coord.store.kv import SortBy, range_request
from coord.store.paging import DEFAULT_PAGE_SIZE, Items, Pages, chosen_range
from coord.store.stm import StmRun, run_stm
from coord.store.txn import Txn
from coord.store.values import WatchFilter
from coord.store.watch import WatchSpec
from coord.watching import Watch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable

    from coord.core import Core
    from coord.store.stm import StmResult
    from coord.store.stm_txn import Isolation, StmTxn
    from coord.store.values import DeleteResult, KeyValue, PutResult, RangeResult


T = TypeVar("T")


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
        """Read all keys that start with ``prefix``; an empty one means all keys. As :meth:`get_range`.

        The answer is one message of at most 2 GiB, and the server builds it in memory: from some thousand keys on,
        :meth:`pages` is kinder to everybody.
        """
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
    ) -> AsyncIterator[RangeResult]:
        r"""Read a range of any size, ``page_size`` keys at a time, as it was at one revision.

        A page that does not fit a message has fewer keys.
        All keys that start with ``prefix``, or ``[start, end)``, where an ``end`` of ``b"\0"`` means everything from
        ``start`` on; without any, all keys. In key order.
        The first page is a linearizable read and fixes the revision, unless ``revision`` does; each page tells it as
        its ``revision``, so a watch from ``revision + 1`` continues where the pages end.
        ``count`` is the number of keys from that page on. There is always a first page, if an empty one.
        ``timeout`` is for each page.

        Nothing is held between two pages but the place: after :class:`Unavailable` or :class:`CoordTimeout` the
        iterator may be asked again.
        Raises :class:`Compacted` when the revision is compacted before the last page: begin again then.
        """
        return Pages(
            self._core.kv,
            chosen_range(prefix, start, end),
            page_size=page_size,
            revision=revision,
            keys_only=keys_only,
            timeout=timeout,
        )

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
    ) -> AsyncIterator[KeyValue]:
        """Iterate over the pairs of a range of any size, as it was at one revision; see :meth:`pages`."""
        return Items(
            Pages(
                self._core.kv,
                chosen_range(prefix, start, end),
                page_size=page_size,
                revision=revision,
                keys_only=keys_only,
                timeout=timeout,
            )
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
        ignore_value: bool = False,
        ignore_lease: bool = False,
        timeout: float | None = None,
    ) -> PutResult:
        """Write one pair, attached to the lease with this id if given, else to none.

        ``ignore_value=True`` with an empty value keeps the value that is there, ``ignore_lease=True`` without a lease
        the lease; both need the key to exist, else :class:`KeyNotFound` is raised.
        After :class:`AmbiguousResult`, ``resolve()`` returns the pair as it is.
        """
        return await self._core.kv.put(
            key,
            value,
            lease=lease or 0,
            prev_kv=prev_kv,
            ignore_value=ignore_value,
            ignore_lease=ignore_lease,
            timeout=timeout,
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

    def batch(
        self,
        *,
        max_ops: int | None = None,
        max_bytes: int = DEFAULT_MAX_BYTES,
        timeout: float | None = None,
    ) -> Batch:
        """Collect independent operations and send them in few transactions; see :class:`Batch`.

        ``async with client.batch() as batch: found = batch.get("k")``, and behind it ``found.result()``.
        ``max_ops`` and ``max_bytes`` bound one transaction; None means the client's ``max_txn_ops``.
        ``timeout`` in seconds is for each transaction.
        """
        core = self._core
        return Batch(
            core.kv,
            core.txn,
            max_ops=max_ops,
            max_bytes=max_bytes,
            timeout=timeout,
            key_overhead=core.keyspace.size,
        )

    async def stm(
        self,
        fn: Callable[[StmTxn], Awaitable[T]],
        *,
        isolation: Isolation = "serializable_snapshot",
        max_attempts: int = 50,
        timeout: float | None = 30.0,
        prefetch: Iterable[str | bytes] = (),
        marker: bool = True,
    ) -> StmResult[T]:
        """Run ``await fn(tx)`` as one transaction: what it reads and writes through ``tx`` takes place at one moment.

        ``fn`` may be run several times, until no other transaction has come in between, and must have no effects but
        those on ``tx``; while the loop is in debug mode (``python -X dev``) each attempt runs it twice, so that others
        show.
        An exception in ``fn`` is raised here, and nothing is written.

        ``isolation`` says what must not have changed at the commit:

        * ``serializable_snapshot``: what was read, including which keys a range has, and the keys that are written;
        * ``serializable``: what was read. These two read everything at one revision and are strictly serializable;
        * ``repeatable_reads``: what was read, each key for itself: the values need not have existed at one time;
        * ``read_committed``: nothing.

        ``prefetch``: keys that ``fn`` will probably read, fetched by one request.
        ``timeout`` in seconds is for everything together; lost connections are waited for in that time.
        With ``marker=True`` the transaction also writes a short-lived key under ``_coord/op/``, so that it can be sent
        again when the answer to the commit is lost, and is applied exactly once.

        Raises :class:`StmConflict` after ``max_attempts``, :class:`StmTimeout`, and :class:`TxnTooLarge` before
        sending; then nothing was written.
        Raises :class:`AmbiguousResult` when the commit's outcome stayed unknown: without a marker at once, with one
        only when the time ended first; its ``resolve()`` then returns the revision of the commit, or None if there was
        none and never will be.
        After a cancellation it was applied as a whole or not at all.
        """
        return await run_stm(
            self._stm_run(isolation, max_attempts, timeout, prefetch, marker=marker),
            fn,
            twice=asyncio.get_running_loop().get_debug(),
        )

    def _stm_run(
        self,
        isolation: Isolation,
        max_attempts: int,
        timeout: float | None,
        prefetch: Iterable[str | bytes],
        *,
        marker: bool,
    ) -> StmRun:
        core = self._core
        return StmRun(
            core.kv,
            core.txn,
            core.markers,
            core.env,
            request_timeout=core.caller.request_timeout,
            isolation=isolation,
            max_attempts=max_attempts,
            timeout=timeout,
            prefetch=prefetch,
            marker=marker,
        )

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
