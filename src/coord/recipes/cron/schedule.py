"""When a job is to run: the ticks of a schedule, as instants. Rules without I/O.

What a cron expression means on the calendar is croniter's to say; which instants that are, where the offset of a zone
changes, is ours (``localtime``).
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol
from zoneinfo import ZoneInfo

from typing_extensions import override

from coord.errors import MissingExtra
from coord.recipes.cron.errors import BadSchedule
from coord.recipes.cron.localtime import instant_of, local_of, repeated

if TYPE_CHECKING:
    from croniter import croniter

_ALIASES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_EVERY = re.compile(r"@every\s+((?:\d+[dhms])+)", re.ASCII)
_PART = re.compile(r"(\d+)([dhms])", re.ASCII)
_UNIT_S = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_AT = re.compile(r"@at\s+(\S.*)")
# What croniter would take beyond this it reads as something else than it seems: "1W" as the first, "R" as a random
# number, which would be another one in each process.
_VALUE = r"(?:\d+|[a-z]{3})"
_ITEM = rf"(?:(?:\*|\?|{_VALUE}(?:-{_VALUE})?)(?:/[1-9]\d*)?)"
_PLAIN = re.compile(rf"{_ITEM}(?:,{_ITEM})*", re.ASCII)
_DAY = re.compile(rf"(?:{_ITEM}|l)(?:,(?:{_ITEM}|l))*", re.ASCII)
_WEEKDAY = re.compile(
    rf"(?:{_ITEM}|{_VALUE}#[1-5]|l[0-7])(?:,(?:{_ITEM}|{_VALUE}#[1-5]|l[0-7]))*", re.ASCII
)
_FIELDS = (_PLAIN, _PLAIN, _DAY, _PLAIN, _WEEKDAY)
_SECOND = timedelta(seconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Schedule(Protocol):
    """The ticks of a job, whole seconds in UTC."""

    def after(self, moment: datetime) -> datetime | None:
        """Return the first tick later than ``moment``, None if there is none."""
        ...

    def until(self, moment: datetime) -> datetime | None:
        """Return the last tick not later than ``moment``, None if there is none."""
        ...


@dataclass(frozen=True, slots=True)
class Every:
    """``@every 5m``: at whole multiples of the interval since 1970, whoever asks."""

    seconds: int

    def after(self, moment: datetime) -> datetime | None:
        """See :meth:`Schedule.after`."""
        return self._tick((moment - _EPOCH) // _SECOND // self.seconds + 1)

    def until(self, moment: datetime) -> datetime | None:
        """See :meth:`Schedule.until`."""
        return self._tick((moment - _EPOCH) // _SECOND // self.seconds)

    def _tick(self, number: int) -> datetime:
        return _EPOCH + timedelta(seconds=number * self.seconds)


@dataclass(frozen=True, slots=True)
class Once:
    """``@at 2026-12-24T18:00``: one tick."""

    at: datetime

    def after(self, moment: datetime) -> datetime | None:
        """See :meth:`Schedule.after`."""
        return self.at if self.at > moment else None

    def until(self, moment: datetime) -> datetime | None:
        """See :meth:`Schedule.until`."""
        return self.at if self.at <= moment else None


class Crontab:
    """A cron expression, in a time zone."""

    def __init__(self, text: str, fields: str, zone: ZoneInfo) -> None:
        self._zone = zone
        self._rules = _iterator(text, fields)
        self._text = text
        if self.after(_EPOCH + timedelta(days=365 * 30)) is None:
            raise BadSchedule(text, "there is no such day")

    @override
    def __repr__(self) -> str:
        """Show the expression."""
        return f"Crontab({self._text!r}, {self._zone.key!r})"

    def after(self, moment: datetime) -> datetime | None:
        """See :meth:`Schedule.after`."""
        # Local times not later than this one mean instants not later than ``moment``; so may some of the next ones.
        times = self._from(local_of(moment.replace(microsecond=0), self._zone))
        while (local := _step(times, forward=True)) is not None:
            tick = instant_of(local, self._zone)
            if tick > moment:
                return tick
        return None

    def until(self, moment: datetime) -> datetime | None:
        """See :meth:`Schedule.until`."""
        moment = moment.replace(microsecond=0)
        latest = local_of(moment, self._zone) + repeated(moment, self._zone) + _SECOND
        times = self._from(latest)
        while (local := _step(times, forward=False)) is not None:
            tick = instant_of(local, self._zone)
            if tick <= moment:
                return tick
        return None

    def _from(self, local: datetime) -> croniter[datetime]:
        """Return what walks from ``local`` on; one for each walk, since any thread may ask."""
        times = copy.copy(self._rules)
        times.set_current(local, force=True)
        return times


def _step(times: croniter[datetime], *, forward: bool) -> datetime | None:
    from croniter import CroniterBadDateError

    try:
        found = times.get_next() if forward else times.get_prev()
    except (CroniterBadDateError, OverflowError):
        return None
    return found


def _iterator(text: str, fields: str) -> croniter[datetime]:
    try:
        from croniter import CroniterError, croniter
    except ImportError as error:
        raise MissingExtra("a cron expression", "cron") from error
    try:
        # The times that it is given have no zone, and so have those that it returns.
        begin = datetime(2000, 1, 1)  # noqa: DTZ001
        return croniter(fields, begin, ret_type=datetime, second_at_beginning=True)
    except (CroniterError, ValueError, KeyError) as error:
        raise BadSchedule(text, str(error)) from error


def zone_of(schedule: str, tz: str) -> ZoneInfo:
    """Return the zone called ``tz``. Raises :class:`BadSchedule`."""
    try:
        return ZoneInfo(tz)
    except (ValueError, OSError, LookupError) as error:
        raise BadSchedule(schedule, f"there is no time zone {tz!r} on this machine") from error


@lru_cache(maxsize=1024)  # many jobs have the same few
def parse_schedule(schedule: str, tz: str) -> Schedule:
    """Return what a schedule means in the zone called ``tz``.

    ``"30 3 * * 1-5"`` (with six fields the first are seconds), ``"@hourly"`` and its like, ``"@every 1h30m"``, and
    ``"@at 2026-12-24T18:00"``, once, by local time unless it says an offset.
    Raises :class:`BadSchedule`; :class:`MissingExtra` for a cron expression without ``coord[cron]``.
    """
    zone = zone_of(schedule, tz)
    text = schedule.strip()
    if (found := _EVERY.fullmatch(text)) is not None:
        seconds = sum(int(n) * _UNIT_S[unit] for n, unit in _PART.findall(found[1]))
        if not 0 < seconds <= 10 * 366 * _UNIT_S["d"]:
            raise BadSchedule(schedule, "an interval is from one second to ten years")
        return Every(seconds)
    if (found := _AT.fullmatch(text)) is not None:
        return Once(_moment(schedule, found[1], zone))
    expression = _ALIASES.get(text.lower(), text)
    fields = expression.lower().split()
    if expression.startswith("@") or len(fields) not in (5, 6):
        raise BadSchedule(
            schedule, "it has neither five fields nor six, and is no @hourly, @every 5m or @at TIME"
        )
    rules = _FIELDS if len(fields) == len(_FIELDS) else (_PLAIN, *_FIELDS)
    for field, rule in zip(fields, rules, strict=True):
        if rule.fullmatch(field) is None:
            raise BadSchedule(schedule, f"{field!r} is no field of a cron expression")
    return Crontab(schedule, " ".join(fields), zone)


def _moment(schedule: str, text: str, zone: ZoneInfo) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
        moment = instant_of(moment, zone) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise BadSchedule(schedule, f"{text!r} is no ISO 8601 time") from error
    return moment.replace(microsecond=0)
