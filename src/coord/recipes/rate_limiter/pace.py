"""What is behind a limiter: the line of this process's tasks, and the mode that serves them."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING

from coord.errors import ClientClosed, CoordTimeout
from coord.recipes.rate_limiter.cell import Cell, ModeChanged
from coord.recipes.rate_limiter.divided import MEMBERS, Divided
from coord.recipes.rate_limiter.errors import RateLimitTimeout
from coord.recipes.rate_limiter.meter import Meter
from coord.recipes.rate_limiter.state import LimiterState, members_of
from coord.recipes.rate_limiter.strict import Strict
from coord.recipes.semaphore import Permit, Semaphore, SemaphoreTimeout
from coord.store import operations as op

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from coord.cache import Mirrors
    from coord.coordination import Coordination
    from coord.recipes.rate_limiter.meter import RateMode

_LINE = b"/line"
# With a fallback to live on, a store that has not answered for so long counts as lost.
_PATIENCE_S = 2.0


class Pace:
    """Serves the tasks of one limiter in their order. On the runtime's loop."""

    def __init__(
        self,
        home: Coordination,
        mirrors: Mirrors,
        name: bytes,
        wanted: Meter,
        *,
        mode: RateMode,
        batch: int,
        batch_window: float,
        weight: float,
        fallback: float | None,
        fair: bool,
    ) -> None:
        self._home = home
        patience = None if fallback is None else _PATIENCE_S
        self._cell = Cell(home, name, wanted, mode=mode, batch=batch, patience=patience)
        self._strict = Strict(
            home, self._cell, batch=batch, batch_window=batch_window, fallback=fallback
        )
        for part in (MEMBERS, _LINE):
            home.own(name, part)
        self._divided = Divided(home, mirrors, self._cell, weight=weight, fallback=fallback)
        self._line = asyncio.Lock()
        self._semaphore = Semaphore(home, name + _LINE, initial_limit=1) if fair else None
        self._forget: Callable[[], None] | None = None
        self._closed = asyncio.Event()
        # As far as is known: the strict mode finds out what the store has.
        self._is_divided = mode == "divided"

    @property
    def is_open(self) -> bool:
        """Whether there may be something to give back. From any thread."""
        return self._forget is not None and not self._closed.is_set()

    # -- permits ---------------------------------------------------------------------------------------------------

    async def acquire(self, n: int, timeout: float | None) -> None:
        """Wait for ``n`` permits."""
        deadline = None if timeout is None else self._cell.mono() + timeout
        try:
            async with asyncio.timeout(timeout):
                await self._line.acquire()
        except TimeoutError:
            raise self._too_late(timeout, "others of this process are first") from None
        try:
            async with self._turn(deadline, timeout):
                await self._serve(n, deadline, timeout)
        finally:
            self._divided.give_up()
            self._line.release()

    async def attempt(self, n: int, timeout: float | None) -> bool | None:
        """Take ``n`` permits if they are there; None if not."""
        limit = self._home.core.caller.request_timeout if timeout is None else timeout
        deadline = self._cell.mono() + limit
        if self._line.locked():
            return None  # somebody waits already, so there are none
        async with self._line:
            permit: Permit | None = None
            if self._semaphore is not None:
                permit = await self._semaphore.try_acquire()
                if permit is None:
                    return None
            try:
                return None if await self._take(n, deadline, wait=False) > 0 else True
            finally:
                if permit is not None:
                    permit.discard()

    @contextlib.asynccontextmanager
    async def _turn(self, deadline: float | None, timeout: float | None) -> AsyncGenerator[None]:
        """Be the first in the line of all processes, if there is one."""
        if self._semaphore is None:
            yield
            return
        left = None if deadline is None else max(0.0, deadline - self._cell.mono())
        try:
            permit = await self._semaphore.acquire(timeout=left)
        except SemaphoreTimeout as error:
            raise self._too_late(timeout, error.explain) from None
        try:
            yield  # if the turn is lost meanwhile another goes first: that costs order, and no permit
        finally:
            permit.discard()

    async def _serve(self, n: int, deadline: float | None, timeout: float | None) -> None:
        mono = self._cell.mono
        while (wait := await self._take(n, deadline, wait=True)) > 0:
            if deadline is None:
                await self._rest(wait)
                continue
            left = deadline - mono()
            # A share may become larger before that.
            if left <= 0 or (wait > left and not self._is_divided):
                why = f"the next permit is {wait:.3f} s away"
                raise self._too_late(timeout, why)
            await self._rest(min(wait, left))

    async def _rest(self, seconds: float) -> None:
        """Sleep, or until something changes."""
        if self._divided.is_begun:
            await self._divided.rest(seconds)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closed.wait()

    async def _take(self, n: int, deadline: float | None, *, wait: bool) -> float:
        if self._forget is None:
            self._forget = self._home.core.at_close(self.close)
        while True:
            self._check()
            try:
                if self._is_divided:
                    return await self._divided.take(n, deadline, wait=wait)
                return await self._strict.take(n, deadline)
            except ModeChanged:
                self._is_divided = self._cell.meter.mode == "divided"
                if not self._is_divided:
                    await self._divided.close()

    def _check(self) -> None:
        if self._closed.is_set():
            raise ClientClosed("the rate limiter")

    def _too_late(self, timeout: float | None, why: str) -> RateLimitTimeout:
        return RateLimitTimeout(f"rate limiter {self._cell.text!r}", timeout, explain=why)

    def put_back(self, n: int) -> None:
        """Give back permits that were taken for somebody who has gone."""
        if self._is_divided:
            self._divided.put_back(n)
        else:
            self._strict.put_back(n)

    # -- the rest --------------------------------------------------------------------------------------------------

    async def set_rate(self, rate: float, burst: float, timeout: float | None) -> None:
        """Change rate and burst for everybody."""
        cell = self._cell
        limit = self._home.core.caller.request_timeout if timeout is None else timeout
        deadline = cell.mono() + limit
        await cell.read(deadline)
        while True:
            if cell.mono() >= deadline:
                raise CoordTimeout("setting the rate", limit, explain="others came first")
            new = cell.after_change(rate, burst)
            if await cell.write(new, deadline):
                cell.wanted = replace(cell.wanted, rate=rate, burst=burst, mode=new.mode)
                return

    async def state(self) -> LimiterState:
        """Read the key and the members."""
        cell = self._cell
        prefix = cell.name + MEMBERS + b"/"
        result = await self._home.txn.run((), (op.get(cell.name), op.get_prefix(prefix)))
        found = result.range(0).items
        meter = Meter.decode(cell.name, found[0].value) if found else cell.wanted
        members = members_of(prefix, result.range(1).items, meter.rate)
        if meter.mode == "divided":
            share, available = self._divided.has()
        else:
            share, available = meter.rate, meter.free(cell.now_us())
        return LimiterState(
            mode=meter.mode,
            rate=meter.rate,
            burst=meter.burst,
            available=available,
            share=share,
            members=members,
        )

    async def close(self) -> None:
        """Give back what nobody has used."""
        self._closed.set()
        forget, self._forget = self._forget, None
        if forget is not None:
            forget()
        await self._divided.close()
        await self._strict.close()

    def close_soon(self) -> None:
        """Close in the background: nobody is left to use it."""
        self._home.background(self.close(), name="rate-close")
