"""One attempt at a tick: its entry in the store, and what the handler gets to see of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from typing_extensions import override

from coord._telemetry import CRON
from coord.entry import Entry
from coord.grants import Grant
from coord.recipes.cron.errors import TickLost
from coord.recipes.cron.layout import nonce_of, tick_time
from coord.signals import OneShot

if TYPE_CHECKING:
    from datetime import datetime

    from coord.coordination import Coordination
    from coord.errors import LostError
    from coord.recipes.cron.job import Job
    from coord.recipes.cron.layout import Layout
    from coord.session import Session


class TickEntry(Entry):
    """The key of one attempt at a tick, under the lease of the scheduler that runs it. On the runtime's loop."""

    def __init__(
        self,
        home: Coordination,
        session: Session,
        name: bytes,
        layout: Layout,
        *,
        job: bytes,
        tick: str,
        nonce: str,
    ) -> None:
        super().__init__(
            home,
            session,
            name,
            layout.tick(job, tick),
            recipe=CRON,
            is_ours=lambda value: nonce_of(value) == nonce,
        )
        self.tick: str = tick


class Tick(Grant):
    """A run of a job, as its handler sees it: it is this process's until it ends, or is lost.

    ``token`` is higher for each attempt and each tick of a job: hand it to what the job writes to.
    ``check()``, ``guard()`` and ``txn()`` are as for every grant: a transaction with the guard is applied only while
    nobody else can run this tick.
    """

    lost_error: type[LostError] = TickLost

    def __init__(
        self,
        home: Coordination,
        entry: TickEntry,
        job: Job,
        *,
        attempt: int,
        asked: bool,
        missed_since: datetime | None,
    ) -> None:
        super().__init__(home, entry, None)
        at = tick_time(entry.tick)
        if at is None:
            raise ValueError(f"no tick: {entry.tick!r}")
        self.job: Job = job
        """The job as it stood when the run began."""
        self.at: datetime = at
        """When it was due, in UTC; of a run that was asked for, when that was."""
        self.attempt: int = attempt
        """Which attempt this is, from 1."""
        self.asked: bool = asked
        """Whether somebody has asked for it with ``run_now()``, instead of the schedule."""
        self.missed_since: datetime | None = missed_since
        """The first of the ticks that were left out before this one, None if none was."""
        self.stopping: OneShot = OneShot(home.runtime, f"end of {entry.text}")
        """Fires, with the reason, when the handler should end: a coroutine is cancelled then, a thread must look."""
        self.lost.watch(lambda: self.stopping.set(self.lost.reason or "lost"))

    @property
    def payload(self) -> Any:  # noqa: ANN401 - any JSON
        """What the job carries for its handler."""
        return self.job.payload

    def close(self) -> None:
        """Look no more for the key's deletion, which may be our own from here on. On the runtime's loop."""
        self._stop_watching()

    def end(self) -> None:
        """Take note that the tick has ended in the store, or is left to its lease. On the runtime's loop."""
        hold, self._hold = self._hold, None
        if hold is not None:
            hold.end()
        self._released = True
        self._stop_watching()

    def revoke(self) -> None:
        """Take note that its key is not ours any more. On the runtime's loop."""
        self._lose("revoked")

    @override
    async def _release(self) -> bool:
        """Do nothing: the scheduler ends the tick when its handler has ended."""
        return not self.lost.is_set()
