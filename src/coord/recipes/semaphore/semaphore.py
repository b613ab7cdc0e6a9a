"""A semaphore, and the permits that it gives."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from coord._telemetry import SEMAPHORE, observed_wait
from coord.entry import check_name, settled
from coord.errors import AmbiguousResult, CoordError, CoordTimeout, InvalidArgument, Unavailable
from coord.grants import Grant, Hold
from coord.metadata import place_of
from coord.names import as_text
from coord.recipes.semaphore.attempt import Attempt
from coord.recipes.semaphore.entries import (
    ADVICE,
    MAX_PERMITS,
    MOST_READ,
    Limit,
    LimitMismatch,
    Names,
    PermitLost,
    SemaphoreState,
    SemaphoreTimeout,
    entry_of,
    limit_of,
)
from coord.runtime.threads import task_identity
from coord.store import comparing as compare
from coord.store import operations as op
from coord.store.caller import Repeat
from coord.store.keys import prefix_range
from coord.store.paging import Pages
from coord.waiter import RETRY_HIGH_S, RETRY_LOW_S, while_valid

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from coord.coordination import Coordination
    from coord.errors import LostError
    from coord.grants import OnLoss
    from coord.recipes.semaphore.entries import PermitEntry
    from coord.session import Session

T = TypeVar("T")


class Permit(Grant):
    """Permits of a semaphore, held until released or lost.

    ``token`` rises with the order of acquisitions. Others may hold permits at the same time: what must have one user
    is for a :class:`Mutex`.
    """

    lost_error: type[LostError] = PermitLost

    def __init__(self, home: Coordination, attempt: Attempt) -> None:
        super().__init__(home, attempt, None)
        self.permits: int = attempt.permits
        """How many."""


class Semaphore:
    """A named number of permits. Made by ``client.semaphore(name)``; holds nothing by itself, so it may be shared."""

    def __init__(
        self,
        home: Coordination,
        name: str | bytes,
        *,
        limit: int | None = None,
        initial_limit: int | None = None,
        session: Session | None = None,
    ) -> None:
        for what, given in (("limit", limit), ("initial_limit", initial_limit)):
            if given is not None:
                _check_count(what, given, least=0)
        if limit is not None and initial_limit is not None:
            raise InvalidArgument("give either limit, which must be the store's, or initial_limit")
        self._home = home
        self.name: bytes = home.claim(check_name(name))
        """The name, as it stands in the store."""
        self._text = as_text(self.name)
        self._names = Names(self.name)
        self._expected = limit
        self._initial = limit if initial_limit is None else initial_limit
        self._session = session
        self._known: Limit | None = None

    # -- acquiring -------------------------------------------------------------------------------------------------

    async def acquire(self, permits: int = 1, *, timeout: float | None = None) -> Permit:
        """Wait for so many permits at once and return them.

        First come, first served: who asks for many holds back those behind, also if they ask for few; and who asks
        for more than the limit waits until that is raised.
        Raises :class:`SemaphoreTimeout` after ``timeout`` seconds, :class:`SessionExpired` as soon as the session ends,
        :class:`LimitMismatch` when the limit is not the expected one.
        A cancelled or failed wait leaves no place in line: it is given up in the background.
        """
        return await self.acquire_for(task_identity(), permits, timeout=timeout)

    async def acquire_for(self, owner: str, permits: int, *, timeout: float | None) -> Permit:
        """Acquire on behalf of ``owner``, the identity that inspection shows."""
        _check_count("permits", permits, least=1)
        if timeout is not None and timeout < 0:
            raise InvalidArgument(f"timeout must be None or at least 0 seconds, not {timeout}")
        waiting = self._observed(SEMAPHORE.wait, lambda: self._acquire(owner, permits, timeout))
        return await self._home.run(waiting, discard=Permit.discard)

    async def try_acquire(self, permits: int = 1) -> Permit | None:
        """Take so many permits if they are free and nobody waits, else return None: never queues, leaves nothing behind."""
        return await self.try_acquire_for(task_identity(), permits)

    async def try_acquire_for(self, owner: str, permits: int) -> Permit | None:
        """Try on behalf of ``owner``."""
        _check_count("permits", permits, least=1)
        trying = self._observed(SEMAPHORE.attempt, lambda: self._try_acquire(owner, permits))
        return await self._home.run(trying, discard=_discard)

    def hold(
        self, permits: int = 1, *, timeout: float | None = None, on_loss: OnLoss = "cancel"
    ) -> Hold[Permit]:
        """Return an ``async with`` that acquires, yields the permits and releases; see :class:`coord.grants.Hold`."""
        return Hold(self._home, lambda: self.acquire(permits, timeout=timeout), on_loss)

    def _observed(
        self, what: str, make: Callable[[], Coroutine[Any, Any, T]]
    ) -> Coroutine[Any, Any, T]:
        return observed_wait(SEMAPHORE, what, self._text, make, clock=self._home.env.clock)

    async def _acquire(self, owner: str, permits: int, timeout: float | None) -> Permit:
        attempt: Attempt | None = None
        scope = asyncio.timeout(timeout)
        try:
            async with scope:
                session = await self._home.session_or_default(self._session)
                session.check()
                limit = self._known or await self._first_look(session)
                attempt = Attempt(self._home, session, self._names, permits, owner)
                try:
                    if not await attempt.enter(limit):
                        await attempt.wait_turn(self._follow)
                    session.check()
                    return Permit(self._home, attempt)
                except BaseException:
                    attempt.give_up(None)
                    raise
        except TimeoutError:
            if not scope.expired():
                raise
            what = f"acquire of {_several(permits)} of {self._text!r}"
            raise SemaphoreTimeout(what, timeout, explain=_explain(attempt)) from None

    async def _try_acquire(self, owner: str, permits: int) -> Permit | None:
        limit = self._home.core.options.request_timeout
        attempt: Attempt | None = None
        try:
            async with asyncio.timeout(limit):
                session = await self._home.session_or_default(self._session)
                session.check()
                await settled(session, self.name)
                attempt = Attempt(self._home, session, self._names, permits, owner)
                try:
                    taken = await while_valid(session, self._try(attempt))
                except BaseException:
                    attempt.give_up(None)
                    raise
        except CoordError:
            raise
        except TimeoutError:
            what = f"try_acquire of {_several(permits)} of {self._text!r}"
            raise SemaphoreTimeout(what, limit) from None
        if taken:
            return Permit(self._home, attempt)
        if attempt.doubtful:  # a copy of the create may still be under way
            attempt.give_up(None)
        return None

    async def _try(self, attempt: Attempt) -> bool:
        """Take the permits as soon as nobody comes in between, for as long as they are free."""
        while True:
            state, limit, revision = await self._look()
            if state.waiting or state.available < attempt.permits:
                return False
            if await attempt.try_enter(limit, revision):
                return True

    # -- the limit -------------------------------------------------------------------------------------------------

    async def _first_look(self, session: Session) -> Limit:
        """Learn the limit, as soon as the store answers."""
        while True:
            try:
                return await while_valid(session, self._learn(None))
            except (Unavailable, AmbiguousResult, CoordTimeout):
                await while_valid(session, self._home.pause(RETRY_LOW_S, RETRY_HIGH_S))

    async def _learn(self, seen: Limit | None) -> Limit:
        """Take note of the limit, reading it if it is not ``seen``, and making it if it may be made.

        Raises :class:`LimitMismatch`.
        """
        if seen is None:
            read = op.get(self._names.limit)
            if self._initial is None:
                found = limit_of((await self._home.txn.run((), (read,))).range(0))
            else:
                # Done twice it is done once: the second time it is there.
                result = await self._home.txn.run(
                    (compare.missing(self._names.limit),),
                    (op.put(self._names.limit, str(self._initial)),),
                    (read,),
                    repeat=Repeat.IDEMPOTENT,
                )
                found = (
                    Limit(self._initial, result.revision)
                    if result.succeeded
                    else limit_of(result.range(0))
                )
            seen = found
        if seen is None:
            raise LimitMismatch(self._text, expected=self._expected, found=None)
        if self._known is None and self._expected not in (None, seen.value):
            raise LimitMismatch(self._text, expected=self._expected, found=seen.value)
        if self._known is None or seen.revision > self._known.revision:
            self._known = seen
        return seen

    async def _follow(self, seen: Limit | None) -> None:
        """Take note of the limit as a waiter has seen it; one that has vanished is made again."""
        if seen is None:
            self._known = None
        await self._learn(seen)

    async def set_limit(self, limit: int, *, timeout: float | None = None) -> None:
        """Set the number of permits, for everybody.

        A higher one lets in as many of those who wait as fit; after a lower one those who hold permits keep them, and
        nobody else gets any until enough have come back. 0 lets nobody in.
        Takes place once. Raises :class:`AmbiguousResult` when its outcome stays unknown.
        """
        _check_count("limit", limit, least=0)
        await self._home.run(self._set_limit(limit, timeout))

    async def _set_limit(self, limit: int, timeout: float | None) -> None:
        put = op.put(self._names.limit, str(limit))
        marked = await self._home.core.markers.run((), (put,), timeout=timeout)
        if self._known is None or marked.revision > self._known.revision:
            self._known = Limit(limit, marked.revision)

    # -- looking on ------------------------------------------------------------------------------------------------

    async def state(self, *, timeout: float | None = None) -> SemaphoreState:
        """Return the limit, who holds permits and who waits, as of one revision.

        Raises :class:`LimitMismatch` while there is no limit, or when it is not the expected one.
        """

        async def look() -> SemaphoreState:
            scope = asyncio.timeout(timeout)
            try:
                async with scope:
                    state, _, _ = await self._look()
                    return state
            except TimeoutError:
                if not scope.expired():
                    raise
                raise SemaphoreTimeout(f"reading semaphore {self._text!r}", timeout) from None

        return await self._home.run(look())

    async def available(self, *, timeout: float | None = None) -> int:
        """Return how many permits are not in use; see :class:`SemaphoreState`."""
        return (await self.state(timeout=timeout)).available

    async def holders(self, *, timeout: float | None = None) -> tuple[PermitEntry, ...]:
        """Return who holds permits, the oldest first."""
        return (await self.state(timeout=timeout)).holders

    async def _look(self) -> tuple[SemaphoreState, Limit, int]:
        """Read everything as of one revision, and return that with it."""
        oldest = op.get_prefix(self._names.holders, limit=MOST_READ)
        while True:
            result = await self._home.txn.run((), (oldest, op.get(self._names.limit)))
            seen = limit_of(result.range(1))
            limit = await self._learn(seen)
            if seen is not None:
                break
            # It has just been made: look again, for one revision.
        items = list(result.range(0).items)
        if result.range(0).more:
            pages = Pages(
                self._home.core.kv, prefix_range(self._names.holders), revision=result.revision
            )
            items = [kv async for page in pages for kv in page.items]
            self._home.core.key_counts.note(f"semaphore {self._text!r}", len(items), ADVICE)
        entries = sorted([entry_of(kv) for kv in items], key=lambda entry: entry.token)
        state = SemaphoreState(
            limit=limit.value,
            holders=tuple([entry for entry in entries if entry.state == "granted"]),
            waiting=tuple([entry for entry in entries if entry.state == "waiting"]),
        )
        return state, limit, result.revision


def _check_count(what: str, count: int, *, least: int) -> None:
    if not isinstance(count, int):  # pyright: ignore[reportUnnecessaryIsInstance] - callers without a type checker
        raise InvalidArgument(f"{what} must be an int, not {type(count).__name__}")  # pyright: ignore[reportUnreachable]
    if not least <= count <= MAX_PERMITS:
        raise InvalidArgument(f"{what} must be {least} to {MAX_PERMITS}, not {count}")


def _several(permits: int) -> str:
    return "1 permit" if permits == 1 else f"{permits} permits"


def _discard(permit: Permit | None) -> None:
    if permit is not None:
        permit.discard()


def _explain(attempt: Attempt | None) -> str:
    """Say what was in the way when it last looked."""
    view = None if attempt is None else attempt.last
    if attempt is None or view is None:
        return ""
    if view.before is not None and view.before.state == "waiting":
        key = as_text(view.before.key)
        return (
            f"waiting behind {key} (token {view.before.token}{place_of(view.before.metadata)}),"
            f" which waits for {_several(view.before.permits)}"
        )
    limit = "no limit is set" if view.limit is None else f"the limit is {view.limit.value}"
    return f"first in line; {_several(view.held)} in use, {limit}"
