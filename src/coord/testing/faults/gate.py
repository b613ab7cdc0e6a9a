"""A gate that any thread opens and closes, and coroutines of any loop wait at."""

from __future__ import annotations

import asyncio
import contextlib
import threading


class Gate:
    """Open at first, unless told otherwise."""

    def __init__(self, *, is_open: bool = True) -> None:
        self._lock = threading.Lock()
        self._is_open = is_open
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    @property
    def is_open(self) -> bool:
        """Whether one may pass now."""
        return self._is_open

    def close(self) -> None:
        """Let nobody pass."""
        with self._lock:
            self._is_open = False

    def open(self) -> None:
        """Let everybody pass, first those who wait."""
        with self._lock:
            self._is_open = True
            waiting, self._waiting = self._waiting, []
        for loop, event in waiting:
            # A loop that has ended took those who waited with it.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(event.set)

    async def passed(self) -> None:
        """Return once it is open."""
        while True:
            event = asyncio.Event()
            mine = (asyncio.get_running_loop(), event)
            with self._lock:
                if self._is_open:
                    return
                self._waiting.append(mine)
            try:
                await event.wait()
            finally:
                with self._lock, contextlib.suppress(ValueError):
                    self._waiting.remove(mine)
