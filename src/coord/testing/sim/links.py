"""A directed link between two hosts: how long things take, and whether they get through.

What travels on a link belongs to a :class:`Lane`: one direction of one connection, which keeps its order.
A blocked link loses nothing of a lane. It stalls, as TCP does: what waits leaves when the link is open
again, after a retransmission delay. Datagrams know no lanes; they are lost, doubled and overtaken.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from coord.testing.sim.chance import Chance

if TYPE_CHECKING:
    from collections.abc import Callable

    from coord.testing.sim.scheduler import Scheduler

# Deliveries of one lane are at least this far apart.
_APART_S: Final = 1e-7
# A segment that was lost is sent again after this, and twice as long after each further loss.
_RESEND_S: Final = 0.2
_MAX_RESENDS: Final = 4
# What comes back after a partition waits for the sender's next attempt.
_WAKE_WITHIN_S: Final = 1.0
# One message in so many takes ten times the usual time: the heavy tail.
_TAIL: Final = 0.01
_TAIL_FACTOR: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkOptions:
    """How links behave in a run; seconds, probabilities and bytes per second."""

    delay_min_s: float = 0.0001
    delay_mean_s: float = 0.0005
    loss: float = 0.0
    duplication: float = 0.0
    bytes_per_s: float = 100e6
    max_queued_s: float = 2.0
    """Datagrams that would wait longer for a busy link are dropped."""


class Link:
    """From one host to another."""

    __slots__ = ("_blocks", "_busy_until", "_chance", "_scheduler", "_stalled", "name", "options")

    def __init__(self, scheduler: Scheduler, seed: int, name: str, options: LinkOptions) -> None:
        self.name: str = name
        self.options: LinkOptions = options
        self._scheduler = scheduler
        self._chance = Chance(seed, "link", name)
        self._blocks = 0
        self._busy_until = 0.0
        self._stalled: list[Lane] = []

    @property
    def is_blocked(self) -> bool:
        """Whether nothing gets through."""
        return self._blocks > 0

    def block(self) -> None:
        """Let nothing through until as many calls of ``unblock``."""
        self._blocks += 1

    def unblock(self, *, resend: bool = True) -> None:
        """Take one block back. With ``resend=False`` what had stalled arrives in a burst, as after a clog."""
        self._blocks -= 1
        if self._blocks == 0:
            stalled, self._stalled = self._stalled, []
            for lane in stalled:
                lane.resume(self._chance.uniform(0.0, _WAKE_WITHIN_S) if resend else 0.0)

    def stall(self, lane: Lane) -> None:
        """Keep a lane until the link is open."""
        self._stalled.append(lane)

    def forget_what_would_have_left(self) -> None:
        """Be free for others now: whoever was to send in its own future, held up by a slow disk, is dead."""
        self._busy_until = min(self._busy_until, self._scheduler.now)

    def delay(self, size: int) -> float:
        """Return how long ``size`` bytes that leave now are under way in a lane, losses included."""
        delay = self._passage(size)
        loss = self.options.loss
        if loss:
            resend_s = _RESEND_S
            for _ in range(_MAX_RESENDS):
                if not self._chance.below(loss):
                    break
                delay += resend_s
                resend_s *= 2
        return delay

    def _passage(self, size: int) -> float:
        options = self.options
        chance = self._chance
        delay = options.delay_min_s + chance.exponential(options.delay_mean_s)
        if chance.below(_TAIL):
            delay *= _TAIL_FACTOR
        now = self._scheduler.moment()
        self._busy_until = max(self._busy_until, now) + size / options.bytes_per_s
        return delay + self._busy_until - now

    def throw(self, deliver: Callable[[], object], size: int) -> None:
        """Send a datagram: none, one or two deliveries, in any order with others."""
        options = self.options
        chance = self._chance
        if self.is_blocked or chance.below(options.loss):
            return
        if self._busy_until - self._scheduler.moment() > options.max_queued_s:
            return
        self._scheduler.after(self._passage(size), deliver)
        if chance.below(options.duplication):
            self._scheduler.after(self._passage(size) * 2, deliver)

    def splits(self) -> bool:
        """Tell whether what is written now travels in two pieces."""
        return self._chance.below(0.1)

    def cut(self, size: int) -> int:
        """Return a place inside ``size`` bytes, at least 1."""
        return 1 + self._chance.randrange(size - 1)


class Lane:
    """One direction of one connection: items arrive one after the other, in the order they were sent."""

    __slots__ = ("_arrive", "_last_at", "_link", "_scheduler", "_waiting", "is_lost")

    def __init__(self, scheduler: Scheduler, link: Link, arrive: Callable[[Any], object]) -> None:
        self._scheduler = scheduler
        self._link = link
        self._arrive = arrive
        self._last_at = 0.0
        self._waiting: list[tuple[Any, int]] = []
        self.is_lost: bool = False
        """Silently dead: nothing arrives any more, and nobody is told."""

    @property
    def link(self) -> Link:
        """The link that it runs on."""
        return self._link

    def deliver_to(self, arrive: Callable[[Any], object]) -> None:
        """Let somebody else take what arrives."""
        self._arrive = arrive

    def send(self, item: Any, size: int = 0) -> None:  # noqa: ANN401 - whatever the two ends agree on
        """Put an item on its way."""
        if self._waiting or self._link.is_blocked:
            if not self._waiting:
                self._link.stall(self)
            self._waiting.append((item, size))
        else:
            self._depart(item, size, 0.0)

    def resume(self, delay: float) -> None:
        """Send what has waited for the link, after ``delay``."""
        waiting, self._waiting = self._waiting, []
        for item, size in waiting:
            self._depart(item, size, delay)

    def _depart(self, item: Any, size: int, extra: float) -> None:  # noqa: ANN401 - see send
        scheduler = self._scheduler
        at = scheduler.moment() + self._link.delay(size) + extra
        if at <= self._last_at:
            at = self._last_at + _APART_S
        self._last_at = at
        scheduler.at(at, self._deliver, item, size)

    def _deliver(self, item: Any, size: int) -> None:  # noqa: ANN401 - see send
        if not self.is_lost:
            self._scheduler.trace.note(self._scheduler.now, self._link.name, "packet", size)
            self._arrive(item)
