"""The lease that the tombstones of one consumer share.

It is never renewed, and another one takes its place when half of its life is over: so a tombstone lives for at least
the dedup window, and at most twice as long.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from coord.errors import AmbiguousResult, Unavailable

if TYPE_CHECKING:
    from coord.coordination import Coordination


class Tombstones:
    """Leases for tombstones, each handed out for ``window_s`` seconds. On the runtime's loop."""

    def __init__(self, home: Coordination, window_s: float) -> None:
        self._home = home
        self.window_s: float = window_s
        self._lease = 0
        self._fresh_until = 0.0
        self._granting = asyncio.Lock()

    async def lease(self) -> int:
        """Return the id of the lease. Raises :class:`Unavailable`, :class:`CoordTimeout`, and refusals."""
        clock = self._home.env.clock
        if clock.mono() < self._fresh_until:
            return self._lease
        async with self._granting:
            if clock.mono() < self._fresh_until:
                return self._lease
            sent = clock.mono()
            try:
                # One second more, since a lease has whole seconds.
                granted = await self._home.leases.grant(int(2 * self.window_s) + 1)
            except AmbiguousResult as error:  # a lease too many matters to nobody
                raise Unavailable(f"no lease for a tombstone: {error.reason}") from error
            self._lease, self._fresh_until = granted.lease_id, sent + self.window_s
            return self._lease

    def forget(self, lease_id: int) -> None:
        """Never hand out this lease again: it has ended."""
        if lease_id == self._lease:
            self._fresh_until = 0.0
