"""What a reader or a writer holds, and the downgrade from the one to the other."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from typing_extensions import override

from coord.errors import ClientClosed, CoordError, InvalidArgument, LockLost, LockTimeout
from coord.grants import Grant

if TYPE_CHECKING:
    from coord.coordination import Coordination
    from coord.errors import LostError
    from coord.recipes.rwlock.place import Place


class ReadGrant(Grant):
    """The right to read. Its token tells which writers it comes after: all those with smaller ones."""

    lost_error: type[LostError] = LockLost

    def __init__(self, home: Coordination, place: Place, owner: str) -> None:
        super().__init__(home, place, None)
        _note_reader(self, place.name, owner)

    @override
    async def _release(self) -> bool:
        _forget_reader(self, self._entry.name)
        return await super()._release()


class WriteGrant(Grant):
    """The right to write, alone; its token is higher than that of every grant before it."""

    lost_error: type[LostError] = LockLost

    def __init__(self, home: Coordination, place: Place, owner: str) -> None:
        super().__init__(home, place, None)
        self._place = place
        self._owner = owner
        self._is_shared = False
        self._telling: asyncio.Task[object] | None = None
        self._refusal: CoordError | None = None

    @property
    def downgraded(self) -> bool:
        """Whether ``downgrade()`` has begun: from then on it is a right to read."""
        return self._is_shared

    async def downgrade(self, *, timeout: float | None = None) -> None:
        """Go on as a reader, without letting any writer in between; token and validity stay.

        For a grant of ``write(downgradable=True)``. Raises :class:`InvalidArgument` for others,
        :class:`LockLost` when it is lost, :class:`NotHeld` after the release.
        It is a right to read from the first instant; returns when the store knows, and other readers come in.
        After ``timeout`` seconds raises :class:`LockTimeout`. Once it has begun (see :attr:`downgraded`) the store is
        told all the same, in the background, also when the caller is cancelled; a second call waits for the same.
        """
        check_timeout(timeout)
        await self._home.run(self._downgrade(timeout))

    async def _downgrade(self, timeout: float | None) -> None:
        self.check()
        if not self._is_shared:
            if not self._place.beside:
                raise InvalidArgument(
                    f"the write grant of {self.name!r} has no read entry to fall back on: acquire it with"
                    " write(downgradable=True)"
                )
            self._become_reader()
        if self._telling is None:
            self._telling = self._home.background(self._tell_store(), name="downgrade")
        if self._telling is None:
            raise ClientClosed
        scope = asyncio.timeout(timeout)
        try:
            async with scope:
                await self._home.ended(self._telling)
        except TimeoutError:
            if not scope.expired():
                raise
            raise LockTimeout(f"downgrade of {self.name!r}", timeout) from None
        self.check()
        if self._refusal is not None:
            self._telling = None  # the next call may try again
            raise self._refusal

    def _become_reader(self) -> None:
        self._is_shared = True
        # The deletion of the write entry is no loss any more; that of the read entry is one from now on.
        watching, self._watching = self._watching, None
        if watching is not None:
            watching.cancel()
        self._timer.cancel()
        self._place.become_reader()
        self.key: bytes = self._place.key
        self._start_watching()
        _note_reader(self, self._place.name, self._owner)

    async def _tell_store(self) -> None:
        self._refusal = None
        try:
            if not await self._place.stop_writing():
                self._lose("revoked")
        except CoordError as error:
            self._refusal = error

    @override
    async def _release(self) -> bool:
        _forget_reader(self, self._entry.name)
        return await super()._release()


def _note_reader(grant: Grant, name: bytes, owner: str) -> None:
    grant.session.readers.setdefault(name, {})[grant] = owner


def _forget_reader(grant: Grant, name: bytes) -> None:
    readers = grant.session.readers.get(name)
    if readers is not None and readers.pop(grant, None) is not None and not readers:
        del grant.session.readers[name]


def check_timeout(timeout: float | None) -> None:
    """Raise :class:`InvalidArgument` for a time that is none."""
    if timeout is not None and timeout < 0:
        raise InvalidArgument(f"timeout must be None or at least 0 seconds, not {timeout}")
