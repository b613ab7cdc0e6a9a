"""One member's part of a divided rate: its share, and the permits that it has saved up. Takes no I/O.

Why the shares in force never sum above the rate. Let ``D`` be the ``ttl``, and ``t`` any moment.
Whoever has a share at ``t`` has seen itself, in the same incarnation, in every look since ``t - D``; and its last look
was asked for after ``t - D/2``. So its key was in the store throughout ``[t - D, t - D/2]``.
It also had a share, or was waiting for one, at ``t - D/2``; so it has a look that was asked for and answered within
``[t - D, t - D/2]``. That look shows all of those who have a share at ``t``, this one included, and the share in force
is at most what followed from it, because it is the smallest of the last ``D`` seconds. The sum of ``rate * w / total``
over those whose weights are part of each ``total`` is at most the rate.
A look counts from when it was asked for, so a slow answer makes it old, not wrong; nothing here needs leases to end on
time, nor clocks that show the same, only clocks of about the same rate, for which :data:`STALE` leaves room.

Permits: each member's bucket is as large as its share of the burst, and is cut down with it. So all buckets together
hold at most the burst, and in ``T`` seconds at most ``rate * T`` permits come in.
A bucket has room for one permit at least, or for as many as somebody is waiting for: that is what the bound is larger
by, for each member.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from coord.recipes.rate_limiter.bucket import Bucket
from coord.session import DRIFT

if TYPE_CHECKING:
    from coord.recipes.rate_limiter.meter import Meter

STALE = 0.5 - 2 * DRIFT
"""Of the ttl, after which a look is too old. A half, less what two clocks may drift apart meanwhile."""
NEVER = float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What one read has shown: the limiter, our own incarnation (0: not a member), and weights, ours and all together."""

    asked_at: float
    meter: Meter
    token: int
    weight: float
    total: float


@dataclass(slots=True)
class _Step:
    """A share that followed from what was seen from ``since`` on, until the next step."""

    since: float
    share: float


class Part:
    """Says how many permits this member may give. ``now`` is monotonic, in seconds, and never goes back."""

    def __init__(self, ttl: float, now: float, *, fallback: float | None = None) -> None:
        self._ttl = ttl
        self._at = now
        self._started = now
        self._look: Look | None = None
        # The smallest of the last ttl is the first; each is smaller than the next.
        self._steps = deque([_Step(now, 0.0)])
        self._tokens = 0.0
        self._need = 0
        self._fallback = None if fallback is None else Bucket(fallback, max(1.0, fallback), now)

    @property
    def share(self) -> float:
        """The permits per second in force, as of the last call."""
        return self._steps[0].share

    @property
    def tokens(self) -> float:
        """The permits that are saved up, as of the last call."""
        return self._tokens

    @property
    def look(self) -> Look | None:
        """The last look."""
        return self._look

    def is_stale(self, now: float) -> bool:
        """Whether the group was not seen for half a ttl."""
        return now >= self._stale_at()

    def _stale_at(self) -> float:
        seen = self._started if self._look is None else self._look.asked_at
        return seen + STALE * self._ttl

    def seen(self, look: Look, now: float) -> None:
        """Take note of a look whose answer has arrived."""
        self.advance(now)
        if now >= look.asked_at + STALE * self._ttl:
            return
        if self._look is None or look.token != self._look.token or not look.token:
            self._forget(now)
        self._look = look
        self._step(look.meter.rate * look.weight / look.total if look.token else 0.0, now)
        self._cut()

    def _step(self, share: float, now: float) -> None:
        since = now
        while self._steps and self._steps[-1].share >= share:
            # What was larger has stood for no less long.
            since = self._steps.pop().since
        self._steps.append(_Step(since, share))

    def advance(self, now: float) -> None:
        """Let time pass."""
        stale_at = self._stale_at()
        until = min(now, stale_at)
        while (rises := self._rises_at()) <= until:
            self._collect(rises)
            self._steps.popleft()
        self._collect(until)
        if now >= stale_at:
            self._forget(now)
        self._at = max(self._at, now)

    def _rises_at(self) -> float:
        """Return when the next larger share is in force: when the smaller one has not been seen for a ttl."""
        return self._steps[1].since + self._ttl if len(self._steps) > 1 else NEVER

    def _collect(self, until: float) -> None:
        if until > self._at:
            self._tokens += self._steps[0].share * (until - self._at)
            self._at = until
        self._cut()

    def _cut(self) -> None:
        share = self._steps[0].share
        room = 0.0
        if share > 0 and self._look is not None:
            meter = self._look.meter
            room = max(1.0, self._need, meter.burst * share / meter.rate)
        self._tokens = min(self._tokens, room)

    def _forget(self, now: float) -> None:
        """Begin again without a share."""
        self._steps = deque([_Step(now, 0.0)])
        self._tokens = 0.0
        self._at = max(self._at, now)

    def take(self, n: int, now: float, *, wait: bool) -> float:
        """Take ``n`` permits and return 0, or after how many seconds to ask again, if nothing is seen meanwhile.

        ``wait``: whether the caller will, so that as many as it needs are saved up.
        """
        self._need = n if wait else 0
        self.advance(now)
        if self._fallback is not None and self.is_stale(now):
            return self._fallback.take(n, now)
        # What is missing by less than rounding is there.
        if self._tokens >= n - 1e-9 and self.share > 0:
            self._tokens = max(0.0, self._tokens - n)
            self._need = 0
            return 0.0
        rises = self._rises_at() - now
        comes = (n - self._tokens) / self.share if self.share > 0 else NEVER
        stale = self._stale_at() - now if self._fallback is not None else NEVER
        return max(1e-6, min(rises, comes, stale))

    def put_back(self, n: int) -> None:
        """Give back ``n`` permits that nobody has used."""
        self._tokens += n
        self._cut()

    def give_up(self) -> None:
        """Nobody waits any more."""
        self._need = 0
        self._cut()
