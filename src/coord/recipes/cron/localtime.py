"""From the time that clocks on a wall show to the instant that is meant, where the two do not agree.

A local time that a change of the offset skips means the first instant after the change; one that happens twice means the
first of the two. So a later local time never means an earlier instant.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

_SECOND = timedelta(seconds=1)


def instant_of(local: datetime, zone: ZoneInfo) -> datetime:
    """Return the instant, in UTC, that a ``local`` time without a zone means in ``zone``."""
    first = local.replace(tzinfo=zone, fold=0).astimezone(UTC)
    if local_of(first, zone) == local:
        return first
    # Skipped. By the offset before the change it comes after it, and by the one after the change before it.
    return _change(local.replace(tzinfo=zone, fold=1).astimezone(UTC), first, zone)


def local_of(instant: datetime, zone: ZoneInfo) -> datetime:
    """Return what clocks in ``zone`` show at ``instant``, without a zone."""
    return instant.astimezone(zone).replace(tzinfo=None, fold=0)


def repeated(instant: datetime, zone: ZoneInfo) -> timedelta:
    """Return how much clocks were put back, if they show at ``instant`` what they have shown before; else nothing."""
    shown = instant.astimezone(zone)
    if not shown.fold:
        return timedelta(0)
    earlier, later = shown.replace(fold=0).utcoffset(), shown.utcoffset()
    return timedelta(0) if earlier is None or later is None else earlier - later


def _change(before: datetime, after: datetime, zone: ZoneInfo) -> datetime:
    """Return the first instant with another offset than ``before``, at ``after`` at the latest; to the second."""
    old = before.astimezone(zone).utcoffset()
    while after - before > _SECOND:
        middle = before + (after - before) // 2
        middle = middle.replace(microsecond=0)
        if middle <= before:
            break
        if middle.astimezone(zone).utcoffset() == old:
            before = middle
        else:
            after = middle
    return after
