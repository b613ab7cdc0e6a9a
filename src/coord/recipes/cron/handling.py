"""Calling a job's handler: where it belongs, until it has really ended."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any, cast

from coord.runtime import start_task

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from coord.core import Core
    from coord.recipes.cron.tick import Tick

    Handler = Callable[[Tick], Awaitable[object] | object]

_End = Exception | asyncio.CancelledError | None


def _end(failure: BaseException | None) -> _End:
    """Return what a handler has ended with; what ends programs has ended its loop, too."""
    if failure is None or isinstance(failure, (Exception, asyncio.CancelledError)):
        return failure
    return asyncio.CancelledError()


def is_coroutine(handler: object) -> bool:
    """Whether calling ``handler`` makes a coroutine."""
    call = getattr(handler, "__call__", None)  # noqa: B004 - not whether, but how it is called
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(call)


class Performance:
    """One call of a handler. On the runtime's loop; a coroutine runs on ``loop``, a plain function on a worker thread."""

    def __init__(self, core: Core, loop: asyncio.AbstractEventLoop, handler: Handler) -> None:
        self._core = core
        self._loop = loop
        self._handler = handler
        self._task: asyncio.Task[object] | None = None
        self._is_unwanted = False

    async def run(self, tick: Tick) -> _End:
        """Call it, wait for its end, and return what it raised, None if nothing.

        Cancelling this leaves the handler running.
        """
        if not is_coroutine(self._handler):
            try:
                await self._core.env.offload.run(self._handler, tick)
            except Exception as error:  # noqa: BLE001 - the application's, which the history keeps
                return error
            return None
        handler = cast("Callable[[Tick], Coroutine[Any, Any, object]]", self._handler)
        ended: asyncio.Future[_End] = asyncio.get_running_loop().create_future()

        def settle(end: _End) -> None:
            if not ended.done():
                ended.set_result(end)

        def tell(task: asyncio.Task[object]) -> None:
            failure = asyncio.CancelledError() if task.cancelled() else task.exception()
            self._core.runtime.post(lambda: settle(_end(failure)))

        def start() -> None:
            self._task = start_task(handler(tick), name=f"cron {tick.name}")
            self._task.add_done_callback(tell)
            if self._is_unwanted:
                self._task.cancel()

        self._on_loop(start)
        return await asyncio.shield(ended)

    def cancel(self) -> None:
        """Have a coroutine cancelled, once more with each call."""
        self._is_unwanted = True

        def cancel() -> None:
            if self._task is not None:
                self._task.cancel()

        self._on_loop(cancel)

    def _on_loop(self, step: Callable[[], None]) -> None:
        if self._loop is self._core.runtime.loop:
            step()
        else:
            self._core.runtime.returns(self._loop).post(step)
