"""A leased key of ours that stays: put again when its session has ended, or when others have deleted it.

Shared by the recipes whose entries stand for something that is there, not for something exclusive: registrations of
services and members of groups (spec recipes 8 and 15).
What is wanted (a value, or nothing) is separate from what is in the store. One task at a time makes the second equal
to the first, so that updates, health, healing and leaving cannot get into each other's way.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from coord._telemetry import note_loss
from coord.entry import Entry
from coord.errors import (
    AmbiguousResult,
    ClientClosed,
    CoordError,
    CoordTimeout,
    NotHeld,
    SessionError,
    Unavailable,
)
from coord.local_line import LocalLine
from coord.names import as_text
from coord.runtime import Backoff
from coord.session import Session
from coord.signals import OneShot
from coord.store import comparing as compare
from coord.store import operations as op
from coord.store.caller import Repeat
from coord.waiter import Done, Watch, wait_until, while_valid

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Literal

    from coord._telemetry import Recipe
    from coord.coordination import Coordination
    from coord.store.values import KeyValue

    OnRemoved = Literal["restore", "stop"]

TAKEN_OVER = "taken over by another"
"""Why a presence is lost whose key somebody else has."""
# Long enough for somebody who takes the key over to delete it and create his own.
_RESTORE_LOW_S, _RESTORE_HIGH_S = 0.1, 0.5
_RETRY_FIRST_S, _RETRY_MAX_S = 0.1, 5.0
# Of the TTL, over which those whose sessions ended at the same time come back (spec recipes 2, *Herd*).
_SPREAD = 0.5


class KeyTaken(CoordError):
    """Another process has the key. ``holder`` is its pair; None when it is this client itself."""

    def __init__(self, key: bytes, holder: KeyValue | None) -> None:
        self.key = key
        self.holder = holder
        super().__init__(f"{key!r} is taken")


class Presence:
    """One key, from :meth:`open` to :meth:`leave`. On the runtime's loop, except what says otherwise.

    ``ttl``: None shares the client's default session, else it has a session of its own. With ``session`` it lives with
    that one, whose owner closes it.
    ``is_ours`` tells from a value whether it was written by this very object.
    ``heals``: whether it outlives its session; its key then stays in the store until it is put again, or its lease ends.
    ``on_removed``: what to do when others have deleted the key.
    ``token``, ``lost`` and ``is_shown`` may be read from any thread.
    """

    def __init__(
        self,
        home: Coordination,
        key: bytes,
        *,
        recipe: Recipe,
        is_ours: Callable[[bytes], bool],
        ttl: int | None = None,
        session: Session | None = None,
        heals: bool = True,
        on_removed: OnRemoved = "restore",
    ) -> None:
        self._home = home
        self.key: bytes = key
        self.text: str = as_text(key)
        self.recipe: Recipe = recipe
        self._is_ours = is_ours
        self._ttl = ttl
        self._given = session
        self._heals = heals
        self._on_removed = on_removed
        self._own: Session | None = None
        # Own ones that have ended; the key may still be under the lease of one.
        self._before: list[Session] = []
        self._entry: Entry | None = None
        self._line: LocalLine | None = None
        self._want: bytes | None = None
        self._written: bytes | None = None
        self._turn = asyncio.Lock()
        self._keeper: asyncio.Task[object] | None = None
        self._left = False
        self.token: int = 0
        """The create revision of the key's present or last life."""
        self.revision: int = 0
        """The revision of the last write of ours that the store has confirmed."""
        self.lost: OneShot = OneShot(home.runtime, f"loss of {self.text}")
        """Fires once, with the reason, when it is gone and will not come back."""

    @property
    def is_shown(self) -> bool:
        """Whether the key is in the store, as far as we know."""
        return self._entry is not None

    @property
    def is_over(self) -> bool:
        """Whether it was left or lost."""
        return self._left or self.lost.is_set()

    # -- coming ----------------------------------------------------------------------------------------------------

    async def open(self, value: bytes, *, takeover: bool) -> None:
        """Put the key for the first time. After an error or a cancellation nothing is left, or soon nothing.

        Raises :class:`KeyTaken`, :class:`SessionError`, :class:`Unavailable`, and refusals of the store.
        """
        self._want = value
        try:
            async with self._turn:
                await self._appear(takeover=takeover)
        except BaseException:
            self._left = True
            self._home.background(self._close_own(), name="presence-drop")
            raise

    async def _session(self) -> Session:
        if self._ttl is None:
            return await self._home.session_or_default(self._given)
        if self._own is None or self._own.valid_for() <= 0:
            own = Session(self._home, ttl=self._ttl, name=self.text)
            # After an outage in which everybody's session has ended, entries stay until they are taken along: were
            # all leases revoked, everybody would be gone at once.
            own.spares_lease = self._heals
            await own.open()
            if self._own is not None:
                self._before.append(self._own)
            self._own = own
        return self._own

    def _drop_before(self) -> None:
        """Let go of the sessions before this one: nothing under their leases is wanted any more."""
        before, self._before = self._before, []
        for session in before:
            session.drop_lease()

    async def _appear(self, *, takeover: bool) -> None:
        session = await self._session()
        session.check()
        # One object at a time has a key in one session; whoever has given it up is waited for.
        line = await while_valid(session, LocalLine.try_join(session, self.key))
        if line is None:
            raise KeyTaken(self.key, None)
        entry = Entry(
            self._home, session, self.key, self.key, recipe=self.recipe, is_ours=self._is_ours
        )
        try:
            value = await self._create(entry, takeover=takeover)
        except BaseException:
            entry.give_up(line)
            raise
        self._entry, self._line, self._written = entry, line, value
        self.token = entry.token
        self._drop_before()
        self._keeper = self._home.background(self._keep(entry), name="presence")

    async def _create(self, entry: Entry, *, takeover: bool) -> bytes:
        """Create the key, or adopt what an unanswered attempt has made of it; return its value."""
        session = entry.session
        while True:
            value = self._want or b""
            await entry.create((op.put(self.key, value, lease=session.lease_id),))
            found, entry.entry = entry.entry, None
            if found is not None and found.lease == session.lease_id:
                self.revision = found.mod_revision
                return found.value
            if found is None and entry.token:
                self.revision = entry.token
                return value
            # What is there is somebody else's, or ours of a session before, which will vanish with its lease.
            if found is not None and session is self._own:
                await self._take_along(session, found, value)
                continue
            other, entry.other, entry.token = found or entry.other, None, 0
            if other is not None:
                if found is None and not takeover:
                    raise KeyTaken(self.key, other)
                await self._clear(session, other)

    async def _take_along(self, session: Session, found: KeyValue, value: bytes) -> None:
        """Put our own key of a session before under the present lease: there is no moment in which it is gone.

        When that fails, or an answer is missing, the next create tells. Whoever gives the attempt up deletes the key,
        by the create revision that it keeps.
        """
        with contextlib.suppress(Unavailable, AmbiguousResult, CoordTimeout):
            await while_valid(
                session,
                self._home.txn.run(
                    (compare.mod_revision(self.key) == found.mod_revision,),
                    (op.put(self.key, value, lease=session.lease_id),),
                    repeat=Repeat.IDEMPOTENT,
                ),
            )

    async def _clear(self, session: Session, found: KeyValue) -> None:
        """Delete a key as it was found; when that fails, or an answer is missing, the next create tells.

        Deleted and created again, not overwritten: a put would keep the create revision, by which the one before
        still takes the key for its own, and would delete ours.
        """
        with contextlib.suppress(Unavailable, AmbiguousResult, CoordTimeout):
            await while_valid(
                session,
                self._home.txn.run(
                    (compare.mod_revision(self.key) == found.mod_revision,),
                    (op.delete(self.key),),
                    repeat=Repeat.IDEMPOTENT,
                ),
            )

    # -- staying ---------------------------------------------------------------------------------------------------

    async def _keep(self, entry: Entry) -> None:
        """Wait until the key is gone, and see to it that it comes back."""
        session = entry.session
        removed = False
        try:
            await wait_until(
                self._home,
                lambda: self._look(entry),
                session=session,
                first=Watch((self.key,), max(entry.token, self.revision)),
            )
            removed = True
        except SessionError:
            pass
        except (
            CoordError
        ):  # the rights were taken away: the session's end is all that can be noticed
            await session.expired.wait()
        await self._gone(entry, removed=removed)

    async def _look(self, entry: Entry) -> Done[None] | Watch:
        result = await self._home.txn.run((entry.guard(),), ())
        return Watch((self.key,), result.revision) if result.succeeded else Done(None)

    async def _gone(self, entry: Entry, *, removed: bool) -> None:
        async with self._turn:
            if self._entry is not entry or self._left:
                return
            self._forget()
            if removed:
                with contextlib.suppress(CoordError):
                    await (
                        entry.session.confirm_lost()
                    )  # a lease that was revoked takes its keys along
        session = entry.session
        ended = session.valid_for() <= 0
        if self._home.core.closing.is_set():
            return
        if ended and not self._heals:
            self.lose(f"its session ended: {session.expired.reason}")
        elif not ended and self._on_removed == "stop":
            self.lose("revoked")
        elif ended:
            await self._home.pause(0, session.ttl * _SPREAD)
            await self._come_back()
        else:
            await self._home.pause(_RESTORE_LOW_S, _RESTORE_HIGH_S)
            await self._come_back()

    async def _come_back(self) -> None:
        """Put the key again, as soon as that succeeds."""
        backoff = Backoff(self._home.env.rand, _RETRY_FIRST_S, _RETRY_MAX_S)
        while True:
            try:
                async with self._turn:
                    if self.is_over or self._entry is not None or self._want is None:
                        return
                    await self._appear(takeover=False)
                    return
            except KeyTaken:
                self.lose(TAKEN_OVER)
                return
            except ClientClosed:
                return
            except (
                CoordError
            ):  # the store is out of reach, or full, or its rights are being changed
                await backoff.pause()

    def _forget(self) -> None:
        """Let go of an entry that is gone."""
        line, self._line, self._entry = self._line, None, None
        if line is not None:
            line.leave()

    def lose(self, reason: str) -> None:
        """Declare it gone for good."""
        if not self._left and self.lost.set(reason):
            note_loss(self.recipe, reason)
            self._home.background(self._close_own(), name="presence-drop")

    # -- changing --------------------------------------------------------------------------------------------------

    async def show(self, value: bytes | None, *, timeout: float | None = None) -> None:
        """Have the key with this value, or no key at all (None), until told otherwise.

        Raises :class:`NotHeld` when it was left or lost, or has gone to somebody else meanwhile, and what a write
        raises; what is wanted stays wanted then, and is written when the key comes back.
        """
        self._check()
        self._want = value
        scope = asyncio.timeout(timeout)
        try:
            async with scope, self._turn:
                self._check()
                await self._adjust()
        except KeyTaken as error:
            self.lose(TAKEN_OVER)
            raise NotHeld(self.text) from error
        except TimeoutError as error:
            if isinstance(error, CoordError) or not scope.expired():
                raise
            raise CoordTimeout(f"writing {self.text!r}", timeout) from None

    def _check(self) -> None:
        if self.is_over:
            raise NotHeld(self.text)

    async def _adjust(self) -> None:
        if self._want is None:
            await self._disappear()
        elif self._entry is None:
            await self._appear(takeover=False)
        if self._entry is not None and self._want not in (None, self._written):
            await self._write(self._entry, self._want or b"")

    async def _write(self, entry: Entry, value: bytes) -> None:
        """Write a new value over the one that we know of, so that a late copy of an older write cannot."""
        while True:
            result = await self._home.txn.run(
                (entry.guard(), compare.mod_revision(self.key) == self.revision),
                (op.put(self.key, value, lease=entry.session.lease_id),),
                (op.get(self.key),),
                repeat=Repeat.IDEMPOTENT,
            )
            if result.succeeded:
                self._written, self.revision = value, result.revision
                return
            found = result.range(0).items
            if not found or found[0].create_revision != entry.token:
                # Gone: whoever watches the key brings it back, with what is wanted now.
                return
            self.revision = found[0].mod_revision
            if found[0].value == value:  # a copy of this very request was first
                self._written = value
                return

    async def _disappear(self) -> None:
        entry = self._entry
        if entry is not None:
            self._stop_keeping()
            await entry.leave()
            self._forget()
        self._drop_before()
        if self._own is not None:
            self._own.drop_lease()

    def _stop_keeping(self) -> None:
        keeper, self._keeper = self._keeper, None
        if keeper is not None and keeper is not asyncio.current_task():
            keeper.cancel()

    # -- leaving ---------------------------------------------------------------------------------------------------

    async def leave(self) -> bool:
        """Remove the key for good; False if it was lost before. From any loop; a second call returns at once.

        Waits until the store has confirmed or the session has ended. Cancelling the caller does not stop it.
        """
        return await self._home.run(self._leave())

    async def _leave(self) -> bool:
        if self._left:
            return not self.lost.is_set()
        self._left = True
        self._stop_keeping()
        if self._line is not None:
            self._line.give_up()  # who comes meanwhile waits for us
        task = self._home.background(self._give_back(), name="presence-leave")
        if task is not None:
            with contextlib.suppress(ClientClosed):  # its end takes the key along
                await self._home.ended(task)
        return not self.lost.is_set()

    async def _give_back(self) -> None:
        async with self._turn:
            await self._disappear()
            self._forget()
        await self._close_own()

    async def _close_own(self) -> None:
        own, self._own = self._own, None
        self._drop_before()
        if own is not None:
            own.drop_lease()
            with contextlib.suppress(CoordError):
                await own.shut()

    def discard(self) -> None:
        """Leave in the background: nobody is left to use it."""
        self._home.background(self._leave(), name="discard")
