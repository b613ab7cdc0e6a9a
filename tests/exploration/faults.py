"""Which faults a schedule has: drawn from its seed as they are met, numbered, and each one can be left out.

A schedule is run again without some of its faults to see which ones a failure needs. Leaving one out changes what comes
after it, but never what was drawn before.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from enum import Enum


class Fault(Enum):
    """What may happen. The first group befalls single requests; the second one processes and the store."""

    REFUSED = "not sent"
    LOST_REQUEST = "request lost"
    LOST_REPLY = "reply lost"
    LATE = "request late"
    TWICE = "request doubled"
    SLOW = "reply slow"
    SILENT_LOSS = "request lost in silence"
    SILENT_REPLY_LOSS = "reply lost in silence"

    CUT = "streams cut"
    COMPACT = "compaction"
    REVOKE = "lease revoked"
    DELETE = "entry deleted"
    PAUSE = "process stopped"
    PARTITION = "process cut off"
    CANCEL = "call cancelled"
    CLOSE = "client closed"
    FORK = "use after fork"


OF_REQUESTS = (
    Fault.REFUSED,
    Fault.LOST_REQUEST,
    Fault.LOST_REPLY,
    Fault.LOST_REPLY,
    Fault.LATE,
    Fault.LATE,
    Fault.TWICE,
    Fault.TWICE,
    Fault.SLOW,
    Fault.SILENT_LOSS,
    Fault.SILENT_REPLY_LOSS,
)
OF_WORLD = (
    Fault.CUT,
    Fault.CUT,
    Fault.COMPACT,
    Fault.COMPACT,
    Fault.REVOKE,
    Fault.DELETE,
    Fault.PAUSE,
    Fault.PARTITION,
    Fault.CLOSE,
    Fault.FORK,
)
_RATES = (0.0, 0.03, 0.08, 0.15, 0.3)


@dataclass(frozen=True, slots=True)
class Taken:
    """A fault that was there."""

    number: int
    fault: Fault
    at: float
    about: str


class Plan:
    """The faults of one schedule. ``without``: the numbers of those that are left out."""

    def __init__(self, rand: random.Random, without: frozenset[int] = frozenset()) -> None:
        self._rand = rand
        self._without = without
        self._number = 0
        self.rate = rand.choice(_RATES)
        """The share of requests that something happens to."""
        self.on = True
        self.taken: list[Taken] = []

    def of_request(self) -> Fault | None:
        """Draw what happens to a request."""
        if not self.on or self._rand.random() >= self.rate:
            return None
        return self._rand.choice(OF_REQUESTS)

    def take(self, fault: Fault, at: float, about: str) -> bool:
        """Say whether a fault that was drawn takes place."""
        self._number += 1
        if self._number in self._without or not self.on:
            return False
        self.taken.append(Taken(self._number, fault, at, about))
        return True

    def counts(self) -> Counter[str]:
        """Count what took place."""
        return Counter(taken.fault.value for taken in self.taken)
