"""The value of a limiter's key, and the arithmetic of the strict mode.

It holds the *theoretical arrival time* of the next permit (GCRA, the leaky bucket as a meter): each permit moves it by
``1/rate`` seconds, and it may lie at most ``burst/rate`` seconds ahead of now.
Now is the wall clock of whoever asks, but never earlier than that of anybody before: so a clock that is fast grants what
it is ahead by, once, and one that is slow only waits longer.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast, get_args

from coord.errors import CoordError, InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Mapping

Mode: TypeAlias = Literal["strict", "divided"]
RateMode: TypeAlias = Literal["auto", "strict", "divided"]
"""How permits are shared out; ``auto`` is for the store, or else the figures, to say."""

MICRO = 1_000_000
DIVIDED_ABOVE = 50.0
"""Transactions per second on one key above which ``auto`` divides the rate instead."""
DEFAULT_TTL_S = 5
_MOST_TTL_S = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Meter:
    """What the key holds: rate and burst, the mode, the arrival time of the next permit, and the latest time anybody told.

    Times are whole microseconds since the epoch; they and ``ttl``, whole seconds, are each used by one of the modes.
    """

    rate: float
    burst: float
    mode: Mode = "strict"
    tat_us: int = 0
    now_us: int = 0
    ttl: int = DEFAULT_TTL_S

    @property
    def figures(self) -> tuple[float, float]:
        """Rate and burst."""
        return self.rate, self.burst

    def after(self, n: float, wall_us: int) -> tuple[Meter | None, int]:
        """Take ``n`` permits at ``wall_us``; return the new meter, or None and when to ask again."""
        now = max(wall_us, self.now_us)
        # Up, so that rounding never gives more than the rate.
        tat = max(self.tat_us, now) + -int(-n * MICRO // self.rate)
        earliest = tat - int(self.burst * MICRO / self.rate)
        if earliest > now:
            return None, earliest
        return replace(self, tat_us=tat, now_us=now), earliest

    def returned(self, n: float) -> Meter:
        """Give back ``n`` permits that nobody has used."""
        # Down, as above.
        return replace(self, tat_us=max(0, self.tat_us - int(n * MICRO // self.rate)))

    def changed(self, rate: float, burst: float, mode: Mode, wall_us: int) -> Meter:
        """Return what holds from now on, when rate, burst or mode are changed."""
        now = max(wall_us, self.now_us)
        if mode == self.mode:
            # What was used of the old burst stays used, in permits.
            ahead = max(0, self.tat_us - now) * self.rate / rate
        else:
            # Members that have not heard of it may go on for half a ttl: until then nobody gets anything here.
            ahead = (self.ttl + burst / rate) * MICRO
        tat = now + -int(-ahead // 1)
        return replace(self, rate=rate, burst=burst, mode=mode, tat_us=tat, now_us=now)

    def free(self, wall_us: int) -> float:
        """Return how many permits could be taken at once, in the strict mode."""
        now = max(wall_us, self.now_us)
        return max(0.0, self.burst - max(0, self.tat_us - now) * self.rate / MICRO)

    def encode(self) -> bytes:
        """Return the value of the key."""
        fields: dict[str, object] = {
            "rate": self.rate,
            "burst": self.burst,
            "tat_us": self.tat_us,
            "now_us": self.now_us,
            "mode": self.mode,
        }
        if self.mode == "divided":
            fields["ttl"] = self.ttl
        return json.dumps(fields, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, key: bytes, value: bytes) -> Meter:
        """Return what a value stands for. Raises :class:`CoordError` if it is no limiter."""
        try:
            return cls._of(cast("Mapping[str, Any]", json.loads(value)))
        except (ValueError, TypeError, KeyError, InvalidArgument) as error:
            raise CoordError(f"{key!r} is no rate limiter: {error}") from error

    @classmethod
    def _of(cls, given: Mapping[str, Any]) -> Meter:
        mode = given["mode"]
        if mode not in get_args(Mode):
            raise ValueError(f"mode {mode!r}")
        rate, burst = checked(float(given["rate"]), float(given["burst"]))
        return cls(
            rate=rate,
            burst=burst,
            mode=mode,
            tat_us=int(given["tat_us"]),
            now_us=int(given["now_us"]),
            ttl=checked_ttl(int(given.get("ttl", DEFAULT_TTL_S))),
        )


def checked(rate: float, burst: float | None) -> tuple[float, float]:
    """Return rate and burst, by default as many as in a second. Raises :class:`InvalidArgument`."""
    most = max(1.0, rate) if burst is None else float(burst)
    if not 0 < rate < float("inf") or not 1 <= most < float("inf"):
        raise InvalidArgument(f"rate must be more than 0, and burst at least 1: {rate}, {burst}")
    return float(rate), most


def checked_ttl(ttl: int) -> int:
    """Return ``ttl``. Raises :class:`InvalidArgument`."""
    if not 1 <= ttl <= _MOST_TTL_S:
        raise InvalidArgument(f"ttl must be 1 to {_MOST_TTL_S} seconds, not {ttl}")
    return ttl


def chosen(rate: float, batch: int) -> Mode:
    """Return the mode that ``auto`` means where the store has none.

    By what the strict mode could cost at most: a transaction for each batch, at the full rate.
    """
    return "divided" if rate / batch > DIVIDED_ABOVE else "strict"
