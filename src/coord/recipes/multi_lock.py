"""Several mutexes taken at once, in any order of names (spec recipes 6).

One transaction creates the entries under all names, so they have one create revision.
Whoever waits, waits only for entries with smaller revisions; so among those who hold nothing else, nobody can wait for
each other in a circle, whichever names they want.
Each entry is one of :class:`coord.Mutex`: the two exclude each other, and other clients of that layout as well.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from typing_extensions import override

from coord._telemetry import MULTI_LOCK, link_to_holder, note_queue, observed_wait, wants_holder
from coord.entry import Entry, check_name
from coord.errors import (
    CoordError,
    InvalidArgument,
    LockLost,
    LockTimeout,
    SessionShared,
)
from coord.grants import Grant, Hold
from coord.local_line import LocalLines
from coord.locking.deadlock import Detector, circle
from coord.locking.trouble import last_store_error
from coord.locking.waits import Agent
from coord.metadata import metadata, nonce, parse
from coord.names import Names, as_text
from coord.roster import note_length
from coord.runtime.threads import task_identity
from coord.store import comparing as compare
from coord.store import operations as op
from coord.store.kv import SortBy
from coord.waiter import Done, Watch, wait_until, while_valid

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

    from coord._telemetry import Recipe
    from coord.coordination import Coordination
    from coord.errors import LostError
    from coord.grants import OnLoss
    from coord.session import Session
    from coord.store.comparing import Compare
    from coord.store.operations import Op
    from coord.store.txn import TxnResult
    from coord.store.values import KeyValue

T = TypeVar("T")

MOST_NAMES = 40
"""Three operations for each in one transaction, of the 128 that etcd allows."""


class TooManyNames(InvalidArgument):
    """A multi-lock was to have more than 40 names, which one transaction cannot take. Nothing was sent."""

    def __init__(self, count: int) -> None:
        self.count = count
        super().__init__(f"a multi-lock takes at most {MOST_NAMES} names, not {count}")


class _Entries(Entry):
    """One attempt of one session to come first under several names. On the runtime's loop.

    The entries are created together and removed together, so one create fence, that of the first name, is enough.
    """

    def __init__(
        self,
        home: Coordination,
        session: Session,
        names: tuple[bytes, ...],
        *,
        recipe: Recipe,
        is_ours: Callable[[bytes], bool],
    ) -> None:
        leaf = b"/" + format(session.lease_id, "x").encode()
        self.keys: tuple[bytes, ...] = tuple([name + leaf for name in names])
        self.names: tuple[bytes, ...] = names
        super().__init__(home, session, names[0], self.keys[0], recipe=recipe, is_ours=is_ours)
        self.behind: tuple[KeyValue, ...] = ()
        """The nearest entry before ours under each name that has one, without values."""
        self._first: Watch | None = None

    @property
    @override
    def text(self) -> str:
        """The names, for messages."""
        return shown(self.names)

    @override
    def guards(self) -> tuple[Compare, ...]:
        """Return the comparisons that all hold exactly while all our entries exist."""
        return tuple([compare.create_revision(key) == self.token for key in self.keys])

    @override
    def _removal(self) -> tuple[tuple[Op, ...], tuple[Op, ...]]:
        whole = tuple([op.delete(key) for key in self.keys])
        parts = [
            op.txn((guard,), (remove,)) for guard, remove in zip(self.guards(), whole, strict=True)
        ]
        return whole, tuple(parts)

    @override
    def _own_reads(self) -> tuple[Op, ...]:
        return tuple([op.get(key) for key in self.keys])

    # -- lining up -------------------------------------------------------------------------------------------------

    async def enter(self, value: bytes) -> None:
        """Create all entries, or find those that an unanswered attempt created.

        Raises :class:`SessionExpired`, :class:`SessionShared`, and refusals of the store.
        """
        count = len(self.names)
        newest = [
            op.get_prefix(
                name + b"/",
                sort_by=SortBy.CREATE_REVISION,
                descending=True,
                limit=2,
                keys_only=True,
            )
            for name in self.names
        ]
        asks_holders = wants_holder(self.recipe)
        result = await self.create(
            (*self._puts(value), *newest, *(self._holders() if asks_holders else ())),
            tuple([op.get(key) for key in self.keys[1:]]),
            also=tuple([compare.create_revision(key) == 0 for key in self.keys[1:]]),
        )
        # Somebody may have removed the first of our entries before we knew of them.
        if not self.token and not self._note_landed(result, 0):
            raise SessionShared(self.text, self.session.lease_id)
        if not result.succeeded:
            return  # who is ahead of adopted entries, the first look tells
        lines = [result.range(count + n) for n in range(count)]
        for name, line in zip(self.names, lines, strict=True):
            note_length(self._home.core, name, line.count)
        note_queue(self.recipe, max(line.count for line in lines) - 1)
        ahead = [kv for line in lines for kv in line.items if kv.key not in self.keys]
        if asks_holders and ahead:
            self._tell_holders(result, 2 * count)
        self._first = self._stand_behind(ahead, result.revision)

    async def try_enter(self, value: bytes) -> bool:
        """Create all entries, but only if all lines are empty: one request, nothing left behind otherwise."""
        empty = [compare.create_revision(name + b"/", prefix=True) == 0 for name in self.names]
        result = await self.create(self._puts(value), self._holders(), also=tuple(empty))
        if not self.token:
            self._tell_holders(result, 0)
        return self.token != 0

    def _puts(self, value: bytes) -> tuple[Op, ...]:
        return tuple([op.put(key, value, lease=self.session.lease_id) for key in self.keys])

    def _holders(self) -> tuple[Op, ...]:
        """Return what reads the first entry under each name."""
        first = SortBy.CREATE_REVISION
        return tuple([op.get_prefix(name + b"/", sort_by=first, limit=1) for name in self.names])

    def _tell_holders(self, result: TxnResult, place: int) -> None:
        for n in range(len(self.names)):
            for kv in result.range(place + n).items:
                if kv.key not in self.keys:
                    link_to_holder(self.recipe, kv.key, kv.create_revision, kv.value)

    # -- waiting ---------------------------------------------------------------------------------------------------

    async def wait_turn(self) -> None:
        """Wait until no older entry is left under any name, by a transaction that saw all our own."""
        if self._first is not None and not self.behind:
            self.session.check()
            return
        await wait_until(self._home, self._look, session=self.session, first=self._first)

    async def _look(self) -> Done[None] | Watch:
        ahead = [
            op.get_prefix(
                name + b"/",
                max_create_revision=self.token - 1,
                sort_by=SortBy.CREATE_REVISION,
                descending=True,
                limit=1,
                keys_only=True,
            )
            for name in self.names
        ]
        result = await self._home.txn.run(self.guards(), tuple(ahead))
        if not result.succeeded:
            await self.raise_lost(LockLost)
        found = [kv for n in range(len(self.names)) for kv in result.range(n).items]
        watch = self._stand_behind(found, result.revision)
        return watch if found else Done(None)

    def _stand_behind(self, ahead: list[KeyValue], revision: int) -> Watch:
        self.behind = tuple(ahead)
        return Watch((*[kv.key for kv in ahead], *self.keys), revision)


class MultiLockGrant(Grant):
    """All names of a multi-lock, held together. Losing one of them is losing all."""

    lost_error: type[LostError] = LockLost

    def __init__(self, home: Coordination, entries: _Entries, lines: LocalLines) -> None:
        super().__init__(home, entries, lines)
        self.names: tuple[bytes, ...] = entries.names
        """The names, in order."""
        self.keys: tuple[bytes, ...] = entries.keys
        """The key in the store for each of the names; :attr:`key` is the first."""

    @override
    def guard(self) -> Compare:
        """Raise :class:`InvalidArgument` unless there is one name only: all must be compared, see :meth:`guards`."""
        if len(self.keys) > 1:
            raise InvalidArgument(
                "one comparison cannot guard several names: put *grant.guards() into when(), or use grant.txn()"
            )
        return super().guard()

    @override
    async def _deletion(self) -> None:
        """Return when one of our entries is gone."""

        async def look() -> Done[None] | Watch:
            result = await self._look()
            return Watch(self.keys, result.revision) if result.succeeded else Done(None)

        first = Watch(self.keys, self.token)
        await wait_until(self._home, look, session=None, first=first)


class MultiLock:
    """Several named locks, taken all at once or not at all. Made by ``client.multi_lock(names)``; may be shared.

    A grant has one token for all names; in each name's order of grants, it rises.
    """

    def __init__(
        self,
        home: Coordination,
        names: Iterable[str | bytes],
        *,
        session: Session | None = None,
        detect_deadlocks: bool = False,
        label: str | None = None,
    ) -> None:
        self._home = home
        self.names: tuple[bytes, ...] = tuple([home.claim(name) for name in _checked(names)])
        """The names, sorted and each once, as they stand in the store."""
        self._text = shown(self.names)
        self._session = session
        self._detects = detect_deadlocks
        self._label = label

    async def acquire(self, *, timeout: float | None = None) -> MultiLockGrant:
        """Wait until all names are ours at once, and return the grant.

        Raises :class:`LockTimeout` after ``timeout`` seconds, :class:`SessionExpired` as soon as the session ends,
        :class:`LockLost` when somebody deletes an entry of ours while we wait.
        A cancelled or failed wait leaves no place in any line, as :meth:`Mutex.acquire` does.
        """
        return await self.acquire_for(task_identity(), timeout=timeout)

    async def acquire_for(self, owner: str, *, timeout: float | None) -> MultiLockGrant:
        """Acquire on behalf of ``owner``, the identity that inspection goes by."""
        if timeout is not None and timeout < 0:
            raise InvalidArgument(f"timeout must be None or at least 0 seconds, not {timeout}")
        waiting = self._observed(MULTI_LOCK.wait, lambda: self._acquire(owner, timeout))
        return await self._home.run(waiting, discard=MultiLockGrant.discard)

    async def try_acquire(self) -> MultiLockGrant | None:
        """Take all names if all are free, else return None: one request, which leaves nothing behind."""
        return await self.try_acquire_for(task_identity())

    async def try_acquire_for(self, owner: str) -> MultiLockGrant | None:
        """Try on behalf of ``owner``."""
        trying = self._observed(MULTI_LOCK.attempt, lambda: self._try_acquire(owner))
        return await self._home.run(trying, discard=_discard)

    def hold(
        self, *, timeout: float | None = None, on_loss: OnLoss = "cancel"
    ) -> Hold[MultiLockGrant]:
        """Return an ``async with`` that acquires, yields the grant and releases; see :class:`coord.Hold`."""
        return Hold(self._home, lambda: self.acquire(timeout=timeout), on_loss)

    def _observed(
        self, what: str, make: Callable[[], Coroutine[Any, Any, T]]
    ) -> Coroutine[Any, Any, T]:
        return observed_wait(MULTI_LOCK, what, self._text, make, clock=self._home.env.clock)

    async def _acquire(self, owner: str, timeout: float | None) -> MultiLockGrant:
        begun: list[_Entries] = []
        detector: Detector | None = None
        scope = asyncio.timeout(timeout)
        try:
            async with scope:
                session = await self._home.session_or_default(self._session)
                session.check()
                waiting = self._contend(session, owner, begun)
                if self._detects:
                    detector = Detector(self._home, self._text, Agent(session.lease_id, owner))
                    waiting = detector.watch_over(waiting)
                return await waiting
        except TimeoutError:
            if not scope.expired():
                raise
            known = [_in_the_way(begun), last_store_error(self._home.core)]
            explain = "; ".join([part for part in known if part])
            if detector is not None and detector.suspected:
                explain += f"; this may be a circle: {circle(detector.suspected)}"
            raise LockTimeout(f"acquire of {self._text}", timeout, explain=explain) from None

    async def _contend(self, session: Session, owner: str, begun: list[_Entries]) -> MultiLockGrant:
        """Wait without limit. ``begun`` gets the attempt, once there is one."""
        lines = await while_valid(session, LocalLines.join(session, self.names, owner))
        entries, value = self._entries(session, owner)
        begun.append(entries)
        try:
            await entries.enter(value)
            await entries.wait_turn()
            return MultiLockGrant(self._home, entries, lines)
        except BaseException:
            entries.give_up(lines)
            raise

    async def _try_acquire(self, owner: str) -> MultiLockGrant | None:
        session = await self._home.session_or_default(self._session)
        session.check()
        limit = self._home.core.options.request_timeout
        try:
            async with asyncio.timeout(limit):
                joining = LocalLines.try_join(session, self.names, owner)
                lines = await while_valid(session, joining)
                if lines is None:
                    return None
                entries, value = self._entries(session, owner)
                try:
                    taken = await entries.try_enter(value)
                except BaseException:
                    entries.give_up(lines)
                    raise
        except CoordError:
            raise
        except TimeoutError:
            raise LockTimeout(f"try_acquire of {self._text}", limit) from None
        if taken:
            return MultiLockGrant(self._home, entries, lines)
        if entries.doubtful:  # a copy of the create may still be under way
            entries.give_up(lines)
        else:
            lines.leave()
        return None

    def _entries(self, session: Session, owner: str) -> tuple[_Entries, bytes]:
        """Return a new attempt and the value of its entries."""
        own = nonce(self._home)
        entries = _Entries(
            self._home,
            session,
            self.names,
            recipe=MULTI_LOCK,
            is_ours=lambda value: parse(value).get("nonce") == own,
        )
        return entries, metadata(self._home, own, owner, label=self._label).encode()


def shown(names: tuple[bytes, ...]) -> str:
    """Return names for messages."""
    return ", ".join([repr(as_text(name)) for name in names])


def _checked(names: Iterable[str | bytes]) -> list[bytes]:
    """Return the names sorted and each once.

    Raises :class:`InvalidArgument`, :class:`TooManyNames`, and :class:`NameConflict` when the entries of one would lie
    in the line of another.
    """
    if isinstance(names, (str, bytes)):
        raise InvalidArgument("a multi-lock takes several names, such as ['a', 'b'], not one")
    found = sorted({check_name(name) for name in names})
    if not found:
        raise InvalidArgument("a multi-lock needs at least one name")
    if len(found) > MOST_NAMES:
        raise TooManyNames(len(found))
    known = Names()
    for name in found:
        known.claim(name)
    return found


def _in_the_way(begun: list[_Entries]) -> str:
    """Say which entries were waited for."""
    if not begun:
        return "another task of this session holds one of them or waits before us"
    behind = [
        f"{kv.key.decode(errors='backslashreplace')} (token {kv.create_revision})"
        for kv in begun[0].behind
    ]
    return f"waiting behind {', '.join(behind)}" if behind else ""


def _discard(grant: MultiLockGrant | None) -> None:
    if grant is not None:
        grant.discard()
