"""First in, first out (spec recipes 10.1; layout of Go's ``recipes.Queue``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typing_extensions import override

from coord.errors import InvalidArgument
from coord.recipes.queues.handing import HandOff
from coord.recipes.queues.items import RETURNED, QueueItem
from coord.recipes.queues.orders import ByRevision
from coord.recipes.queues.producer import Producer
from coord.store import comparing as compare
from coord.store import operations as op

if TYPE_CHECKING:
    from collections.abc import Iterable

    from coord.cache import Mirrors
    from coord.coordination import Coordination


class Queue(HandOff):
    """Items in the order in which they were put, each to one taker. Made by ``client.queue(name)``.

    A taker that dies has lost its item: where that matters, use a work queue.
    Go's ``recipes.Queue`` on the same name puts and takes the same items.
    """

    def __init__(self, home: Coordination, mirrors: Mirrors, name: str | bytes) -> None:
        self._producer = _Producer(home, name)
        super().__init__(home, mirrors, self._producer, ByRevision)

    async def put(
        self, value: str | bytes, *, marker: bool = True, timeout: float | None = None
    ) -> int:
        """Put an item at the tail and return its revision.

        Exactly once: a lost answer is cleared up by an operation marker. ``marker=False`` saves its key, and raises
        :class:`AmbiguousResult` then.
        Raises :class:`PayloadTooLarge` for a value above the client's ``max_value_bytes``.
        """
        producer = self._producer
        pair = (producer.prefix + producer.nonce(), producer.value(value))
        return await producer.put((pair,), marker=marker, timeout=timeout)

    async def put_many(
        self, values: Iterable[str | bytes], *, marker: bool = True, timeout: float | None = None
    ) -> int:
        """Put several items at the tail, all of them in one transaction or none, and return their revision.

        They are taken in the order given. Other clients may swap them, since they share a revision.
        Raises :class:`TxnTooLarge` for more than the client's ``max_txn_ops``, less one for the marker.
        """
        producer = self._producer
        stem = producer.prefix + producer.nonce()
        pairs = [
            (stem + b"-%04d" % number, producer.value(value)) for number, value in enumerate(values)
        ]
        if not pairs:
            raise InvalidArgument("put_many takes at least one value")
        return await producer.put(tuple(pairs), marker=marker, timeout=timeout)


class _Producer(Producer):
    async def put(
        self, pairs: tuple[tuple[bytes, bytes], ...], *, marker: bool, timeout: float | None
    ) -> int:
        when = (compare.create_revision(pairs[0][0]) == 0,)
        then = tuple([op.put(key, value) for key, value in pairs])
        if not marker:
            return (await self._home.txn.run(when, then, timeout=timeout)).revision
        return (await self._home.core.markers.run(when, then, timeout=timeout)).revision

    @override
    async def put_back(self, item: QueueItem) -> object:
        pair = (self.prefix + self.nonce() + RETURNED, item.value)
        return await self.put((pair,), marker=True, timeout=None)
