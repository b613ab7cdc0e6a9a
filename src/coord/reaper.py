"""Taking back what may still land, where the store lets nobody write the create fence (spec recipes C17).

Without the fence an unanswered create may come into force at any time while its lease lives, and would block everybody
who contends for the name. So somebody looks for it, several times per TTL, until the session has ended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from coord.errors import CoordError, SessionError
from coord.local_line import LocalLine
from coord.waiter import while_valid

if TYPE_CHECKING:
    from coord.coordination import Coordination
    from coord.entry import Entry
    from coord.session import Session

# Of the TTL: how long an entry that nobody wants stays at most, and at least.
_MOST, _LEAST = 1 / 3, 1 / 4


def look_after(home: Coordination, entry: Entry) -> None:
    """See to it that no late copy of this entry's create stays. On the runtime's loop."""
    session = entry.session
    doubts = session.doubts.setdefault(entry.name, [])
    doubts.append(entry)
    if len(doubts) == 1:
        home.background(_reap(home, session, entry.name), name="reaper")


async def _reap(home: Coordination, session: Session, name: bytes) -> None:
    """Look for entries of abandoned attempts under one name, for as long as the session lives."""
    while session.valid_for() > 0:
        await home.pause(session.ttl * _LEAST, session.ttl * _MOST)
        for entry in list(session.doubts[name]):
            try:
                if await while_valid(session, entry.has_landed()):
                    await _withdraw(session, entry)
            except SessionError:
                return
            except CoordError:
                break  # the store is out of reach: next time


async def _withdraw(session: Session, entry: Entry) -> None:
    # Whoever stands at the head of the local line may have taken the entry for its own.
    line = await while_valid(session, LocalLine.join(session, entry.name))
    try:
        if await while_valid(session, entry.has_landed()):
            await entry.leave()
    finally:
        line.leave()
