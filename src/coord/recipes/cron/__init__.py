"""Scheduled jobs that start once per tick in the whole fleet (spec recipes 20; native layout).

``schedule`` and ``localtime`` say when a job is due, ``rules`` what is to be done now, without I/O; ``book`` does it in the
store, each step in one transaction; ``engine`` is one scheduler at work, ``owners`` decides which of them sees to which
jobs, ``running`` and ``handling`` call what the application has given for a job.
"""

from coord.recipes.cron.cron import Cron
from coord.recipes.cron.engine import CronWarning
from coord.recipes.cron.errors import BadSchedule, JobExists, TickLost, UnknownJob
from coord.recipes.cron.job import Job, JobStatus, TickRecord
from coord.recipes.cron.tick import Tick

__all__ = [
    "BadSchedule",
    "Cron",
    "CronWarning",
    "Job",
    "JobExists",
    "JobStatus",
    "Tick",
    "TickLost",
    "TickRecord",
    "UnknownJob",
]
