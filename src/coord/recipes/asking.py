"""Asking the application something: on its own loop, or on a worker thread (spec recipes C14)."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from coord.runtime import start_task

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from coord.core import Core

T = TypeVar("T")


class Question(Generic[T]):
    """A function of the application's, and where to call it.

    A coroutine function runs on the loop on which this was made, a plain one on a worker thread.
    """

    def __init__(self, core: Core, function: Callable[..., T | Awaitable[T]]) -> None:
        self._core = core
        self._function = function
        self._is_async = inspect.iscoroutinefunction(function)
        try:
            self._loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            self._loop = None

    async def ask(self, *arguments: object) -> T:
        """Return its answer, on the runtime's loop. Raises what it raises; ``RuntimeError`` when its loop has ended."""
        if not self._is_async:
            plain = cast("Callable[..., T]", self._function)
            return await self._core.env.offload.run(plain, *arguments)
        made = cast("Callable[..., Coroutine[Any, Any, T]]", self._function)
        runtime = self._core.runtime
        if self._loop is None or self._loop is runtime.loop:
            return await made(*arguments)
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        started: list[asyncio.Task[T]] = []

        def settle(task: asyncio.Task[T]) -> None:
            if answer.done():
                return
            if task.cancelled():
                answer.cancel()
            elif (error := task.exception()) is not None:
                answer.set_exception(error)
            else:
                answer.set_result(task.result())

        def start() -> None:
            task = start_task(made(*arguments), name="coord-question")
            started.append(task)
            task.add_done_callback(lambda task: runtime.post(lambda: settle(task)))

        back = runtime.returns(self._loop)
        back.post(start)
        try:
            return await answer
        except asyncio.CancelledError:
            back.post(lambda: [task.cancel() for task in started])
            raise
