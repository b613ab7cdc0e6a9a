"""A scheduled job, and what is known of its runs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from coord.errors import InvalidArgument
from coord.recipes.cron.schedule import parse_schedule

if TYPE_CHECKING:
    from datetime import datetime

Policy = Literal["at_most_once", "at_least_once"]
Misfire = Literal["skip", "once", "all"]
Outcome = Literal["running", "done", "failed", "timeout", "lost", "missed"]

_LONGEST_JITTER_S = 3600.0
_MOST_CAUGHT_UP = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is to run when. All schedulers of a cron see the same; it lives in the store, not in a process.

    ``schedule``, in the time zone ``tz``: a cron expression of five fields, or of six of which the first are seconds
    (these need ``coord[cron]``), ``@hourly``, ``@daily``, ``@weekly``, ``@monthly``, ``@yearly``, ``@every 1h30m``, or
    ``@at 2026-12-24T18:00`` for once.
    A local time that a change of the clocks skips means the first instant after it; one that happens twice the first.

    ``policy``: ``"at_most_once"`` begins a tick once and never again, whatever becomes of it; ``"at_least_once"`` begins
    it again after a failure, a timeout or the death of its scheduler, up to ``retries`` times.
    ``misfire`` says what becomes of ticks that nobody could begin within ``misfire_grace`` seconds: ``"skip"`` leaves
    them out, ``"once"`` runs the last of them, ``"all"`` the last ``misfire_limit`` of them, the oldest first.
    ``overlap``: whether a tick may begin while an earlier one still runs; else it waits, and is a misfire if it waits
    too long.
    ``timeout``: seconds after which a run is ended. ``jitter``: begin up to so many seconds later, which is another
    number for each tick, and the same for whoever asks.
    ``paused``: added but not begun before :meth:`coord.Cron.resume`.
    ``payload``: anything that JSON knows, for the handler.
    """

    name: str
    schedule: str
    tz: str = "UTC"
    policy: Policy = "at_most_once"
    retries: int = 3
    misfire: Misfire = "once"
    misfire_limit: int = 10
    misfire_grace: float = 60.0
    overlap: bool = False
    timeout: float | None = None
    jitter: float = 0.0
    paused: bool = False
    payload: Any = None

    def check(self) -> None:
        """Raise :class:`BadSchedule` or :class:`InvalidArgument` unless it can be run."""
        check_job_name(self.name)
        parse_schedule(self.schedule, self.tz)
        if self.policy not in {"at_most_once", "at_least_once"}:
            raise InvalidArgument(
                f'policy is "at_most_once" or "at_least_once", not {self.policy!r}'
            )
        if self.misfire not in {"skip", "once", "all"}:
            raise InvalidArgument(f'misfire is "skip", "once" or "all", not {self.misfire!r}')
        if self.retries < 0:
            raise InvalidArgument(f"retries must be 0 or more, not {self.retries}")
        if not 1 <= self.misfire_limit <= _MOST_CAUGHT_UP:
            raise InvalidArgument(
                f"misfire_limit is a number from 1 to {_MOST_CAUGHT_UP}, not {self.misfire_limit}"
            )
        if not self.misfire_grace > 0:
            raise InvalidArgument(
                f"misfire_grace must be positive seconds, not {self.misfire_grace}"
            )
        if self.timeout is not None and not self.timeout > 0:
            raise InvalidArgument(f"timeout must be None or positive seconds, not {self.timeout}")
        if not 0 <= self.jitter <= _LONGEST_JITTER_S:
            raise InvalidArgument(f"jitter is from 0 to 3600 seconds, not {self.jitter}")
        try:
            json.dumps(self.payload, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidArgument(f"the payload cannot be written as JSON: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatus:
    """A job as it stands: ``next_tick`` by its schedule, None when there is none or it is paused.

    ``last_tick`` is the last one that was begun or left out, ``running`` those that are begun and not ended.
    """

    job: Job
    last_tick: datetime | None
    next_tick: datetime | None
    running: tuple[datetime, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TickRecord:
    """What became of one tick, or of several at once.

    ``outcome``: ``running``, ``done``, ``failed`` or ``timeout`` (of the last attempt that was allowed), ``lost`` (its
    scheduler died, or was told to stop, and no attempt was left), ``missed`` (left out by the misfire policy).
    ``missed_since``: the first of the ticks that were left out up to this one, None if none was.
    ``token``: that of the last attempt; ``attempt`` counts from 1, 0 for a tick that was never begun.
    Times are in UTC, by the clock of the scheduler.
    """

    tick: datetime
    outcome: Outcome
    attempt: int = 0
    token: int = 0
    started_at: datetime | None = None
    ended_at: datetime | None = None
    missed_since: datetime | None = None
    error: str = ""
    host: str = ""
    pid: int = 0


def check_job_name(name: str) -> bytes:
    """Return a job's name as bytes. Raises :class:`InvalidArgument`."""
    if not name or "/" in name or "\0" in name:
        raise InvalidArgument(
            f"a job's name is not empty, and has neither '/' nor NUL, unlike {name!r}"
        )
    return name.encode(errors="surrogateescape")
