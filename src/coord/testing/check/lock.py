"""Whether a lock excluded, and how it was handed on (``spec``: fenced, first come first served).

- *token*: each grant has a token of its own, and tokens rise in real time;
- *fence*: no guarded write succeeds after one with a higher token. Guarded are writes that a holder recorded, and
  transactions that compare the create revision of a key in the line;
- *overlap*: no two holders are sure at the same time; *order*: who stands in front gets it first; *late loss*: a
  holder learns of a loss before its deadline. These three need clocks that go alike: they are left out after a fault
  that pauses a program or bends a clock;
- *present*: a grant's key was created at its token, and was there when the call was made;
- *leftover*: nobody whose lease has ended stays in the line;
- *handover*: nobody waits for long when nobody holds it.

Left out: how many requests a hand-over costs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from coord.testing.check.reference import Reference
from coord.testing.check.tenures import (
    BLURRING_FAULTS,
    attempts_of,
    check_fence,
    check_leftovers,
    check_losses,
    check_overlaps,
    check_presence,
    check_succession,
    check_tokens,
    check_waiting,
    guarded_writes,
    holders,
)
from coord.testing.check.timeline import Timeline
from coord.testing.check.verdict import Verdict, Violation, verdict_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from coord.testing.records import Record

LATENESS_S = 0.5
"""A busy program runs its timers late by this much at most."""
PATIENCE_S = 30.0
"""Longer than a lease that has to expire first."""


def check_locks(
    records: Iterable[Record], *, lateness_s: float = LATENESS_S, patience_s: float = PATIENCE_S
) -> Verdict:
    """Judge all locks of a history."""
    return locks_of(Reference(Timeline(records)), lateness_s=lateness_s, patience_s=patience_s)


def locks_of(
    reference: Reference, *, lateness_s: float = LATENESS_S, patience_s: float = PATIENCE_S
) -> Verdict:
    """As :func:`check_locks`, of a history that was read already."""
    timeline = reference.timeline
    found: list[Violation] = []
    checked = 0
    for name, attempts in attempts_of(timeline, "lock").items():
        checked += len(holders(attempts))
        found += check_tokens(attempts)
        found += check_fence(attempts, guarded_writes(timeline, name))
        found += check_presence(attempts, reference)
        found += check_leftovers(name, reference)
        if not timeline.had_fault(*BLURRING_FAULTS):
            found += check_overlaps(attempts)
            found += check_succession(attempts)
            found += check_losses(attempts, timeline, lateness_s)
            found += check_waiting(attempts, timeline, patience_s)
    return verdict_of("lock", checked, found)
