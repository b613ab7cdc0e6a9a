"""What is held: its fencing token, how long it is surely valid, and how its loss is told (spec recipes C11, C12).

A grant is lost when its session ends or when somebody deletes its key; loss is one-way and never repaired.
``token`` rises with each grant of the same name: a resource that refuses smaller tokens than the highest it has seen
cannot be written to by a stale holder.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Generic, TypeVar

from coord._telemetry import begin_hold, hold_lost
from coord.errors import (
    Compacted,
    CoordError,
    CoordTimeout,
    ForkedError,
    LostError,
    NotHeld,
    Unavailable,
)
from coord.runtime import ForkedRuntime
from coord.signals import OneShot
from coord.store.caller import Repeat
from coord.store.txn import Txn
from coord.store.values import EventType
from coord.store.watch import WatchSpec
from coord.waiter import RETRY_HIGH_S, RETRY_LOW_S

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from types import TracebackType
    from typing import Any, Literal

    from coord.coordination import Coordination
    from coord.entry import Entry
    from coord.local_line import Turn
    from coord.session import Session
    from coord.store.comparing import Compare
    from coord.store.txn import TxnResult

    OnLoss = Literal["cancel", "flag"]

# A hold shorter than this never pays for a watch on its own key; a deletion in that time is found when the watch
# starts, since it starts at the revision of the grant.
_WATCH_AFTER_S = 0.1
_OVERDUE = "its session is past its safe deadline"


class Grant:
    """Something exclusive that this process holds until released or lost.

    ``valid_for``, ``check``, ``guard`` and ``lost.is_set`` may be called from any thread.
    """

    lost_error: type[LostError] = LostError
    not_held_error: type[NotHeld] = NotHeld

    def __init__(self, home: Coordination, entry: Entry, line: Turn | None) -> None:
        self._home = home
        self._entry = entry
        self._line = line
        self.name: str = entry.text
        """The name that was acquired."""
        self.key: bytes = entry.key
        """The key in the store that stands for it."""
        self.token: int = entry.token
        """The fencing token; it rises with each grant of the same name."""
        self.session: Session = entry.session
        """The session that it is held through."""
        self.acquired_at: float = home.env.clock.mono()
        """Monotonic seconds of this machine."""
        self.lost: OneShot = OneShot(home.runtime, f"loss of {self.name}")
        """Fires once, with the reason, when the grant is lost before its release."""
        self._released = False
        self._hold = begin_hold(
            entry.recipe,
            self.name,
            self.token,
            self.session.lease_id,
            clock=home.env.clock,
        )
        self._watching: asyncio.Task[object] | None = None
        self._unwatch_session = self.session.expired.watch(self._session_ended)
        self._timer = asyncio.get_running_loop().call_later(_WATCH_AFTER_S, self._start_watching)

    # -- questions -------------------------------------------------------------------------------------------------

    @property
    def lost_reason(self) -> str | None:
        """Why it was lost, None if it was not."""
        return self.lost.reason

    @property
    def released(self) -> bool:
        """Whether ``release()`` has begun."""
        return self._released

    def valid_for(self) -> float:
        """Seconds for which it is surely still held; 0 after loss or release."""
        if self._released or self.lost.is_set():
            return 0.0
        return self.session.valid_for()

    def check(self) -> None:
        """Raise unless it is held right now: the lost error of its kind, or :class:`NotHeld` after the release."""
        if self.lost.is_set():
            raise self.lost_error(self.name, self.token, self.lost.reason or "lost")
        if self._released:
            raise self.not_held_error(self.name)
        if self.session.valid_for() <= 0:
            raise self.lost_error(self.name, self.token, _OVERDUE)

    def guard(self) -> Compare:
        """Return the comparison that holds exactly while the store still has this grant; put it into ``when()``."""
        return self._entry.guard()

    def guards(self) -> tuple[Compare, ...]:
        """Return all comparisons that together hold exactly while the store still has this grant.

        One for most; a :class:`coord.MultiLockGrant` has one for each of its names.
        """
        return self._entry.guards()

    def txn(self) -> Txn:
        """Build a transaction that runs ``then()`` only while the store still has this grant; as ``client.txn()``.

        Raises :class:`NotHeld` after the release. ``commit()`` does not raise when the grant is gone: ``succeeded`` is
        False then, as when a comparison of your own failed; :meth:`check` tells them apart.
        """
        if self.released:
            raise self.not_held_error(self.name)
        return Txn(self._home.txn, guards=self.guards())

    # -- loss: on the runtime's loop -------------------------------------------------------------------------------

    def _session_ended(self) -> None:
        self._lose(f"its session ended: {self.session.expired.reason}")

    def _lose(self, reason: str) -> None:
        if not self._released:
            self._stop_watching()
            if self.lost.set(reason):
                self._tell_loss(reason)

    def _tell_loss(self, reason: str) -> None:
        hold, self._hold = self._hold, None
        hold_lost(hold, self._entry.recipe, reason, self.lost_error)

    def _start_watching(self) -> None:
        if not self._released and not self.lost.is_set():
            self._watching = self._home.background(self._watch_key(), name="grant-watch")

    async def _watch_key(self) -> None:
        try:
            await self._deletion()
        except CoordError:
            return  # refused or closed: the session's deadline still bounds the grant
        self._watching = None
        self._lose("revoked")
        with contextlib.suppress(CoordError):
            # A store that does not answer says nothing about the session.
            await self.session.confirm_lost()

    async def _deletion(self) -> None:
        """Return when our entry is gone."""
        revision = self.token
        while True:
            feed = self._home.watches.open(
                WatchSpec(key=self.key, start_revision=revision + 1, no_put=True)
            )
            try:
                while True:
                    batch = await feed.next()
                    if any(e.type is EventType.DELETE for e in batch.events):
                        return
            except Compacted:
                pass  # a quiet key's watch was begun again below the compaction: look, and watch from there
            finally:
                feed.close()
            present = await self._look()
            if not present.succeeded:
                return
            revision = present.revision

    async def _look(self) -> TxnResult:
        while True:
            try:
                return await self._home.txn.run(self.guards(), (), repeat=Repeat.READ)
            except (Unavailable, CoordTimeout):
                await self._home.pause(RETRY_LOW_S, RETRY_HIGH_S)

    def _stop_watching(self) -> None:
        self._timer.cancel()
        self._unwatch_session()
        task, self._watching = self._watching, None
        if task is not None:
            task.cancel()

    # -- release ---------------------------------------------------------------------------------------------------

    async def release(self) -> bool:
        """Give it back; False if it had been lost before.

        Invalid locally from the first instant.
        Waits until the store has confirmed, or the session has ended, whichever comes first; the next waiter of this
        process goes on then too.
        Cancelling the caller does not stop the release. A second call returns at once.
        """
        runtime = self._home.runtime
        begun = False

        async def release() -> bool:
            nonlocal begun
            begun = True
            return await self._release()

        def make_good() -> None:
            # A task that is cancelled before its first step does nothing at all.
            if not begun:
                self.discard()

        try:
            return await runtime.run(release())
        except ForkedRuntime as error:
            raise ForkedError(str(error)) from None
        except asyncio.CancelledError:
            runtime.post(make_good)
            raise

    async def _release(self) -> bool:
        if self._released:
            return not self.lost.is_set()
        was_valid = self.valid_for() > 0
        if not was_valid and not self.lost.is_set():
            self._tell_loss(_OVERDUE)
        hold, self._hold = self._hold, None
        if hold is not None:
            hold.end()
        self._released = True
        self._stop_watching()
        try:
            await self._entry.try_to_leave()
        except asyncio.CancelledError:
            # The release goes on without its caller, from the beginning: it may be applied twice.
            if self._home.background(self._give_back(), name="release") is None:
                self._leave_line()
            raise
        except BaseException:
            self._leave_line()
            raise
        self._leave_line()
        return was_valid

    async def _give_back(self) -> None:
        try:
            await self._entry.leave()
        finally:
            self._leave_line()

    def _leave_line(self) -> None:
        if self._line is not None:
            self._line.leave()

    def discard(self) -> None:
        """Release in the background: nobody is left to use it. On the runtime's loop."""
        self._home.background(self._release(), name="discard")


G = TypeVar("G", bound=Grant)


class Hold(Generic[G]):
    """``async with``: acquire, run the body, release. Made by ``mutex.hold()`` and ``election.lead()``.

    ``on_loss="cancel"``: when the grant is lost the body's task is cancelled once, and the ``with`` raises the lost
    error instead of that cancellation; a cancellation or timeout of the caller's own still wins.
    ``on_loss="flag"``: the body goes on and may look at ``grant.lost``; the error is raised at the end of a body that
    did not raise by itself.
    """

    def __init__(
        self, home: Coordination, acquire: Callable[[], Coroutine[Any, Any, G]], on_loss: OnLoss
    ) -> None:
        self._home = home
        self._acquire = acquire
        self._cancels = on_loss == "cancel"
        self._grant: G | None = None
        self._task: asyncio.Task[object] | None = None
        self._before = 0
        self._fired = False
        self._left = False
        self._unwatch: Callable[[], None] | None = None

    async def __aenter__(self) -> G:
        """Acquire. Raises what ``acquire`` raises."""
        grant = self._grant = await self._acquire()
        if self._cancels:
            self._task = asyncio.current_task()
            self._before = self._task.cancelling() if self._task is not None else 0
            self._on_runtime(self._watch_loss(grant, asyncio.get_running_loop()))
        return grant

    def _on_runtime(self, fn: Callable[[], None]) -> None:
        if self._home.runtime.on_runtime():
            fn()
        else:
            self._home.runtime.post(fn)

    def _watch_loss(self, grant: G, loop: asyncio.AbstractEventLoop) -> Callable[[], None]:
        def lost() -> None:
            if loop is self._home.runtime.loop:
                self._interrupt()
            else:
                self._home.runtime.returns(loop).post(self._interrupt)

        def register() -> None:
            self._unwatch = grant.lost.watch(lost)

        return register

    def _interrupt(self) -> None:
        if self._left or self._fired or self._task is None:
            return
        if asyncio.current_task() is self._task:
            # The body itself has found out, and may be about to end by that: see :func:`coord.waiter.unless`.
            asyncio.get_running_loop().call_soon(self._interrupt)
            return
        self._fired = True
        self._task.cancel()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Release; raise the lost error if the grant was lost inside and nothing else is to be raised."""
        self._left = True
        grant = self._grant
        if grant is None:
            return
        ours = False
        if self._fired and self._task is not None:
            ours = self._task.uncancel() <= self._before
        lost = (
            grant.lost_error(grant.name, grant.token, grant.lost_reason or "lost")
            if grant.lost.is_set()
            else None
        )
        if lost is None and grant.session.valid_for() <= 0 and not grant.released:
            lost = grant.lost_error(grant.name, grant.token, _OVERDUE)
        if self._unwatch is not None:
            self._on_runtime(self._unwatch)
        if lost is None:
            await self._finish(grant, kind, error)
            return
        await grant.release()
        if kind is None or (ours and kind is asyncio.CancelledError):
            raise lost from error

    async def _finish(
        self,
        grant: G,
        kind: type[BaseException] | None,  # noqa: ARG002 - for what is not only released
        error: BaseException | None,  # noqa: ARG002
    ) -> None:
        """Do with a grant what the end of its block says."""
        await grant.release()
