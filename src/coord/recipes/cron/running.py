"""One run of a handler, from its start in the store to what is written of its end. On the runtime's loop."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from coord.recipes.cron.errors import TickLost
from coord.recipes.cron.layout import Begun, tick_id
from coord.runtime import process_identity

if TYPE_CHECKING:
    from coord.coordination import Coordination
    from coord.recipes.cron.book import Book, Page
    from coord.recipes.cron.handling import Performance
    from coord.recipes.cron.job import Outcome, TickRecord
    from coord.recipes.cron.tick import Tick

_STOPPED = "stopped"
_TIMEOUT = "timeout"
_LONGEST_ERROR = 1024
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0


class Run:
    """One attempt at a tick, in this process."""

    def __init__(
        self,
        home: Coordination,
        book: Book,
        page: Page,
        tick: Tick,
        *,
        line: asyncio.Lock,
        handling: Performance,
    ) -> None:
        self._home = home
        self._book = book
        self._page = page
        self._line = line
        self.tick: Tick = tick
        self.ident: str = tick_id(tick.at)
        self.task: asyncio.Task[object] | None = None
        self._handling = handling
        self._begun_at = book.now()

    async def perform(self) -> None:
        """Call the handler, wait until it has really ended, and write down how. Raises refusals of the store."""
        tick, handling = self.tick, self._handling
        unwatch = tick.stopping.watch(handling.cancel)
        limit = tick.job.timeout
        timer = (
            None
            if limit is None
            else asyncio.get_running_loop().call_later(limit, tick.stopping.set, _TIMEOUT)
        )
        try:
            ended = await handling.run(tick)
        finally:
            unwatch()
            if timer is not None:
                timer.cancel()
        if tick.lost.is_set():
            tick.end()
            self._page.forget()
            return
        try:
            async with self._line:
                await self._write(ended)
        except TickLost:
            tick.revoke()
            tick.end()
            self._page.forget()

    async def _write(self, ended: Exception | asyncio.CancelledError | None) -> None:
        tick, reason = self.tick, self.tick.stopping.reason
        if ended is None:
            await self._book.finish(self._page, tick, self._record("done", ""))
        elif isinstance(ended, asyncio.CancelledError) and reason == _STOPPED:
            await self._give_back()
        elif isinstance(ended, asyncio.CancelledError) and reason == _TIMEOUT:
            await self._failed("timeout", f"ran for more than {tick.job.timeout:g} s")
        else:
            await self._failed("failed", f"{type(ended).__name__}: {ended}")

    async def _give_back(self) -> None:
        """Let others have a tick that we have been told to stop, if it may be begun again at all."""
        tick = self.tick
        if tick.job.policy == "at_most_once":
            record = self._record("lost", "its scheduler was stopped")
            await self._book.finish(self._page, tick, record)
        else:
            begun = Begun(attempt=tick.attempt - 1, given_back=True)
            await self._book.put_back(self._page, tick, begun)

    async def _failed(self, outcome: Outcome, error: str) -> None:
        tick = self.tick
        if tick.job.policy == "at_least_once" and tick.attempt <= tick.job.retries:
            pause = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(tick.attempt - 1, 10))
            due_ms = round((self._home.env.clock.wall() + pause) * 1000)
            await self._book.put_back(self._page, tick, Begun(attempt=tick.attempt, due_ms=due_ms))
        else:
            await self._book.finish(self._page, tick, self._record(outcome, error))

    def _record(self, outcome: Outcome, error: str) -> TickRecord:
        host, pid = process_identity()
        return replace(
            self._book.record(self.ident, outcome, attempt=self.tick.attempt),
            started_at=self._begun_at,
            ended_at=self._book.now(),
            missed_since=self.tick.missed_since,
            error=error[:_LONGEST_ERROR],
            host=host,
            pid=pid,
        )
