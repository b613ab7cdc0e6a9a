"""A loop whose time jumps to the next timer, so that hours pass in milliseconds. For code without sockets and threads.

    def test_hours() -> None:
        async def main(loop: VirtualLoop) -> None:
            async with coord.connect("memory:", runtime="inline") as client: ...
        run_virtual(main)

Everything on the loop lives in its time: the program, the client and the server of ``memory:``.
A program with threads, sockets or a loop of its own tests with :mod:`coord.testing.memory` instead.
"""

from __future__ import annotations

import asyncio
import selectors
from typing import TYPE_CHECKING, Any, TypeVar

from typing_extensions import override

from coord.runtime import Env
from coord.runtime.real import real_env

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")


class _Jumping(selectors.SelectSelector):
    """Instead of waiting, moves the time on."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    @override
    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("everybody waits, and nothing is going to happen")
        self.now += max(0.0, timeout)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """Its ``time()`` passes only while everybody waits."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    @override
    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self._jumping.now

    def freeze(self, seconds: float) -> None:
        """Let time pass without anything happening: what a stopped process sees."""
        self._jumping.now += seconds


class VirtualClock:
    """A loop's time as a clock (see :class:`coord.runtime.Clock`)."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def mono(self) -> float:
        """Return the loop's time."""
        return self._loop.time()

    def wall(self) -> float:
        """Return the same: this world began 1000 s after the epoch."""
        return self._loop.time()


class InlineOffload:
    """Runs at once (see :class:`coord.runtime.Offload`)."""

    async def run(self, fn: Callable[..., T], *args: object) -> T:
        """Call ``fn``."""
        return fn(*args)


def virtual_env(loop: asyncio.AbstractEventLoop) -> Env:
    """Return seams in the time of ``loop``."""
    real = real_env()
    return Env(clock=VirtualClock(loop), net=real.net, rand=real.rand, offload=InlineOffload())


def run_virtual(main: Callable[[VirtualLoop], Coroutine[Any, Any, T]]) -> T:
    """Run ``main(loop)`` on a fresh virtual loop and return its result."""
    loop = VirtualLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(main(loop))
