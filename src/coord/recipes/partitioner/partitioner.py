"""A named set of partitions, as applications hold it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from coord._telemetry import PARTITIONER, observed_wait
from coord.entry import check_name
from coord.errors import ClientClosed, CoordTimeout, InvalidArgument
from coord.recipes.opening import Opening
from coord.recipes.partitioner.board import Board
from coord.recipes.partitioner.callbacks import Callbacks
from coord.recipes.partitioner.engine import Engine, Manner
from coord.recipes.partitioner.state import (
    MAX_WEIGHT,
    Names,
    check_partitions,
    note_count,
    read_assignment,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from coord.cache import Mirrors
    from coord.coordination import Coordination
    from coord.recipes.partitioner.callbacks import OnOwnership
    from coord.recipes.partitioner.ownership import Ownership
    from coord.recipes.partitioner.state import Assignment

DEFAULT_MAX_MOVES = 16


class Partitioner:
    """Divides partitions among all who run one of the same name. Made by ``client.partitioner(name, partitions)``.

    Each partition has at most one owner at any time. While the group does not change each has one, and nobody has more
    than 1.25 times its fair share, rounded up. Who comes or goes moves about as many partitions as it has itself.
    """

    def __init__(
        self,
        home: Coordination,
        mirrors: Mirrors,
        name: str | bytes,
        partitions: int | Iterable[str],
        *,
        weight: int = 1,
        settle: float = 1.0,
        drain_timeout: float = 10,
        max_moves: int = DEFAULT_MAX_MOVES,
        ttl: int | None = None,
    ) -> None:
        if not 1 <= weight <= MAX_WEIGHT:
            raise InvalidArgument(f"weight must be 1 to {MAX_WEIGHT}, not {weight}")
        if not settle >= 0 or not drain_timeout >= 0:
            raise InvalidArgument("settle and drain_timeout must be at least 0 seconds")
        if max_moves < 1:
            raise InvalidArgument(f"max_moves must be at least 1, not {max_moves}")
        self._home = home
        self._mirrors = mirrors
        self.name: bytes = home.claim(check_name(name))
        """The name, as it stands in the store."""
        self._names = Names(self.name)
        self._partitions = check_partitions(partitions)
        self._manner = Manner(
            weight=weight, settle=settle, drain_timeout=drain_timeout, max_moves=max_moves, ttl=ttl
        )
        self._board = Board()
        self._engine: Engine | None = None
        self._callbacks: Callbacks | None = None

    # -- taking part -----------------------------------------------------------------------------------------------

    def run(
        self,
        on_assign: OnOwnership | None = None,
        on_revoke: OnOwnership | None = None,
        *,
        timeout: float | None = None,
    ) -> Opening[Partitioner]:
        """Take part: ``async with partitioner.run(on_assign, on_revoke):``, or await it and :meth:`stop` yourself.

        ``on_assign(ownership)`` is called, on the loop of this call, when a partition has become ours. It may start
        something and return, or go on for as long as it likes.
        ``on_revoke(ownership)`` is called when the partition is to be given to somebody else, while it still is ours:
        the time to finish what is under way. When it has returned, or there is none, an ``on_assign`` that still runs
        is cancelled, and when that has ended, too, the partition is given back; after ``drain_timeout`` seconds in any
        case, and what still runs is cancelled.
        When a partition is lost both are cancelled, and ``on_revoke`` is not called. When the session was lost so are
        all partitions at once; after a pause this joins again with a new one.
        An exception of ``on_assign`` goes to the loop's exception handler; the partition is given back, and claimed
        again after a pause. One of ``on_revoke`` only goes to the handler.

        The end of the block leaves the group, drains and gives back everything, and waits until the functions have
        ended; cancelled meanwhile, it cancels them, and the rest goes on in the background.

        Joining raises :class:`coord.CoordTimeout` after ``timeout`` seconds, :class:`coord.InvalidArgument` when this
        object runs already, :class:`coord.SessionError`, and refusals of the store; nothing is left then, nor after
        a cancellation.
        """
        if timeout is not None and timeout < 0:
            raise InvalidArgument(f"timeout must be None or at least 0 seconds, not {timeout}")

        async def open_it() -> Partitioner:
            if self._engine is not None:
                raise InvalidArgument("this partitioner runs already; make another one")
            callbacks = self._callbacks = Callbacks(self._home, on_assign, on_revoke)
            engine = self._engine = Engine(
                self._home,
                self._mirrors,
                self._names,
                self._manner,
                partitions=self._partitions,
                callbacks=callbacks,
                board=self._board,
            )
            waiting = observed_wait(
                PARTITIONER,
                PARTITIONER.wait,
                self._names.text,
                lambda: self._join(engine, timeout),
                clock=self._home.env.clock,
            )
            try:
                await self._home.run(waiting, discard=Engine.discard)
            except BaseException:
                self._engine = None
                raise
            return self

        return Opening(open_it, _end)

    async def _join(self, engine: Engine, timeout: float | None) -> Engine:
        scope = asyncio.timeout(timeout)
        try:
            async with scope:
                await engine.start()
        except TimeoutError:
            if not scope.expired():
                raise
            raise CoordTimeout(
                f"joining the members of {self._names.text!r}",
                timeout,
                explain="the store did not answer",
            ) from None
        return engine

    async def stop(self) -> None:
        """Leave: drain and give back everything, as at the end of the block. A second call returns at once.

        To be called on the loop of :meth:`run`; from another one it does not wait for the functions to end.
        """
        engine, callbacks = self._engine, self._callbacks
        if engine is None or callbacks is None:
            return
        try:
            with contextlib.suppress(ClientClosed):  # closing the client has given back everything
                await self._home.run(engine.stop())
        finally:
            if self._engine is engine:
                self._engine = None
            await callbacks.close()

    async def set_partitions(self, partitions: int | Iterable[str]) -> None:
        """Replace the set of partitions, here: every member must be told the same.

        While members have different sets a partition that only some know may have no owner, and never has two.
        It takes effect after ``settle`` seconds; what is not in the set any longer is drained and given back.
        """
        self._partitions = found = check_partitions(partitions)
        engine = self._engine
        if engine is not None:

            async def tell() -> None:
                engine.set_partitions(found)

            await self._home.run(tell())

    # -- looking on ------------------------------------------------------------------------------------------------

    @property
    def partitions(self) -> frozenset[str]:
        """The partitions, as this object was told last."""
        return self._partitions

    @property
    def id(self) -> str | None:
        """The id of this member, None while it does not run. It stays the same when the session is lost."""
        engine = self._engine
        return None if engine is None else engine.id

    def owned(self) -> dict[str, Ownership]:
        """Return what is ours right now, by partition, also what is being drained. From any thread."""
        return self._board.read()

    async def watch(self) -> AsyncIterator[dict[str, Ownership]]:
        """Yield what is ours now, and again at each change; changes that come faster than they are taken are merged.

        Goes on from one :meth:`run` to the next. A partition that is to be given back is shown until it is: use
        ``on_revoke`` to finish what is under way.
        """
        seen = -1
        while True:
            seen = await self._home.run(self._board.after(seen))
            yield self._board.read()

    async def assignment(self, *, timeout: float | None = None) -> Assignment:
        """Read who has what, and who should, as of now. Needs no :meth:`run`.

        Raises :class:`coord.CoordTimeout` after ``timeout`` seconds, and what reading raises.
        """
        return await self._home.run(self._read(timeout))

    async def _read(self, timeout: float | None) -> Assignment:
        scope = asyncio.timeout(timeout)
        note_count(self._home.core, self._names, len(self._partitions))
        try:
            async with scope:
                return await read_assignment(self._home.core, self._names, self._partitions)
        except TimeoutError:
            if not scope.expired():
                raise
            raise CoordTimeout(
                f"reading {self._names.text!r}", timeout, explain="the store did not answer"
            ) from None


async def _end(partitioner: Partitioner, _clean: bool) -> None:  # noqa: FBT001 - as Opening calls it
    await partitioner.stop()
