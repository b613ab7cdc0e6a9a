"""The twin of a rate limiter."""

from __future__ import annotations

from coord.recipes import rate_limiter
from coord.sync._portal import Twin


class RateLimiter(Twin[rate_limiter.RateLimiter]):
    """A shared rate; see :class:`coord.RateLimiter`. Made by ``client.rate_limiter(name, rate)``; for any thread."""

    __slots__ = ()

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
