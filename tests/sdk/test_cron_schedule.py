"""Schedules: what an expression means, a year across every change of the clocks in five zones, and what is refused."""

# ruff: noqa: DTZ001 - a local time has no zone

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import coord
from coord.recipes.cron.localtime import instant_of, local_of
from coord.recipes.cron.schedule import Schedule, parse_schedule

# Half an hour of daylight saving, a change at midnight, the southern half of the world, and one without any.
ZONES = ["Europe/Rome", "America/New_York", "Australia/Lord_Howe", "America/Havana", "Asia/Kolkata"]
MINUTE = timedelta(minutes=1)
STEP = timedelta(minutes=15)
"""All clocks here change by whole multiples of it, at whole multiples of it."""


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[arg-type,misc]  # pyright: ignore[reportArgumentType]


def ticks(schedule: Schedule, begin: datetime, end: datetime) -> Iterator[datetime]:
    tick = schedule.after(begin)
    while tick is not None and tick <= end:
        yield tick
        tick = schedule.after(tick)


def wanted(zone: ZoneInfo, hours: set[int], minutes: set[int], year: int) -> list[datetime]:
    """The dumb way: go through the instants of a year, and look at a clock on the wall.

    A local time runs when the clock first shows it; one that it never shows runs when it first shows a later one.
    """
    found: list[datetime] = []
    latest = datetime(year - 1, 12, 31, 23, 45)
    moment = instant_of(latest, zone)
    while (shown := local_of(moment := moment + STEP, zone)).year <= year:
        passed = [latest + n * STEP for n in range(1, (shown - latest) // STEP + 1)]
        if any(each.hour in hours and each.minute in minutes for each in passed):
            found.append(moment)
        latest = max(latest, shown)
    return found


@pytest.mark.parametrize("tz", ZONES)
def test_a_year_across_the_changes_of_the_clocks(tz: str) -> None:
    zone, year = ZoneInfo(tz), 2026
    begin, end = (instant_of(datetime(y, 1, 1), zone) for y in (year, year + 1))
    # Around the changes of all these zones; nothing at three, where a tick could hide that should not be.
    schedule = parse_schedule("*/30 0-2 * * *", tz)
    expected = [t for t in wanted(zone, {0, 1, 2}, {0, 30}, year) if begin <= t < end]
    found = list(ticks(schedule, begin - MINUTE, end - MINUTE))
    assert found == expected
    # Backwards it is the same.
    back = [schedule.until(end - MINUTE)]
    while (
        earlier := schedule.until((back[-1] or end) - timedelta(seconds=1))
    ) and earlier >= begin:
        back.append(earlier)
    assert back[::-1] == expected


@pytest.mark.parametrize("tz", ZONES)
def test_once_a_day_is_once_on_every_day(tz: str) -> None:
    zone = ZoneInfo(tz)
    for hour, minute in ((0, 30), (2, 15)):
        schedule = parse_schedule(f"{minute} {hour} * * *", tz)
        year = list(ticks(schedule, instant_of(datetime(2026, 1, 1), zone), utc(2026, 12, 31)))
        days = [local_of(tick, zone).date() for tick in year]
        assert len(set(days)) == len(days) >= 363
        assert all(b - a == timedelta(days=1) for a, b in itertools.pairwise(days))


def test_the_last_tick_in_a_repeated_hour() -> None:
    """At 02:20 the second time, the last tick was that of 02:55 the first time."""
    schedule = parse_schedule("*/5 * * * *", "Europe/Rome")
    assert schedule.until(utc(2026, 10, 25, 1, 20)) == utc(2026, 10, 25, 0, 55)
    assert schedule.after(utc(2026, 10, 25, 1, 20)) == utc(2026, 10, 25, 2)


def test_a_day_that_was_left_out() -> None:
    """Samoa has had no 30 December 2011: its noon was the first instant of the 31st."""
    schedule = parse_schedule("0 12 30 12 *", "Pacific/Apia")
    assert schedule.after(utc(2011, 12, 1)) == utc(2011, 12, 30, 10)


@given(
    moment=st.datetimes(datetime(2026, 1, 1), datetime(2026, 12, 31)),
    tz=st.sampled_from(ZONES),
    text=st.sampled_from(["*/7 * * * *", "*/20 30 2 * * *", "15 2 * * 0", "@every 50m", "@hourly"]),
)
@settings(max_examples=60, deadline=None)
def test_after_and_until_agree(moment: datetime, tz: str, text: str) -> None:
    """Whatever the moment, nothing is between the last tick until it and the first after it."""
    schedule, moment = parse_schedule(text, tz), moment.replace(tzinfo=UTC)
    before, after = schedule.until(moment), schedule.after(moment)
    assert before is not None
    assert after is not None
    assert before <= moment < after
    assert schedule.after(before) == after
    assert schedule.until(after - timedelta(seconds=1)) == before
    assert schedule.until(after) == after


@pytest.mark.parametrize(
    ("text", "tz", "first"),
    [
        ("0 3 * * *", "UTC", utc(2026, 1, 1, 3)),
        ("30 0 3 * * *", "UTC", utc(2026, 1, 1, 3, 0, 30)),
        ("@hourly", "Asia/Kolkata", utc(2026, 1, 1, 0, 30)),
        ("@daily", "Europe/Rome", utc(2026, 1, 1, 23)),
        ("@Weekly", "UTC", utc(2026, 1, 4)),
        ("@monthly", "UTC", utc(2026, 2, 1)),
        ("@yearly", "UTC", utc(2027, 1, 1)),
        ("0 0 * * fri#2", "UTC", utc(2026, 1, 9)),
        ("0 0 L * *", "UTC", utc(2026, 1, 31)),
        ("0 0 13 * 5", "UTC", utc(2026, 1, 2)),  # days of month and week: either, as everywhere
        ("0 0 29 2 *", "UTC", utc(2028, 2, 29)),
        ("@every 1h30m", "UTC", utc(2026, 1, 1, 1, 30)),
        ("@every 1d", "Europe/Rome", utc(2026, 1, 2)),
        ("@at 2026-12-24T18:00", "Europe/Rome", utc(2026, 12, 24, 17)),
        ("@at 2026-03-29T02:30", "Europe/Rome", utc(2026, 3, 29, 1)),
        ("@at 2026-12-24T18:00+09:00", "Europe/Rome", utc(2026, 12, 24, 9)),
    ],
)
def test_what_it_means(text: str, tz: str, first: datetime) -> None:
    assert parse_schedule(text, tz).after(utc(2026, 1, 1, 0, 0)) == first


def test_once_is_once() -> None:
    schedule = parse_schedule("@at 2026-12-24T18:00", "UTC")
    at = utc(2026, 12, 24, 18)
    assert schedule.after(at) is None
    assert schedule.until(at) == at
    assert schedule.until(at - MINUTE) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "* * * *",
        "* * * * * * *",
        "60 * * * *",
        "* 24 * * *",
        "*/0 * * * *",
        "R * * * *",
        "H * * * *",
        "0 0 1W * *",
        "0 0 * * xyz",
        "0 0 30 2 *",
        "@fortnightly",
        "@every",
        "@every 0s",
        "@every 5 minutes",
        "@every 99999999d",
        "@at",
        "@at noon",
    ],
)
def test_what_is_refused(text: str) -> None:
    with pytest.raises(coord.BadSchedule) as caught:
        parse_schedule(text, "UTC")
    assert caught.value.schedule == text


@pytest.mark.parametrize("tz", ["Europe/Atlantis", "", "../etc/passwd", "/etc/localtime"])
def test_a_zone_that_there_is_not(tz: str) -> None:
    with pytest.raises(coord.BadSchedule, match="time zone"):
        parse_schedule("@hourly", tz)


def test_without_the_extra_an_expression_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "croniter", None)
    parse_schedule.cache_clear()
    with pytest.raises(coord.MissingExtra, match=r'pip install "coord\[cron\]"'):
        parse_schedule("0 3 * * *", "UTC")
    assert parse_schedule("@every 5m", "UTC").after(utc(2026, 1, 1)) == utc(2026, 1, 1, 0, 5)
