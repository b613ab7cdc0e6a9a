"""How pauses grow, and how far they are drawn apart."""

from __future__ import annotations

import asyncio

from coord.runtime import Backoff
from coord.testing.virtual import VirtualLoop, run_virtual


class Edges:
    """Draws one end of what is allowed, every time."""

    def __init__(self, *, low: bool) -> None:
        self._low = low

    def bits(self, n: int) -> int:
        raise NotImplementedError

    def token_bytes(self, n: int) -> bytes:
        raise NotImplementedError

    def uniform(self, low: float, high: float) -> float:
        return low if self._low else high


def test_pauses_double_up_to_the_most_and_begin_again() -> None:
    backoff = Backoff(Edges(low=False), 0.05, 0.3)
    assert [backoff.draw() for _ in range(5)] == [0.05, 0.1, 0.2, 0.3, 0.3]
    backoff.reset()
    assert backoff.draw() == 0.05


def test_the_first_pause_is_not_above_the_most_either() -> None:
    backoff = Backoff(Edges(low=False), 20.0, 1.0)
    assert [backoff.draw() for _ in range(2)] == [1.0, 1.0]
    backoff.reset()
    assert backoff.draw() == 1.0


def test_half_or_all_of_a_pause_is_drawn() -> None:
    half = Backoff(Edges(low=True), 0.2, 1.0)
    assert [half.draw() for _ in range(4)] == [0.1, 0.2, 0.4, 0.5]
    full = Backoff(Edges(low=True), 0.2, 1.0, spread=1)
    assert [full.draw() for _ in range(2)] == [0.0, 0.0]


def test_a_pause_ends_at_its_limit() -> None:
    async def pauses(loop: VirtualLoop) -> list[float]:
        backoff = Backoff(Edges(low=False), 1.0, 8.0)
        moments: list[float] = []
        for limit in (None, 1.5, None):
            begun = loop.time()
            await backoff.pause(limit)
            moments.append(loop.time() - begun)
        await asyncio.sleep(0)
        return moments

    assert run_virtual(pauses) == [1.0, 1.5, 4.0]
