"""The pause after a holder that did not leave by itself (spec recipes 3, ``lock_delay``).

A process that slept through its lease may write on for a moment when it wakes.
Tokens stop that where the written thing compares them; a pause before the next grant helps where nothing does.

``_coord/clean/<name>`` says how the last holder left: ``held:<token>`` from its grant on, its token alone once it has
released.
So whoever comes next, be it from the line or anew, sees a holder that left neither; and whoever waited behind an entry
that wrote nothing there (another client, or one without the delay) cannot know, and pauses too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from coord.entry import META_PREFIX
from coord.errors import AmbiguousResult, CoordTimeout, InvalidArgument, LockLost
from coord.store import operations as op
from coord.store.caller import Repeat
from coord.waiter import Done, Watch, wait_until

if TYPE_CHECKING:
    from coord.coordination import Coordination
    from coord.entry import Entry
    from coord.store.values import KeyValue

_RETRY_S = 0.2
_LONGEST_S = 86_400.0


def check_delay(seconds: float) -> float:
    """Return the delay as given. Raises :class:`InvalidArgument` unless it is from 0 seconds to a day."""
    if not 0 <= seconds <= _LONGEST_S:
        raise InvalidArgument(f"lock_delay must be from 0 to {_LONGEST_S:g} seconds, not {seconds}")
    return float(seconds)


def mark_of(name: bytes) -> bytes:
    """Return the key that says how the last holder of ``name`` left."""
    return META_PREFIX + b"clean/" + name


class LockDelay:
    """Between the turn of one attempt and its grant. On the runtime's loop."""

    def __init__(self, home: Coordination, name: bytes, seconds: float) -> None:
        self._home = home
        self._mark = mark_of(name)
        self._seconds = seconds
        self.until: float | None = None
        """Monotonic seconds at which a pause ends, None while none goes on or is known to be needed."""

    async def settle(self, entry: Entry, after: int) -> None:
        """Say that ``entry`` holds now, and wait out the delay unless the holder before it has left by itself.

        ``after``: create revision of the entry that it waited for last, 0 if it waited for none.
        From now on the release of ``entry`` says that it was one.
        Raises :class:`SessionExpired`, and :class:`LockLost` when our entry is deleted meanwhile.
        """
        begun = f"held:{entry.token}".encode()
        done: float | None = None

        async def look() -> Done[None] | Watch:
            nonlocal done
            try:
                result = await self._home.txn.run(
                    (entry.guard(),),
                    (op.get(self._mark), op.put(self._mark, begun)),
                    repeat=Repeat.IDEMPOTENT,
                )
            except (AmbiguousResult, CoordTimeout):
                # If it was applied, what was there before is gone: then the next look sees our own mark, and pauses.
                return Watch((entry.key,), entry.token, within=_RETRY_S)
            if not result.succeeded:
                await entry.raise_lost(LockLost)
            now = self._home.env.clock.mono()
            if done is None:
                clean = was_clean(result.range(0).items, after)
                done = now if clean else now + self._seconds
            if now >= done:
                return Done(None)
            self.until = done
            return Watch((entry.key,), result.revision, within=done - now)

        await wait_until(self._home, look, session=entry.session)
        self.until = None
        entry.farewell = (op.put(self._mark, str(entry.token)),)


def was_clean(found: tuple[KeyValue, ...], after: int) -> bool:
    """Say whether the last holder left by itself, by the mark as it was ``found``."""
    if not found:
        return after == 0
    value = found[0].value
    return value.isdigit() and int(value) >= after
