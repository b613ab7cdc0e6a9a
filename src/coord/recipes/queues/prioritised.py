"""The most urgent first (spec recipes 10.2; layout of Go's ``recipes.PriorityQueue``)."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from typing_extensions import override

from coord.errors import CoordTimeout
from coord.recipes.queues.errors import BadPriority
from coord.recipes.queues.handing import HandOff
from coord.recipes.queues.orders import ByKey
from coord.recipes.queues.producer import Producer
from coord.runtime import Backoff
from coord.store import comparing as compare
from coord.store import operations as op

if TYPE_CHECKING:
    from coord.cache import Mirrors
    from coord.coordination import Coordination
    from coord.recipes.queues.items import QueueItem
    from coord.store.operations import Op
    from coord.store.txn import TxnResult

LEAST_URGENT = 65535
_BACKOFF_FIRST_S, _BACKOFF_MAX_S = 0.002, 0.25


def check_priority(priority: int) -> int:
    """Return a priority. Raises :class:`BadPriority`."""
    if isinstance(priority, bool) or not isinstance(priority, int):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise BadPriority(priority)
    if not 0 <= priority <= LEAST_URGENT:
        raise BadPriority(priority)
    return priority


class PriorityQueue(HandOff):
    """The most urgent item first, each to one taker. Made by ``client.priority_queue(name)``.

    Priorities are whole numbers from 0, the most urgent, to 65535; within one it is first in, first out.
    ``strict=False`` leaves it out of the transactions of ``get()`` that nothing more urgent is there: an item that is
    put in this very moment may then be passed over, and takers get in each other's way less.
    Go's ``recipes.PriorityQueue`` on the same name puts and takes the same items; both number them with keys below
    ``__<name>/``, where who puts needs rights, too.
    """

    def __init__(
        self, home: Coordination, mirrors: Mirrors, name: str | bytes, *, strict: bool = True
    ) -> None:
        self._producer = _Producer(home, name)
        super().__init__(home, mirrors, self._producer, partial(ByKey, strict=strict))

    async def put(
        self, value: str | bytes, *, priority: int = 100, timeout: float | None = None
    ) -> int:
        """Put an item behind those of its priority, and return its revision. Exactly once, as :meth:`Queue.put`.

        Two requests, more when others put items of the same priority at the same time.
        Raises :class:`BadPriority`, :class:`PayloadTooLarge`, :class:`CoordTimeout` after ``timeout`` seconds (None:
        the client's ``request_timeout``) when others were faster all the time; nothing was put then.
        """
        producer = self._producer
        base = producer.prefix + b"%05d" % check_priority(priority)
        return await self._home.run(producer.put(base, producer.value(value), timeout))


class _Producer(Producer):
    def __init__(self, home: Coordination, name: str | bytes) -> None:
        super().__init__(home, name)
        self._line = asyncio.Lock()  # producers of this process need not get in each other's way

    async def put(self, base: bytes, value: bytes, timeout: float | None) -> int:
        limit = self._home.core.options.request_timeout if timeout is None else timeout
        clock = self._home.env.clock
        deadline = clock.mono() + limit
        backoff = Backoff(self._home.env.rand, _BACKOFF_FIRST_S, _BACKOFF_MAX_S, spread=1)
        try:
            async with asyncio.timeout(limit):
                await self._line.acquire()
        except TimeoutError:
            raise CoordTimeout(f"put into queue {self.text!r}", timeout) from None
        try:
            look = _last(base)
            seen: TxnResult | None = await self._home.txn.run((), (look,), timeout=limit)
            while (left := deadline - clock.mono()) > 0:
                if seen is None:
                    seen = await self._home.txn.run((), (look,), timeout=left)
                # What has touched the base since that read may have used, and freed, the number that we would take.
                done = await self._home.core.markers.run(
                    (compare.mod_revision(b"__" + base) < seen.revision + 1,),
                    (op.put(b"__" + base, b""), op.put(_next_key(base, seen), value)),
                    timeout=left,
                )
                if done.applied:
                    return done.revision
                await backoff.pause(left)
                # What the failed one has read is too old by now where others go on without a pause.
                seen = None
        finally:
            self._line.release()
        raise CoordTimeout(
            f"put into queue {self.text!r}", timeout, explain="others were faster in each attempt"
        )

    @override
    async def put_back(self, item: QueueItem) -> object:
        return await self.put(item.key.rpartition(b"/")[0], item.value, None)


def _last(base: bytes) -> Op:
    return op.get_prefix(base + b"/", descending=True, limit=1, keys_only=True)


def _next_key(base: bytes, seen: TxnResult) -> bytes:
    items = seen.range(0).items
    digits = items[0].key.rpartition(b"/")[2] if items else b""
    number = int(digits) + 1 if digits.isdigit() else 0
    return base + b"/%016d" % number
