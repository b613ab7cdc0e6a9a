"""At most so many permits in use: weighted, resizable, first come first served (spec recipes 5).

``name/limit`` is the number of permits, in decimal. ``name/holders/<id>`` is one attempt, and says itself whether it
*waits* or is *granted*; those granted are always the oldest ones.
So the first that waits, the *head*, is the only one who may grant, to itself: it adds up what the entries before it
hold, and changes its entry if its own permits fit and the limit is still the one it has read.
It blocks everybody behind it, whatever they ask for. Each of those watches the entry before its own, which changes
when it is granted and vanishes when it leaves: that makes the next one the head.

An entry that cannot be read counts as one that waits: it blocks, and never lets too many in.
"""

from coord.recipes.semaphore.entries import (
    LimitMismatch,
    PermitEntry,
    PermitLost,
    SemaphoreState,
    SemaphoreTimeout,
)
from coord.recipes.semaphore.semaphore import Permit, Semaphore

__all__ = [
    "LimitMismatch",
    "Permit",
    "PermitEntry",
    "PermitLost",
    "Semaphore",
    "SemaphoreState",
    "SemaphoreTimeout",
]
