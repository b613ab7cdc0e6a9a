"""An exclusive, first come first served, fenced lock (spec recipes 3; layout of Go's concurrency.Mutex).

Mixed fleets work: Go's ``Mutex``, ``etcdctl lock``, the server's Lock service and this class exclude each other.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, TypeVar

from typing_extensions import override

from coord._telemetry import MUTEX, observed_wait
from coord.contender import Contender
from coord.entry import META_PREFIX, check_name
from coord.errors import CoordError, InvalidArgument, LockLost, LockTimeout
from coord.grants import Grant, Hold
from coord.local_line import LocalLine
from coord.locking.deadlock import Detector, circle
from coord.locking.delay import LockDelay, check_delay
from coord.locking.entries import LineEntry, entry_of
from coord.locking.single_key import SingleKey
from coord.locking.trouble import last_store_error
from coord.locking.waits import Agent, follow
from coord.metadata import metadata, nonce, parse, place_of
from coord.names import as_text
from coord.roster import roster
from coord.runtime.threads import task_identity
from coord.store import comparing as compare
from coord.store import operations as op
from coord.store.caller import Repeat
from coord.store.kv import SortBy
from coord.store.value_limits import to_value
from coord.waiter import while_valid

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Literal

    from coord.coordination import Coordination
    from coord.entry import Entry
    from coord.errors import LostError
    from coord.grants import OnLoss
    from coord.session import Session

T = TypeVar("T")

_EXPLAIN_WITHIN_S = 0.25
# How many sessions a time-out follows to say what the holder waits for.
_SESSIONS_FOLLOWED = 8


class MutexGrant(Grant):
    """A held lock. A reentrant one is given back by the last of its releases."""

    lost_error: type[LostError] = LockLost

    def __init__(self, home: Coordination, entry: Entry, line: LocalLine) -> None:
        super().__init__(home, entry, line)
        self._depth = 1

    def enter_again(self) -> None:
        """Count one more acquire by the same owner."""
        self._depth += 1

    @override
    async def _release(self) -> bool:
        if self._depth > 1 and not self._released:
            self._depth -= 1
            return not self.lost.is_set()
        return await super()._release()


class Mutex:
    """A named lock. Made by ``client.mutex(name)``; holds nothing by itself, so it may be shared and kept.

    One session has one place in the store's line for a name: its further tasks wait behind it, in this process.
    ``reentrant=True`` lets the task (or thread) that holds the lock acquire it again; each acquire needs its release.
    """

    def __init__(
        self,
        home: Coordination,
        name: str | bytes,
        *,
        session: Session | None = None,
        reentrant: bool = False,
        lock_delay: float = 0,
        layout: Literal["line", "single-key"] = "line",
        detect_deadlocks: bool = False,
        label: str | None = None,
    ) -> None:
        if layout not in ("line", "single-key"):
            raise InvalidArgument(f"layout must be 'line' or 'single-key', not {layout!r}")
        if detect_deadlocks and layout == "single-key":
            raise InvalidArgument(
                "deadlocks cannot be detected in the single-key layout: it has no line"
            )
        self._home = home
        self.name: bytes = home.claim(check_name(name))
        """The name, as it stands in the store."""
        self._text = as_text(self.name)
        self._session = session
        self._reentrant = reentrant
        self._delay_s = check_delay(lock_delay)
        self._is_single_key = layout == "single-key"
        self._detects = detect_deadlocks
        self._label = label
        self._held: dict[str, MutexGrant] = {}

    # -- acquiring -------------------------------------------------------------------------------------------------

    async def acquire(self, *, timeout: float | None = None) -> MutexGrant:
        """Wait for the lock and return its grant.

        Raises :class:`LockTimeout` after ``timeout`` seconds, :class:`SessionExpired` as soon as the session ends.
        A cancelled or failed wait leaves no place in line: it is given up in the background, and the next acquire of
        this name in this session waits for that.
        With ``detect_deadlocks`` raises :class:`DeadlockDetected` when waiting would never end.
        """
        return await self.acquire_for(task_identity(), timeout=timeout)

    async def acquire_for(self, owner: str, *, timeout: float | None) -> MutexGrant:
        """Acquire on behalf of ``owner``, the identity that reentrancy and inspection go by."""
        if timeout is not None and timeout < 0:
            raise InvalidArgument(f"timeout must be None or at least 0 seconds, not {timeout}")
        waiting = self._observed(MUTEX.wait, lambda: self._acquire(owner, timeout))
        return await self._home.run(waiting, discard=MutexGrant.discard)

    async def try_acquire(self) -> MutexGrant | None:
        """Take the lock if it is free, else return None: one request, which never queues and leaves nothing behind.

        With ``lock_delay``: takes that long when the lock is free, but its last holder did not leave by itself.
        """
        return await self.try_acquire_for(task_identity())

    async def try_acquire_for(self, owner: str) -> MutexGrant | None:
        """Try on behalf of ``owner``."""
        trying = self._observed(MUTEX.attempt, lambda: self._try_acquire(owner))
        return await self._home.run(trying, discard=_discard)

    def _observed(
        self, what: str, make: Callable[[], Coroutine[Any, Any, T]]
    ) -> Coroutine[Any, Any, T]:
        return observed_wait(MUTEX, what, self._text, make, clock=self._home.env.clock)

    def hold(self, *, timeout: float | None = None, on_loss: OnLoss = "cancel") -> Hold[MutexGrant]:
        """Return an ``async with`` that acquires, yields the grant and releases; see :class:`coord.grants.Hold`."""
        return Hold(self._home, lambda: self.acquire(timeout=timeout), on_loss)

    async def _acquire(self, owner: str, timeout: float | None) -> MutexGrant:
        if (again := self._enter_again(owner)) is not None:
            return again
        attempt = _Attempt()
        if timeout is None:
            return self._remember(owner, await self._wait(owner, attempt))
        scope = asyncio.timeout(timeout)
        try:
            async with scope:
                grant = await self._wait(owner, attempt)
        except TimeoutError:
            if not scope.expired():
                raise
            explain = await self._explain(attempt)
            raise LockTimeout(f"acquire of lock {self._text!r}", timeout, explain=explain) from None
        return self._remember(owner, grant)

    async def _wait(self, owner: str, attempt: _Attempt) -> MutexGrant:
        """Wait without limit. ``attempt`` gets what a time-out will tell of."""
        session = await self._home.session_or_default(self._session)
        session.check()
        waiting = self._contend(session, owner, attempt)
        if self._detects:
            agent = Agent(session.lease_id, owner)
            attempt.detector = Detector(self._home, self._text, agent)
            waiting = attempt.detector.watch_over(waiting)
        return await waiting

    async def _contend(self, session: Session, owner: str, attempt: _Attempt) -> MutexGrant:
        joining = LocalLine.join(session, self.name, owner)
        # Nobody to wait for: joining does not give up the loop, so nothing can come in between.
        line = await (while_valid(session, joining) if self.name in session.lines else joining)
        own = nonce(self._home)
        contender = attempt.contender = self._contender(session, own)
        try:
            await contender.enter(self._metadata(own, owner))
            await contender.wait_turn()
            if self._delay_s:
                await self._settle(contender, attempt)
            return MutexGrant(self._home, contender, line)
        except BaseException:
            contender.give_up(line)
            raise

    async def _settle(self, contender: Contender | SingleKey, attempt: _Attempt) -> None:
        attempt.delay = LockDelay(self._home, self.name, self._delay_s)
        await attempt.delay.settle(contender, contender.after)

    async def _try_acquire(self, owner: str) -> MutexGrant | None:
        if (again := self._enter_again(owner)) is not None:
            return again
        session = await self._home.session_or_default(self._session)
        session.check()
        limit = self._home.core.options.request_timeout + self._delay_s
        try:
            async with asyncio.timeout(limit):
                line = await while_valid(session, LocalLine.try_join(session, self.name, owner))
                if line is None:
                    return None
                own = nonce(self._home)
                contender = self._contender(session, own)
                try:
                    taken = await contender.try_enter(self._metadata(own, owner))
                    if taken and self._delay_s:
                        await self._settle(contender, _Attempt())
                except BaseException:
                    contender.give_up(line)
                    raise
        except CoordError:
            raise
        except TimeoutError:
            raise LockTimeout(f"try_acquire of lock {self._text!r}", limit) from None
        if not taken:
            if contender.doubtful:  # a copy of the create may still be under way
                contender.give_up(line)
            else:
                line.leave()
            return None
        return self._remember(owner, MutexGrant(self._home, contender, line))

    def _contender(self, session: Session, own: str) -> Contender | SingleKey:
        def is_ours(value: bytes) -> bool:
            return parse(value).get("nonce") == own

        if self._is_single_key:
            return SingleKey(self._home, session, self.name, recipe=MUTEX, is_ours=is_ours)
        return Contender(
            self._home, session, self.name, recipe=MUTEX, lost_error=LockLost, is_ours=is_ours
        )

    def _metadata(self, own: str, owner: str) -> bytes:
        return metadata(self._home, own, owner, label=self._label).encode()

    # -- reentrancy ------------------------------------------------------------------------------------------------

    def _enter_again(self, owner: str) -> MutexGrant | None:
        if not self._reentrant:
            return None
        for stale in [o for o, g in self._held.items() if g.released or g.lost.is_set()]:
            del self._held[stale]
        grant = self._held.get(owner)
        if grant is not None:
            grant.enter_again()
        return grant

    def _remember(self, owner: str, grant: MutexGrant) -> MutexGrant:
        if self._reentrant:
            self._held[owner] = grant
        return grant

    # -- inspection ------------------------------------------------------------------------------------------------

    async def holder(self) -> LineEntry | None:
        """Return the entry that holds the lock, None if it is free."""
        line = await self._home.run(self._first())
        return line[0] if line else None

    async def waiters(self) -> tuple[LineEntry, ...]:
        """Return the entries that wait, first in line first; none in the single-key layout, which has no line."""
        return (await self._home.run(self._line()))[1:]

    async def break_lock(self, token: int, *, reason: str) -> bool:
        """Remove the entry with ``token``, whoever owns it; say whether it was there.

        For operators: its holder is told (``lost``), and a note stays under ``_coord/audit/``.
        Raises :class:`PayloadTooLarge` for a reason above the client's ``max_value_bytes``.
        """
        to_value(reason, "the reason to break a lock", self._home.txn.max_value_bytes)
        return await self._home.run(self._break(token, reason))

    async def _first(self) -> tuple[LineEntry, ...]:
        first = op.get(self.name)
        if not self._is_single_key:
            first = op.get_prefix(self.name + b"/", sort_by=SortBy.CREATE_REVISION, limit=1)
        result = await self._home.txn.run((), (first,))
        return tuple([entry_of(kv) for kv in result.range(0).items])

    async def _line(self) -> tuple[LineEntry, ...]:
        if self._is_single_key:
            return await self._first()
        limit = self._home.core.options.request_timeout
        return tuple(
            [entry_of(kv) for kv in await roster(self._home.core, self.name, timeout=limit)]
        )

    async def _break(self, token: int, reason: str) -> bool:
        for entry in await self._line():
            if entry.token == token:
                note = json.dumps({"reason": reason, "key": as_text(entry.key)})
                audit = META_PREFIX + b"audit/" + self.name + b"/" + str(token).encode()
                result = await self._home.txn.run(
                    (compare.create_revision(entry.key) == token,),
                    (op.delete(entry.key), op.put(audit, note)),
                    repeat=Repeat.IDEMPOTENT,
                )
                return result.succeeded
        return False

    async def _explain(self, attempt: _Attempt) -> str:
        """Say who is in the way, if the store tells at once."""
        contender = attempt.contender
        if contender is None:
            return "another task of this session holds it or waits before us" + attempt.suspicion
        if attempt.delay is not None:
            return f"it is free, but its last holder did not leave by itself: lock_delay is {self._delay_s:g} s"
        if contender.behind is None:
            return last_store_error(self._home.core)
        try:
            async with asyncio.timeout(_EXPLAIN_WITHIN_S):
                line = await self._line()
        except (TimeoutError, CoordError):
            parts = [
                f"waiting behind {as_text(contender.behind)}",
                last_store_error(self._home.core),
            ]
            return "; ".join([part for part in parts if part]) + attempt.suspicion
        ahead = [e for e in line if e.token < contender.token or not contender.token]
        if not ahead:
            return ""
        first = ahead[0]
        return (
            f"held by {as_text(first.key)} (token {first.token}{place_of(first.metadata)}),"
            f" {len(ahead)} ahead of us"
            + await self._what_holder_waits_for(first)
            + attempt.suspicion
        )

    async def _what_holder_waits_for(self, holder: LineEntry) -> str:
        try:
            async with asyncio.timeout(_EXPLAIN_WITHIN_S):
                waits = await follow(
                    self._home, holder.lease_id, sessions=_SESSIONS_FOLLOWED, timeout=None
                )
        except (TimeoutError, CoordError):
            return ""
        return f"; {circle(waits)}" if waits else ""


class _Attempt:
    """What a wait has come to, for those who explain it."""

    contender: Contender | SingleKey | None = None
    delay: LockDelay | None = None
    detector: Detector | None = None

    @property
    def suspicion(self) -> str:
        """What the detector suspects, for messages."""
        suspected = self.detector.suspected if self.detector is not None else ()
        return f"; this may be a circle: {circle(suspected)}" if suspected else ""


def _discard(grant: MutexGrant | None) -> None:
    if grant is not None:
        grant.discard()
