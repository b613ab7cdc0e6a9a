"""What is to be done for one job, now: from the job, its state and the time. Rules without I/O.

The next tick always follows from the last one that was dealt with, never from "now": so a clock that is wrong, or that
is set, moves a start and neither doubles nor forgets one.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from coord.recipes.cron.layout import tick_id, tick_time

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from coord.recipes.cron.job import Job
    from coord.recipes.cron.layout import JobDoc, State
    from coord.recipes.cron.schedule import Schedule

_SECOND = timedelta(seconds=1)
_MS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Begin this attempt at a tick. ``missed_since``: the first of the ticks that are left out with it."""

    tick: str
    attempt: int = 1
    asked: bool = False
    missed_since: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Skip:
    """Leave out the ticks from ``since`` to ``tick``."""

    tick: str
    since: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Lose:
    """Note that a tick was begun, that whoever ran it is gone, and that it is not begun again."""

    tick: str
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Nothing before ``until`` (seconds since 1970); None: nothing until something changes."""

    until: float | None = None


Step = Start | Skip | Lose | Wait


def decide(
    doc: JobDoc, schedule: Schedule, state: State, alive: AbstractSet[str], now: float
) -> Step:
    """Return the next step; ``alive`` are the ticks whose keys are there, ``now`` is in seconds since 1970."""
    waits: list[float] = []
    for tick in sorted(state.running):
        if tick in alive:
            continue
        step = _resume(doc.job, state, tick, now)
        if not isinstance(step, Wait):
            return step
        if step.until is not None:
            waits.append(step.until)
    # Also not beside what runs of an earlier life of the job, which its state knows nothing of.
    if doc.job.overlap or not (state.running or alive):
        step = _fresh(doc, schedule, state, now)
        if not isinstance(step, Wait):
            return step
        if step.until is not None:
            waits.append(step.until)
    return Wait(until=min(waits, default=None))


def _resume(job: Job, state: State, tick: str, now: float) -> Step:
    """Decide about a tick that was begun and that nobody runs."""
    begun = state.running[tick]
    is_last = job.policy == "at_most_once" or begun.attempt > job.retries
    if is_last and not begun.given_back:
        return Lose(tick=tick, attempt=begun.attempt)
    due = begun.due_ms / _MS
    if now < due:
        return Wait(until=due)
    return Start(tick=tick, attempt=begun.attempt + 1)


def _fresh(doc: JobDoc, schedule: Schedule, state: State, now: float) -> Step:
    """Decide about ticks that nobody has begun: those that were asked for, then those of the schedule."""
    for tick in doc.asked:
        if tick > state.last_asked:
            return Start(tick=tick, asked=True)
    if doc.job.paused:
        return Wait()
    last = tick_time(state.last_tick)
    first = schedule.after(doc.since if last is None else max(last, doc.since))
    if first is None:
        return Wait()
    if due_of(doc.job, first) > now:
        return Wait(until=due_of(doc.job, first))
    return _due(doc.job, schedule, first, now)


def _due(job: Job, schedule: Schedule, first: datetime, now: float) -> Step:
    """Decide about the ticks from ``first`` on that are due."""
    latest = _latest(job, schedule, first, now)
    is_late = now - due_of(job, latest) > job.misfire_grace
    if job.misfire == "skip" and is_late:
        return Skip(tick=tick_id(latest), since=first)
    chosen = latest
    if job.misfire == "all":
        for _ in range(job.misfire_limit - 1):
            earlier = schedule.until(chosen - _SECOND)
            if earlier is None or earlier < first:
                break
            chosen = earlier
    return Start(tick=tick_id(chosen), missed_since=first if first < chosen else None)


def _latest(job: Job, schedule: Schedule, first: datetime, now: float) -> datetime:
    latest = schedule.until(datetime.fromtimestamp(now, UTC)) or first
    while latest > first and due_of(job, latest) > now:
        latest = schedule.until(latest - _SECOND) or first
    return max(latest, first)


def due_of(job: Job, tick: datetime) -> float:
    """Return when a tick is to begin, in seconds since 1970: a share of the jitter later that all agree on."""
    if not job.jitter:
        return tick.timestamp()
    drawn = hashlib.blake2b(
        f"{job.name}/{tick_id(tick)}".encode(errors="surrogateescape"), digest_size=8
    )
    return tick.timestamp() + job.jitter * int.from_bytes(drawn.digest()) / 2**64
