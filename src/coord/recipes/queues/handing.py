"""What the queues have in common: taking, looking, closing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from typing_extensions import override

from coord._telemetry import QUEUES, observed_wait
from coord.errors import InvalidArgument
from coord.recipes.ending import Ending
from coord.recipes.queues.consumer import Consumer
from coord.recipes.queues.errors import QueueEmpty
from coord.recipes.queues.items import QueueItem, item_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from coord.cache import Mirrors
    from coord.coordination import Coordination
    from coord.recipes.queues.orders import Order
    from coord.recipes.queues.producer import Producer


class HandOff(Ending):
    """A queue whose items go to one taker each. Keep one object per process and queue, and close it."""

    def __init__(
        self,
        home: Coordination,
        mirrors: Mirrors,
        producer: Producer,
        order: Callable[[bytes], Order],
    ) -> None:
        self._home = home
        self.name: bytes = producer.name
        """The name, as it stands in the store."""
        self._text = producer.text
        self._prefix = producer.prefix
        # The producer knows as little of us as the consumer.
        self._works = self._consumer = Consumer(
            home, mirrors, order(self._prefix), producer=producer
        )

    # -- taking ----------------------------------------------------------------------------------------------------

    async def get(self, *, timeout: float | None = None) -> QueueItem:
        """Wait for the first item, take it out of the queue, and return it.

        The second call, or one that has to wait, begins a view of the queue, which further calls read.
        Calls that wait at the same time share a transaction, and get their items in the order of the calls.
        A lost answer is cleared up: the item goes to one caller in the world, and to this one only if it says so.
        Raises :class:`QueueEmpty` after ``timeout`` seconds, :class:`AmbiguousResult` when the store could not be
        reached for so long (a minute and more) that nobody can know any more whether the item was taken.
        After a cancellation or a timeout an item that was taken in that moment goes to the next ``get()`` of this
        object, or back into the queue, at its tail.
        """
        if timeout is not None and timeout < 0:
            raise InvalidArgument(f"timeout must be None or at least 0 seconds, not {timeout}")
        waiting = observed_wait(
            QUEUES, QUEUES.wait, self._text, lambda: self._get(timeout), clock=self._home.env.clock
        )
        return await self._home.run(waiting, discard=self._consumer.give_back)

    async def try_get(self) -> QueueItem | None:
        """Take the first item if there is one, else return None, which is as of now."""
        trying = observed_wait(
            QUEUES, QUEUES.attempt, self._text, self._consumer.try_get, clock=self._home.env.clock
        )
        return await self._home.run(trying, discard=self._discard)

    async def _get(self, timeout: float | None) -> QueueItem:
        scope = asyncio.timeout(timeout)
        try:
            async with scope:
                return await self._consumer.get()
        except TimeoutError:
            if not scope.expired():
                raise
            raise QueueEmpty(f"get from queue {self._text!r}", timeout) from None

    def _discard(self, item: QueueItem | None) -> None:
        if item is not None:
            self._consumer.give_back(item)

    def give_back(self, item: QueueItem | None) -> None:
        """Find a use for an item whose taker has gone. On the runtime's loop."""
        self._discard(item)

    # -- looking ---------------------------------------------------------------------------------------------------

    async def size(self, *, timeout: float | None = None) -> int:
        """Return how many items there are now."""
        return await self._home.core.kv.count(self._prefix, timeout=timeout)

    async def peek(self, n: int = 1) -> tuple[QueueItem, ...]:
        """Return the first ``n`` items, without taking them."""
        if n < 1:
            raise InvalidArgument(f"peek takes a number of items, at least 1, not {n}")
        entries = await self._home.run(self._consumer.read(n))
        return tuple([item_of(entry) for entry in entries])

    # -- the end ---------------------------------------------------------------------------------------------------

    @override
    async def close(self) -> None:
        """End the view. Getters that wait raise :class:`ClientClosed`. Items stay in the queue. Safe to call twice."""
        await self._end()
