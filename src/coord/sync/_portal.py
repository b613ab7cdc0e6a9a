"""The way from a blocking call to the client's loop, and what all twins share."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from typing_extensions import override

from coord import errors

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from types import TracebackType
    from typing import Self

    from coord.core import Core
    from coord.runtime.placement import Runtime

T = TypeVar("T")
A_co = TypeVar("A_co", covariant=True)


class AmbiguousResult(errors.AmbiguousResult):
    """As :class:`coord.AmbiguousResult`, which it is a kind of; ``resolve()`` blocks."""

    def __init__(self, portal: Portal, error: errors.AmbiguousResult) -> None:
        super().__init__(error.operation, error.reason, resolver=error.resolve)
        self._portal = portal

    @override
    def resolve(self) -> object:  # type: ignore[override] # the twin of a coroutine function  # pyright: ignore[reportIncompatibleMethodOverride]
        """Look at the store. Raises :class:`coord.CoordError` when it cannot be read, or nothing can be looked at."""
        return self._portal.call(super().resolve())


class Portal:
    """Runs coroutines on the loop of one client while the calling thread waits; for any number of threads.

    Ctrl-C cancels the coroutine and is raised when its clean-up has ended.
    On the client's own thread a call is refused: it would wait for itself.
    """

    def __init__(self, core: Core) -> None:
        self.core = core
        self.runtime: Runtime = core.runtime

    def call(self, coro: Coroutine[Any, Any, T]) -> T:
        """Return what ``coro`` returns."""
        try:
            return self.runtime.call_blocking(coro)
        except AmbiguousResult:
            raise
        except errors.AmbiguousResult as error:
            raise AmbiguousResult(self, error) from error.__cause__

    def obtain(
        self, make: Callable[[], Coroutine[Any, Any, T]], discard: Callable[[T], object]
    ) -> T:
        """Return what ``make()`` returns, which must not be lost.

        If Ctrl-C came first, it goes to ``discard`` on the loop, also when it arrives later.
        """
        arrived: list[T] = []
        given_up = False

        async def fetch() -> T:
            result = await make()
            if given_up:
                discard(result)
            else:
                arrived.append(result)
            return result

        def settle() -> None:
            # On the loop, like the end of fetch(): either it has arrived, or it will find that nobody waits.
            nonlocal given_up
            given_up = True
            for result in arrived:
                discard(result)

        try:
            return self.call(fetch())
        except errors.CoordError:
            raise
        except BaseException:
            if not self.runtime.is_forked:
                self.runtime.post(settle)
            raise

    def in_background(self, coro: Coroutine[Any, Any, object], *, name: str) -> None:
        """Start ``coro`` on the loop; its failure goes to the loop's exception handler. On the loop only."""
        self.core.supervisor.spawn(coro, name=name)


class Twin(Generic[A_co]):
    """The blocking face of an asynchronous object; equal to every other face of the same one."""

    __slots__ = ("_async", "_portal")

    def __init__(self, portal: Portal, wrapped: A_co) -> None:
        self._portal = portal
        self._async = wrapped

    @override
    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Twin):
            return NotImplemented
        return behind(cast("Twin[object]", other)) is self._async

    @override
    def __hash__(self) -> int:
        return hash(id(self._async))

    @override
    def __repr__(self) -> str:
        return f"<coord.sync.{type(self).__name__} of {self._async!r}>"


def portal_of(twin: Twin[object]) -> Portal:
    """Return the way to the loop of the client that ``twin`` belongs to."""
    return twin._portal  # noqa: SLF001 - of the same room # pyright: ignore[reportPrivateUsage]


def behind(twin: Twin[A_co]) -> A_co:
    """Return the asynchronous object behind a twin."""
    return twin._async  # noqa: SLF001 - for the rooms of this package, not its users  # pyright: ignore[reportPrivateUsage]


async def first_of(source: AsyncIterator[T]) -> T:
    """Return the first item of an endless iterator, and close it."""
    try:
        return await anext(source)
    finally:
        await _close(source)


async def _close(source: AsyncIterator[T]) -> None:
    if isinstance(source, AsyncGenerator):
        await source.aclose()


class Iteration(Generic[T]):
    """A plain iterator over something asynchronous; :meth:`close` it, or use it in a ``with``.

    One thread at a time may read; any may close, which ends the reader's loop.
    Ctrl-C during a read ends the iteration.
    """

    def __init__(self, portal: Portal, source: AsyncIterator[T]) -> None:
        self._portal = portal
        self._source = source
        self._reader: asyncio.Task[object] | None = None
        self._closed = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        """Wait for the next one."""
        found = self._portal.call(self._advance())
        if not found:
            raise StopIteration
        return found[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End it and free what it holds. Safe to call twice, from any thread."""
        if self._closed or self._portal.runtime.is_forked:
            return
        self._closed = True
        with contextlib.suppress(errors.ClientClosed):  # everything has ended with the client
            self._portal.call(self._shut())

    def _is_over(self) -> bool:
        return self._closed

    async def _advance(self) -> list[T]:
        if self._is_over():
            return []
        if self._reader is not None:
            raise errors.InvalidArgument("another thread is reading this iterator")
        self._reader = asyncio.current_task()
        try:
            return [await anext(self._source)]
        except StopAsyncIteration:
            return []
        except asyncio.CancelledError:
            if self._is_over():  # closed by another thread: an end, no interruption
                return []
            raise
        finally:
            self._reader = None

    async def _shut(self) -> None:
        reader = self._reader
        if reader is not None:
            reader.cancel()
            await asyncio.wait({reader})
        await _close(self._source)
