"""Leading for as long as a function runs, in term after term (spec recipes 7, run)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Literal

from coord._telemetry import ELECTION, note_overrun
from coord.errors import (
    AmbiguousResult,
    CoordTimeout,
    LeadershipLost,
    SessionError,
    Unavailable,
)
from coord.runtime import Supervisor, end_process

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from coord.coordination import Coordination
    from coord.election.term import Term
    from coord.session import Session

    OnOverrun = Callable[[Term], object] | Literal["exit"] | None

_REJOIN_LOW_S, _REJOIN_HIGH_S = 0.05, 1.0
# A session ends at its safe deadline, at least twice this long before anybody else can have the lease: the time in
# which a function that listens to its cancellation may end.
_GRACE_S = 0.1
_EXIT_CODE = 70  # sysexits.h: internal software error


class Leading:
    """One ``run()``. On the caller's loop, but for the watch over a function that does not stop."""

    def __init__(
        self,
        home: Coordination,
        campaign: Callable[[], Awaitable[Term]],
        fn: Callable[[Term], Awaitable[object]],
        *,
        session: Session | None,
        rejoin: bool,
        raises: bool,
        on_overrun: OnOverrun,
    ) -> None:
        self._home = home
        self._campaign = campaign
        self._fn = fn
        self._session = session
        self._rejoin = rejoin
        self._raises = raises
        self._on_overrun: OnOverrun = on_overrun

    async def run(self) -> None:
        """Stand, serve, and stand again. Raises as :meth:`coord.Election.run`."""
        while True:
            try:
                term = await self._campaign()
            except SessionError:
                if self._session is not None:
                    raise
            except (Unavailable, CoordTimeout, AmbiguousResult, LeadershipLost):
                pass
            else:
                failed = await self._serve(term)
                if failed is not None and self._raises:
                    raise failed
                if failed is None and not self._rejoin and not term.lost.is_set():
                    return
            await self._home.pause(_REJOIN_LOW_S, _REJOIN_HIGH_S)

    async def _serve(self, term: Term) -> Exception | None:
        """Run the function for one term; return what it raised by itself."""

        async def body() -> None:
            await self._fn(term)

        errors: list[BaseException] = []
        owner = Supervisor(lambda _, error: errors.append(error))
        watchdog = _Watchdog(self._home, term, self._on_overrun)
        work = owner.spawn(body(), name=f"leader of {term.name}")
        loss = owner.spawn(_loss(term), name="loss")
        watchdog.begin()
        try:
            await asyncio.wait({work, loss}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                work.cancel()
                await asyncio.wait({work})
        finally:
            # Each of these waits may be cancelled, and leadership is given back all the same.
            loss.cancel()
            try:
                await _ended(work)
            finally:
                watchdog.end()
                try:
                    await owner.close()
                finally:
                    await term.resign()
        if work.cancelled():
            return None
        failure = work.exception()
        return failure if isinstance(failure, Exception) else None


class _Watchdog:
    """Tells when a function outlives its term. On the runtime's loop: the function may block its own."""

    def __init__(self, home: Coordination, term: Term, on_overrun: OnOverrun) -> None:
        self._home = home
        self._term = term
        self._on_overrun = on_overrun
        self._loop = asyncio.get_running_loop()
        self._is_over = False
        self._task: asyncio.Task[object] | None = None

    def begin(self) -> None:
        """Watch, from the caller's loop."""
        self._on_runtime(self._start)

    def end(self) -> None:
        """Note that the function has ended, from the caller's loop."""
        self._is_over = True
        self._on_runtime(self._stop)

    def _on_runtime(self, step: Callable[[], None]) -> None:
        if self._home.runtime.on_runtime():
            step()
        else:
            self._home.runtime.post(step)

    def _start(self) -> None:
        if not self._is_over:
            self._task = self._home.background(self._watch(), name="election-watchdog")

    def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _watch(self) -> None:
        await self._term.lost.wait()
        await asyncio.sleep(self._term.session.valid_for() + _GRACE_S)
        if self._is_over:
            return
        note_overrun(ELECTION)
        if self._on_overrun == "exit":
            end_process(_EXIT_CODE, f"coord: {self._text()}: ending the process, as it was told to")
        elif self._home.runtime.loop is self._loop:
            self._tell()
        else:
            self._home.runtime.returns(self._loop).post(self._tell)

    def _tell(self) -> None:
        """On the caller's loop, as soon as that runs."""
        if callable(self._on_overrun):
            self._on_overrun(self._term)
        else:
            self._loop.call_exception_handler({"message": f"coord: {self._text()}"})

    def _text(self) -> str:
        term = self._term
        return f"the function that leads {term.name!r} (token {term.token}) still runs, and another leader may exist"


async def _loss(term: Term) -> None:
    await term.lost.wait()


async def _ended(work: asyncio.Task[None]) -> None:
    """Cancel a body and wait for its end, however often the waiting itself is cancelled."""
    cancelled: asyncio.CancelledError | None = None
    while not work.done():
        work.cancel()
        try:
            await asyncio.wait({work})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
