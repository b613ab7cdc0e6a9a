"""The twin of a rate limiter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from coord.recipes import rate_limiter
from coord.sync._portal import Twin

if TYPE_CHECKING:
    from types import TracebackType

    from coord.recipes.rate_limiter import LimiterState


class RateLimiter(Twin[rate_limiter.RateLimiter]):
    """A shared rate; see :class:`coord.RateLimiter`. Made by ``client.rate_limiter(name, rate)``; for any thread."""

    __slots__ = ()

    def __enter__(self) -> Self:
        """Close the limiter at the end of the block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the limiter."""
        self.close()

    @property
    def name(self) -> bytes:
        """The name, which is the key."""
        return self._async.name

    def acquire(self, n: int = 1, *, timeout: float | None = None) -> None:
        """Wait for ``n`` permits. Raises :class:`coord.RateLimitTimeout` after ``timeout`` seconds."""
        self._portal.call(self._async.acquire(n, timeout=timeout))

    def try_acquire(self, n: int = 1, *, timeout: float | None = None) -> bool:
        """Take ``n`` permits if they are there, and say whether they were."""
        return self._portal.call(self._async.try_acquire(n, timeout=timeout))

    def set_rate(
        self, rate: float, burst: float | None = None, *, timeout: float | None = None
    ) -> None:
        """Change the rate, and how many permits there may be at once, for everybody."""
        self._portal.call(self._async.set_rate(rate, burst, timeout=timeout))

    def state(self, *, timeout: float | None = None) -> LimiterState:
        """Return mode, rate and members, and what there is to take."""
        return self._portal.call(self._async.state(timeout=timeout))

    def close(self) -> None:
        """Give back permits that nobody has used, and leave the group of those who share the rate."""
        self._portal.call(self._async.close())
