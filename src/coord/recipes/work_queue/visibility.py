"""A lease for one claim, which nobody renews unless asked."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from typing_extensions import override

from coord.session import Session, SessionState

if TYPE_CHECKING:
    from coord.coordination import Coordination


class Visibility(Session):
    """A session that ends by itself, and lasts longer each time somebody says so. On the runtime's loop."""

    def __init__(self, home: Coordination, seconds: int) -> None:
        super().__init__(home, ttl=seconds, name="claim")

    @override
    def _begin(self, sent_at: float, ttl: int) -> None:
        self.ttl = ttl
        self._state = SessionState.ACTIVE
        self._confirm(sent_at)
        self._home.sessions[self] = None  # the client's end gives the item back
        self._schedule()

    @override
    def _schedule(self) -> None:
        """Plan the end, and nothing before it."""
        for timer in self._timers:
            timer.cancel()
        left = max(0.0, self._deadline - self._clock.mono())
        self._timers = [asyncio.get_running_loop().call_later(left, self._end_reached)]

    async def extend(self, timeout: float | None) -> float:
        """Begin its time anew, and return how many seconds it is surely valid for. Raises :class:`SessionExpired`."""
        self.check()
        sent_at = self._clock.mono()
        ttl = await self._home.leases.keep_alive_once(self.lease_id, timeout=timeout)
        self.on_renewed(sent_at, ttl)
        self.check()
        return self.valid_for()
