"""Items that may be taken from a time on (spec recipes 10.3)."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

from typing_extensions import override

from coord.errors import InvalidArgument
from coord.recipes.queues.handing import HandOff
from coord.recipes.queues.items import RETURNED, QueueItem
from coord.recipes.queues.orders import ByDue
from coord.recipes.queues.producer import Producer
from coord.store import comparing as compare
from coord.store import operations as op

if TYPE_CHECKING:
    from coord.cache import Mirrors
    from coord.coordination import Coordination

_MS = 1000
_LAST_MS = 10**16 - 1


class DelayQueue(HandOff):
    """Items in the order of their times, each to one taker, none before its time. Made by ``client.delay_queue(name)``.

    Times are wall-clock times: an item comes early or late by as much as the clock of whoever takes it is wrong, and,
    with ``delay=``, by as much as the clock of whoever put it was.
    """

    def __init__(self, home: Coordination, mirrors: Mirrors, name: str | bytes) -> None:
        self._producer = _Producer(home, name)
        super().__init__(home, mirrors, self._producer, partial(ByDue, wall=home.env.clock.wall))

    async def put(
        self,
        value: str | bytes,
        *,
        delay: float | None = None,
        at: float | datetime | None = None,
        timeout: float | None = None,
    ) -> int:
        """Put an item that may be taken in ``delay`` seconds, or ``at`` a time, and return its revision.

        ``at`` is a datetime with a time zone, or seconds since 1970 UTC; without either it may be taken at once.
        Exactly once, as :meth:`Queue.put`. Raises :class:`PayloadTooLarge`, :class:`InvalidArgument`.
        """
        producer = self._producer
        due = due_ms(self._home.env.clock.wall(), delay, at)
        return await producer.put(
            b"%016d-%s" % (due, producer.nonce()), producer.value(value), timeout
        )


class _Producer(Producer):
    async def put(self, place: bytes, value: bytes, timeout: float | None) -> int:
        key = self.prefix + place
        done = await self._home.core.markers.run(
            (compare.create_revision(key) == 0,), (op.put(key, value),), timeout=timeout
        )
        return done.revision

    @override
    async def put_back(self, item: QueueItem) -> object:
        # Its time is its place: it keeps both.
        time = item.key[len(self.prefix) :].partition(b"-")[0]
        return await self.put(b"%s-%s%s" % (time, self.nonce(), RETURNED), item.value, None)


def due_ms(now: float, delay: float | None, at: float | datetime | None) -> int:
    """Return the time that is meant, in milliseconds since 1970. Raises :class:`InvalidArgument`."""
    if delay is not None and at is not None:
        raise InvalidArgument("give either delay or at")
    if isinstance(at, datetime):
        if at.tzinfo is None:
            raise InvalidArgument("at needs a time zone: datetime.now(UTC) + ..., for example")
        at = at.timestamp()
    seconds = at if at is not None else now + (delay or 0.0)
    if (delay is not None and not delay >= 0) or not 0 <= seconds * _MS <= _LAST_MS:
        raise InvalidArgument(
            f"a delay is 0 seconds or more, and a time not before 1970: not {at if delay is None else delay}"
        )
    return round(seconds * _MS)
