"""Calls from one loop into another: in order, and with one wake-up for all that pile up meanwhile."""

from __future__ import annotations

from collections import deque
from contextvars import Context
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable


class Batcher:
    """Calls into one loop from any thread.

    With ``owned``, somebody calls :meth:`shut` when the loop has ended: an entry that is an object with a method
    ``lost()`` is told then, and :meth:`post` never raises.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, owned: bool = False) -> None:
        self._loop = loop
        self._owned = owned
        self._queue: deque[Callable[[], object]] = deque()
        self._armed = False
        self._shut = False
        # Not the context of whoever happens to wake the loop: what is posted belongs to many.
        self._context = Context()

    def post(self, fn: Callable[[], object]) -> None:
        """Run ``fn`` on the loop soon. Raises ``RuntimeError`` when the loop is closed and nobody owns it."""
        self._queue.append(fn)
        if not self._armed:
            self._armed = True
            try:
                self._loop.call_soon_threadsafe(self._drain, context=self._context)
            except RuntimeError:
                self._armed = False
                if not self._owned:
                    self._queue.clear()
                    raise
        # Looked at after the append: either we see it here, or shut() sees our entry.
        if self._shut:
            self._lose()

    def shut(self) -> None:
        """Say that the loop runs no more; every entry that still waits, or comes later, is lost."""
        self._shut = True
        self._lose()

    def _lose(self) -> None:
        while self._queue:
            try:
                entry = self._queue.popleft()
            except IndexError:  # another thread took the last one
                return
            lost = getattr(entry, "lost", None)
            if lost is not None:
                lost()

    def _drain(self) -> None:
        # Disarmed first: who appends after the last popleft below must wake us again.
        self._armed = False
        if self._shut:
            self._lose()
            return
        queue = self._queue
        try:
            # Only what is here now: a call that posts again must not keep the loop from its sockets.
            for _ in range(len(queue)):
                queue.popleft()()
        finally:
            if queue and not self._armed:
                self._armed = True
                self._loop.call_soon(self._drain, context=self._context)
