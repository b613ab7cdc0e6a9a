"""What is awaited, or entered: ``thing = await make()`` and ``async with make() as thing``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

from coord.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator
    from types import TracebackType

T = TypeVar("T")


class Opening(Generic[T]):
    """Something about to be opened: await it, and close it yourself, or enter it. Nothing happens before."""

    def __init__(
        self,
        make: Callable[[], Coroutine[Any, Any, T]],
        close: Callable[[T, bool], Coroutine[Any, Any, None]],
    ) -> None:
        self._make = make
        self._close = close
        self._made: list[T] = []

    async def open(self) -> T:
        """Open it; as awaiting it."""
        return await self._make()

    def __await__(self) -> Generator[Any, None, T]:
        """Open it; its owner must close it."""
        return self._make().__await__()

    async def __aenter__(self) -> T:
        """Open it for this block."""
        if self._made:
            raise InvalidArgument("this is open already: call again what made it")
        self._made.append(await self._make())
        return self._made[0]

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        while self._made:
            await self._close(self._made.pop(), kind is None)
