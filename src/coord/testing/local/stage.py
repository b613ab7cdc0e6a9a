"""The thread behind the scenes, and what is entered with or without ``await``."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from coord.runtime import Runtime, finish, real_env

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

T = TypeVar("T")
Blocking = TypeVar("Blocking")
Awaited = TypeVar("Awaited")

# A cluster that hangs is killed after less.
END_WITHIN_S = 60.0
# A member gives up after less.
START_WITHIN_S = 120.0


class Stage:
    """A thread with a loop; coroutines run there for callers on any thread and loop."""

    def __init__(self) -> None:
        self._runtime = Runtime.threaded(real_env(), "coord-testing")

    def call(self, coro: Coroutine[Any, Any, T]) -> T:
        """Run ``coro`` there and block until it has ended."""
        return self._runtime.call_blocking(coro)

    async def run(self, coro: Coroutine[Any, Any, T]) -> T:
        """Run ``coro`` there while the caller's loop goes on; a cancelled caller cancels it."""
        return await self._runtime.run(coro)

    def close(self) -> None:
        """End the thread."""
        self._runtime.close()

    async def aclose(self) -> None:
        """As :meth:`close`, while the caller's loop goes on."""
        await self._runtime.aclose()


class Opening(Generic[Blocking, Awaited]):
    """Something about to be started: ``with`` gives its blocking face, ``async with`` the one to await.

    ``make(stage, directory)`` is entered on the stage and gives the blocking face; ``twin`` takes the other from it.
    Without a ``directory``, a new one is made, and removed at the end.
    """

    def __init__(
        self,
        make: Callable[[Stage, Path], AbstractAsyncContextManager[Blocking]],
        twin: Callable[[Blocking], Awaited],
        directory: Path | None = None,
    ) -> None:
        self._make = make
        self._twin = twin
        self._given = directory
        self._life: _Life[Blocking] | None = None

    def __enter__(self) -> Blocking:
        """Start it, and return once it serves."""
        life = self._begin()
        try:
            return life.stage.call(life.start())
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it."""
        life, self._life = self._life, None
        if life is not None:
            with life.scratch:
                try:
                    life.stage.call(life.end())
                finally:
                    life.stage.close()

    async def __aenter__(self) -> Awaited:
        """Start it, and return once it serves; a cancelled start finishes first, and leaves nothing behind."""
        life = self._begin()
        try:
            return self._twin(await finish(life.stage.run(life.start()), within=START_WITHIN_S))
        except BaseException:
            await self.__aexit__(None, None, None)
            raise

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it, also when the caller is cancelled meanwhile."""
        life, self._life = self._life, None
        if life is None:
            return

        async def end() -> None:
            with life.scratch:
                try:
                    await life.stage.run(life.end())
                finally:
                    await life.stage.aclose()

        await finish(end(), within=END_WITHIN_S)

    def _begin(self) -> _Life[Blocking]:
        if self._life is not None:
            raise RuntimeError("this is running: call the function again for another one")
        self._life = _Life(self._make, self._given)
        return self._life


class _Life(Generic[Blocking]):
    """From one start to its end."""

    def __init__(
        self,
        make: Callable[[Stage, Path], AbstractAsyncContextManager[Blocking]],
        given: Path | None,
    ) -> None:
        self.stage = Stage()
        directory = given if given is not None else Path(tempfile.mkdtemp(prefix="coord-testing-"))
        self.scratch = contextlib.nullcontext() if given is not None else _removed(directory)
        self._stack = contextlib.AsyncExitStack()
        self._made = make(self.stage, directory)

    async def start(self) -> Blocking:
        return await self._stack.enter_async_context(self._made)

    async def end(self) -> None:
        await self._stack.aclose()


@contextlib.contextmanager
def _removed(directory: Path) -> Generator[None]:
    try:
        yield
    finally:
        shutil.rmtree(directory, ignore_errors=True)
