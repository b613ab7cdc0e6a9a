"""Many readers or one writer, fenced, with an atomic downgrade (spec recipes 4; layout of Go's recipes.RWMutex).

Each attempt has an entry of its own: ``name/read/<id>`` or ``name/write/<id>``, in order of creation.
A reader runs when no older write entry is left, a writer when no older entry is; so a writer that waits holds back the
readers behind it, and nobody starves.
Entries are never changed after their creation: other readers of this layout go by modification revisions.

A *downgradable* writer makes a read entry in the same transaction as its write entry.
Downgrading deletes the write entry; the read entry keeps the place that it has had all along, so no writer comes in
between.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from typing_extensions import override

from coord._telemetry import RWLOCK, link_to_holder, note_queue, observed_wait, wants_holder
from coord.entry import RETRY_HIGH_S, RETRY_LOW_S, Entry, check_name, settled
from coord.errors import (
    AmbiguousResult,
    ClientClosed,
    CoordError,
    CoordTimeout,
    InvalidArgument,
    LockLost,
    LockTimeout,
    Unavailable,
)
from coord.grants import Grant, Hold
from coord.metadata import metadata, nonce, parse, place_of, to_json
from coord.mutex import LineEntry
from coord.roster import roster
from coord.runtime.threads import task_identity
from coord.store import comparing as compare
from coord.store import operations as op
from coord.store.caller import Repeat
from coord.store.kv import SortBy
from coord.waiter import Done, Watch, wait_until, while_valid

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from coord.coordination import Coordination
    from coord.errors import LostError
    from coord.grants import OnLoss
    from coord.session import Session
    from coord.store.comparing import Compare
    from coord.store.operations import Op
    from coord.store.txn import TxnResult
    from coord.store.values import KeyValue

T = TypeVar("T")

Mode = Literal["read", "write"]
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


# -- one attempt ---------------------------------------------------------------------------------------------------


class _Place(Entry):
    """One attempt to read or to write. On the runtime's loop."""

    def __init__(
        self,
        home: Coordination,
        session: Session,
        name: bytes,
        mode: Mode,
        *,
        downgradable: bool = False,
    ) -> None:
        self.nonce: str = nonce(home)
        leaf = f"/{session.lease_id:x}-{self.nonce}".encode()
        folder = name + b"/"
        # The nonce is in the key: whatever stands there is ours.
        super().__init__(
            home,
            session,
            name,
            folder + mode.encode() + leaf,
            recipe=RWLOCK,
            is_ours=lambda _: True,
        )
        if downgradable:
            self.beside = (folder + b"read" + leaf,)
        self._in_way = folder if mode == "write" else folder + b"write/"
        self._ours_in_way = 1 + len(self.beside) if mode == "write" else 0
        self.behind: bytes | None = None
        """The key waited for, for messages."""
        self._first: Watch | None = None
        self._alone = False

    def _puts(self, value: bytes) -> tuple[Op, ...]:
        lease = self.session.lease_id
        return tuple([op.put(key, value, lease=lease) for key in (self.key, *self.beside)])

    def _oldest(self, *, below: int = 0) -> Op:
        return op.get_prefix(
            self._in_way, sort_by=SortBy.CREATE_REVISION, limit=1, max_create_revision=below
        )

    async def enter(self, value: bytes) -> None:
        """Create our entry, or find the one that an unanswered attempt created."""
        puts = self._puts(value)
        newest = op.get_prefix(
            self._in_way,
            sort_by=SortBy.CREATE_REVISION,
            descending=True,
            limit=1 + self._ours_in_way,
            keys_only=True,
        )
        asks_holder = wants_holder(self.recipe)
        then = (*puts, newest, self._oldest()) if asks_holder else (*puts, newest)
        absent = tuple([compare.create_revision(key) == 0 for key in self.beside])
        result = await self.create(then, also=absent)
        if self.token == 0:
            raise LockLost(self.text, 0, "revoked")
        if not result.succeeded:
            return  # who is ahead of the adopted entry, the first look tells
        found = result.range(len(puts))
        others = [kv.key for kv in found.items if kv.key not in (self.key, *self.beside)]
        self._alone = not others
        note_queue(self.recipe, found.count - self._ours_in_way)
        if others:
            if asks_holder:
                self._link(result, len(puts) + 1)
            self.behind = others[0]
            self._first = Watch((others[0], self.key), result.revision)

    async def try_enter(self, value: bytes) -> bool:
        """Create our entry only if nothing is in the way: one request, nothing left behind otherwise."""
        free: tuple[Compare, ...] = (compare.create_revision(self._in_way, prefix=True) == 0,)
        result = await self.create(self._puts(value), (self._oldest(),), also=free)
        self._alone = self.token != 0
        if not self._alone:
            self._link(result, 0)
        return self._alone

    def _link(self, result: TxnResult, place: int) -> None:
        for holder in result.range(place).items:
            link_to_holder(self.recipe, holder.key, holder.create_revision, holder.value)

    async def wait_turn(self) -> None:
        """Wait until nothing older is in the way, confirmed by a transaction that saw our own entry alive."""
        if self._alone:
            self.session.check()
            return
        await wait_until(self._home, self._look, session=self.session, first=self._first)

    async def _look(self) -> Done[None] | Watch:
        ahead = op.get_prefix(
            self._in_way,
            max_create_revision=self.token - 1,
            sort_by=SortBy.CREATE_REVISION,
            descending=True,
            limit=1,
            keys_only=True,
        )
        result = await self._home.txn.run((self.guard(),), (ahead,))
        if not result.succeeded:
            await self.session.confirm_lost()
            self.session.check()
            raise LockLost(self.text, self.token, "revoked")
        items = result.range(0).items
        if not items:
            return Done(None)
        self.behind = items[0].key
        return Watch((items[0].key, self.key), result.revision)

    async def oldest_in_way(self) -> KeyValue | None:
        """Read the entry that has been in the way for longest."""
        below = self.token - 1 if self.token else 0
        items = (await self._home.txn.run((), (self._oldest(below=below),))).range(0).items
        return items[0] if items else None

    # -- downgrading -----------------------------------------------------------------------------------------------

    def become_reader(self) -> None:
        """Let the read entry stand for us; the write entry is beside it until the store has deleted it."""
        (read,) = self.beside
        self.key, self.beside = read, (self.key,)

    async def stop_writing(self) -> bool:
        """Delete the write entry, sent again until the store has answered; False when the read entry is gone.

        Raises :class:`SessionExpired`, and refusals of the store.
        """
        read, (written,) = self.key, self.beside
        # Sent again, it finds the write entry gone and the read entry there, which says the same.
        both = tuple([compare.create_revision(key) == self.token for key in (written, read)])
        while True:
            self.session.check()
            try:
                result = await while_valid(
                    self.session,
                    self._home.txn.run(
                        both, (op.delete(written),), (op.get(read),), repeat=Repeat.IDEMPOTENT
                    ),
                )
            except (Unavailable, AmbiguousResult, CoordTimeout):
                await while_valid(self.session, self._home.pause(RETRY_LOW_S, RETRY_HIGH_S))
                continue
            if not result.succeeded and not result.range(0).items:
                return False
            self.beside = ()
            return True


# -- what is held --------------------------------------------------------------------------------------------------


class ReadGrant(Grant):
    """The right to read. Its token tells which writers it comes after: all those with smaller ones."""

    lost_error: type[LostError] = LockLost

    def __init__(self, home: Coordination, place: _Place, owner: str) -> None:
        super().__init__(home, place, None)
        _note_reader(self, place.name, owner)

    @override
    async def _release(self) -> bool:
        _forget_reader(self, self._entry.name)
        return await super()._release()


class WriteGrant(Grant):
    """The right to write, alone; its token is higher than that of every grant before it."""

    lost_error: type[LostError] = LockLost

    def __init__(self, home: Coordination, place: _Place, owner: str) -> None:
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
        After ``timeout`` seconds raises :class:`LockTimeout`; the store is told all the same, in the background, also
        when the caller is cancelled. A second call waits for the same.
        """
        _check_timeout(timeout)
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
                await asyncio.shield(self._telling)
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
        self.key = self._place.key
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


def _check_timeout(timeout: float | None) -> None:
    if timeout is not None and timeout < 0:
        raise InvalidArgument(f"timeout must be None or at least 0 seconds, not {timeout}")


# -- the lock ------------------------------------------------------------------------------------------------------

G = TypeVar("G", ReadGrant, WriteGrant)


class _Side(Generic[G]):
    """One of the two ways to take a lock; holds nothing by itself, so it may be shared and kept."""

    _mode: Mode

    def __init__(
        self, home: Coordination, name: bytes, session: Session | None, *, downgradable: bool
    ) -> None:
        self._home = home
        self.name: bytes = name
        """The lock's name, as it stands in the store."""
        self._text = name.decode(errors="backslashreplace")
        self._session = session
        self._downgradable = downgradable

    def _grant(self, place: _Place, owner: str) -> G:
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
        _check_timeout(timeout)
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

    async def _begin(self, owner: str) -> _Place:
        session = await self._home.session_or_default(self._session)
        session.check()
        if self._mode == "write":
            readers = session.readers.get(self.name, {})
            if any(owner == reader and grant.valid_for() > 0 for grant, reader in readers.items()):
                raise UpgradeRefused(self._text)
        return _Place(self._home, session, self.name, self._mode, downgradable=self._downgradable)

    def _value(self, place: _Place, owner: str) -> bytes:
        return to_json(metadata(self._home, place.nonce, owner)).encode()

    async def _acquire(self, owner: str, timeout: float | None) -> G:
        place: _Place | None = None
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
    def _grant(self, place: _Place, owner: str) -> ReadGrant:
        return ReadGrant(self._home, place, owner)


class WriteLock(_Side[WriteGrant]):
    """The writers' side of a lock. Made by ``rwlock.write()``."""

    _mode: Mode = "write"

    @override
    def _grant(self, place: _Place, owner: str) -> WriteGrant:
        return WriteGrant(self._home, place, owner)


@dataclass(frozen=True, slots=True, kw_only=True)
class RWEntry(LineEntry):
    """One who reads, writes, or waits to."""

    mode: Mode


@dataclass(frozen=True, slots=True, kw_only=True)
class RWState:
    """A read-write lock as of one revision: who reads, who writes, and who waits, first in line first."""

    readers: tuple[RWEntry, ...]
    writer: RWEntry | None
    waiting: tuple[RWEntry, ...]


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
        return _state(self.name, line)


def _state(name: bytes, line: tuple[KeyValue, ...]) -> RWState:
    """Tell who runs and who waits from the entries in order of their creation."""
    folders: dict[bytes, Mode] = {name + b"/read/": "read", name + b"/write/": "write"}

    def mode_of(kv: KeyValue) -> Mode | None:
        return next((mode for folder, mode in folders.items() if kv.key.startswith(folder)), None)

    writing = {kv.create_revision for kv in line if mode_of(kv) == "write"}
    readers: list[RWEntry] = []
    writers: list[RWEntry] = []
    waiting: list[RWEntry] = []
    for kv in line:
        mode = mode_of(kv)
        if mode is None or (mode == "read" and kv.create_revision in writing):
            continue  # not of this lock, or the read entry of a writer
        entry = RWEntry(
            key=kv.key,
            token=kv.create_revision,
            lease_id=kv.lease,
            metadata=parse(kv.value),
            mode=mode,
        )
        if mode == "read" and not writers and not waiting:
            readers.append(entry)
        elif mode == "write" and not writers and not readers:
            writers.append(entry)
        else:
            waiting.append(entry)
    return RWState(
        readers=tuple(readers), writer=writers[0] if writers else None, waiting=tuple(waiting)
    )


def _discard(grant: ReadGrant | WriteGrant | None) -> None:
    if grant is not None:
        grant.discard()


async def _explain(place: _Place | None) -> str:
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
    key, who = first.key.decode(errors="backslashreplace"), place_of(parse(first.value))
    return f"{behind}; first in the way is {key} (token {first.create_revision}{who})"
