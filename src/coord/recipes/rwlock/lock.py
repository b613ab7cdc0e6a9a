"""A read-write lock and its two sides."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from typing_extensions import override

from coord._telemetry import RWLOCK, observed_wait
from coord.entry import check_name, settled
from coord.errors import CoordError, LockTimeout
from coord.grants import Hold
from coord.metadata import metadata, parse, place_of
from coord.names import as_text
from coord.recipes.rwlock.grants import ReadGrant, WriteGrant, check_timeout
from coord.recipes.rwlock.place import Place
from coord.recipes.rwlock.state import state_of
from coord.roster import roster
from coord.runtime.threads import task_identity

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from coord.coordination import Coordination
    from coord.grants import OnLoss
    from coord.recipes.rwlock.place import Mode
    from coord.recipes.rwlock.state import RWState
    from coord.session import Session

T = TypeVar("T")
G = TypeVar("G", ReadGrant, WriteGrant)

_EXPLAIN_WITHIN_S = 0.25


class UpgradeRefused(CoordError):
    """Who reads asks to write: that would wait for itself. Release the read grant, acquire anew, and look again.

    A writer that came meanwhile may have changed what was read; no order of grants can avoid that, since two readers
    who both want to write would wait for each other.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(
            f"a read grant of {name!r} cannot become a write grant: release it, acquire to write, and read again"
        )


class _Side(Generic[G]):
    """One of the two ways to take a lock; holds nothing by itself, so it may be shared and kept."""

    _mode: Mode

    def __init__(
        self, home: Coordination, name: bytes, session: Session | None, *, downgradable: bool
    ) -> None:
        self._home = home
        self.name: bytes = name
        """The lock's name, as it stands in the store."""
        self._text = as_text(name)
        self._session = session
        self._downgradable = downgradable

    def _grant(self, place: Place, owner: str) -> G:
        raise NotImplementedError

    async def acquire(self, *, timeout: float | None = None) -> G:
        """Wait for the turn and return the grant.

        Raises :class:`LockTimeout` after ``timeout`` seconds, :class:`SessionExpired` as soon as the session ends, and
        :class:`UpgradeRefused` when the calling task reads under this lock already and wants to write.
        A cancelled or failed wait leaves no place in line: it is given up in the background.
        """
        return await self.acquire_for(task_identity(), timeout=timeout)

    async def acquire_for(self, owner: str, *, timeout: float | None) -> G:
        """Acquire on behalf of ``owner``, the identity that inspection and upgrades go by."""
        check_timeout(timeout)
        waiting = self._observed(RWLOCK.wait, lambda: self._acquire(owner, timeout))
        return await self._home.run(waiting, discard=_discard)

    async def try_acquire(self) -> G | None:
        """Take it if nobody is in the way, else return None: one request, which never queues and leaves nothing behind."""
        return await self.try_acquire_for(task_identity())

    async def try_acquire_for(self, owner: str) -> G | None:
        """Try on behalf of ``owner``."""
        trying = self._observed(RWLOCK.attempt, lambda: self._try_acquire(owner))
        return await self._home.run(trying, discard=_discard)

    def hold(self, *, timeout: float | None = None, on_loss: OnLoss = "cancel") -> Hold[G]:
        """Return an ``async with`` that acquires, yields the grant and releases; see :class:`coord.grants.Hold`."""
        return Hold(self._home, lambda: self.acquire(timeout=timeout), on_loss)

    def _observed(
        self, what: str, make: Callable[[], Coroutine[Any, Any, T]]
    ) -> Coroutine[Any, Any, T]:
        return observed_wait(RWLOCK, what, self._text, make, clock=self._home.env.clock)

    async def _begin(self, owner: str) -> Place:
        session = await self._home.session_or_default(self._session)
        session.check()
        if self._mode == "write":
            readers = session.readers.get(self.name, {})
            if any(owner == reader and grant.valid_for() > 0 for grant, reader in readers.items()):
                raise UpgradeRefused(self._text)
        return Place(self._home, session, self.name, self._mode, downgradable=self._downgradable)

    def _value(self, place: Place, owner: str) -> bytes:
        return metadata(self._home, place.nonce, owner).encode()

    async def _acquire(self, owner: str, timeout: float | None) -> G:
        place: Place | None = None
        scope = asyncio.timeout(timeout)
        try:
            async with scope:
                place = await self._begin(owner)
                try:
                    await place.enter(self._value(place, owner))
                    await place.wait_turn()
                    return self._grant(place, owner)
                except BaseException:
                    place.give_up(None)
                    raise
        except TimeoutError:
            if not scope.expired():
                raise
            what = f"acquire of lock {self._text!r} to {self._mode}"
            raise LockTimeout(what, timeout, explain=await _explain(place)) from None

    async def _try_acquire(self, owner: str) -> G | None:
        limit = self._home.core.options.request_timeout
        try:
            async with asyncio.timeout(limit):
                place = await self._begin(owner)
                await settled(place.session, self.name)
                try:
                    taken = await place.try_enter(self._value(place, owner))
                except BaseException:
                    place.give_up(None)
                    raise
        except CoordError:
            raise
        except TimeoutError:
            what = f"try_acquire of lock {self._text!r} to {self._mode}"
            raise LockTimeout(what, limit) from None
        if taken:
            return self._grant(place, owner)
        if place.doubtful:  # a copy of the create may still be under way
            place.give_up(None)
        return None


class ReadLock(_Side[ReadGrant]):
    """The readers' side of a lock. Made by ``rwlock.read()``."""

    _mode: Mode = "read"

    @override
    def _grant(self, place: Place, owner: str) -> ReadGrant:
        return ReadGrant(self._home, place, owner)


class WriteLock(_Side[WriteGrant]):
    """The writers' side of a lock. Made by ``rwlock.write()``."""

    _mode: Mode = "write"

    @override
    def _grant(self, place: Place, owner: str) -> WriteGrant:
        return WriteGrant(self._home, place, owner)


class RWLock:
    """A named lock for many readers or one writer. Made by ``client.rwlock(name)``; may be shared and kept."""

    def __init__(
        self, home: Coordination, name: str | bytes, *, session: Session | None = None
    ) -> None:
        self._home = home
        self.name: bytes = home.claim(check_name(name))
        """The name, as it stands in the store."""
        self._session = session

    def read(self) -> ReadLock:
        """Return the readers' side: shared with other readers, after the writers who came before."""
        return ReadLock(self._home, self.name, self._session, downgradable=False)

    def write(self, *, downgradable: bool = False) -> WriteLock:
        """Return the writers' side: alone, after everybody who came before.

        ``downgradable``: its grants can go on as readers, at the price of one more key while they write.
        """
        return WriteLock(self._home, self.name, self._session, downgradable=downgradable)

    async def state(self, *, timeout: float | None = None) -> RWState:
        """Return who reads, who writes and who waits, as of one revision."""
        line = await self._home.run(roster(self._home.core, self.name, timeout=timeout))
        return state_of(self.name, line)


def _discard(grant: ReadGrant | WriteGrant | None) -> None:
    if grant is not None:
        grant.discard()


async def _explain(place: Place | None) -> str:
    """Say who is in the way, if the store tells at once."""
    if place is None or place.behind is None:
        return ""
    behind = f"waiting behind {place.behind.decode(errors='backslashreplace')}"
    try:
        async with asyncio.timeout(_EXPLAIN_WITHIN_S):
            first = await place.oldest_in_way()
    except (TimeoutError, CoordError):
        return behind
    if first is None:
        return behind
    key, who = as_text(first.key), place_of(parse(first.value))
    return f"{behind}; first in the way is {key} (token {first.create_revision}{who})"
