"""Ranges of any size, a page at a time, all of one revision (spec core 7.10).

The first page fixes the revision, each further one goes on behind the last key.
This works on every etcd; the newer RangeStream call is not used, since it sends what it has read in one go however
slowly it is taken, ends with the connection, and is missing from most servers that run today.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Self

from coord.errors import Compacted, InvalidArgument, RequestRefused
from coord.rpc.status import StatusCode
from coord.runtime import Backoff
from coord.store.keys import prefix_range, to_bytes, to_key
from coord.store.kv import KV, range_request

if TYPE_CHECKING:
    from coord.runtime import Rand
    from coord.store.values import KeyValue, RangeResult
    from coord.wire import rpc_pb2

DEFAULT_PAGE_SIZE = 1000
"""Keys per page: a few hundred kB at usual sizes, and a thousand keys cost a server little at a time."""
# Without a page size: the first page tells how large the pairs are, the others are as many as fit a few megabytes.
_FIRST_KEYS = 256
_MAX_KEYS = 4096
_PAGE_BYTES = 4 << 20


_RETRY_MIN_S, _RETRY_MAX_S = 0.05, 2.0


def reread(rand: Rand) -> Backoff:
    """Return the pauses of those who read a range for as long as it takes, between attempts to reach the store."""
    return Backoff(rand, _RETRY_MIN_S, _RETRY_MAX_S)


def chosen_range(
    prefix: str | bytes | None, start: str | bytes | None, end: str | bytes | None
) -> tuple[bytes, bytes]:
    """Return the range that is meant: by a prefix, by two bounds, or everything.

    Raises :class:`InvalidArgument` for a mixture.
    """
    if start is None and end is None:
        return prefix_range("" if prefix is None else prefix)
    if prefix is not None:
        raise InvalidArgument("give either a prefix, or start and end")
    if start is None or end is None:
        raise InvalidArgument(
            'give start and end together; end=b"\\0" means all keys from start on'
        )
    last = to_bytes(end, "end")
    if not last:
        raise InvalidArgument('end must not be empty; b"\\0" means all keys from start on')
    return to_key(start), last


class Pages:
    """An iterator over pages. Keeps its place: after an error that passes, the next call tries the same page again.

    ``bounds`` are ``[start, end)``; an empty ``end`` is the one key ``start``.
    ``page_size`` is the number of keys per page; None begins with a few, and goes on with as many as fit a few
    megabytes by what the last page held.
    Either way a page that is too large for one message is asked for again with fewer keys, down to one.
    All pages are as of ``revision``, by default that of the first one.
    """

    def __init__(
        self,
        kv: KV,
        bounds: tuple[bytes, bytes],
        *,
        page_size: int | None = None,
        revision: int | None = None,
        keys_only: bool = False,
        timeout: float | None = None,
    ) -> None:
        if page_size is not None and page_size < 1:
            raise InvalidArgument(f"page_size must be at least 1, not {page_size}")
        self._kv = kv
        self._start, self._end = bounds
        self._limit = _FIRST_KEYS if page_size is None else page_size
        self._most = _MAX_KEYS if page_size is None else page_size
        # Whether the limit follows the size of the pairs.
        self._adapts = page_size is None
        self._revision = revision
        self._keys_only = keys_only
        self._timeout = timeout
        self._over = False
        # A wrong revision is told here and not by the first page.
        self._request()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> RangeResult:
        """Read the next page."""
        if self._over:
            raise StopAsyncIteration
        return await self.read(self._timeout)

    async def read(self, timeout: float | None) -> RangeResult:
        """Read the next page, which there must be."""
        asked = self._start
        page = await self._fitting(timeout)
        if self._start != asked:
            raise InvalidArgument("another task is reading these pages")
        if self._revision is None:
            self._revision = page.revision
        if page.more and page.items:
            self._start = page.items[-1].key + b"\0"
            if self._adapts:
                size_bytes = sum([len(kv.key) + len(kv.value) for kv in page.items])
                fit = _PAGE_BYTES * len(page.items) // max(1, size_bytes)
                self._limit = max(1, min(self._most, fit))
        else:
            self._over = True
        return replace(page, revision=self._revision)

    async def _fitting(self, timeout: float | None) -> RangeResult:
        """Ask for fewer keys until the answer fits a message."""
        while True:
            try:
                return await self._kv.range(self._request(), timeout=timeout)
            except Compacted as error:
                raise _too_old(error, self._revision) from error
            except RequestRefused as error:
                if error.code is not StatusCode.RESOURCE_EXHAUSTED or self._limit == 1:
                    raise
                self._limit = max(1, self._limit // 4)
                self._adapts = True

    def _request(self) -> rpc_pb2.RangeRequest:
        return range_request(
            self._start,
            self._end,
            limit=self._limit,
            revision=self._revision,
            keys_only=self._keys_only,
        )


class Items:
    """An iterator over the pairs of pages."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages
        # In reverse, so that the next one is the last.
        self._left: list[KeyValue] = []

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> KeyValue:
        """Return the next pair; reads a page when the last one is used up."""
        while not self._left:
            page = await anext(self._pages)
            self._left.extend(reversed(page.items))
        return self._left.pop()


def _too_old(error: Compacted, revision: int | None) -> Compacted:
    return Compacted(
        f"revision {revision}, at which these pages are read, has been compacted: begin again with new pages, and if"
        " that repeats, read faster (bigger pages) or compact later",
        compact_revision=error.compact_revision,
    )
