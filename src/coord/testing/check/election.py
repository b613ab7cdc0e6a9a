"""Whether an election had one leader at a time, and what onlookers were shown.

The rules of a lock, for terms instead of grants, and:

- *proclamation*: what is published at a revision is published by who leads there;
- *observation*: an onlooker is shown leaders that were, in the order in which they were. It may miss some that went
  by quickly; it never goes back, and is shown nothing that never was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from coord.testing.check.lock import LATENESS_S, PATIENCE_S
from coord.testing.check.reference import Reference
from coord.testing.check.tenures import (
    BLURRING_FAULTS,
    Attempt,
    attempts_of,
    check_fence,
    check_leftovers,
    check_losses,
    check_overlaps,
    check_presence,
    check_succession,
    check_tokens,
    check_waiting,
    holders,
    violation,
)
from coord.testing.check.timeline import Timeline
from coord.testing.check.verdict import Verdict, Violation, verdict_of
from coord.testing.lines import value_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from coord.testing.model import Version
    from coord.testing.records import Record, Tenure


class _Leader(NamedTuple):
    """Who leads, since which revision at the latest. ``token`` 0: nobody."""

    since: int
    token: int
    revision: int
    value: bytes


def check_elections(
    records: Iterable[Record], *, lateness_s: float = LATENESS_S, patience_s: float = PATIENCE_S
) -> Verdict:
    """Judge all elections of a history."""
    return elections_of(Reference(Timeline(records)), lateness_s=lateness_s, patience_s=patience_s)


def elections_of(
    reference: Reference, *, lateness_s: float = LATENESS_S, patience_s: float = PATIENCE_S
) -> Verdict:
    """As :func:`check_elections`, of a history that was read already."""
    timeline = reference.timeline
    found: list[Violation] = []
    checked = 0
    for name, attempts in attempts_of(timeline, "elect").items():
        checked += len(holders(attempts)) + sum(len(attempt.seen) for attempt in attempts)
        found += check_tokens(attempts)
        found += check_fence(attempts)
        found += check_presence(attempts, reference)
        found += check_leftovers(name, reference)
        if not timeline.had_fault(*BLURRING_FAULTS):
            found += check_overlaps(attempts)
            found += check_succession(attempts)
            found += check_losses(attempts, timeline, lateness_s)
            found += check_waiting(attempts, timeline, patience_s)
        leaders = _leaders(name, reference)
        known = reference.model.revision
        for attempt in attempts:
            found += _proclamations(attempt, leaders, known)
            found += _observation(attempt, leaders, known)
    return verdict_of("election", checked, found)


def _leaders(name: bytes, reference: Reference) -> list[_Leader]:
    """Return who led, one after the other; a new value is a new entry."""
    candidates: dict[bytes, Version] = {}
    leaders = [_Leader(0, 0, 0, b"")]
    changes = [c for c in reference.changes if c.key.startswith(name + b"/")]
    for place, change in enumerate(changes):
        if change.now is None:
            candidates.pop(change.key, None)
        else:
            candidates[change.key] = change.now
        is_last = place + 1 == len(changes) or changes[place + 1].revision != change.revision
        if not is_last:
            continue
        first = min(candidates.values(), key=lambda version: version.create, default=None)
        now = (0, 0, b"") if first is None else (first.create, first.mod, first.value)
        if leaders[-1][1:] != now:
            leaders.append(_Leader(change.revision, *now))
    return leaders


def _proclamations(attempt: Attempt, leaders: Sequence[_Leader], known: int) -> Iterator[Violation]:
    for write in attempt.writes:
        if write.revision > known:
            continue
        leading = [leader for leader in leaders if leader.since <= write.revision][-1]
        if leading.token != write.token:
            text = f"token {write.token} proclaimed at {write.revision}, {leading.token} led"
            yield violation("proclamation", text, attempt)


def _observation(attempt: Attempt, leaders: Sequence[_Leader], known: int) -> Iterator[Violation]:
    last: Tenure | None = None
    for seen in attempt.seen:
        if (
            last is not None
            and seen.token
            and (seen.token, seen.revision)
            < (
                last.token,
                last.revision,
            )
        ):
            text = (
                f"shown token {seen.token} at {seen.revision} after {last.token} at {last.revision}"
            )
            yield violation("observation", text, attempt)
            return
        last = seen if seen.token else last
    place = 0
    for seen in attempt.seen:
        if seen.revision > known:
            return
        wanted = (seen.token, seen.revision, value_text(seen.value).encode() if seen.token else b"")
        while place < len(leaders) and leaders[place][1:] != wanted:
            place += 1
        if place == len(leaders):
            text = f"shown token {seen.token} with the value of {seen.revision}: not then, or never"
            yield violation("observation", text, attempt)
            return
