"""When calls of gRPC have really ended, which it does not tell.

A cancelled call ends a moment later, on the loop where it began.
If that loop has gone by then, gRPC complains on whichever other loop of the process it finds: "Event loop is closed".
So a client that closes waits for the ends of its calls before its loop goes.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from coord.runtime import Clock

# For streams, whose end a task of gRPC's waits for; it takes a millisecond or two.
_STREAMS_WITHIN_S = 1.0
# For other calls, whose end shows nowhere.
_CALLS_AFTER_S = 0.02
# That task. It begins in the first step of the stream's own.
_END_OF_STREAM = "_AioCall._handle_status_once_received"


class Endings:
    """The ends of one client's calls that are still to come, apart from those of other users of the loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._streams: dict[asyncio.Task[Any], None] = {}
        self._cancelled_at: float | None = None

    def finder(self) -> Callable[[], None]:
        """Return what takes note of the stream that begins now; to be called in the loop's next turn."""
        before = _tasks()

        def find() -> None:
            for task in _tasks() - before:
                self._streams[task] = None
                task.add_done_callback(lambda ended: self._streams.pop(ended, None))

        return find

    def note_cancelled(self) -> None:
        """Take note of a cancelled call that is no stream."""
        self._cancelled_at = self._clock.mono()

    async def all_over(self) -> None:
        """Return when all have ended, as far as that can be seen."""
        if self._streams:
            await asyncio.wait(list(self._streams), timeout=_STREAMS_WITHIN_S)
        if self._cancelled_at is not None:
            await asyncio.sleep(self._cancelled_at + _CALLS_AFTER_S - self._clock.mono())


def _tasks() -> set[asyncio.Task[Any]]:
    tasks = asyncio.all_tasks()
    return {t for t in tasks if getattr(t.get_coro(), "__qualname__", "") == _END_OF_STREAM}
