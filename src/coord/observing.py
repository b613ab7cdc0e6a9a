"""Telling an observer of the newest state, on the observer's own loop or on a worker thread (spec recipes C14)."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from coord.core import Core

T = TypeVar("T")


class Observer(Generic[T]):
    """One callback and the newest value that it has not seen.

    At most one call is under way; what comes meanwhile is coalesced to the newest, so a slow one holds up nobody.
    An exception of the callback goes to the exception handler of the loop that it ran on, and it is called again at
    the next change.
    Made on the observer's loop; without a running loop the callback runs on a worker thread.
    """

    def __init__(self, core: Core, callback: Callable[[T], object]) -> None:
        self._core = core
        self._callback = callback
        try:
            self._loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            self._loop = None
        self._newest: list[T] = []
        self._under_way = False
        self.ended: bool = False

    def tell(self, value: T) -> None:
        """Bring it the value. On the runtime's loop."""
        self._newest[:] = [value]
        if not self._under_way and not self.ended:
            self._under_way = True
            self._start()

    def _start(self) -> None:
        if self._loop is None:
            with contextlib.suppress(RuntimeError):  # the client has closed
                self._core.supervisor.spawn(self._on_worker(), name="observer")
            return
        try:
            self._core.runtime.returns(self._loop).post(self._deliver)
        except RuntimeError:  # that loop is closed: nobody is left to tell
            self.ended = True

    def _deliver(self) -> None:
        """Call the callback, on its loop."""
        if not self.ended and self._newest:
            try:
                self._callback(self._newest.pop())
            except Exception as error:  # noqa: BLE001 - it is the application's, and told to it
                asyncio.get_running_loop().call_exception_handler(_context(self._callback, error))
        self._core.runtime.post(self._delivered)

    async def _on_worker(self) -> None:
        try:
            await self._core.env.offload.run(self._callback, self._newest.pop())
        except Exception as error:  # noqa: BLE001 - as above
            asyncio.get_running_loop().call_exception_handler(_context(self._callback, error))
        self._delivered()

    def _delivered(self) -> None:
        self._under_way = False
        if self._newest and not self.ended:
            self._under_way = True
            self._start()


def _context(callback: object, error: BaseException) -> dict[str, object]:
    return {"message": f"coord: observer {callback!r} failed", "exception": error}
