"""The part of a client that makes shared numbers and cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from coord.codec import Codec, as_codec
from coord.recipes.atomic import AtomicValue
from coord.recipes.counter import Counter, IdAllocator, ShardedCounter

if TYPE_CHECKING:
    from coord.client.client import Client
    from coord.coordination import Coordination

T = TypeVar("T")


class CellCalls:
    """Counters, ids and compare-and-set cells of a :class:`coord.Client`."""

    _home: Coordination

    def counter(
        self,
        name: str | bytes,
        *,
        initial: int = 0,
        exactly_once: bool = True,
        bigint: bool = False,
    ) -> Counter:
        """Return the counter called ``name``, which counts from ``initial`` if it does not exist; see :class:`Counter`.

        ``exactly_once=False`` leaves out the operation marker; ``bigint=True`` allows more than 64 bits.
        """
        return Counter(self._home, name, initial=initial, exactly_once=exactly_once, bigint=bigint)

    def sharded_counter(
        self, name: str | bytes, *, shards: int = 16, exactly_once: bool = True
    ) -> ShardedCounter:
        """Return a counter in ``shards`` parts, for many writers; see :class:`ShardedCounter`."""
        return ShardedCounter(self._home, name, shards=shards, exactly_once=exactly_once)

    def id_allocator(self, name: str | bytes, *, block: int = 1000) -> IdAllocator:
        """Return a source of unique numbers, which takes ``block`` at a time; see :class:`IdAllocator`."""
        return IdAllocator(self._home, name, block=block)

    @overload
    def atomic(self, name: str | bytes, codec: None = None) -> AtomicValue[bytes]: ...

    @overload
    def atomic(self, name: str | bytes, codec: type[T] | Codec[T]) -> AtomicValue[T]: ...

    def atomic(
        self, name: str | bytes, codec: type[Any] | Codec[Any] | None = None
    ) -> AtomicValue[Any]:
        """Return the compare-and-set cell called ``name``; see :class:`AtomicValue`.

        ``codec``, or the type of the values, as for :meth:`typed`; without, they are bytes.
        """
        chosen: Codec[Any] = as_codec(bytes if codec is None else codec)
        whole = cast("Client", self)  # of which this is a part
        return AtomicValue(self._home, name, chosen, lambda key: whole.cache(key=key, codec=chosen))
