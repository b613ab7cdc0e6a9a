"""What changes in a cache, batch by batch."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Generic, Self, TypeVar

from coord.errors import ClientClosed, InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from coord.cache.ledger import CacheBatch
    from coord.cache.snapshot import CacheSnapshot

T = TypeVar("T")


class Changes(Generic[T]):
    """Everything that happens in a cache after ``base``, in batches. Made by ``cache.changes()``.

    It keeps no queue: it knows the snapshot that its reader has seen, and asks what has happened since. Who reads
    slowly gets differences instead of every step, and holds nobody up.
    A cancelled read loses nothing. One task at a time may read.
    """

    def __init__(
        self,
        base: CacheSnapshot[T],
        fetch: Callable[
            [CacheSnapshot[T]], Awaitable[tuple[tuple[CacheBatch[T], ...], CacheSnapshot[T]]]
        ],
    ) -> None:
        self._base = base
        self._fetch = fetch
        self._batches: deque[CacheBatch[T]] = deque()
        self._reading = False
        self._closed = False

    def __aiter__(self) -> Self:
        """Iterate over batches."""
        return self

    async def __anext__(self) -> CacheBatch[T]:
        """Wait for the next batch. Raises what the cache has ended with."""
        while not self._batches:
            if self._closed:
                raise ClientClosed("the iterator")
            if self._reading:
                raise InvalidArgument("another task is reading these changes")
            self._reading = True
            try:
                batches, now = await self._fetch(self._base)
            finally:
                self._reading = False
            # No await from here: all of it has arrived, or the next call asks for it again.
            self._base = now
            self._batches.extend(batches)
        return self._batches.popleft()

    async def aclose(self) -> None:
        """Forget the snapshot that it starts from. Reading raises :class:`coord.ClientClosed` then."""
        self._closed = True
        self._batches.clear()
