"""A loop whose time stands still until somebody moves it on, from any thread."""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

T = TypeVar("T")

# Real seconds. A world that is busy for longer than this will never come to rest.
_REST_WITHIN_S = 60.0


class _Passage:
    """Some time that is to pass."""

    def __init__(self, seconds: float, done: Callable[[], None]) -> None:
        self.seconds = seconds
        self.done = done
        self.until: float | None = None


class _Still(selectors.SelectSelector):
    """Waits for other threads only; time passes when it is told to, as far as the next timer each time."""

    def __init__(self) -> None:
        super().__init__()
        self.now: float = 1000.0
        self.passages: deque[_Passage] = deque()
        self.flying = 0

    @override
    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = super().select(0)
        if found or timeout == 0:
            return found
        # Nobody has anything to do before the next timer.
        if self.passages:
            self._pass_on(timeout)
        elif self.flying and timeout is not None:
            self.now += timeout
        else:
            return super().select(None)
        return super().select(0)

    def _pass_on(self, timeout: float | None) -> None:
        passage = self.passages[0]
        if passage.until is None:
            passage.until = self.now + passage.seconds
        elif self.now >= passage.until:
            # The timers of its last moment have had their turn.
            self.passages.popleft()
            passage.done()
            return
        self.now = passage.until if timeout is None else min(passage.until, self.now + timeout)


class StillLoop(asyncio.SelectorEventLoop):
    """Its ``time()`` passes only by the :class:`Clock` that it is given to."""

    def __init__(self) -> None:
        self.still: _Still = _Still()
        super().__init__(self.still)

    @override
    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self.still.now

    async def fly(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Let time pass by itself until ``make()``, which runs on this loop, has ended; exactly so long."""
        self.still.flying += 1
        try:
            return await make()
        finally:
            self.still.flying -= 1


class Clock:
    """The time of a world, moved by its methods alone. They may be called from any thread but the world's own."""

    def __init__(self, loop: StillLoop) -> None:
        self._loop = loop

    @property
    def now(self) -> float:
        """Seconds, monotonic; they begin at 1000."""
        return self._loop.time()

    def advance(self, seconds: float) -> None:
        """Let time pass, with everything that is due in it, one after the other; return when all is at rest.

        It takes milliseconds, so it may be called from a coroutine, whose own loop stands still meanwhile.
        Raises ValueError for negative seconds, TimeoutError when the world does not come to rest.
        """
        if not seconds >= 0:
            raise ValueError(f"time does not go back: {seconds}")
        rested = threading.Event()
        self._do(lambda: self._loop.still.passages.append(_Passage(seconds, rested.set)))
        seen = self.now
        while not rested.wait(_REST_WITHIN_S):
            # Days may take longer, and a slow machine; only a world whose time does not move will never rest.
            if self.now == seen:
                raise TimeoutError(f"the world has been busy for {_REST_WITHIN_S:g} s")
            seen = self.now

    def settle(self) -> None:
        """Let everything happen that needs no time."""
        self.advance(0)

    def freeze(self, seconds: float) -> None:
        """Let time pass without anything happening in it, as for a stopped process; then what is due happens."""
        if not seconds >= 0:
            raise ValueError(f"time does not go back: {seconds}")
        still = self._loop.still

        def jump() -> None:
            still.now += seconds

        self._do(jump)
        self.settle()

    @contextlib.contextmanager
    def flying(self) -> Generator[None]:
        """Let time pass by itself during the block, as fast as things happen: for calls that wait for their timeout."""
        still = self._loop.still

        def change(by: int) -> None:
            still.flying += by

        self._do(lambda: change(1))
        try:
            yield
        finally:
            self._do(lambda: change(-1))

    def _do(self, change: Callable[[], None]) -> None:
        """Change the world between two of its turns, and return when it is done."""
        if asyncio._get_running_loop() is self._loop:  # noqa: SLF001 - the public one raises without a loop
            raise RuntimeError("a world does not move its own time")
        done = threading.Event()

        def turn() -> None:
            change()
            done.set()

        self._loop.call_soon_threadsafe(turn)
        if not done.wait(_REST_WITHIN_S):
            raise TimeoutError("the world does not answer")
