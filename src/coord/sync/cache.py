"""The twins of caches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self, TypeVar

from typing_extensions import override

from coord import cache
from coord.cache.snapshot import CacheSnapshot, Reads
from coord.sync._portal import Iteration, Portal, Twin

if TYPE_CHECKING:
    from types import TracebackType

    from coord.cache import CacheBatch
    from coord.codec.values import Entry

T = TypeVar("T")


class Cache(Twin["cache.Cache[T]"], Reads[T]):
    """A range of the store as a dictionary that keeps itself up to date; see :class:`coord.Cache`.

    ``with`` fills it. Reads do not wait, and need no lock.
    """

    __slots__ = ()

    def __enter__(self) -> Self:
        """As :meth:`open`, with the timeout that the cache was made with."""
        self._portal.call(self._async.__aenter__())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the cache."""
        self.close()

    def open(self, *, timeout: float | None = None) -> None:
        """Fill the cache. Raises :class:`coord.CacheTimeout` after ``timeout`` seconds; None: never."""
        self._portal.call(self._async.open(timeout=timeout))

    def close(self) -> None:
        """End the cache, without waiting. Safe to call twice."""
        self._async.close()

    @override
    def snapshot(self) -> CacheSnapshot[T]:
        """Return what there is now, as one value that never changes. Costs nothing."""
        return self._async.snapshot()

    @property
    def stale_for(self) -> float:
        """Seconds for which changes may be missing: 0 while the store watches."""
        return self._async.stale_for

    def sync(self, *, timeout: float | None = None) -> int:
        """Wait until the cache shows everything that was written before this call; return the revision."""
        return self._portal.call(self._async.sync(timeout=timeout))

    def wait_revision(self, revision: int, *, timeout: float | None = None) -> None:
        """Wait until the cache shows everything up to ``revision``."""
        self._portal.call(self._async.wait_revision(revision, timeout=timeout))

    def changes(self) -> Iteration[CacheBatch[T]]:
        """Return an iterator over batches of what happens from now on. Close it, or use it in a ``with``."""
        return Iteration(self._portal, self._async.changes())


class NodeCache(Cache[T]):
    """A cache of a single key; see :class:`coord.NodeCache`."""

    __slots__ = ()

    @property
    def pair(self) -> Entry[T] | None:
        """The pair with its revisions, None if the key does not exist."""
        return self._node.pair

    @property
    def value(self) -> T | None:
        """The value, None if the key does not exist."""
        return self._node.value

    @property
    def exists(self) -> bool:
        """Whether the key exists, with a value that can be read."""
        return self._node.exists

    @property
    def _node(self) -> cache.NodeCache[T]:
        node = self._async
        if not isinstance(node, cache.NodeCache):
            raise TypeError("a NodeCache is the twin of one")
        return node


def twin_of(portal: Portal, made: cache.Cache[T]) -> Cache[T]:
    """Return the twin of a cache of either kind."""
    if isinstance(made, cache.NodeCache):
        return NodeCache(portal, made)
    return Cache(portal, made)
