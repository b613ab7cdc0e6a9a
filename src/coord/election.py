"""One leader at a time, with a published value and a fencing token per term (spec recipes 7; Go's concurrency.Election).

Candidates of Go's ``Election``, ``etcdctl elect`` and the server's Election service take part in the same line.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from coord._telemetry import ELECTION, observed_wait
from coord.contender import Contender
from coord.entry import check_name
from coord.errors import (
    CampaignTimeout,
    Compacted,
    InvalidArgument,
    LeadershipLost,
    NoLeader,
    RequestRefused,
    SessionError,
    Unavailable,
)
from coord.grants import Grant, Hold
from coord.local_line import LocalLine
from coord.roster import roster
from coord.runtime import Supervisor
from coord.store import operations as op
from coord.store.caller import Repeat
from coord.store.keys import prefix_end
from coord.store.kv import SortBy
from coord.store.value_limits import to_value
from coord.store.values import EventType
from coord.store.watch import WatchSpec
from coord.waiter import while_valid

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from coord.coordination import Coordination
    from coord.errors import LostError
    from coord.grants import OnLoss
    from coord.session import Session
    from coord.store.values import KeyValue, WatchEvent
    from coord.store.watch import WatchFeed

_REJOIN_LOW_S, _REJOIN_HIGH_S = 0.05, 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Leader:
    """Who leads: its key, its published value, the token of its term, and the revision of the value."""

    key: bytes
    value: bytes
    token: int
    revision: int
    lease_id: int

    @classmethod
    def of(cls, kv: KeyValue) -> Leader:
        """Convert the leader's entry."""
        return cls(
            key=kv.key,
            value=kv.value,
            token=kv.create_revision,
            revision=kv.mod_revision,
            lease_id=kv.lease,
        )


class Term(Grant):
    """Leadership, from its confirmation until it is resigned or lost."""

    lost_error: type[LostError] = LeadershipLost

    async def proclaim(self, value: str | bytes, *, timeout: float | None = None) -> int:
        """Publish a new value and return its revision.

        Repeated while the outcome is unknown, which is safe: the write holds only while this term lasts.
        Raises :class:`LeadershipLost` when the term is over, :class:`PayloadTooLarge` for a value above the client's
        ``max_value_bytes``.
        """
        raw = _proposal(self._home, self.name, value)
        self.check()
        return await self._home.run(self._proclaim(raw, timeout))

    async def _proclaim(self, value: bytes, timeout: float | None) -> int:
        result = await self._home.txn.run(
            (self.guard(),),
            (op.put(self.key, value, lease=self.session.lease_id),),
            repeat=Repeat.IDEMPOTENT,
            timeout=timeout,
        )
        if not result.succeeded:
            self._lose("revoked")
            raise LeadershipLost(self.name, self.token, self.lost_reason or "revoked")
        return result.revision

    async def resign(self) -> bool:
        """Step down; False if leadership had been lost before. The same as :meth:`release`."""
        return await self.release()


class Election:
    """A named election. Made by ``client.election(name)``."""

    def __init__(
        self, home: Coordination, name: str | bytes, *, session: Session | None = None
    ) -> None:
        self._home = home
        self.name: bytes = home.claim(check_name(name))
        """The name, as it stands in the store."""
        self._text = self.name.decode(errors="backslashreplace")
        self._prefix = self.name + b"/"
        self._session = session

    # -- becoming leader -------------------------------------------------------------------------------------------

    async def campaign(self, value: str | bytes = b"", *, timeout: float | None = None) -> Term:
        """Wait to become the leader, publishing ``value``, and return the term.

        Raises :class:`CampaignTimeout` after ``timeout`` seconds, :class:`SessionExpired` as soon as the session ends,
        :class:`PayloadTooLarge` for a value above the client's ``max_value_bytes``.
        A cancelled or failed campaign withdraws the candidacy, in the background.
        """
        raw = _proposal(self._home, self._text, value)
        if timeout is not None and timeout < 0:
            raise InvalidArgument(f"timeout must be None or at least 0 seconds, not {timeout}")
        waiting = observed_wait(
            ELECTION,
            ELECTION.wait,
            self._text,
            lambda: self._campaign(raw, timeout),
            clock=self._home.env.clock,
        )
        return await self._home.run(waiting, discard=Term.discard)

    def lead(
        self,
        value: str | bytes = b"",
        *,
        timeout: float | None = None,
        on_loss: OnLoss = "cancel",
    ) -> Hold[Term]:
        """Return an ``async with`` for one term; see :class:`coord.grants.Hold`."""
        return Hold(self._home, lambda: self.campaign(value, timeout=timeout), on_loss)

    async def _campaign(self, value: bytes, timeout: float | None) -> Term:
        behind = "another campaign of this session"
        contender: Contender | None = None
        scope = asyncio.timeout(timeout)
        try:
            async with scope:
                session = await self._home.session_or_default(self._session)
                session.check()
                line = await while_valid(session, LocalLine.join(session, self.name))
                # Any entry under our lease is ours: the local line admits one campaign at a time.
                contender = Contender(
                    self._home,
                    session,
                    self.name,
                    recipe=ELECTION,
                    lost_error=LeadershipLost,
                    is_ours=lambda _: True,
                )
                try:
                    await contender.enter(value)
                    if contender.entry is not None and contender.entry.value != value:
                        await self._republish(contender, value)
                    await contender.wait_turn()
                    return Term(self._home, contender, line)
                except BaseException:
                    contender.give_up(line)
                    raise
        except TimeoutError:
            if not scope.expired():
                raise
            if contender is not None and contender.behind is not None:
                behind = contender.behind.decode(errors="backslashreplace")
            raise CampaignTimeout(
                f"campaign in {self._text!r}", timeout, explain=f"waiting behind {behind}"
            ) from None

    async def _republish(self, contender: Contender, value: bytes) -> None:
        """Campaigning again under the same lease acts as a proclaim (spec core 8.4)."""
        result = await self._home.txn.run(
            (contender.guard(),),
            (op.put(contender.key, value, lease=contender.session.lease_id),),
            repeat=Repeat.IDEMPOTENT,
        )
        if not result.succeeded:
            await contender.session.confirm_lost()
            contender.session.check()
            raise LeadershipLost(self._text, contender.token, "revoked")

    # -- looking on ------------------------------------------------------------------------------------------------

    async def leader(self, *, timeout: float | None = None) -> Leader:
        """Return the present leader, as of now (linearizable). Raises :class:`NoLeader`."""
        leader = await self._home.run(self._first(timeout))
        if leader is None:
            raise NoLeader(self._text)
        return leader

    async def candidates(self, *, timeout: float | None = None) -> tuple[Leader, ...]:
        """Return the leader and those who wait, in order of succession."""
        line = await self._home.run(roster(self._home.core, self.name, timeout=timeout))
        return tuple([Leader.of(kv) for kv in line])

    async def _first(self, timeout: float | None) -> Leader | None:
        look = op.get_prefix(self._prefix, sort_by=SortBy.CREATE_REVISION, limit=1)
        result = await self._home.txn.run((), (look,), timeout=timeout)
        items = result.range(0).items
        return Leader.of(items[0]) if items else None

    async def observe(self) -> AsyncIterator[Leader | None]:
        """Yield the leader now, and again at each change of leader or value; None while there is none.

        Never goes back in time and never repeats itself; values that come faster than they are taken may be skipped.
        Goes on through lost connections and compactions.
        """
        observation = _Observation(self._home, self._prefix)
        try:
            while True:
                yield await self._home.run(observation.next(), discard=observation.put_back)
        finally:
            observation.close_soon()

    # -- leading for as long as a function runs --------------------------------------------------------------------

    async def run(
        self,
        fn: Callable[[Term], Awaitable[object]],
        *,
        value: str | bytes = b"",
        rejoin: bool = True,
        on_error: Literal["raise", "rejoin"] = "rejoin",
        on_overrun: Callable[[Term], object] | None = None,
    ) -> None:
        """Campaign, call ``fn(term)`` while leading, and again after it has ended; for as long as this call runs.

        On loss ``fn`` is cancelled, and only when it has really returned a new campaign begins: two bodies of one
        process never overlap.
        ``fn`` returning resigns; ``rejoin=False`` then ends the call.
        An exception of ``fn`` resigns, and is raised (``on_error="raise"``) or campaigns again.
        ``on_overrun(term)`` is called when ``fn`` is still running at the time at which another leader may exist.
        """
        while True:
            try:
                term = await self.campaign(value)
            except (SessionError, Unavailable):
                if self._session is not None:
                    raise
                await self._home.pause(_REJOIN_LOW_S, _REJOIN_HIGH_S)
                continue
            failed = await self._serve(term, fn, on_overrun)
            if failed is not None and on_error == "raise":
                raise failed
            if failed is None and not rejoin and not term.lost.is_set():
                return
            await self._home.pause(_REJOIN_LOW_S, _REJOIN_HIGH_S)

    async def _serve(
        self,
        term: Term,
        fn: Callable[[Term], Awaitable[object]],
        on_overrun: Callable[[Term], object] | None,
    ) -> Exception | None:
        """Run ``fn`` for one term; return what it raised by itself."""

        async def body() -> None:
            await fn(term)

        errors: list[BaseException] = []
        owner = Supervisor(lambda _, error: errors.append(error))
        work = owner.spawn(body(), name=f"leader of {self._text}")
        loss = owner.spawn(_loss(term), name="loss")
        try:
            await asyncio.wait({work, loss}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                work.cancel()
                await self._outlast(work, term, on_overrun)
        finally:
            loss.cancel()
            await _ended(work)
            await owner.close()
            await term.resign()
        if work.cancelled():
            return None
        failure = work.exception()
        return failure if isinstance(failure, Exception) else None

    async def _outlast(
        self, work: asyncio.Task[None], term: Term, on_overrun: Callable[[Term], object] | None
    ) -> None:
        """Wait until a cancelled body has returned, and report when it outlives the safe deadline."""
        done, _ = await asyncio.wait({work}, timeout=term.session.valid_for())
        if not done:
            if on_overrun is not None:
                on_overrun(term)
            await asyncio.wait({work})


def _proposal(home: Coordination, name: str, value: str | bytes) -> bytes:
    return to_value(value, f"the value of election {name!r}", home.txn.max_value_bytes)


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


class _Observation:
    """The state of one ``observe()``: on the runtime's loop."""

    def __init__(self, home: Coordination, prefix: bytes) -> None:
        self._home = home
        self._prefix = prefix
        self._feed: WatchFeed | None = None
        self._leader: Leader | None = None
        self._told = False
        self._seen = 0
        self._back: list[Leader | None] = []

    def put_back(self, leader: Leader | None) -> None:
        """Keep what a cancelled caller did not get to see."""
        self._back.append(leader)

    def close_soon(self) -> None:
        """End the watch, from any loop."""
        if not self._home.runtime.on_runtime():
            self._home.runtime.post(self._close)
        else:
            self._close()

    def _close(self) -> None:
        if self._feed is not None:
            self._feed.close()
            self._feed = None

    async def next(self) -> Leader | None:
        """Return the next state that differs from the last one."""
        if self._back:
            return self._back.pop()
        while True:
            if self._feed is None:
                if await self._resync():
                    return self._leader
            elif await self._advance(self._feed):
                return self._leader

    async def _resync(self) -> bool:
        """Read the first entry and watch from there; say whether it is news."""
        look = op.get_prefix(self._prefix, sort_by=SortBy.CREATE_REVISION, limit=1)
        try:
            result = await self._home.txn.run((), (look,))
        except Unavailable:
            await self._home.pause(0.05, 0.5)
            return False
        items = result.range(0).items
        self._close()
        self._feed = self._home.watches.open(
            WatchSpec(
                key=self._prefix, end=prefix_end(self._prefix), start_revision=result.revision + 1
            )
        )
        self._seen = result.revision
        return self._become(Leader.of(items[0]) if items else None)

    def _become(self, leader: Leader | None) -> bool:
        if self._told and leader == self._leader:
            return False
        self._told = True
        self._leader = leader
        return True

    async def _advance(self, feed: WatchFeed) -> bool:
        """Take one batch of events; say whether the leader or its value changed."""
        try:
            batch = await feed.next()
        except (Compacted, RequestRefused):
            self._close()
            return False
        changed = False
        for event in batch.events:
            if event.revision <= self._seen:
                continue
            if (
                self._leader is not None
                and event.kv.key == self._leader.key
                and event.type is EventType.DELETE
            ):
                # Who is next is not in the event: ask, and skip what that answer already covers.
                return await self._succession() or changed
            changed = self._apply(event) or changed
        return changed

    def _apply(self, event: WatchEvent) -> bool:
        if event.type is not EventType.PUT:
            return False
        if self._leader is None or event.kv.key == self._leader.key:
            return self._become(Leader.of(event.kv))
        return False

    async def _succession(self) -> bool:
        self._close()
        return await self._resync()
