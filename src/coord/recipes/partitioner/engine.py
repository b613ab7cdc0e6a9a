"""One member at work: it follows the group, takes what it should have, and gives back what it should not.

Everything here lives on the runtime's loop, and nothing is polled: a change of the view, of the targets, or the end of
a move makes the engine look at the one partition that it is about.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from coord._telemetry import MEMBERSHIP, PARTITIONER, note_overrun, observed_wait
from coord.entry import Entry, settled
from coord.errors import ClientClosed, CoordError, SessionError
from coord.metadata import metadata, nonce, parse
from coord.names import as_text
from coord.recipes.partitioner.ownership import Ownership
from coord.recipes.partitioner.state import (
    member_value,
    nonce_of,
    note_count,
    targets,
)
from coord.recipes.partitioner.view import View, is_over
from coord.recipes.presence import Presence
from coord.runtime import Backoff, process_identity
from coord.session import Session
from coord.store import operations as op

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

    from coord.cache import Mirrors
    from coord.coordination import Coordination
    from coord.recipes.partitioner.board import Board
    from coord.recipes.partitioner.callbacks import Callbacks
    from coord.recipes.partitioner.state import Names

_RETRY_FIRST_S, _RETRY_MAX_S = 0.1, 5.0
# Between two attempts of an application that cannot serve a partition.
_RESTART_FIRST_S, _RESTART_MAX_S = 1.0, 30.0
# Of the TTL, over which those whose sessions ended at the same time come back (spec recipes 2, *Herd*).
_SPREAD = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How one member takes part; times in seconds."""

    weight: int
    settle: float
    drain_timeout: float
    max_moves: int
    ttl: int | None


class Engine:
    """One :meth:`Partitioner.run`, from :meth:`start` to :meth:`stop`."""

    def __init__(
        self,
        home: Coordination,
        mirrors: Mirrors,
        names: Names,
        manner: Manner,
        *,
        partitions: frozenset[str],
        callbacks: Callbacks,
        board: Board,
    ) -> None:
        self._home = home
        self._names = names
        self._manner = manner
        self._partitions = partitions
        self._callbacks = callbacks
        self._board = board
        self._view = View(home, mirrors, names, self)
        callbacks.on_end = self._served
        host, pid = process_identity()
        self._nonce = nonce(home)
        self.id: str = f"{host}-{pid}-{self._nonce}".replace("/", "-")
        """The member's id; the same for as long as it runs, so that it gets the same partitions after a loss."""
        # The life of one session.
        self._session: Session | None = None
        self._own: Session | None = None
        self._presence: Presence | None = None
        self._keeper: asyncio.Task[object] | None = None
        # What we should have, once the view has been the same for a while.
        self._timer: asyncio.TimerHandle | None = None
        self._aim = 0
        self._targets: frozenset[str] = frozenset()
        # Moves: what is to be done, in order, and what is being done.
        self._to_take: dict[str, None] = {}
        self._to_give: dict[str, None] = {}
        self._taking: dict[str, asyncio.Task[object]] = {}
        self._giving: dict[str, asyncio.Task[object]] = {}
        self._pausing: dict[str, asyncio.Task[object]] = {}
        self._failures: dict[str, Backoff] = {}
        self._stopping = False
        self._stopped = asyncio.Event()

    # -- coming ----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Join. Raises what opening a session, writing and reading raise; nothing is left then."""
        note_count(self._home.core, self._names, len(self._partitions))
        try:
            await self._view.open()
            await self._join()
        except BaseException:
            self._stopping = True
            self._view.close()
            self._home.background(self._end_own_session(), name="partitioner-drop")
            raise
        self._keeper = self._home.background(self._keep(), name="partitioner")

    async def _join(self) -> None:
        """Become a member, with a session that lives."""
        session = await self._fresh_session()
        presence = Presence(
            self._home,
            self._names.member(self.id),
            recipe=MEMBERSHIP,
            is_ours=lambda found: nonce_of(found) == self._nonce,
            session=session,
            heals=False,
        )
        await presence.open(member_value(self._nonce, self._manner.weight), takeover=False)
        self._session, self._presence = session, presence
        self._unsettle()

    async def _fresh_session(self) -> Session:
        if self._manner.ttl is None:
            return await self._home.session_or_default(None)
        own = self._own
        if (
            own is None or own.valid_for() <= 0
        ):  # else it is left from an attempt to join that failed
            own = self._own = Session(self._home, ttl=self._manner.ttl, name=self._names.text)
            await own.open()
        return own

    async def _keep(self) -> None:
        """Join again, each time that the session has ended."""
        while (session := self._session) is not None:
            await session.expired.wait()
            self._end_life()
            if self._home.core.closing.is_set():
                return
            await self._home.pause(0, session.ttl * _SPREAD)
            await self._join_again()

    def _end_life(self) -> None:
        """Take note that the session has ended, and with it everything that was ours."""
        presence, self._presence, self._session = self._presence, None, None
        if presence is not None:
            presence.discard()
        self._stop_timer()
        self._retarget(frozenset())

    async def _join_again(self) -> None:
        backoff = Backoff(self._home.env.rand, _RETRY_FIRST_S, _RETRY_MAX_S)
        while True:
            try:
                await self._join()
            except ClientClosed:
                return
            except CoordError:
                # The store is out of reach, or full, or its rights are being changed.
                await backoff.pause()
            else:
                return

    # -- what the view tells ---------------------------------------------------------------------------------------

    def members_changed(self) -> None:
        """See :class:`coord.recipes.partitioner.view.Reader`."""
        self._unsettle()

    def owner_changed(self, partition: str, token: int, revision: int) -> None:
        """See :class:`coord.recipes.partitioner.view.Reader`."""
        own = self._board.owned.get(partition)
        if own is not None and is_over(own, token, revision):
            own.revoke()
        self._consider(partition)

    def view_failed(self, error: CoordError) -> None:
        """See :class:`coord.recipes.partitioner.view.Reader`."""
        self._tell("the view", error)

    # -- what we should have ---------------------------------------------------------------------------------------

    def set_partitions(self, partitions: frozenset[str]) -> None:
        """Divide other partitions, once things have settled."""
        if partitions != self._partitions:
            self._partitions = partitions
            note_count(self._home.core, self._names, len(partitions))
            self._unsettle()

    def _unsettle(self) -> None:
        """Wait anew until nothing has changed for a while."""
        self._stop_timer()
        if self._session is not None and not self._stopping:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._manner.settle, self._settled)

    def _stop_timer(self) -> None:
        self._aim += 1  # so that what is being computed is out of date
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _settled(self) -> None:
        self._home.background(self._take_aim(self._aim), name="partitioner-targets")

    async def _take_aim(self, aim: int) -> None:
        found = await targets(self._home.core, self._partitions, self._view.members.copy())
        if aim == self._aim:
            self._retarget(frozenset([p for p, member in found.items() if member == self.id]))

    def _retarget(self, wanted: frozenset[str]) -> None:
        before, self._targets = self._targets, wanted
        for partition in before - wanted:
            self._failures.pop(partition, None)
        # Sorted, so that a seed replays exactly. Given first: whoever gets them waits for that.
        for partition in sorted((self._board.owned.keys() | before) - wanted):
            self._consider(partition)
        for partition in sorted(wanted - before):
            self._consider(partition)

    # -- moves -----------------------------------------------------------------------------------------------------

    def _consider(self, partition: str) -> None:
        """Decide what is to be done about one partition."""
        self._to_take.pop(partition, None)
        self._to_give.pop(partition, None)
        if partition in self._taking or partition in self._giving or partition in self._pausing:
            return  # its end is looked at
        own, wanted = self._board.owned.get(partition), partition in self._targets
        if own is not None and not wanted:
            self._to_give[partition] = None
        elif own is None and wanted and partition not in self._view.owners:
            self._to_take[partition] = None
        else:
            return
        self._move()

    def _move(self) -> None:
        """Begin as many moves as there may be at a time."""
        session, limit = self._session, self._manner.max_moves
        while self._to_give and len(self._giving) < limit:
            partition = next(iter(self._to_give))
            del self._to_give[partition]
            own = self._board.owned[partition]
            if not self._start(self._giving, partition, self._give(own)):
                return
        if session is None or session.valid_for() <= 0:
            return
        while self._to_take and len(self._taking) < limit:
            partition = next(iter(self._to_take))
            del self._to_take[partition]
            if not self._start(self._taking, partition, self._take(session, partition)):
                return

    def _start(
        self,
        kind: dict[str, asyncio.Task[object]],
        partition: str,
        coro: Coroutine[Any, Any, None],
    ) -> bool:
        task = self._home.background(coro, name=f"partition {partition}")
        if task is None:
            return False  # the client closes
        kind[partition] = task

        def ended(_: object) -> None:
            del kind[partition]
            self._consider(partition)
            self._move()

        task.add_done_callback(ended)
        return True

    async def _take(self, session: Session, partition: str) -> None:
        """Make a partition ours, unless somebody has it."""
        try:
            own = await observed_wait(
                PARTITIONER,
                PARTITIONER.attempt,
                as_text(self._names.owner(partition)),
                lambda: self._claim(session, partition),
                clock=self._home.env.clock,
            )
        except (SessionError, ClientClosed):
            return
        except CoordError as error:  # refused: no rights, no space
            self._tell(f"the claim of partition {partition!r}", error)
            await self._home.pause(_RETRY_MAX_S / 2, _RETRY_MAX_S)
            return
        if own is None:
            return
        self._view.note_owner(partition, own.token)
        self._board.put(own)
        own.lost.watch(partial(self._gone, own))
        if self._view.shows_end(own):
            own.revoke()
        if partition in self._targets and own.valid_for() > 0:
            self._callbacks.begin(own)

    async def _claim(self, session: Session, partition: str) -> Ownership | None:
        """Create the owner's key, or adopt what an unanswered claim of ours has made of it; None if it is another's."""
        key = self._names.owner(partition)
        mine = nonce(self._home)
        entry = Entry(
            self._home,
            session,
            key,
            key,
            recipe=PARTITIONER,
            is_ours=lambda found: parse(found).get("nonce") == mine,
        )
        value = metadata(self._home, mine, self.id)
        try:
            await entry.create((op.put(key, value, lease=session.lease_id),))
            if entry.token:
                return Ownership(self._home, entry, partition, ended=self._gone)
        except BaseException:
            entry.give_up(None)
            raise
        if entry.doubtful:  # a copy of the create may still be under way
            entry.give_up(None)
        if entry.other is not None:
            self._view.note_owner(partition, entry.other.create_revision)
        return None

    async def _give(self, own: Ownership) -> None:
        """Drain a partition and give it back."""
        if not await self._callbacks.drain(own, self._manner.drain_timeout):
            note_overrun(PARTITIONER)
            self._tell(
                f"partition {own.partition!r} was not drained within {self._manner.drain_timeout:g} s,"
                " and is given to others all the same"
            )
        await own.release()

    def _gone(self, own: Ownership) -> None:
        """Take note that a partition is ours no more: lost, or given back."""
        self._board.take(own)
        self._callbacks.cut(own)
        if own.needs_fence and not own.released and self._session is own.session:
            # A late copy of its create would put the key again, and nobody would know it for his own (C5).
            own.discard()
        self._consider(own.partition)

    def _served(self, own: Ownership, failed: bool) -> None:  # noqa: FBT001 - as Callbacks tells it
        """Take note that ``on_assign`` has returned."""
        partition = own.partition
        if not failed:
            self._failures.pop(partition, None)
        elif self._board.owned.get(partition) is own and partition not in self._giving:
            self._start(self._pausing, partition, self._begin_again(own))

    async def _begin_again(self, own: Ownership) -> None:
        """Give back what the application could not serve, and let some time pass."""
        backoff = self._failures.get(own.partition)
        if backoff is None:
            backoff = Backoff(self._home.env.rand, _RESTART_FIRST_S, _RESTART_MAX_S)
            self._failures[own.partition] = backoff
        await own.release()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(backoff.draw()):
                await self._stopped.wait()

    def _tell(self, what: str, error: CoordError | None = None) -> None:
        """Tell of trouble that goes on, where applications listen."""
        text = f"coord: partitioner {self._names.text!r}: {what}"
        context: dict[str, object] = {"message": text}
        if error is not None:
            context = {"message": f"{text} failed", "exception": error}
        asyncio.get_running_loop().call_exception_handler(context)

    # -- leaving ---------------------------------------------------------------------------------------------------

    async def stop(self) -> None:
        """Leave the group, drain and give back everything. Cancelling the caller does not stop it."""
        if self._stopping:
            return
        self._stopping = True
        self._stop_timer()
        if self._keeper is not None:
            self._keeper.cancel()
        task = self._home.background(self._finish(), name="partitioner-stop")
        if task is not None:
            await self._home.ended(task)

    async def _finish(self) -> None:
        session, self._session, self._targets = self._session, None, frozenset()
        self._to_take.clear()
        self._to_give.clear()
        self._stopped.set()
        async with asyncio.TaskGroup() as group:
            if self._presence is not None:
                group.create_task(_left(self._presence))
            taking = dict(self._taking)
            for task in taking.values():
                task.cancel()
            await _ended(list(taking.values()))
            if session is not None:
                for partition in taking:
                    group.create_task(self._taken_back(session, partition))
            for partition, own in list(self._board.owned.items()):
                if partition not in self._giving:
                    self._start(self._giving, partition, self._give(own))
            group.create_task(_ended([*self._giving.values(), *self._pausing.values()]))
        await self._end_own_session()
        self._view.close()

    async def _taken_back(self, session: Session, partition: str) -> None:
        """Wait until a claim that was given up is surely gone."""
        with contextlib.suppress(SessionError):
            await settled(session, self._names.owner(partition))

    async def _end_own_session(self) -> None:
        own, self._own = self._own, None
        if own is not None:
            await own.shut()

    def discard(self) -> None:
        """Leave in the background: nobody is left to use it."""
        self._home.background(self.stop(), name="discard")


async def _left(presence: Presence) -> None:
    await presence.leave()


async def _ended(tasks: list[asyncio.Task[object]]) -> None:
    if tasks:
        await asyncio.wait(tasks)
