"""A gate that many wait at and one opens (spec recipes 9.1; layout of Go's experimental/recipes.Barrier).

The gate is closed while the key ``name`` exists, and its create revision names the time that it is closed for.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from coord._telemetry import BARRIER, observed_wait
from coord.entry import Entry, check_name
from coord.errors import (
    AmbiguousResult,
    CoordError,
    CoordTimeout,
    InvalidArgument,
    LostError,
    NotHeld,
    Unavailable,
)
from coord.grants import Grant
from coord.names import as_text
from coord.signals import OneShot
from coord.store import comparing as compare
from coord.store import operations as op
from coord.waiter import Done, Sight, Watch, wait_until

if TYPE_CHECKING:
    from coord.coordination import Coordination
    from coord.session import Session
    from coord.store.comparing import Compare
    from coord.store.values import KeyValue, WatchEvent


class BarrierTimeout(CoordTimeout):
    """A barrier was not passed in time; nothing of the wait is left in the store."""


class BarrierHeld(CoordError):
    """The gate is closed already, by whoever ``token`` belongs to; it stays as it is."""

    def __init__(self, name: str, token: int) -> None:
        self.name = name
        self.token = token
        super().__init__(f"barrier {name!r} is closed already (token {token})")


class BarrierLost(LostError):
    """What this process had at a barrier is gone: its leased gate is open, or its entry was removed."""

    noun = "barrier"


class _LeasedGate(Grant):
    lost_error: type[LostError] = BarrierLost


class Gate:
    """A gate that this process has closed. Made by :meth:`Barrier.hold`."""

    def __init__(
        self, home: Coordination, name: bytes, token: int, grant: _LeasedGate | None
    ) -> None:
        self._home = home
        self._grant = grant
        self._opened: bool | None = None
        self.key: bytes = name
        """The key in the store that closes it: the barrier's name."""
        self.token: int = token
        """The key's create revision; it rises each time that the gate is closed."""
        text = as_text(name)
        self.name: str = text
        """The barrier's name."""
        self.lost: OneShot = (
            OneShot(home.runtime, f"loss of {text}") if grant is None else grant.lost
        )
        """Fires once, with the reason, when a leased gate opens before its release; never for an unleased one."""

    @property
    def leased(self) -> bool:
        """Whether it opens with the end of its session."""
        return self._grant is not None

    @property
    def lost_reason(self) -> str | None:
        """Why it was lost, None if it was not."""
        return self.lost.reason

    def guard(self) -> Compare:
        """Return the comparison that holds exactly while this gate is closed; put it into ``when()``."""
        return compare.create_revision(self.key) == self.token

    def check(self) -> None:
        """Raise :class:`BarrierLost` when a leased gate is not surely closed any more, :class:`NotHeld` after release.

        Nobody tells what became of an unleased gate.
        """
        if self._grant is not None:
            self._grant.check()
        elif self._opened is not None:
            raise NotHeld(self.name)

    async def release(self, *, timeout: float | None = None) -> bool:
        """Open the gate; False if it was open before, or closed again by somebody else, which stays.

        ``timeout`` in seconds, None meaning the client's ``request_timeout``; a leased gate needs none, since its lease
        bounds it. May be repeated after :class:`Unavailable`, :class:`CoordTimeout` and :class:`AmbiguousResult`.
        Cancelled, it has opened the gate or not.
        """
        if self._grant is not None:
            return await self._grant.release()
        if self._opened is None:
            self._opened = await self._home.run(
                _remove(self._home, self.guard(), self.key, timeout)
            )
        return self._opened

    def discard(self) -> None:
        """Open it in the background: nobody is left to use it. On the runtime's loop."""
        if self._grant is not None:
            self._grant.discard()
        else:
            self._home.background(_remove(self._home, self.guard(), self.key, None), name="discard")


class Barrier:
    """A named gate. Made by ``client.barrier(name)``; any number of objects and processes share one gate."""

    def __init__(
        self, home: Coordination, name: str | bytes, *, session: Session | None = None
    ) -> None:
        self._home = home
        self.name: bytes = home.claim(check_name(name))
        """The name, as it stands in the store."""
        self._text = as_text(self.name)
        self._session = session
        self._gate: Gate | None = None

    # -- for the one who closes ------------------------------------------------------------------------------------

    async def hold(self, *, leased: bool = False, timeout: float | None = None) -> Gate:
        """Close the gate and return it. Raises :class:`BarrierHeld` at once when it is closed already.

        It stays closed until somebody opens it, even if this process dies.
        ``leased=True`` ties it to the session: it opens when that ends.
        ``timeout`` in seconds, None meaning the client's ``request_timeout``; then :class:`BarrierTimeout`, or for an
        unleased gate what :meth:`coord.Client.put` raises.
        After a cancellation a leased gate is opened again; an unleased one is closed or not.
        """
        make = self._close_leased if leased else self._close
        limit = self._home.core.options.request_timeout if timeout is None else timeout
        self._gate = await self._home.run(make(limit), discard=Gate.discard)
        return self._gate

    async def release(self, *, force: bool = False, timeout: float | None = None) -> bool:
        """Open the gate that this object has closed; say whether that was still so. See :meth:`Gate.release`.

        ``force=True`` opens it whoever has closed it; without, :class:`NotHeld` is raised if it was not this object.
        """
        gate = self._gate
        if gate is not None and not force:
            return await gate.release(timeout=timeout)
        if not force:
            raise NotHeld(self._text)
        exists = compare.exists(self.name)
        return await self._home.run(_remove(self._home, exists, self.name, timeout))

    async def _close(self, limit: float) -> Gate:
        nonce = self._nonce()
        clock = self._home.env.clock
        deadline = clock.mono() + limit
        try:
            marked = await self._home.core.markers.run(
                (compare.missing(self.name),),
                (op.put(self.name, nonce),),
                (op.get(self.name),),
                timeout=limit,
            )
        except AmbiguousResult as unknown:
            # Without a marker (no right to `_coord/`, or its lease has ended) our nonce may tell.
            left = max(0.0, deadline - clock.mono())
            try:
                found = await self._home.core.kv.get(self.name, timeout=left)
            except (Unavailable, CoordTimeout):
                raise unknown from None
            if found is None or found.value != nonce:
                raise
            return Gate(self._home, self.name, found.create_revision, None)
        if marked.applied:
            return Gate(self._home, self.name, marked.revision, None)
        items = () if marked.result is None else marked.result.range(0).items
        self._refuse(items[0] if items else None)
        raise Unavailable(f"barrier {self._text!r} was neither closed nor open")

    def _refuse(self, other: KeyValue | None) -> None:
        if other is not None:
            raise BarrierHeld(self._text, other.create_revision)

    async def _close_leased(self, limit: float) -> Gate:
        entry: Entry | None = None
        scope = asyncio.timeout(limit)
        try:
            async with scope:
                session = await self._home.session_or_default(self._session)
                session.check()
                nonce = self._nonce()
                entry = Entry(
                    self._home,
                    session,
                    self.name,
                    self.name,
                    recipe=BARRIER,
                    is_ours=lambda value: value == nonce,
                )
                await entry.create((op.put(self.name, nonce, lease=session.lease_id),))
                self._refuse(entry.other)
                return Gate(
                    self._home, self.name, entry.token, _LeasedGate(self._home, entry, None)
                )
        except BaseException as error:
            if entry is not None:
                entry.give_up(None)
            if isinstance(error, TimeoutError) and scope.expired():
                raise BarrierTimeout(f"closing barrier {self._text!r}", limit) from None
            raise

    def _nonce(self) -> bytes:
        return format(self._home.env.rand.bits(64), "016x").encode()

    # -- for those who wait ----------------------------------------------------------------------------------------

    async def wait(self, *, timeout: float | None = None) -> None:
        """Return when the gate is open, at once if it is.

        Who has found it closed returns after the next opening, even if it is closed again at the same moment.
        Raises :class:`BarrierTimeout` after ``timeout`` seconds. A cancelled wait leaves nothing behind.
        """
        check_timeout(timeout)
        waiting = observed_wait(
            BARRIER,
            BARRIER.wait,
            self._text,
            lambda: self._wait(timeout),
            clock=self._home.env.clock,
        )
        await self._home.run(waiting)

    async def is_closed(self, *, timeout: float | None = None) -> bool:
        """Return whether the gate is closed, as of now (linearizable)."""
        return await self._home.run(self._look(timeout)) is not None

    async def _wait(self, timeout: float | None) -> None:
        seen = 0

        async def condition() -> Done[None] | Watch:
            nonlocal seen
            result = await self._home.txn.run((), (op.get(self.name, keys_only=True),))
            items = result.range(0).items
            # Another generation: it was open in between, and the event that told has been compacted away.
            if not items or seen not in (0, items[0].create_revision):
                return Done(None)
            seen = items[0].create_revision
            return Watch((Sight(self.name),), result.revision, ended=_opened)

        scope = asyncio.timeout(timeout)
        try:
            async with scope:
                await wait_until(self._home, condition, session=None)
        except TimeoutError:
            if not scope.expired():
                raise
            explain = f"closed with token {seen}" if seen else ""
            raise BarrierTimeout(
                f"waiting at barrier {self._text!r}", timeout, explain=explain
            ) from None

    async def _look(self, timeout: float | None) -> KeyValue | None:
        look = op.get(self.name, keys_only=True)
        result = await self._home.txn.run((), (look,), timeout=timeout)
        items = result.range(0).items
        return items[0] if items else None


def check_timeout(timeout: float | None) -> None:
    """Raise :class:`InvalidArgument` for a timeout below 0."""
    if timeout is not None and timeout < 0:
        raise InvalidArgument(f"timeout must be None or at least 0 seconds, not {timeout}")


def _opened(_: WatchEvent) -> Done[None]:
    return Done(None)


async def _remove(home: Coordination, when: Compare, key: bytes, timeout: float | None) -> bool:
    """Delete the key if ``when`` holds; say whether it did. Exactly once, whatever answers are lost (C4)."""
    marked = await home.core.markers.run((when,), (op.delete(key),), timeout=timeout)
    return marked.applied
