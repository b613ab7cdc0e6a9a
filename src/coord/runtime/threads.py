"""Who the calling thread is."""

from __future__ import annotations

import itertools
import threading

_numbers = itertools.count(1)
_known = threading.local()


def thread_identity() -> str:
    """Return a name of the calling thread that no other thread of this process ever has.

    The interpreter's own numbers are used again after a thread has ended: a lock that a dead thread held would then
    seem to belong to the next one.
    """
    known: str | None = getattr(_known, "identity", None)
    if known is None:
        known = _known.identity = f"thread-{next(_numbers)}"
    return known
