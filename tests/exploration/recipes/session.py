"""Session: never valid after its lease has ended, handed on from one process to the next, closed without a trace."""

from __future__ import annotations

import asyncio

from typing_extensions import override

from coord.session import Session
from tests.exploration.process import Process, Scenario, Violation

_CLOSES_WITHIN_S = 5.1
"""A close waits for the store so long, whoever cancels it."""


class SessionScenario(Scenario):
    """Sessions with a key each; some are orphaned, and adopted by somebody else.

    That nobody takes a session for valid whose lease has ended, the world checks at the end of each lease.
    """

    name = "session"
    bodies: tuple[int, ...] = (0, 1, 2)
    prefix = b"k"
    leaves_keys = True  # those of orphaned sessions go with their leases

    @override
    async def body(self, process: Process, task: int) -> None:
        for _ in range(self.rand.choice((1, 2))):
            await process.think()
            session = process.client.session(
                ttl=self.rand.choice((2, 3, 5)), critical=self.rand.random() < 0.3
            )
            await self._live(process, session, task)

    async def _live(self, process: Process, session: Session, task: int) -> None:
        opened = await process.call("open", session.open(timeout=2.0), limit=2.0)
        if not isinstance(opened, Session):
            return
        key = f"k{task}"
        await process.call("put", process.client.put(key, "", lease=session.lease_id))
        await asyncio.sleep(self.rand.choice((0.0, 0.5, 3.0, 8.0)))
        if self.rand.random() < 0.3:
            lease_id = await process.call("orphan", session.orphan())
            other = self.rand.choice(self.world.processes)
            if isinstance(lease_id, int) and not other.is_closed:
                await self._adopt(other, lease_id)
            return
        await process.call("close", session.close(), cancel_within=_CLOSES_WITHIN_S)
        if session.valid_for() > 0 and not process.is_closed:
            raise Violation("closed", "a closed session is valid")

    async def _adopt(self, process: Process, lease_id: int) -> None:
        """Go on with somebody's lease; in the adopting process's name."""
        task = self.world.start_in(process.number, self._adopted(process, lease_id), "adopt")
        await task

    async def _adopted(self, process: Process, lease_id: int) -> None:
        session = process.client.session(lease_id=lease_id)
        opened = await process.call("adopt", session.open(timeout=2.0), limit=2.0)
        if isinstance(opened, Session):
            await asyncio.sleep(self.rand.choice((0.0, 2.0)))
            await process.call("close", session.close(), cancel_within=_CLOSES_WITHIN_S)
