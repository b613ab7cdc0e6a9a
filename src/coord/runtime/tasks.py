"""Tasks with a parent: the only file that calls ``create_task``."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from contextvars import Context

T = TypeVar("T")


def start_task(
    coro: Coroutine[Any, Any, T], *, name: str | None = None, context: Context | None = None
) -> asyncio.Task[T]:
    """Start a task on the running loop; the caller owns it and must see to its end.

    It runs in ``context``, None meaning a copy of the caller's.
    """
    return asyncio.create_task(coro, name=name, context=context)  # noqa: TID251 - the one place that starts tasks


async def finish(coro: Coroutine[Any, Any, T], *, within: float) -> T:
    """Run a release to its end, at most ``within`` seconds, although the caller is cancelled meanwhile.

    A cancellation met on the way, also a second one, is raised after the release has ended; the release's own
    error is then its cause.
    Raises ``TimeoutError`` when ``within`` has passed.
    """

    async def bounded() -> T:
        async with asyncio.timeout(within):
            return await coro

    task = start_task(bounded())
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as exc:
            cancelled = exc
    coro.close()  # a loop that ends cancels all tasks, also before their first step
    if cancelled is not None:
        raise cancelled from None if task.cancelled() else task.exception()
    return task.result()


class Supervisor:
    """Owns background tasks: none outlives it, no failure of one goes unheard.

    ``on_error(name, exception)`` is called for a task that ends with an exception other than cancellation.
    """

    def __init__(self, on_error: Callable[[str, BaseException], None]) -> None:
        self._on_error = on_error
        self._tasks: dict[asyncio.Task[Any], None] = {}  # a dict keeps the order of creation
        self._closed = False

    def __len__(self) -> int:
        """Return how many tasks are running."""
        return len(self._tasks)

    def spawn(
        self, coro: Coroutine[Any, Any, T], *, name: str, context: Context | None = None
    ) -> asyncio.Task[T]:
        """Start ``coro`` in ``context``, None meaning a copy of the caller's. Raises ``RuntimeError`` after :meth:`close`.

        What serves many callers better gets an empty one than to keep what the first of them had in his.
        """
        if self._closed:
            coro.close()
            raise RuntimeError(f"cannot start {name}: its owner is closed")
        task = start_task(coro, name=name, context=context)
        self._tasks[task] = None
        task.add_done_callback(self._ended, context=context)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled():
            error = task.exception()
            if error is not None:
                self._on_error(task.get_name(), error)

    async def close(self) -> None:
        """Cancel every task and wait until all have ended. May be called twice."""
        self._closed = True
        current = asyncio.current_task()
        while waiting := [t for t in self._tasks if t is not current]:
            for task in waiting:
                task.cancel()
            await asyncio.wait(waiting)
