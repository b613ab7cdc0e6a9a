"""What can go wrong with scheduled jobs, beside what can with any request."""

from __future__ import annotations

from coord.errors import CoordError, InvalidArgument, LostError


class BadSchedule(InvalidArgument):
    """A schedule, or its time zone, says no times. ``schedule`` is what was given."""

    def __init__(self, schedule: str, why: str) -> None:
        self.schedule = schedule
        super().__init__(f"schedule {schedule!r}: {why}")


class JobExists(CoordError):
    """There is a job of this name; ``cron.put()`` replaces it."""

    def __init__(self, name: str, job: str) -> None:
        self.name = name
        self.job = job
        super().__init__(f"cron {name!r} has a job {job!r} already")


class UnknownJob(CoordError):
    """There is no job of this name."""

    def __init__(self, name: str, job: str) -> None:
        self.name = name
        self.job = job
        super().__init__(f"cron {name!r} has no job {job!r}")


class TickLost(LostError):
    """A run of a job was lost: stop working on it. Another scheduler decides what becomes of its tick."""

    noun = "tick"
