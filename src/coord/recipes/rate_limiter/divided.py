"""The divided mode: a member of the group, who looks at it again and again, and gives permits without asking."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from coord.errors import (
    AmbiguousResult,
    ClientClosed,
    CoordError,
    CoordTimeout,
    InvalidArgument,
    SessionError,
    Unavailable,
)
from coord.recipes.membership import Membership
from coord.recipes.rate_limiter.cell import Cell, ModeChanged
from coord.recipes.rate_limiter.part import STALE, Look, Part
from coord.recipes.rate_limiter.state import weight_of
from coord.runtime import Backoff, process_identity
from coord.store import operations as op
from coord.store.keys import prefix_range
from coord.store.paging import Pages

if TYPE_CHECKING:
    from coord.cache import Mirrors
    from coord.coordination import Coordination
    from coord.recipes.membership import GroupSeat
    from coord.store.txn import TxnResult
    from coord.store.values import KeyValue

MEMBERS = b"/members"
# Of the ttl, between two looks: three of them may fail before the share is gone.
_LOOK_EVERY = 1 / 8
_RETRY_FIRST_S, _RETRY_MAX_S = 0.05, 0.5
_MOST_READ = 1000
_LEAVE_WITHIN_S = 5.0
_SILENCES = (Unavailable, AmbiguousResult, CoordTimeout)


@dataclass(frozen=True, slots=True)
class _Group:
    """The members as of a revision."""

    revision: int
    members: tuple[KeyValue, ...]


class Divided:
    """One member. It joins with the first take, and leaves with :meth:`close`. On the runtime's loop."""

    def __init__(
        self,
        home: Coordination,
        mirrors: Mirrors,
        cell: Cell,
        *,
        weight: float,
        fallback: float | None,
    ) -> None:
        self._home = home
        self._mirrors = mirrors
        self._cell = cell
        self._weight = weight
        self._fallback = fallback
        self._prefix = cell.name + MEMBERS + b"/"
        self._part: Part | None = None
        self._running: asyncio.Task[object] | None = None
        self._error: CoordError | ModeChanged | None = None
        self._news = asyncio.Event()
        self._hurry = asyncio.Event()
        self._seat: GroupSeat | None = None
        self._id = ""

    @property
    def is_begun(self) -> bool:
        """Whether it is a member, or about to become one."""
        return self._part is not None

    def has(self) -> tuple[float, float]:
        """Return the share in force, and how many permits are there at once."""
        if self._part is None:
            return 0.0, 0.0
        self._part.advance(self._cell.mono())
        return self._part.share, self._part.tokens

    async def take(self, n: int, deadline: float | None, *, wait: bool) -> float:
        """Take ``n`` permits and return 0, or after how many seconds to ask again."""
        if self._part is None:
            self._begin()
            # What the store says of the limiter may be an error.
            limit = self._cell.meter.ttl * STALE
            left = limit if deadline is None else min(limit, deadline - self._cell.mono())
            await self.rest(max(0.0, left))
        if self._error is not None:
            error = self._error
            await self.close()
            raise error
        part, meter = self._part, self._cell.meter
        if part is None:
            raise ClientClosed("the rate limiter")
        if meter.mode != "divided":  # this very limiter has changed it
            raise ModeChanged
        if n > meter.burst:
            raise InvalidArgument(f"{n} permits never come at once: burst is {meter.burst:g}")
        return part.take(n, self._cell.mono(), wait=wait)

    async def rest(self, seconds: float) -> None:
        """Sleep so long, or until something new is seen."""
        news = self._news
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if seconds == float("inf") else seconds):
                await news.wait()

    def put_back(self, n: int) -> None:
        """Give back permits that were taken for somebody who has gone."""
        if self._part is not None:
            self._part.put_back(n)

    def give_up(self) -> None:
        """Nobody waits any more."""
        if self._part is not None:
            self._part.give_up()

    # -- life ------------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._error = None
        host, pid = process_identity()
        nonce = format(self._home.env.rand.bits(64), "016x")
        self._id = f"{host}-{pid}-{nonce}".replace("/", "-")
        self._part = self._new_part(self._cell.wanted.ttl)
        self._running = self._home.background(self._run(), name="rate-member")
        if self._running is None:
            raise ClientClosed

    def _new_part(self, ttl: int) -> Part:
        return Part(ttl, self._cell.mono(), fallback=self._fallback)

    async def _run(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                await self._make_sure()
                self._part = part = self._new_part(self._cell.meter.ttl)
                group.create_task(self._join())
                await self._keep_looking(part)
        except* (CoordError, ModeChanged) as errors:
            self._error = _first(errors)
            # Whether anybody asks again or not: a share that nobody may use is better with the others.
            seat, self._seat = self._seat, None
            if seat is not None:
                seat.discard()
        finally:
            self._tell()

    async def _make_sure(self) -> None:
        """Make the key if there is none, so that the fleet goes by it. Raises what does not fit."""
        backoff = Backoff(self._home.env.rand, _RETRY_FIRST_S, _RETRY_MAX_S)
        while True:
            try:
                if not self._cell.revision:
                    await self._cell.write(self._cell.wanted, None)
                mode = await self._cell.know(None)
            except _SILENCES:
                await backoff.pause()
                continue
            if mode != "divided":
                raise ModeChanged
            return

    async def _join(self) -> None:
        """Become a member, as soon as the store allows it; from then on the group sees to it."""
        ttl = self._cell.meter.ttl
        name = self._cell.name + MEMBERS
        group = Membership(self._home, self._mirrors, name, ttl=ttl)
        backoff = Backoff(self._home.env.rand, _RETRY_FIRST_S, _RETRY_MAX_S)
        while True:
            try:
                seat = await group.join(self._id, data={"weight": self._weight})
            except (*_SILENCES, SessionError):
                await backoff.pause()
                continue
            self._seat = seat
            self._hurry.set()
            return

    async def _keep_looking(self, part: Part) -> None:
        cell, ttl = self._cell, self._cell.meter.ttl
        backoff = Backoff(self._home.env.rand, _RETRY_FIRST_S, _RETRY_MAX_S)
        group: _Group | None = None
        while True:
            asked_at = cell.mono()
            try:
                found, group = await self._look(group, ttl * STALE)
            except _SILENCES:
                await backoff.pause()
                continue
            backoff.reset()
            if group.revision >= cell.revision:
                cell.learn(found)
            # Somebody may have deleted it: then what we were made with holds.
            await self._make_sure()
            part.seen(self._told(group, asked_at), cell.mono())
            self._tell()
            self._hurry.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ttl * _LOOK_EVERY):
                    await self._hurry.wait()

    async def _look(self, known: _Group | None, timeout: float) -> tuple[KeyValue | None, _Group]:
        """Read the key and the group as of one revision; members only if there is anything new."""
        start, end = prefix_range(self._prefix)
        key = op.get(self._cell.name)
        if known is not None:
            newer = op.get_range(
                start, end, limit=1, keys_only=True, min_mod_revision=known.revision + 1
            )
            result = await self._home.txn.run((), (key, newer), timeout=timeout)
            if not result.range(1).items and result.range(1).count == len(known.members):
                return _first_of(result), _Group(result.revision, known.members)
        everyone = op.get_range(start, end, limit=_MOST_READ)
        result = await self._home.txn.run((), (key, everyone), timeout=timeout)
        members = result.range(1).items
        if result.range(1).more:
            pages = Pages(self._home.core.kv, (start, end), revision=result.revision)
            members = tuple([kv async for page in pages for kv in page.items])
        return _first_of(result), _Group(result.revision, members)

    def _told(self, group: _Group, asked_at: float) -> Look:
        own = self._prefix + self._id.encode()
        token, weight, total = 0, 0.0, 0.0
        for kv in group.members:
            each = weight_of(kv)
            total += each
            if kv.key == own:
                token, weight = kv.create_revision, each
        return Look(
            asked_at=asked_at, meter=self._cell.meter, token=token, weight=weight, total=total
        )

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def close(self) -> None:
        """Use nothing more, and leave the group."""
        self._part = None  # first of all: whoever sees us gone may take our share
        running, self._running = self._running, None
        if running is not None:
            running.cancel()
            await asyncio.wait({running})
        seat, self._seat = self._seat, None
        if seat is not None:
            with contextlib.suppress(CoordError, TimeoutError):
                async with asyncio.timeout(_LEAVE_WITHIN_S):  # after which it goes on by itself
                    await seat.leave()


def _first(errors: BaseExceptionGroup[CoordError | ModeChanged]) -> CoordError | ModeChanged:
    error = errors.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


def _first_of(result: TxnResult) -> KeyValue | None:
    items = result.range(0).items
    return items[0] if items else None
