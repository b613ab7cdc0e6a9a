"""A loop whose time jumps to the next timer, so that hours pass in milliseconds. For code without sockets and threads."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from typing_extensions import override

from coord.runtime import Env
from coord.runtime.real import real_env

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
        return self._jumping.now

    def freeze(self, seconds: float) -> None:
        """Let time pass without anything happening: what a stopped process sees."""
        self._jumping.now += seconds


class VirtualClock:
    """The loop's time as a clock."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def mono(self) -> float:
        return self._loop.time()

    def wall(self) -> float:
        return self._loop.time()


class InlineOffload:
    """Runs at once."""

    async def run(self, fn: Callable[..., T], *args: object) -> T:
        return fn(*args)


def virtual_env(loop: VirtualLoop) -> Env:
    """Seams in virtual time."""
    real = real_env()
    return Env(clock=VirtualClock(loop), net=real.net, rand=real.rand, offload=InlineOffload())


def run_virtual(main: Callable[[VirtualLoop], Coroutine[Any, Any, T]]) -> T:
    """Run ``main(loop)`` on a fresh virtual loop."""
    loop = VirtualLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(main(loop))
