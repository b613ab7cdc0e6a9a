"""The twins of the queues."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self, TypeVar

from coord.recipes import queues
from coord.recipes.queues.handing import HandOff as AsyncHandOff
from coord.sync._portal import Twin

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime
    from types import TracebackType

    from coord.recipes.queues import QueueItem

Q_co = TypeVar("Q_co", bound=AsyncHandOff, covariant=True)


class HandOff(Twin[Q_co]):
    """A queue whose items go to one taker each. Keep one object per process and queue, and close it."""

    __slots__ = ()

    @property
    def name(self) -> bytes:
        """The name, as it stands in the store."""
        return self._async.name

    def get(self, *, timeout: float | None = None) -> QueueItem:
        """Wait for the first item, take it out of the queue, and return it.

        Raises :class:`coord.QueueEmpty` after ``timeout`` seconds. An item that was taken in the moment of a timeout
        or of Ctrl-C goes to the next ``get()`` of this object, or back into the queue, at its tail.
        """
        return self._portal.obtain(lambda: self._async.get(timeout=timeout), self._async.give_back)

    def try_get(self) -> QueueItem | None:
        """Take the first item if there is one, else return None, which is as of now."""
        return self._portal.obtain(self._async.try_get, self._async.give_back)

    def size(self, *, timeout: float | None = None) -> int:
        """Return how many items there are now."""
        return self._portal.call(self._async.size(timeout=timeout))

    def peek(self, n: int = 1) -> tuple[QueueItem, ...]:
        """Return the first ``n`` items, without taking them."""
        return self._portal.call(self._async.peek(n))

    def close(self) -> None:
        """End the view. Getters that wait raise :class:`coord.ClientClosed`. Items stay in the queue."""
        self._portal.call(self._async.close())

    def __enter__(self) -> Self:
        """Close the queue at the end of the block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the queue."""
        self.close()


class Queue(HandOff[queues.Queue]):
    """Items in the order in which they were put, each to one taker; see :class:`coord.Queue`."""

    __slots__ = ()

    def put(self, value: str | bytes, *, marker: bool = True, timeout: float | None = None) -> int:
        """Put an item at the tail and return its revision. Exactly once, unless ``marker=False``."""
        return self._portal.call(self._async.put(value, marker=marker, timeout=timeout))

    def put_many(
        self, values: Iterable[str | bytes], *, marker: bool = True, timeout: float | None = None
    ) -> int:
        """Put several items at the tail, all of them in one transaction or none, and return their revision."""
        return self._portal.call(self._async.put_many(values, marker=marker, timeout=timeout))


class PriorityQueue(HandOff[queues.PriorityQueue]):
    """The most urgent item first, each to one taker; see :class:`coord.PriorityQueue`."""

    __slots__ = ()

    def put(self, value: str | bytes, *, priority: int = 100, timeout: float | None = None) -> int:
        """Put an item behind those of its priority, and return its revision. Raises :class:`coord.BadPriority`."""
        return self._portal.call(self._async.put(value, priority=priority, timeout=timeout))


class DelayQueue(HandOff[queues.DelayQueue]):
    """Items in the order of their times, none before its time; see :class:`coord.DelayQueue`."""

    __slots__ = ()

    def put(
        self,
        value: str | bytes,
        *,
        delay: float | None = None,
        at: float | datetime | None = None,
        timeout: float | None = None,
    ) -> int:
        """Put an item that may be taken in ``delay`` seconds, or ``at`` a time, and return its revision."""
        return self._portal.call(self._async.put(value, delay=delay, at=at, timeout=timeout))
