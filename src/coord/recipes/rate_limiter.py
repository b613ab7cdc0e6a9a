"""A bound on permits per second that a whole fleet shares (spec recipes 19, the strict mode).

One key holds the *theoretical arrival time* of the next permit (GCRA, the leaky bucket as a meter): each permit moves it
by ``1/rate`` seconds, and it may lie at most ``burst/rate`` seconds ahead of now.
Now is the wall clock of whoever asks, but never earlier than that of anybody before: so a clock that is fast grants what
it is ahead by, once, and one that is slow only waits longer.

In any window of T seconds the fleet is given at most ``rate*T + burst + rate*skew`` permits, skew being the largest lead
of a clock. Permits that are taken in a batch count when they are taken, and may be used ``batch_window`` seconds later.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from coord._telemetry import RATE_LIMITER, observed_wait
from coord.entry import check_name
from coord.errors import CoordError, CoordTimeout, InvalidArgument
from coord.runtime import Backoff
from coord.store import comparing as compare
from coord.store import operations as op

if TYPE_CHECKING:
    from coord.coordination import Coordination
    from coord.store.values import KeyValue

_MICRO = 1_000_000
_PAUSE_FIRST_S, _PAUSE_MAX_S = 0.005, 0.25
_MODE = "strict"


class RateLimitTimeout(CoordTimeout):
    """No permit came in time; none was taken."""


class LimiterMismatch(CoordError):
    """The limiter has another rate or burst in the store; ``set_rate()`` changes it for everybody.

    ``stored`` and ``given`` are pairs of rate and burst.
    """

    def __init__(
        self, name: bytes, *, stored: tuple[float, float], given: tuple[float, float]
    ) -> None:
        self.name = name
        self.stored = stored
        self.given = given
        super().__init__(
            f"rate limiter {name!r} allows {stored[0]:g} per second and {stored[1]:g} at once,"
            f" not {given[0]:g} and {given[1]:g}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Meter:
    """What the key holds: rate and burst, the arrival time of the next permit, and the latest time anybody told.

    Times are whole microseconds since the epoch.
    """

    rate: float
    burst: float
    tat_us: int = 0
    now_us: int = 0

    def after(self, n: float, wall_us: int) -> tuple[Meter | None, int]:
        """Take ``n`` permits at ``wall_us``; return the new meter, or None and when to ask again."""
        now = max(wall_us, self.now_us)
        # Up, so that rounding never gives more than the rate.
        tat = max(self.tat_us, now) + -int(-n * _MICRO // self.rate)
        earliest = tat - int(self.burst * _MICRO / self.rate)
        if earliest > now:
            return None, earliest
        return Meter(rate=self.rate, burst=self.burst, tat_us=tat, now_us=now), earliest

    def encode(self) -> bytes:
        """Return the value of the key."""
        fields = {
            "rate": self.rate,
            "burst": self.burst,
            "tat_us": self.tat_us,
            "now_us": self.now_us,
            "mode": _MODE,
        }
        return json.dumps(fields, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, key: bytes, value: bytes) -> Meter:
        """Return what a value stands for. Raises :class:`CoordError` if it is no strict limiter."""
        try:
            given = cast("dict[str, Any]", json.loads(value))
            if given["mode"] != _MODE:
                raise ValueError(f"mode {given['mode']!r}")  # noqa: TRY301 - one way out for all of it
            return cls(
                rate=float(given["rate"]),
                burst=float(given["burst"]),
                tat_us=int(given["tat_us"]),
                now_us=int(given["now_us"]),
            )
        except (ValueError, TypeError, KeyError) as error:
            raise CoordError(f"{key!r} is no rate limiter: {error}") from error


class RateLimiter:
    """A shared rate. Made by ``client.rate_limiter(name, rate)``; may be shared between tasks, loops and threads.

    Tasks of one limiter are served first come first served; between processes the faster one wins.
    """

    def __init__(
        self,
        home: Coordination,
        name: str | bytes,
        rate: float,
        *,
        burst: float | None = None,
        batch: int = 1,
        batch_window: float = 1.0,
    ) -> None:
        self._home = home
        self._core = home.core
        self.name: bytes = home.claim(check_name(name))
        """The name, which is the key."""
        self._text = self.name.decode(errors="backslashreplace")
        self._wanted = _checked(rate, burst)
        if batch < 1 or not batch_window > 0:
            raise InvalidArgument("batch and batch_window must be more than 0")
        self._batch = min(batch, max(1, int(self._wanted.burst)))
        self._batch_window = batch_window
        # On the runtime's loop.
        self._meter = self._wanted
        self._revision = 0
        self._kept = 0
        self._kept_until = 0.0
        self._line = asyncio.Lock()

    async def acquire(self, n: int = 1, *, timeout: float | None = None) -> None:
        """Wait for ``n`` permits.

        Raises :class:`RateLimitTimeout` when they do not come within ``timeout`` seconds, at once if that is known;
        :class:`LimiterMismatch`; and when the store does not answer :class:`coord.Unavailable`,
        :class:`coord.CoordTimeout` or :class:`coord.AmbiguousResult`, after which permits may have been wasted, as
        after a cancellation.
        """
        self._check(n)
        clock = self._home.env.clock
        await observed_wait(
            RATE_LIMITER,
            RATE_LIMITER.wait,
            self._text,
            lambda: self._home.run(self._acquire(n, timeout)),
            clock=clock,
        )

    async def try_acquire(self, n: int = 1, *, timeout: float | None = None) -> bool:
        """Take ``n`` permits if they are there, and say whether they were. Waits for nobody but the store.

        ``timeout`` in seconds is for the requests. Raises as :meth:`acquire`.
        """
        self._check(n)
        got = await observed_wait(
            RATE_LIMITER,
            RATE_LIMITER.attempt,
            self._text,
            lambda: self._home.run(self._try(n, timeout)),
            clock=self._home.env.clock,
        )
        return got is not None

    async def set_rate(
        self, rate: float, burst: float | None = None, *, timeout: float | None = None
    ) -> None:
        """Change the rate, and how many permits there may be at once (default: as many as in a second), for everybody.

        Those who were made with others raise :class:`LimiterMismatch` from then on.
        """
        wanted = _checked(rate, burst)
        await self._home.run(self._set_rate(wanted, timeout))

    def _check(self, n: int) -> None:
        if n < 1:
            raise InvalidArgument(f"n must be at least 1, not {n}")

    # -- on the runtime's loop -------------------------------------------------------------------------------------

    async def _acquire(self, n: int, timeout: float | None) -> None:
        clock = self._home.env.clock
        deadline = None if timeout is None else clock.mono() + timeout
        try:
            async with asyncio.timeout(timeout):
                await self._line.acquire()
        except TimeoutError:
            raise self._too_late(timeout, "others of this process are first") from None
        try:
            while (wait := await self._take(n, deadline)) > 0:
                if deadline is not None and clock.mono() + wait > deadline:
                    raise self._too_late(timeout, f"the next permit is {wait:.3f} s away")
                await asyncio.sleep(wait)
        finally:
            self._line.release()

    def _too_late(self, timeout: float | None, why: str) -> RateLimitTimeout:
        return RateLimitTimeout(f"rate limiter {self._text!r}", timeout, explain=why)

    async def _try(self, n: int, timeout: float | None) -> bool | None:
        clock = self._home.env.clock
        limit = self._core.caller.request_timeout if timeout is None else timeout
        deadline = clock.mono() + limit
        if self._line.locked():
            return None  # somebody waits already, so there are none
        async with self._line:
            return None if await self._take(n, deadline) > 0 else True

    async def _take(self, n: int, deadline: float | None) -> float:
        """Take permits: return 0, or after how many seconds to ask again."""
        clock = self._home.env.clock
        if self._kept >= n and clock.mono() < self._kept_until:
            self._kept -= n
            return 0.0
        self._kept = 0
        if self._revision == 0:
            await self._learn(await self._core.kv.get(self.name, timeout=self._left(deadline)))
        backoff = Backoff(self._home.env.rand, _PAUSE_FIRST_S, _PAUSE_MAX_S, spread=1)
        while True:
            self._match()
            if deadline is not None and clock.mono() >= deadline:
                raise self._too_late(None, "others came first")
            if n > self._meter.burst:
                raise InvalidArgument(
                    f"{n} permits never come at once: burst is {self._meter.burst:g}"
                )
            wall = int(clock.wall() * _MICRO)
            count = max(n, self._batch)
            new, earliest = self._meter.after(count, wall)
            if new is None and count > n:
                count = n
                new, earliest = self._meter.after(count, wall)
            if new is None:
                return max(1, earliest - wall) / _MICRO
            if await self._write(new, deadline):
                self._kept, self._kept_until = count - n, clock.mono() + self._batch_window
                return 0.0
            await backoff.pause(self._left(deadline))

    def _match(self) -> None:
        stored, given = self._meter, self._wanted
        if (stored.rate, stored.burst) != (given.rate, given.burst):
            self._revision = 0  # it may be changed back: look again next time
            raise LimiterMismatch(
                self.name,
                stored=(stored.rate, stored.burst),
                given=(given.rate, given.burst),
            )

    def _left(self, deadline: float | None) -> float:
        limit = self._core.caller.request_timeout
        if deadline is None:
            return limit
        return min(limit, max(0.0, deadline - self._home.env.clock.mono()))

    async def _learn(self, found: KeyValue | None) -> None:
        if found is None:
            self._meter, self._revision = self._wanted, 0
        else:
            self._meter = Meter.decode(self.name, found.value)
            self._revision = found.mod_revision

    async def _write(self, new: Meter, deadline: float | None) -> bool:
        marked = await self._core.markers.run(
            (compare.mod_revision(self.name) == self._revision,),
            (op.put(self.name, new.encode()),),
            (op.get(self.name),),
            timeout=self._left(deadline),
        )
        if marked.applied:
            self._meter, self._revision = new, marked.revision
            return True
        items = () if marked.result is None else marked.result.range(0).items
        await self._learn(items[0] if items else None)
        return False

    async def _set_rate(self, wanted: Meter, timeout: float | None) -> None:
        clock = self._home.env.clock
        limit = self._core.caller.request_timeout if timeout is None else timeout
        deadline = clock.mono() + limit
        await self._learn(await self._core.kv.get(self.name, timeout=self._left(deadline)))
        while True:
            if clock.mono() >= deadline:
                raise CoordTimeout("setting the rate", limit, explain="others came first")
            now = max(int(clock.wall() * _MICRO), self._meter.now_us)
            # What was used of the old burst stays used, in permits.
            used = max(0, self._meter.tat_us - now) * self._meter.rate / wanted.rate
            new = Meter(
                rate=wanted.rate, burst=wanted.burst, tat_us=now + -int(-used // 1), now_us=now
            )
            if await self._write(new, deadline):
                self._wanted = wanted
                return


def _checked(rate: float, burst: float | None) -> Meter:
    most = max(1.0, rate) if burst is None else float(burst)
    if not 0 < rate < float("inf") or not 1 <= most < float("inf"):
        raise InvalidArgument(f"rate must be more than 0, and burst at least 1: {rate}, {burst}")
    return Meter(rate=float(rate), burst=most)
