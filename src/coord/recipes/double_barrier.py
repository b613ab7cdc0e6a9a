"""So many processes start together and end together, round after round (spec recipes 9.2; layout of Go's DoubleBarrier).

Everybody has a leased key under ``name/waiters/``, in order of creation; the one that completes the number puts
``name/ready``.
A *round* is named by the mod revision of ``ready``, and its entries are those created before that.
Who finds the entries of a round that is under way takes its own back and waits: so two rounds never overlap.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

from coord._telemetry import DOUBLE_BARRIER, observed_wait
from coord.entry import Entry, check_name, settled
from coord.errors import (
    AmbiguousResult,
    Compacted,
    CoordError,
    CoordTimeout,
    InvalidArgument,
    NotHeld,
    Unavailable,
)
from coord.names import as_text
from coord.recipes.barrier import BarrierLost, BarrierTimeout, check_timeout
from coord.store import comparing as compare
from coord.store import operations as op
from coord.store.caller import Repeat
from coord.store.kv import SortBy
from coord.store.values import EventType
from coord.waiter import Done, Sight, Watch, wait_until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from types import TracebackType

    from coord.coordination import Coordination
    from coord.session import Session
    from coord.store.comparing import Compare
    from coord.store.operations import Op
    from coord.store.txn import TxnResult
    from coord.store.values import WatchEvent

    WhenFull = Literal["wait", "raise"]

T = TypeVar("T")

_AGAIN_S = 0.1


class BarrierFull(CoordError):
    """A round is under way, or complete, and another one would have to be waited for (``when_full="raise"``)."""

    def __init__(self, name: str, parties: int) -> None:
        self.name = name
        self.parties = parties
        super().__init__(f"barrier {name!r} has its {parties} parties already")


@dataclass(frozen=True, slots=True)
class _View:
    """Who is there, as of a revision: keys in order of creation, and the mod revision of ``ready``, 0 without."""

    entries: tuple[tuple[bytes, int], ...]
    ready: int
    revision: int

    def ahead_of(self, token: int) -> int:
        return sum(created < token for _, created in self.entries)

    def of_round(self) -> tuple[bytes, ...]:
        """Return the entries that are left of the last round that began."""
        return tuple(key for key, created in self.entries if created <= self.ready)


@dataclass(frozen=True, slots=True)
class _Inside:
    """A place in a round, from its beginning until it is left."""

    entry: Entry
    round: int

    def discard(self) -> None:
        self.entry.give_up(None)


class DoubleBarrier:
    """One party's place at a named barrier. Made by ``client.double_barrier(name, parties)``; each party has its own."""

    def __init__(
        self,
        home: Coordination,
        name: str | bytes,
        parties: int,
        *,
        session: Session | None = None,
        when_full: WhenFull = "wait",
    ) -> None:
        if parties < 1:
            raise InvalidArgument(f"a barrier has at least 1 party, not {parties}")
        if when_full not in ("wait", "raise"):
            raise InvalidArgument(f"when_full must be 'wait' or 'raise', not {when_full!r}")
        self._home = home
        self.name: bytes = home.claim(check_name(name))
        """The name, as it stands in the store."""
        self.parties: int = parties
        """How many make a round."""
        self._text = as_text(self.name)
        self._session = session
        self._when_full: WhenFull = when_full
        self._inside: _Inside | None = None

    async def enter(self, *, timeout: float | None = None) -> int:
        """Wait until ``parties`` are here, and return the round: a number that rises.

        While a round is under way, waits for its end, or raises :class:`BarrierFull` with ``when_full="raise"``.
        Raises :class:`BarrierTimeout` after ``timeout`` seconds, :class:`SessionExpired` as soon as the session ends,
        :class:`BarrierLost` when somebody has removed our entry. However a wait fails, it leaves no entry: that is
        taken back in the background.
        """
        check_timeout(timeout)
        if self._inside is not None:
            raise InvalidArgument(f"barrier {self._text!r} is entered already: leave() it first")
        waiting = observed_wait(
            DOUBLE_BARRIER,
            DOUBLE_BARRIER.wait,
            self._text,
            lambda: self._bounded(timeout),
            clock=self._home.env.clock,
        )
        self._inside = await self._home.run(waiting, discard=_Inside.discard)
        return self._inside.round

    async def leave(self, *, timeout: float | None = None) -> None:
        """Wait until all parties of the round have left, crashed ones included. Raises :class:`NotHeld` outside.

        Raises :class:`BarrierTimeout` after ``timeout`` seconds, :class:`SessionExpired` when the session ends before
        our own entry is removed. However it ends, we have left: the entry is removed, in the background if need be.
        """
        check_timeout(timeout)
        inside, self._inside = self._inside, None
        if inside is None:
            raise NotHeld(self._text)
        await self._home.run(_Leaving(self._home, self.name, inside).bounded(timeout))

    def joined(self, *, timeout: float | None = None) -> Joined:
        """Return an ``async with`` for one round: :meth:`enter`, the body, :meth:`leave`; see :class:`Joined`."""
        return Joined(self, self._quit, timeout)

    async def _quit(self) -> None:
        """Leave without waiting for anybody."""
        inside, self._inside = self._inside, None
        if inside is not None:
            await self._home.run(inside.entry.leave())

    # -- entering: on the runtime's loop ---------------------------------------------------------------------------

    async def _bounded(self, timeout: float | None) -> _Inside:
        scope = asyncio.timeout(timeout)
        try:
            async with scope:
                return await self._enter()
        except TimeoutError:
            if not scope.expired():
                raise
            raise BarrierTimeout(f"entering barrier {self._text!r}", timeout) from None

    async def _enter(self) -> _Inside:
        session = await self._home.session_or_default(self._session)
        session.check()
        while True:
            # What a call before this one has left, and takes back just now, is no other party.
            await settled(session, self.name)
            attempt = _Attempt(self._home, session, self.name, self.parties)
            try:
                begun = await attempt.run()
            except BaseException:
                attempt.entry.give_up(None)
                raise
            if begun:
                return _Inside(attempt.entry, begun)
            if self._when_full == "raise":
                raise BarrierFull(self._text, self.parties)
            await attempt.wait_for_room()


class Joined:
    """``async with``: enter, run the body, leave. Gives the round. For one use.

    A body that raises leaves without waiting for the others, so that they are not held up.
    ``timeout`` bounds the entering, and again the leaving.
    """

    def __init__(
        self,
        barrier: DoubleBarrier,
        quit_now: Callable[[], Coroutine[object, object, None]],
        timeout: float | None,
    ) -> None:
        self._barrier = barrier
        self._quit_now = quit_now
        self._timeout = timeout

    async def __aenter__(self) -> int:
        """Enter. Raises what :meth:`DoubleBarrier.enter` raises."""
        return await self._barrier.enter(timeout=self._timeout)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave. Raises what :meth:`DoubleBarrier.leave` raises."""
        if kind is None:
            await self._barrier.leave(timeout=self._timeout)
        else:
            await self._quit_now()


class _Keys:
    """Where things stand, and how they are read."""

    def __init__(self, home: Coordination, name: bytes) -> None:
        self._home = home
        self.waiters = name + b"/waiters/"
        self.ready = name + b"/ready"

    def look(self, *, revision: int | None = None) -> tuple[Op, Op]:
        return (
            op.get_prefix(
                self.waiters, sort_by=SortBy.CREATE_REVISION, keys_only=True, revision=revision
            ),
            op.get(self.ready, keys_only=True, revision=revision),
        )

    def is_still(self, ready: int) -> Compare:
        """Compare that no round has begun or ended since."""
        return compare.mod_revision(self.ready) == ready

    async def read(
        self, when: tuple[Compare, ...] = (), *, revision: int | None = None
    ) -> TxnResult:
        look = self.look(revision=revision)
        return await self._home.txn.run(when, look, look, repeat=Repeat.READ)


def _view(result: TxnResult, place: int) -> _View:
    """Read what :meth:`_Keys.look` asked for, from the answers at ``place`` on."""
    entries = [(kv.key, kv.create_revision) for kv in result.range(place).items]
    ready = result.range(place + 1).items
    return _View(tuple(entries), ready[0].mod_revision if ready else 0, result.revision)


class _Attempt:
    """One entry of ours, until its round begins or it is clear that it is in nobody's next one."""

    def __init__(self, home: Coordination, session: Session, name: bytes, parties: int) -> None:
        self._home = home
        self._keys = _Keys(home, name)
        self._parties = parties
        nonce = format(home.env.rand.bits(64), "016x")
        key = self._keys.waiters + f"{session.lease_id:x}-{nonce}".encode()
        # The key has a nonce of its own: whatever stands there is ours.
        self.entry = Entry(home, session, name, key, recipe=DOUBLE_BARRIER, is_ours=lambda _: True)
        self._session = session
        self._after = _View((), 0, 0)
        """What was there after we had taken our entry back."""

    async def run(self) -> int:
        """Return the round that we are part of, or 0 when our entry had to be taken back."""
        entry = self.entry
        created = await entry.create(
            (op.put(entry.key, b"", lease=self._session.lease_id), *self._keys.look())
        )
        if created.succeeded:
            view = _view(created, 1)
        else:
            view = await self._surely(self._as_ours)
        if view.ready > entry.token:  # begun while our create was unanswered
            return await self._round_or_leave(view)
        rank = view.ahead_of(entry.token)
        if view.of_round() or rank >= self._parties:
            return await self._withdraw(view)
        if rank == self._parties - 1:
            begun = await self._begin(view)
            if begun:
                return begun
            return await self._wait(None)
        return await self._wait(self._watch(view.revision))

    # -- gathering -------------------------------------------------------------------------------------------------

    async def _begin(self, view: _View) -> int:
        """Begin the round, if nothing has changed; 0 if something has, or nobody knows."""
        try:
            result = await self._home.txn.run(
                (self.entry.guard(), self._keys.is_still(view.ready)),
                (op.put(self._keys.ready, b""),),
                repeat=Repeat.IDEMPOTENT,
            )
        except (Unavailable, CoordTimeout, AmbiguousResult):
            return 0
        return result.revision if result.succeeded else 0

    def _watch(self, revision: int) -> Watch:
        key, token = self.entry.key, self.entry.token

        def ended(event: WatchEvent) -> Done[int] | None:
            if event.type is EventType.PUT and event.kv.key != key and event.revision > token:
                return Done(event.revision)
            return None

        return Watch((Sight(self._keys.ready, on="put"), key), revision, ended=ended)

    async def _wait(self, first: Watch | None) -> int:
        return await wait_until(self._home, self._look, session=self._session, first=first)

    async def _look(self) -> Done[int] | Watch:
        view = await self._as_ours()
        if view.ready > self.entry.token:
            return Done(view.ready)
        if len(view.entries) >= self._parties:
            # Complete, and the last one has not said so: any of us may.
            begun = await self._begin(view)
            if begun:
                return Done(begun)
            return Watch(self._watch(view.revision).sights, view.revision, within=_AGAIN_S)
        return self._watch(view.revision)

    async def _as_ours(self) -> _View:
        """Look, with our entry. Raises :class:`SessionExpired` or :class:`BarrierLost` without."""
        result = await self._keys.read((self.entry.guard(),))
        if not result.succeeded:
            await self._session.confirm_lost()
            self._session.check()
            raise BarrierLost(self.entry.text, self.entry.token, "revoked")
        return _view(result, 0)

    async def _surely(self, read: Callable[[], Awaitable[T]]) -> T:
        """Read, however long the store cannot be reached."""

        async def condition() -> Done[T]:
            return Done(await read())

        return await wait_until(self._home, condition, session=self._session)

    # -- no room ---------------------------------------------------------------------------------------------------

    async def _withdraw(self, view: _View) -> int:
        """Take our entry back, unless a round has begun meanwhile that counts it."""
        try:
            result = await self.entry.leave_if(
                (self._keys.is_still(view.ready),), self._keys.look()
            )
        except (Unavailable, CoordTimeout, AmbiguousResult):
            result = None
        if result is not None and result.succeeded:
            self._after = _view(result, 1)
            return 0
        now = await self._surely(lambda: self._keys.read((self.entry.guard(),)))
        self._after = _view(now, 0)
        if not now.succeeded:  # an unanswered copy has done it, or somebody else
            if self.entry.doubtful:
                await self.entry.leave()
            return 0
        if self._after.ready > self.entry.token:
            return await self._round_or_leave(self._after)
        await self.entry.leave()
        return 0

    async def _round_or_leave(self, view: _View) -> int:
        """Return the round that has begun if we are one of its first; else take our entry back."""
        try:
            then = await self._surely(lambda: self._keys.read(revision=view.ready))
            is_first = _view(then, 0).ahead_of(self.entry.token) < self._parties
        except Compacted:
            is_first = view.ahead_of(self.entry.token) < self._parties
        if is_first:
            return view.ready
        await self.entry.leave()
        self._after = view
        return 0

    async def wait_for_room(self) -> None:
        """Wait until another attempt may find room."""
        await wait_until(
            self._home,
            self._look_for_room,
            session=self._session,
            first=self._blocked_by(self._after) if self._after.revision else None,
        )

    async def _look_for_room(self) -> Done[None] | Watch:
        return self._blocked_by(_view(await self._keys.read(), 0)) or Done(None)

    def _blocked_by(self, view: _View) -> Watch | None:
        """Return what to wait for; None if there is room."""
        left = view.of_round()
        if not left and len(view.entries) < self._parties:
            return None
        ahead = frozenset(left or [key for key, _ in view.entries])

        def is_ahead(event: WatchEvent) -> bool:
            return event.kv.key in ahead

        return Watch((Sight(self._keys.waiters, prefix=True, where=is_ahead),), view.revision)


class _Leaving:
    """The end of one round for one party. On the runtime's loop."""

    def __init__(self, home: Coordination, name: bytes, inside: _Inside) -> None:
        self._home = home
        self._keys = _Keys(home, name)
        self._entry = inside.entry
        self._round = inside.round

    async def bounded(self, timeout: float | None) -> None:
        entry = self._entry
        scope = asyncio.timeout(timeout)
        try:
            async with scope:
                # Until our own entry is gone we need the session; then only the others do.
                rest = await wait_until(self._home, self._go, session=entry.session)
                if rest is not None:
                    await wait_until(self._home, self._look, session=None, first=rest)
        except BaseException as error:
            entry.give_up(None)
            if isinstance(error, TimeoutError) and scope.expired():
                raise BarrierTimeout(f"leaving barrier {entry.text!r}", timeout) from None
            raise

    async def _left(self) -> tuple[tuple[bytes, ...], int]:
        """Return the entries that are left of our round, in order, and the revision of the answer."""
        look = op.get_prefix(
            self._keys.waiters,
            max_create_revision=self._round,
            sort_by=SortBy.CREATE_REVISION,
            keys_only=True,
        )
        result = await self._home.txn.run((), (look,))
        return tuple(kv.key for kv in result.range(0).items), result.revision

    async def _go(self) -> Done[Watch | None] | Watch:
        """Remove our own entry as soon as it is its turn; done with what is to be waited for then."""
        own = self._entry.key
        left, revision = await self._left()
        if own not in left:  # removed by somebody, or by the end of our lease
            await self._entry.session.confirm_lost()
            self._entry.session.check()
            if self._entry.doubtful:  # a copy of its create would stand here for nobody
                await self._entry.leave()
            return Done(Watch((left[0],), revision) if left else None)
        if left == (own,):
            await self._close()
            return Done(None)
        if left[0] == own:  # the lowest waits for the highest
            return Watch((left[-1], own), revision)
        await self._entry.leave()
        return Done(Watch((left[0],), revision))

    async def _close(self) -> None:
        """Remove the last entry together with ``ready``, so that nobody sees one without the other."""
        try:
            result = await self._entry.leave_if(
                (self._keys.is_still(self._round),), (op.delete(self._keys.ready),)
            )
        except (Unavailable, CoordTimeout, AmbiguousResult):
            pass  # settled by what follows; a `ready` without its round is ignored by all
        else:
            if result.succeeded:
                return
        await self._entry.leave()

    async def _look(self) -> Done[None] | Watch:
        left, revision = await self._left()
        return Watch((left[0],), revision) if left else Done(None)
