"""The twin of the part of a client that makes shared numbers and cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, overload

from coord import client
from coord.sync._portal import Twin
from coord.sync.cells import AtomicValue, Counter, IdAllocator, ShardedCounter

if TYPE_CHECKING:
    from coord.codec import Codec

T = TypeVar("T")


class CellCalls(Twin[client.Client]):
    """Counters, ids and compare-and-set cells of a :class:`coord.sync.Client`."""

    __slots__ = ()

    def counter(
        self,
        name: str | bytes,
        *,
        initial: int = 0,
        exactly_once: bool = True,
        bigint: bool = False,
    ) -> Counter:
        """Return the counter called ``name``; see :meth:`coord.Client.counter`."""
        made = self._async.counter(name, initial=initial, exactly_once=exactly_once, bigint=bigint)
        return Counter(self._portal, made)

    def sharded_counter(
        self, name: str | bytes, *, shards: int = 16, exactly_once: bool = True
    ) -> ShardedCounter:
        """Return a counter in ``shards`` parts, for many writers; see :meth:`coord.Client.sharded_counter`."""
        made = self._async.sharded_counter(name, shards=shards, exactly_once=exactly_once)
        return ShardedCounter(self._portal, made)

    def id_allocator(self, name: str | bytes, *, block: int = 1000) -> IdAllocator:
        """Return a source of unique numbers; see :meth:`coord.Client.id_allocator`."""
        return IdAllocator(self._portal, self._async.id_allocator(name, block=block))

    @overload
    def atomic(self, name: str | bytes, codec: None = None) -> AtomicValue[bytes]: ...

    @overload
    def atomic(self, name: str | bytes, codec: type[T] | Codec[T]) -> AtomicValue[T]: ...

    def atomic(
        self, name: str | bytes, codec: type[Any] | Codec[Any] | None = None
    ) -> AtomicValue[Any]:
        """Return the compare-and-set cell called ``name``; see :meth:`coord.Client.atomic`."""
        options: dict[str, Any] = {"codec": codec}
        return AtomicValue(self._portal, self._async.atomic(name, **options))
