"""A one-way event that can be waited for from any loop and any thread.

Set on the runtime's loop, once, with a reason; after that it never changes.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from coord.errors import CoordTimeout

if TYPE_CHECKING:
    from collections.abc import Callable

    from coord.runtime import Runtime


class OneShot:
    """An event with a reason. ``is_set`` and ``reason`` may be read anywhere, ``wait`` awaited on any loop."""

    def __init__(self, runtime: Runtime, what: str) -> None:
        self._runtime = runtime
        self._what = what
        self._reason: str | None = None
        self._callbacks: dict[Callable[[], object], None] = {}

    def is_set(self) -> bool:
        """Whether it has happened."""
        return self._reason is not None

    @property
    def reason(self) -> str | None:
        """Why it happened, None before."""
        return self._reason

    def set(self, reason: str) -> bool:
        """Fire, unless it has fired before; say whether it was this call. On the runtime's loop only."""
        if self._reason is not None:
            return False
        self._reason = reason
        callbacks, self._callbacks = self._callbacks, {}
        for callback in callbacks:
            callback()
        return True

    def watch(self, callback: Callable[[], object]) -> Callable[[], None]:
        """Call ``callback`` on the runtime's loop when it fires, or now; return what unregisters it.

        On the runtime's loop only.
        """
        if self._reason is not None:
            callback()
            return lambda: None
        self._callbacks[callback] = None
        return partial(self._forget, callback)

    def _forget(self, callback: Callable[[], object]) -> None:
        self._callbacks.pop(callback, None)

    async def wait(self, *, timeout: float | None = None) -> str:
        """Wait until it happens and return the reason.

        Raises :class:`CoordTimeout` after ``timeout`` seconds. A cancelled wait leaves nothing behind.
        """
        return await self._runtime.run(self._wait(timeout))

    async def _wait(self, timeout: float | None) -> str:
        fired = asyncio.Event()
        unregister = self.watch(fired.set)
        try:
            async with asyncio.timeout(timeout):
                await fired.wait()
        except TimeoutError:
            raise CoordTimeout(self._what, timeout) from None
        finally:
            unregister()
        return self._reason or ""
