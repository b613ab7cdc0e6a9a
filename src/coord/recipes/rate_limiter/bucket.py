"""Permits that come by themselves and are saved up to a limit, without a store."""

from __future__ import annotations


class Bucket:
    """``rate`` permits per second, at most ``capacity`` of them saved up; full at first. ``now`` in seconds.

    Somebody who asks for more than the capacity makes it that large for as long as they wait.
    """

    __slots__ = ("_at", "_capacity", "_rate", "_tokens")

    def __init__(self, rate: float, capacity: float, now: float) -> None:
        self._rate = rate
        self._capacity = capacity
        self._tokens = capacity
        self._at = now

    def take(self, n: int, now: float) -> float:
        """Take ``n`` permits and return 0, or after how many seconds they are there."""
        most = max(self._capacity, n)
        self._tokens = min(most, self._tokens + self._rate * max(0.0, now - self._at))
        self._at = max(self._at, now)
        # What is missing by less than rounding is there.
        if self._tokens >= n - 1e-9:
            self._tokens = max(0.0, self._tokens - n)
            return 0.0
        return (n - self._tokens) / self._rate
