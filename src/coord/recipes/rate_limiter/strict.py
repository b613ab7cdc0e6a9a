"""The strict mode: each permit, or batch of permits, is a transaction on the limiter's key."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from coord.errors import (
    AmbiguousResult,
    ClientClosed,
    CoordError,
    CoordTimeout,
    InvalidArgument,
    Unavailable,
)
from coord.recipes.rate_limiter.bucket import Bucket
from coord.recipes.rate_limiter.cell import Cell, ModeChanged
from coord.recipes.rate_limiter.errors import RateLimitTimeout
from coord.recipes.rate_limiter.meter import MICRO
from coord.runtime import Backoff

if TYPE_CHECKING:
    from coord.coordination import Coordination

_PAUSE_FIRST_S, _PAUSE_MAX_S = 0.005, 0.25
# After a request that failed, with a fallback to live on meanwhile.
_RETRY_S = 1.0
# Others may be faster each time: what is not given back by then is wasted.
_RETURN_TRIES = 5


class Strict:
    """Takes permits from the store, some at a time, and gives back those that nobody used. On the runtime's loop."""

    def __init__(
        self,
        home: Coordination,
        cell: Cell,
        *,
        batch: int,
        batch_window: float,
        fallback: float | None,
    ) -> None:
        self._home = home
        self._cell = cell
        self._batch = batch
        self._window = batch_window
        self._kept = 0
        self._kept_until = 0.0
        # One at a time reads the meter, writes it and counts what is kept.
        self._turn = asyncio.Lock()
        self._returning: asyncio.Task[object] | None = None
        self._fallback = (
            None if fallback is None else Bucket(fallback, max(1.0, fallback), cell.mono())
        )
        self._lost_until = 0.0

    async def take(self, n: int, deadline: float | None) -> float:
        """Take ``n`` permits and return 0, or after how many seconds to ask again.

        A cancelled take goes on to its end, and what it got is kept for the next.
        """
        if not self._turn.locked() and self._take_kept(n):
            return 0.0
        if self._fallback is not None and self._cell.mono() < self._lost_until:
            return self._fallback.take(n, self._cell.mono())
        task = self._home.background(self._outcome(n, deadline), name="rate-take")
        if task is None:
            raise ClientClosed
        try:
            outcome = cast("float | Exception", await self._home.ended(task))
        except asyncio.CancelledError:
            task.add_done_callback(lambda done: self._keep_of(done, n))
            raise
        if not isinstance(outcome, Exception):
            return outcome
        if self._fallback is None or not _is_silence(outcome):
            raise outcome
        now = self._cell.mono()
        self._lost_until = now + _RETRY_S
        return self._fallback.take(n, now)

    async def _outcome(self, n: int, deadline: float | None) -> float | Exception:
        try:
            return await self._take(n, deadline)
        except (CoordError, ModeChanged) as error:  # for whoever waits, not for the background
            return error

    def _keep_of(self, task: asyncio.Task[object], n: int) -> None:
        """Keep what a take has got that nobody waits for any more."""
        if not task.cancelled() and task.exception() is None and task.result() == 0.0:
            self.put_back(n)

    def _take_kept(self, n: int) -> bool:
        if self._kept < n or self._cell.mono() >= self._kept_until:
            return False
        self._kept -= n
        return True

    async def _take(self, n: int, deadline: float | None) -> float:
        cell = self._cell
        async with self._turn:
            backoff = Backoff(self._home.env.rand, _PAUSE_FIRST_S, _PAUSE_MAX_S, spread=1)
            while True:
                if self._take_kept(n):
                    return 0.0
                if await cell.know(deadline) != "strict":
                    raise ModeChanged
                if deadline is not None and cell.mono() >= deadline:
                    raise RateLimitTimeout(
                        f"rate limiter {cell.text!r}", None, explain="others came first"
                    )
                if n > cell.meter.burst:
                    raise InvalidArgument(
                        f"{n} permits never come at once: burst is {cell.meter.burst:g}"
                    )
                wall = cell.now_us()
                # What is kept, but not enough, is part of it; if it is too old it goes back with the same write.
                least = n - self._kept
                count = max(n, self._batch) - self._kept
                new, earliest = cell.meter.after(count, wall)
                if new is None and count > least:
                    count = least
                    new, earliest = cell.meter.after(count, wall)
                if new is None:
                    return max(1, earliest - wall) / MICRO
                had = self._kept
                if await cell.write(new, deadline):
                    self._keep(had + count - n)
                    return 0.0
                await backoff.pause(cell.left(deadline))

    # -- what is left of a batch -----------------------------------------------------------------------------------

    def _keep(self, n: int) -> None:
        self._kept = n
        self._kept_until = self._cell.mono() + self._window
        if n and self._returning is None:
            self._returning = self._home.background(self._return_later(), name="rate-return")

    def put_back(self, n: int) -> None:
        """Keep ``n`` permits that were taken for somebody who has gone."""
        self._keep(self._kept + n)

    async def _return_later(self) -> None:
        try:
            await asyncio.sleep(max(0.0, self._kept_until - self._cell.mono()))
        finally:
            self._returning = None
        await self._return(only_old=True)

    async def close(self) -> None:
        """Give back what is left, at once."""
        if self._returning is not None:
            self._returning.cancel()
        await self._return(only_old=False)

    async def _return(self, *, only_old: bool) -> None:
        cell = self._cell
        async with self._turn:
            if only_old and cell.mono() < self._kept_until:
                self._keep_watching()
                return
            count, self._kept = self._kept, 0
            try:
                for _ in range(_RETURN_TRIES):
                    if not count or not cell.revision or cell.meter.mode != "strict":
                        return
                    if await cell.write_once(cell.meter.returned(count)):
                        return
            except CoordError:
                cell.revision = 0  # wasted, or given back: never twice

    def _keep_watching(self) -> None:
        if self._kept and self._returning is None:
            self._returning = self._home.background(self._return_later(), name="rate-return")


def _is_silence(error: BaseException) -> bool:
    """Whether the store has not answered, rather than refused."""
    return isinstance(error, (Unavailable, AmbiguousResult, CoordTimeout)) and not isinstance(
        error, RateLimitTimeout
    )
