"""Linearizable reads of a member: when the state at hand is new enough to be shown.

A leader that is the only voter always knows that it leads. Every other member asks raft for a read index
and waits until it has applied that far (thesis 6.4). One question is on its way at a time, as in etcd, and
all reads that come meanwhile share the next one: a question costs the same for one read as for a thousand.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, final

from coord_server.errors import Refused
from coord_server.raft import NOBODY, ReadRequested
from coord_server.read_queue import ReadQueue

if TYPE_CHECKING:
    from collections.abc import Callable

    from coord_server.errors import ErrorSpec
    from coord_server.raft import Event, RaftCore, ReadReady


# How old a question may be for the next one to wait for its answer; one that is lost is asked again later.
_PATIENCE_TICKS: Final = 1


@final
class Reading:
    """Reads that wait. ``step`` lets raft take an event and does what it asks for."""

    def __init__(self, core: RaftCore, step: Callable[[Event], None], *, incarnation: int) -> None:
        self._core = core
        self._step = step
        self._queue = ReadQueue(incarnation)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tick = 0

    def __len__(self) -> int:
        return len(self._queue)

    def start(self) -> None:
        """Ask on the running loop from now on."""
        self._loop = asyncio.get_running_loop()

    def add(self, run: Callable[[], None], fail: Callable[[ErrorSpec], None]) -> None:
        """Call ``run`` when a read may be served, or ``fail``; one of them, once."""
        if self._queue.add(run, fail, self._tick):
            self._ask_soon()

    async def wait_applied(self, index: int) -> None:
        """Return once the entry at ``index`` is applied here. Raises Refused."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def run() -> None:
            if not future.done():
                future.set_result(None)

        def fail(spec: ErrorSpec) -> None:
            if not future.done():
                future.set_exception(Refused(spec))

        self._queue.add_at(index, run, fail, self._tick)
        await future

    def tick(self, tick: int, *, retry_ticks: int) -> None:
        """Note the time, and ask again what was asked so long ago that the question must be lost."""
        self._tick = tick
        if self._queue.ask_again(tick - retry_ticks):
            self._ask_soon()

    def leader_changed(self) -> None:
        """Ask the new leader what the old one will not answer."""
        if self._queue.ask_again(self._tick + 1):
            self._ask_soon()

    def ready(self, read: ReadReady) -> None:
        """Take raft's answer."""
        self._queue.ready(read.context, read.index)
        if self._queue.has_fresh:
            self._ask_soon()

    def serve(self, applied_index: int) -> None:
        """Run every read whose index is applied."""
        self._queue.serve(applied_index)

    def fail_before(self, tick: int, spec: ErrorSpec) -> None:
        """Refuse the reads that came at or before ``tick``."""
        self._queue.fail_before(tick, spec)

    def forget(self) -> None:
        """Drop everything without an answer."""
        self._queue.forget()

    def _ask_soon(self) -> None:
        if self._loop is not None:
            self._loop.call_soon(self._ask)

    def _ask(self) -> None:
        # Without a leader nobody can answer: the question waits for one. Nor does it wait for long for an
        # answer that may be lost.
        if self._core.leader == NOBODY or self._queue.is_asking(self._tick - _PATIENCE_TICKS):
            return
        context = self._queue.ask(self._tick)
        if context is not None:
            self._step(ReadRequested(context))
