"""The twins of a work queue and its items."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Self, TypeVar

from coord.errors import CoordError
from coord.recipes import work_queue
from coord.sync._portal import Iteration, Portal, Twin
from coord.sync.grants import Grant
from coord.sync.signals import OneShot

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Sequence
    from datetime import datetime
    from types import TracebackType

    from coord.recipes.work_queue import DeadLetter, WorkReceipt, WorkStats
    from coord.store.operations import Op

T = TypeVar("T")


class WorkItem(Grant[work_queue.WorkItem]):
    """An item of a work queue, claimed; see :class:`coord.WorkItem`.

    ``with item:`` acknowledges it at the end of the block, and gives it back when the block raises; Ctrl-C does not
    count as an attempt. A thread cannot be interrupted: a block whose claim is lost goes on, may look at ``item.lost``
    and ``item.check()``, and raises :class:`coord.ClaimLost` at its end if it did not raise by itself.
    """

    __slots__ = ()

    @property
    def id(self) -> str:
        """The item's id; the same for each of its deliveries."""
        return self._async.id

    @property
    def value(self) -> bytes:
        """What was put."""
        return self._async.value

    @property
    def attempt(self) -> int:
        """Which delivery this is, from 1; those of consumers that died are counted."""
        return self._async.attempt

    @property
    def last_error(self) -> str:
        """The reason that the last consumer gave for refusing it, empty if none did."""
        return self._async.last_error

    @property
    def ended(self) -> OneShot:
        """Fires once, when the item is acknowledged, given back, or lost."""
        return OneShot(self._portal, self._async.ended)

    def also(self, *ops: Op) -> Self:
        """Have these operations happen together with the acknowledgement; return the item."""
        self._async.also(*ops)
        return self

    def ack(self, also: Sequence[Op] = (), *, timeout: float | None = None) -> int:
        """End the item, in one transaction with ``also`` and what :meth:`also` was given; return its revision."""
        return self._portal.call(self._async.ack(also, timeout=timeout))

    def nack(
        self, *, delay: float | None = None, reason: str | None = None, refund: bool = False
    ) -> None:
        """Give the item back; it may be claimed again in ``delay`` seconds, None: as the queue's backoff says."""
        self._portal.call(self._async.nack(delay=delay, reason=reason, refund=refund))

    def extend(self, *, timeout: float | None = None) -> float:
        """Begin the time of this claim anew; return for how many seconds it is surely valid."""
        return self._portal.call(self._async.extend(timeout=timeout))

    def __enter__(self) -> Self:
        """Return the item; the block's end decides about it."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Acknowledge the item, or give it back."""
        item = self._async
        if item.released:
            return
        if kind is None:
            self.ack()  # raises ClaimLost after a loss
        elif issubclass(kind, Exception):
            with contextlib.suppress(CoordError):  # the block's own error is the news
                self.nack(reason=f"{kind.__name__}: {error}")
        else:
            self.release()


class WorkQueue(Twin[work_queue.WorkQueue]):
    """Jobs that survive whoever works on them; see :class:`coord.WorkQueue`. Made by ``client.work_queue(name)``."""

    __slots__ = ()

    @property
    def name(self) -> bytes:
        """The name, as it stands in the store."""
        return self._async.name

    def put(
        self,
        value: str | bytes,
        *,
        priority: int = 100,
        delay: float | None = None,
        at: float | datetime | None = None,
        dedup_id: str | None = None,
        timeout: float | None = None,
    ) -> WorkReceipt:
        """Put an item exactly once, and say which id it has."""
        return self._portal.call(
            self._async.put(
                value,
                priority=priority,
                delay=delay,
                at=at,
                dedup_id=dedup_id,
                timeout=timeout,
            )
        )

    def put_ops(
        self,
        value: str | bytes,
        *,
        priority: int = 100,
        delay: float | None = None,
        at: float | datetime | None = None,
        dedup_id: str | None = None,
    ) -> tuple[Op, ...]:
        """Return operations that put an item, for a transaction of your own."""
        return self._async.put_ops(value, priority=priority, delay=delay, at=at, dedup_id=dedup_id)

    def receive(self, *, max: int = 1, timeout: float | None = None) -> list[WorkItem]:  # noqa: A002 - the usual name
        """Wait until there is an item, and claim it; up to ``max`` of them, at most 40, if there are more.

        Raises :class:`coord.ReceiveTimeout` after ``timeout`` seconds. After a timeout or Ctrl-C nothing is claimed.
        """
        items = self._portal.obtain(
            lambda: self._async.receive(max=max, timeout=timeout), self._async.give_back
        )
        return [WorkItem(self._portal, item) for item in items]

    def consume(self, *, concurrency: int = 1) -> Iteration[WorkItem]:
        """Iterate over items as they can be claimed, at most ``concurrency`` of them at a time unacknowledged.

        Close the iterator, or use it in a ``with``.
        """
        source = self._async.consume(concurrency=concurrency)
        return Iteration(self._portal, _twins(self._portal, source))

    def stats(self, *, timeout: float | None = None) -> WorkStats:
        """Count the items, at one revision."""
        return self._portal.call(self._async.stats(timeout=timeout))

    def dead_letters(self, *, timeout: float | None = None) -> tuple[DeadLetter, ...]:
        """Return the items that failed too often, in the order of their ids."""
        return self._portal.call(self._async.dead_letters(timeout=timeout))

    def requeue(self, id: str, *, timeout: float | None = None) -> bool:  # noqa: A002 - as in WorkItem.id
        """Make a dead letter an item again, with no attempts counted; say whether there was one."""
        return self._portal.call(self._async.requeue(id, timeout=timeout))

    def purge(self, id: str, *, timeout: float | None = None) -> bool:  # noqa: A002 - as in WorkItem.id
        """Delete a dead letter; say whether there was one."""
        return self._portal.call(self._async.purge(id, timeout=timeout))

    def close(self) -> None:
        """End the view. Receivers that wait raise :class:`coord.ClientClosed`. What is claimed stays so."""
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


async def _twins(
    portal: Portal, source: AsyncIterator[work_queue.WorkItem]
) -> AsyncGenerator[WorkItem]:
    async for item in source:
        yield WorkItem(portal, item)
