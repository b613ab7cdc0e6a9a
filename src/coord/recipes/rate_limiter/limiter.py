"""A limiter as applications hold it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from typing_extensions import override

from coord._telemetry import RATE_LIMITER, observed_wait
from coord.entry import check_name
from coord.errors import CoordTimeout, InvalidArgument
from coord.names import as_text
from coord.recipes.ending import Ending
from coord.recipes.rate_limiter.errors import RateLimitTimeout
from coord.recipes.rate_limiter.meter import (
    DEFAULT_TTL_S,
    Meter,
    RateMode,
    checked,
    checked_ttl,
    chosen,
)
from coord.recipes.rate_limiter.pace import Pace

if TYPE_CHECKING:
    from coord.cache import Mirrors
    from coord.coordination import Coordination
    from coord.recipes.rate_limiter.state import LimiterState


class RateLimiter(Ending):
    """A shared rate. Made by ``client.rate_limiter(name, rate)``; may be shared between tasks, loops and threads.

    Tasks of one limiter are served first come first served; between processes the faster one wins, unless it was made
    with ``fair=True``.
    ``async with`` closes it at the end, which gives back what nobody has used; so does the end of the client.
    """

    _close_within_s = 30.0

    def __init__(
        self,
        home: Coordination,
        mirrors: Mirrors,
        name: str | bytes,
        rate: float,
        *,
        burst: float | None = None,
        mode: RateMode = "auto",
        batch: int = 1,
        batch_window: float = 1.0,
        weight: float = 1.0,
        ttl: int = DEFAULT_TTL_S,
        fallback_rate: float | None = None,
        fair: bool = False,
    ) -> None:
        self._home = home
        self.name: bytes = home.claim(check_name(name))
        """The name, which is the key."""
        self._text = as_text(self.name)
        figures = checked(rate, burst)
        if batch < 1 or not 0 < batch_window < float("inf"):
            raise InvalidArgument("batch and batch_window must be more than 0")
        if not 0 < weight < float("inf"):
            raise InvalidArgument(f"weight must be more than 0, not {weight}")
        if fallback_rate is not None and not 0 < fallback_rate < float("inf"):
            raise InvalidArgument(f"fallback_rate must be more than 0, not {fallback_rate}")
        if mode not in ("auto", "strict", "divided"):
            raise InvalidArgument(f"mode must be auto, strict or divided, not {mode!r}")
        if fair and mode == "divided":
            raise InvalidArgument("fair=True is a common line, which the divided mode has not")
        batch = min(batch, max(1, int(figures[1])))
        mode = "strict" if fair else mode
        wanted = Meter(
            rate=figures[0],
            burst=figures[1],
            mode=chosen(figures[0], batch) if mode == "auto" else mode,
            ttl=checked_ttl(ttl),
        )
        self._works = self._pace = Pace(
            home,
            mirrors,
            self.name,
            wanted,
            mode=mode,
            batch=batch,
            batch_window=batch_window,
            weight=weight,
            fallback=fallback_rate,
            fair=fair,
        )

    async def acquire(self, n: int = 1, *, timeout: float | None = None) -> None:
        """Wait for ``n`` permits.

        Raises :class:`RateLimitTimeout` when they do not come within ``timeout`` seconds, at once if that is known;
        :class:`LimiterMismatch`; and in the strict mode without a fallback, when the store does not answer,
        :class:`coord.Unavailable`, :class:`coord.CoordTimeout` or :class:`coord.AmbiguousResult`, after which permits
        may have been wasted. What was taken for a wait that is cancelled is kept for the next, or given back.
        """
        _check(n)
        await observed_wait(
            RATE_LIMITER,
            RATE_LIMITER.wait,
            self._text,
            lambda: self._home.run(
                self._pace.acquire(n, timeout), discard=lambda _: self._pace.put_back(n)
            ),
            clock=self._home.env.clock,
        )

    async def try_acquire(self, n: int = 1, *, timeout: float | None = None) -> bool:
        """Take ``n`` permits if they are there, and say whether they were. Waits for nobody but the store.

        ``timeout`` in seconds is for the requests. Raises as :meth:`acquire`.
        """
        _check(n)

        def discard(got: bool | None) -> None:  # noqa: FBT001 - as run() calls it
            if got:
                self._pace.put_back(n)

        got = await observed_wait(
            RATE_LIMITER,
            RATE_LIMITER.attempt,
            self._text,
            lambda: self._home.run(self._pace.attempt(n, timeout), discard=discard),
            clock=self._home.env.clock,
        )
        return got is not None

    async def set_rate(
        self, rate: float, burst: float | None = None, *, timeout: float | None = None
    ) -> None:
        """Change the rate, and how many permits there may be at once (default: as many as in a second), for everybody.

        Those who were made with others raise :class:`LimiterMismatch` from then on: in the divided mode within half a
        ttl, so that for one ttl the larger of both rates is the bound.
        With ``mode="auto"`` the mode is chosen anew; where it changes nobody gets permits for one ttl.
        """
        await self._home.run(self._pace.set_rate(*checked(rate, burst), timeout))

    async def state(self, *, timeout: float | None = None) -> LimiterState:
        """Return mode, rate and members, as of one revision, and what there is to take.

        Raises :class:`CoordTimeout` after ``timeout`` seconds, and what a read raises.
        """

        async def look() -> LimiterState:
            scope = asyncio.timeout(timeout)
            try:
                async with scope:
                    return await self._pace.state()
            except CoordTimeout:
                raise
            except TimeoutError:
                if not scope.expired():
                    raise
                raise RateLimitTimeout(f"reading rate limiter {self._text!r}", timeout) from None

        return await self._home.run(look())

    @override
    async def close(self) -> None:
        """Give back permits that nobody has used, and leave the group of those who share the rate. Safe to call twice.

        Whoever waits, or asks later, gets :class:`ClientClosed`. Cancelling the caller does not stop it.
        """
        await self._end()


def _check(n: int) -> None:
    if n < 1:
        raise InvalidArgument(f"n must be at least 1, not {n}")
