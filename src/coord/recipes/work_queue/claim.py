"""A claim on an item: the transactions that end it, and what a consumer holds."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Self, TypeVar

from typing_extensions import override

from coord._telemetry import WORK_QUEUE
from coord.entry import Entry
from coord.errors import (
    AmbiguousResult,
    ClientClosed,
    CoordError,
    CoordTimeout,
    InvalidArgument,
    LeaseNotFound,
    LostError,
    NotHeld,
    SessionError,
    Unavailable,
)
from coord.grants import Grant, Hold
from coord.recipes.work_queue.errors import ClaimLost
from coord.recipes.work_queue.layout import Attempts, is_tombstone_of, text_of, tombstone
from coord.recipes.work_queue.visibility import Visibility
from coord.signals import OneShot
from coord.store import operations as op
from coord.store.caller import Repeat
from coord.waiter import RETRY_HIGH_S, RETRY_LOW_S

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from types import TracebackType
    from typing import Any

    from coord.coordination import Coordination
    from coord.recipes.work_queue.agenda import Candidate
    from coord.recipes.work_queue.backoff import Backoff
    from coord.recipes.work_queue.layout import Layout
    from coord.recipes.work_queue.tombstones import Tombstones
    from coord.session import Session
    from coord.store.operations import Op

T = TypeVar("T")

_MS = 1000


class Claim(Entry):
    """The claim of one session on one item. On the runtime's loop."""

    def __init__(
        self,
        home: Coordination,
        session: Session,
        name: bytes,
        layout: Layout,
        candidate: Candidate,
        *,
        token: int,
        tombstones: Tombstones,
        backoff: Backoff,
        given_back: Callable[[int], None],
    ) -> None:
        key = layout.claims + candidate.id
        super().__init__(home, session, name, key, recipe=WORK_QUEUE, is_ours=lambda _: True)
        self.token: int = token
        self.layout: Layout = layout
        self.id: bytes = candidate.id
        self.value: bytes = candidate.item.value
        self.attempts: Attempts = Attempts(candidate.attempts.n + 1, candidate.attempts.last_error)
        self._tombstones = tombstones
        self._backoff = backoff
        self._given_back = given_back

    async def ack(self, also: tuple[Op, ...], timeout: float | None) -> int:
        """End the item, together with ``also``; return the revision at which that happened.

        Repeated while the outcome is unknown: a second copy finds the claim gone, and the tombstone says by whom.
        """
        clock, layout = self._home.env.clock, self.layout
        deadline = clock.mono() + (self._tombstones.window_s if timeout is None else timeout)
        doubt: AmbiguousResult | None = None
        retried = False
        while True:
            left = max(0.001, deadline - clock.mono())
            failed: CoordError
            lease = 0
            try:
                lease = await self._tombstones.lease()
                result = await self._home.txn.run(
                    (self.guard(),),
                    (
                        op.delete(layout.items + self.id),
                        op.delete(self.key),
                        op.delete(layout.attempts + self.id),
                        op.put(layout.done + self.id, tombstone(self.token), lease=lease),
                        *also,
                    ),
                    (op.get(layout.done + self.id),),
                    repeat=Repeat.IDEMPOTENT,
                    timeout=min(left, self._home.core.options.request_timeout),
                )
            except AmbiguousResult as error:
                failed = doubt = error
            except (Unavailable, CoordTimeout) as error:
                failed = error
            except LeaseNotFound as error:
                # Ours, or one that ``also`` names? A fresh one tells.
                self._tombstones.forget(lease)
                if retried:
                    raise
                retried, failed = True, error
            else:
                if result.succeeded:
                    return result.revision
                for found in result.range(0).items:
                    if is_tombstone_of(found.value, self.token):
                        return found.mod_revision
                raise ClaimLost(self.text, self.token, "revoked")
            if clock.mono() >= deadline:
                raise self._unknown(doubt) if doubt is not None else failed
            await self._home.pause(RETRY_LOW_S, RETRY_HIGH_S)

    def _unknown(self, doubt: AmbiguousResult) -> AmbiguousResult:
        async def resolve() -> bool:
            """Say whether the item was acknowledged by this claim; while the tombstone is there."""
            found = await self._home.core.kv.get(self.layout.done + self.id)
            return found is not None and is_tombstone_of(found.value, self.token)

        return AmbiguousResult("ack", doubt.reason, resolver=resolve)

    async def nack(self, delay: float | None, reason: str | None, *, refund: bool) -> None:
        """Give the item back. Raises :class:`ClaimLost` when it is not ours any more."""
        attempts = Attempts(
            self.attempts.n - refund, self.attempts.last_error if reason is None else reason
        )
        if delay is None:
            pause = self._backoff.after(self.attempts.n, self._home.env.rand)
            delay = 0.0 if refund else pause
        due: tuple[Op, ...] = ()
        if delay > 0:
            ms = round((self._home.env.clock.wall() + delay) * _MS)
            due = (op.put(self.layout.delay + self.id, str(ms)),)
        doubtful = False
        while True:
            if self.session.valid_for() <= 0:
                raise ClaimLost(self.text, self.token, "its session ended")
            try:
                result = await self._home.txn.run(
                    (self.guard(),),
                    # Never without attempts while the item is there: a late copy of a claim names their revision.
                    (
                        op.delete(self.key),
                        op.put(self.layout.attempts + self.id, attempts.encode()),
                        *due,
                    ),
                    # It is sent again here, where it is known then that the first may have been applied.
                    repeat=Repeat.ONCE,
                )
            except AmbiguousResult:
                doubtful = True
            except (Unavailable, CoordTimeout):
                pass
            else:
                if result.succeeded or doubtful:
                    self._given_back(result.revision if result.succeeded else 0)
                    return  # if doubtful: given back, by this or by the end of the lease
                raise ClaimLost(self.text, self.token, "revoked")
            await self._home.pause(RETRY_LOW_S, RETRY_HIGH_S)

    @override
    async def _leave_once(self) -> None:
        """Give the item back as if it had never been claimed."""
        with contextlib.suppress(ClaimLost):
            await self.nack(None, None, refund=True)


class WorkItem(Grant):
    """An item of a work queue, claimed: it is this consumer's until acknowledged, given back, or lost.

    ``async with item:`` acknowledges it at the end of the block, gives it back when the block raises, and gives it back
    without counting the attempt when the block is cancelled. When the claim is lost the block is cancelled, and
    :class:`ClaimLost` raised in the place of that cancellation.
    """

    lost_error: type[LostError] = ClaimLost

    def __init__(
        self, home: Coordination, claim: Claim, *, max_processing: float | None = None
    ) -> None:
        super().__init__(home, claim, None)
        self._claim = claim
        self.id: str = text_of(claim.id)
        """The item's id; the same for each of its deliveries."""
        self.value: bytes = claim.value
        """What was put."""
        self.attempt: int = claim.attempts.n
        """Which delivery this is, from 1; those of consumers that died are counted."""
        self.last_error: str = claim.attempts.last_error
        """The reason that the last consumer gave for refusing it, empty if none did."""
        self.ended: OneShot = OneShot(home.runtime, f"end of {self.id}")
        """Fires once, when the item is acknowledged, given back, or lost."""
        self._also: list[Op] = []
        self._ending = False
        self._handling: _Handling | None = None
        self._limit: asyncio.TimerHandle | None = None
        if max_processing is not None:
            loop = asyncio.get_running_loop()
            self._limit = loop.call_later(max_processing, self._overdue, max_processing)
            self.ended.watch(self._limit.cancel)
        self.lost.watch(lambda: self.ended.set("lost"))

    # -- ends ------------------------------------------------------------------------------------------------------

    def also(self, *ops: Op) -> Self:
        """Have these operations happen together with the acknowledgement; return the item."""
        self._also.extend(ops)
        return self

    async def ack(self, also: Sequence[Op] = (), *, timeout: float | None = None) -> int:
        """End the item, in one transaction with ``also`` and what :meth:`also` was given; return its revision.

        All of that happens exactly once, or not at all.
        Raises :class:`ClaimLost` when the claim is gone, and nothing was applied then; :class:`AmbiguousResult` when
        the store did not say for ``timeout`` seconds (None: the queue's ``dedup_window``) whether it was.
        Cancelling the caller does not stop it.
        """
        ops = (*self._also, *also)
        return await self._end(lambda: self._claim.ack(ops, timeout))

    async def nack(
        self, *, delay: float | None = None, reason: str | None = None, refund: bool = False
    ) -> None:
        """Give the item back; it may be claimed again in ``delay`` seconds, None: as the queue's backoff says.

        ``reason`` is kept for the next consumer, and for whoever looks at dead letters.
        ``refund=True`` does not count this attempt, and gives it back at once unless told otherwise.
        Raises :class:`ClaimLost`. Cancelling the caller does not stop it.
        """
        if delay is not None and not delay >= 0:
            raise InvalidArgument(f"a delay is 0 seconds or more, not {delay}")

        async def back() -> int:
            await self._claim.nack(delay, reason, refund=refund)
            return 0

        await self._end(back)

    async def extend(self, *, timeout: float | None = None) -> float:
        """Begin the time of this claim anew; return for how many seconds it is surely valid.

        Only for a queue with ``claim="visibility"``, whose claims end after so many seconds; else the session's
        renewals do it, and this raises :class:`InvalidArgument`. Raises :class:`ClaimLost` when it has ended.
        """
        self.check()
        session = self.session
        if not isinstance(session, Visibility):
            raise InvalidArgument('extend() is for a work queue with claim="visibility"')
        try:
            return await self._home.run(session.extend(timeout))
        except SessionError:
            self.check()
            raise ClaimLost(self.name, self.token, "its time is over") from None

    async def _end(self, make: Callable[[], Coroutine[Any, Any, int]]) -> int:
        self.check()
        return await self._home.run(self._ended(make))

    async def _ended(self, make: Callable[[], Coroutine[Any, Any, int]]) -> int:
        self.check()
        if self._ending:
            raise NotHeld(self.name)
        self._ending = True
        outcome: asyncio.Future[int | CoordError] = asyncio.get_running_loop().create_future()
        if self._home.background(self._carry_out(make, outcome), name="work-end") is None:
            raise ClientClosed
        done = await asyncio.shield(outcome)
        if isinstance(done, CoordError):
            raise done
        return done

    async def _carry_out(
        self,
        make: Callable[[], Coroutine[Any, Any, int]],
        outcome: asyncio.Future[int | CoordError],
    ) -> None:
        try:
            done: int | CoordError = await make()
        except CoordError as error:
            done = error
        except asyncio.CancelledError:
            done = ClientClosed()
        self._ending = False
        if isinstance(done, ClaimLost):
            self._lose(done.reason)
        elif not isinstance(done, CoordError):
            self._finish()
        outcome.set_result(done)

    def _finish(self) -> None:
        """End the hold: the claim is gone as it should be."""
        hold, self._hold = self._hold, None
        if hold is not None:
            hold.end()
        self._released = True
        self._stop_watching()
        self.ended.set("done")

    def _overdue(self, seconds: float) -> None:
        """Give back what has been worked on for too long, and end the work. On the runtime's loop."""
        if self._ending or self._released or self.lost.is_set():
            return
        reason = f"worked on for more than {seconds:g} s"
        self._lose(reason)

        async def back() -> None:
            with contextlib.suppress(CoordError):  # else the end of the lease gives it back
                await self._claim.nack(None, reason, refund=False)

        self._home.background(back(), name="work-overdue")

    # -- what the receiver sees ------------------------------------------------------------------------------------

    @override
    def _start_watching(self) -> None:
        """Leave it to the view, which shows all claims."""

    def revoke(self) -> None:
        """Take note that the claim's key is gone. On the runtime's loop."""
        if not self._ending:  # else we have deleted it, as the answer will say
            self._lose("revoked")

    @override
    async def _release(self) -> bool:
        if self.lost.is_set():
            self._finish()  # the key is gone, or _overdue() gives it back
            return False
        try:
            return await super()._release()
        finally:
            self.ended.set("released")

    # -- async with ------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Return the item; the block's end decides about it."""

        async def claimed() -> Self:
            return self

        self._handling = _Handling(self._home, claimed, "cancel")
        await self._handling.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Acknowledge the item, or give it back."""
        handling, self._handling = self._handling, None
        if handling is not None:
            await handling.__aexit__(kind, error, trace)


class _Handling(Hold[WorkItem]):
    @override
    async def _finish(
        self, grant: WorkItem, kind: type[BaseException] | None, error: BaseException | None
    ) -> None:
        await settle(grant, kind, error)


async def settle(
    item: WorkItem, kind: type[BaseException] | None, error: BaseException | None
) -> None:
    """Do with an item what the end of its block says, unless the block has done so."""
    if item.released:
        return
    if kind is None:
        await item.ack()
    elif issubclass(kind, Exception):
        with contextlib.suppress(
            CoordError
        ):  # the block's own error is the news; the lease's end gives it back
            await item.nack(reason=f"{kind.__name__}: {error}")
    else:
        await item.release()
