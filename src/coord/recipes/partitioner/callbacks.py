"""The application's functions, on the loop that they belong to (spec recipes C14).

The engine tells from the runtime's loop what begins and ends; here it becomes tasks on the loop that ``run()`` was
called on. A blocked loop or a function that does not return holds up neither renewals nor moves: whatever is waited for
is waited for on the runtime's loop, with a limit.
"""

from __future__ import annotations

import asyncio
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any

from coord.runtime import Supervisor

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from coord.coordination import Coordination
    from coord.recipes.partitioner.ownership import Ownership

    OnOwnership = Callable[[Ownership], Awaitable[object]]


class Callbacks:
    """Runs ``on_assign`` and ``on_revoke``. Made on the caller's loop; the rest is said with each method."""

    def __init__(
        self,
        home: Coordination,
        on_assign: OnOwnership | None,
        on_revoke: OnOwnership | None,
    ) -> None:
        self._home = home
        self._loop = asyncio.get_running_loop()
        self._context = copy_context()
        self._on_assign = on_assign
        self._on_revoke = on_revoke
        # On the caller's loop.
        self._owner = Supervisor(self._tell)
        self._work: dict[Ownership, asyncio.Task[None]] = {}
        self._drains: dict[Ownership, asyncio.Task[None]] = {}
        self._running: dict[str, set[asyncio.Task[None]]] = {}
        # On the runtime's loop.
        self._begun: set[Ownership] = set()
        self._draining: dict[Ownership, asyncio.Event] = {}
        self.on_end: Callable[[Ownership, bool], None] = lambda _own, _failed: None
        """Told on the runtime's loop when ``on_assign`` has returned, and whether by an exception."""

    # -- told on the runtime's loop --------------------------------------------------------------------------------

    def begin(self, own: Ownership) -> None:
        """Call ``on_assign``."""
        if self._on_assign is not None or self._on_revoke is not None:
            self._begun.add(own)
            self._post(partial(self._start, own))

    async def drain(self, own: Ownership, within: float) -> bool:
        """Call ``on_revoke``, then end ``on_assign``; False if that took longer than ``within`` seconds.

        Returns at once when nothing was begun, or when it is cut.
        """
        if own not in self._begun:
            return True
        over = self._draining[own] = asyncio.Event()
        try:
            if self._post(partial(self._start_drain, own, over)):
                async with asyncio.timeout(within):
                    await over.wait()
        except TimeoutError:
            return False
        finally:
            del self._draining[own]
            self.cut(own)
        return True

    def cut(self, own: Ownership) -> None:
        """Cancel what runs for it; nothing begins for it any more."""
        over = self._draining.get(own)
        if over is not None:
            over.set()
        if own in self._begun:
            self._begun.discard(own)
            self._post(partial(self._end, own))

    def _post(self, fn: Callable[[], object]) -> bool:
        if self._home.runtime.loop is self._loop:
            fn()
            return True
        try:
            self._home.runtime.returns(self._loop).post(fn)
        except RuntimeError:  # that loop is closed: nobody is left to tell
            return False
        return True

    # -- on the caller's loop --------------------------------------------------------------------------------------

    def _start(self, own: Ownership) -> None:
        if self._on_assign is not None:
            earlier = self._running.get(own.partition, set()).copy()
            self._spawn(self._work, own, self._serve(own, self._on_assign, earlier))

    async def _serve(
        self, own: Ownership, on_assign: OnOwnership, earlier: set[asyncio.Task[None]]
    ) -> None:
        if earlier:
            # What was cancelled for the loss of an earlier ownership may take its time: two never overlap here.
            await asyncio.wait(earlier)
        if own.valid_for() <= 0:
            return
        failed = False
        try:
            await on_assign(own)
        except Exception as error:  # noqa: BLE001 - it is the application's, and told to it
            failed = True
            self._tell(f"on_assign of partition {own.partition!r}", error)
        self._home.runtime.post(partial(self.on_end, own, failed))

    def _start_drain(self, own: Ownership, over: asyncio.Event) -> None:
        def done(_: object = None) -> None:
            self._home.runtime.post(over.set)

        task = self._spawn(self._drains, own, self._drain(own))
        if task is None:
            done()
        else:
            task.add_done_callback(done)

    async def _drain(self, own: Ownership) -> None:
        if self._on_revoke is not None:
            try:
                await self._on_revoke(own)
            except Exception as error:  # noqa: BLE001 - as above
                self._tell(f"on_revoke of partition {own.partition!r}", error)
        work = self._work.get(own)
        if work is not None:
            work.cancel()
            await asyncio.wait({work})

    def _end(self, own: Ownership) -> None:
        for task in (self._drains.get(own), self._work.get(own)):
            if task is not None:
                task.cancel()

    def _spawn(
        self,
        kind: dict[Ownership, asyncio.Task[None]],
        own: Ownership,
        coro: Coroutine[Any, Any, None],
    ) -> asyncio.Task[None] | None:
        partition = own.partition
        try:
            # What the caller of run() had set, each for itself: they are begun from the runtime's loop.
            context = self._context.copy()
            task = self._owner.spawn(coro, name=f"partition {partition}", context=context)
        except RuntimeError:  # the run is over
            return None
        kind[own] = task
        self._running.setdefault(partition, set()).add(task)

        def ended(_: object) -> None:
            del kind[own]
            running = self._running[partition]
            running.discard(task)
            if not running:
                del self._running[partition]

        task.add_done_callback(ended)
        return task

    def _tell(self, what: str, error: BaseException) -> None:
        self._loop.call_exception_handler({"message": f"coord: {what} failed", "exception": error})

    async def close(self) -> None:
        """Cancel what still runs and wait until it has ended, however often this is cancelled itself.

        From another loop it is only cancelled.
        """
        if asyncio.get_running_loop() is not self._loop:
            self._post(self._end_all)
            return
        cancelled: asyncio.CancelledError | None = None
        while True:
            try:
                await self._owner.close()
                break
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            raise cancelled

    def _end_all(self) -> None:
        for task in (*self._drains.values(), *self._work.values()):
            task.cancel()
