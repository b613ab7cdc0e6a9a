"""The end of an object that works behind the scenes: by ``close()``, by its block, or because nobody holds it any more."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, ClassVar, Protocol, Self

from coord.errors import ClientClosed, CoordError
from coord.runtime import finish

if TYPE_CHECKING:
    from types import TracebackType

    from coord.coordination import Coordination


class Works(Protocol):
    """What is behind such an object, on the runtime's loop. It must not know of the object, which would never go."""

    @property
    def is_open(self) -> bool:
        """Whether something has to be closed. From any thread."""
        ...

    async def close(self) -> None:
        """End it."""
        ...

    def close_soon(self) -> None:
        """End it in the background."""
        ...


class Ending:
    """Ends what was made with ``self._works = ...``. Subclasses say in their ``close()`` what that means."""

    _home: Coordination
    _works: Works | None = None
    _close_within_s: ClassVar[float] = 10.0

    async def _end(self) -> None:
        """Close the works, whoever cancels the caller, and wait for that. Safe to call twice."""
        works = self._works

        async def ending() -> None:
            if works is not None:
                await finish(works.close(), within=self._close_within_s)

        with contextlib.suppress(ClientClosed):
            await self._home.run(ending())

    async def close(self) -> None:
        """End it. Safe to call twice."""
        await self._end()

    async def __aenter__(self) -> Self:
        """Close it at the end of the block."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        await self.close()

    def __del__(self) -> None:
        """Give back what is held by something that nobody closed."""
        works = self._works
        if works is not None and works.is_open:
            with contextlib.suppress(CoordError, RuntimeError):  # everything has ended already
                self._home.runtime.post(works.close_soon)
