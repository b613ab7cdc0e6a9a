"""One leased key of ours under a recipe's name: created once whatever answers are lost, and surely gone afterwards.

Shared by every recipe that stands for something with a key of its session (spec recipes C3 to C5): a place in a line, a
permit, a registration, a claim.

A create whose answer is missing may still land later.
The *create fence* (C5) makes that harmless: each create also compares the fence key's mod revision, and giving up, or
leaving after an unanswered create, changes the fence, so that every copy still under way fails.
Where the store's rules deny the fence's keys, a reaper looks for late copies instead (C17).
"""

from __future__ import annotations

import asyncio
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from coord._telemetry import note_cleanup
from coord.errors import (
    AmbiguousResult,
    CoordError,
    CoordTimeout,
    InvalidArgument,
    LeaseNotFound,
    PermissionDenied,
    ProtocolError,
    SessionError,
    Unavailable,
)
from coord.names import as_text
from coord.reaper import look_after
from coord.store import comparing as compare
from coord.store import operations as op
from coord.store.caller import Repeat
from coord.store.txn import TxnResult
from coord.waiter import RETRY_HIGH_S, RETRY_LOW_S, while_valid

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Literal, NoReturn

    from coord._telemetry import Recipe
    from coord.coordination import Coordination
    from coord.errors import LostError
    from coord.local_line import Turn
    from coord.session import Session
    from coord.store.comparing import Compare
    from coord.store.operations import Op
    from coord.store.values import KeyValue

META_PREFIX = b"_coord/"
_EMPTY = b""


def check_name(name: str | bytes) -> bytes:
    """Return a recipe's name as bytes (C1). Raises :class:`InvalidArgument`."""
    if not isinstance(name, (str, bytes)):
        raise InvalidArgument(f"name must be str or bytes, not {type(name).__name__}")
    raw = name.encode() if isinstance(name, str) else name
    if not raw:
        raise InvalidArgument("name must not be empty")
    if b"\0" in raw:
        raise InvalidArgument("name must not contain a NUL byte")
    return raw


class _Asked(NamedTuple):
    """The parts of an entry's requests that depend on its keys alone."""

    free: Compare
    ours: Op
    gate: Op
    remove: Op


@lru_cache(maxsize=256)  # a lock is mostly taken again and again, by the same session
def _asked(key: bytes, gate: bytes) -> _Asked:
    free = compare.create_revision(key) == 0
    return _Asked(free, op.get(key), op.get(gate), op.delete(key))


class Entry:
    """One attempt of one session to have ``key``, which stands for something under ``name``. On the runtime's loop.

    ``is_ours`` tells from a value whether a key that is there already was made by this very attempt.
    """

    def __init__(
        self,
        home: Coordination,
        session: Session,
        name: bytes,
        key: bytes,
        *,
        recipe: Recipe,
        is_ours: Callable[[bytes], bool],
    ) -> None:
        self._home = home
        self.session = session
        self.name = name
        self.key: bytes = key
        lease = format(session.lease_id, "x").encode()
        self._gate = META_PREFIX + b"gate/" + lease + b"/" + name
        self._asked = _asked(key, self._gate)
        self.recipe = recipe
        self._is_ours = is_ours
        self.token: int = 0
        """The key's create revision, 0 before it is known to be ours."""
        self.entry: KeyValue | None = None
        """The key as an unanswered attempt of ours had made it, if so."""
        self.other: KeyValue | None = None
        """The key as somebody else had made it, if so."""
        self.farewell: tuple[Op, ...] = ()
        """What a release does besides, in the same transaction."""
        self.beside: tuple[bytes, ...] = ()
        """Further keys that the same create puts, and that go when ``key`` goes."""
        self._keys_put: tuple[bytes, ...] = (key,)
        self._doubtful = False
        self._sent_gate = 0
        self._was_denied = False

    @property
    def text(self) -> str:
        """The name, for messages."""
        return as_text(self.name)

    @property
    def doubtful(self) -> bool:
        """Whether an unanswered create may still land."""
        return self._doubtful

    def guard(self) -> Compare:
        """Return the comparison that holds exactly while our entry exists (C12)."""
        return compare.create_revision(self.key) == self.token

    def guards(self) -> tuple[Compare, ...]:
        """Return the comparisons that all hold exactly while all that we have exists."""
        return (self.guard(),)

    async def raise_lost(self, error: type[LostError]) -> NoReturn:
        """Raise for our entry, which somebody has deleted: :class:`SessionExpired` if that was the lease's end."""
        await self.session.confirm_lost()
        self.session.check()
        raise error(self.text, self.token, "revoked")

    def stand_on(self, key: bytes, *, beside: tuple[bytes, ...]) -> None:
        """Let another one of the keys that our create has put stand for us."""
        self.key, self.beside = key, beside
        self._asked = _asked(key, self._gate)

    # -- creating --------------------------------------------------------------------------------------------------

    async def create(
        self,
        then: tuple[Op, ...],
        otherwise: tuple[Op, ...] = (),
        *,
        also: tuple[Compare, ...] = (),
        instead: tuple[Op, ...] = (),
    ) -> TxnResult:
        """Run a transaction whose ``then`` puts our key, as often as it takes until the store says what became of it.

        Our key must be absent, and ``also`` must hold. If they don't, ``otherwise`` reads what the caller wants to
        know, and :attr:`token` is 0, unless an unanswered attempt of ours had made the key: that is adopted, and is in
        :attr:`entry`. A key of somebody else is in :attr:`other`.

        ``instead``, which puts our key too, is done when nothing but ``also`` is in the way; it is a transaction of
        its own, whose answer comes before those of ``otherwise`` and says whether it was.

        Returns the answer of the transaction that told. Raises :class:`SessionExpired`, and refusals of the store.
        """
        place = len(otherwise) + bool(instead)
        self.other = None
        while True:
            result = await self._create_once(then, otherwise, also, instead)
            if result is None:
                continue
            if result.succeeded or (instead and nested(result).succeeded):
                self.token = result.revision
                return result
            found = result.range(place).items
            if found:
                if self._is_ours(found[0].value):
                    self.entry = found[0]
                    self.token = found[0].create_revision
                else:
                    self.other = found[0]
                return result
            if not self._learn_gate(result, place + 1) and also:
                return result  # it was not the fence

    async def _create_once(
        self,
        then: tuple[Op, ...],
        otherwise: tuple[Op, ...],
        also: tuple[Compare, ...],
        instead: tuple[Op, ...],
    ) -> TxnResult | None:
        """Send one create; None says that its answer is missing and that it is to be sent again."""
        self.session.check()
        self._sent_gate = self.session.gate_revisions.get(self.name, 0)
        self._keys_put = (self.key, *self.beside)
        fenced = self._home.may_fence and not self._was_denied
        free: tuple[Compare, ...] = (self._asked.free,)
        look: tuple[Op, ...] = (*otherwise, self._asked.ours)
        if fenced:
            free += (compare.mod_revision(self._gate) == self._sent_gate,)
            look += (self._asked.gate,)
        if instead:
            look = (op.txn(free, instead), *look)
        doubt, self._doubtful = self._doubtful, True  # until an answer is here
        try:
            result = await while_valid(
                self.session, self._home.txn.run((*free, *also), then, look, repeat=Repeat.ONCE)
            )
        except PermissionDenied:
            self._doubtful = doubt
            # The name, or the fence? What is denied without the fence, too, is the name.
            if not fenced:
                raise
            self._was_denied = True
            return None
        except AmbiguousResult:
            await while_valid(self.session, self._home.pause(RETRY_LOW_S, RETRY_HIGH_S))
            return None
        except (Unavailable, CoordTimeout):
            self._doubtful = doubt
            await while_valid(self.session, self._home.pause(RETRY_LOW_S, RETRY_HIGH_S))
            return None
        except LeaseNotFound:
            self._doubtful = doubt
            self.session.expire("lease not found")
            self.session.check()
            raise
        self._doubtful = doubt
        if self._was_denied:
            self._home.go_without_fences()
        return result

    def _learn_gate(self, result: TxnResult, place: int) -> bool:
        """Take note of the fence as a failed create has read it, in the answer at ``place``; say if that is news."""
        if len(result.responses) <= place:
            return False
        gate = result.range(place).items
        seen = gate[0].mod_revision if gate else 0
        self.session.gate_revisions[self.name] = seen
        # Not what is known: another attempt under this name may have learnt it meanwhile.
        return seen != self._sent_gate

    # -- leaving ---------------------------------------------------------------------------------------------------

    async def leave(self) -> None:
        """Remove our entry, and fence off any copy of its create; repeated until done or the session has ended."""
        await self._until_done("release", self._leave_once)

    async def try_to_leave(self) -> None:
        """As :meth:`leave`, for a caller who calls that if this is cancelled: only then nothing is counted."""
        done = False
        try:
            done = await self._repeated(self._leave_once)
        except asyncio.CancelledError:
            raise
        except BaseException:
            note_cleanup(self.recipe, "release", done=False)
            raise
        note_cleanup(self.recipe, "release", done=done)

    async def leave_if(self, when: tuple[Compare, ...], then: tuple[Op, ...] = ()) -> TxnResult:
        """Remove our entry and run ``then`` if ``when`` holds as well; else nothing happens.

        The first response is that of the removal. Sent once, since a copy could not tell whether the one before it has
        removed the entry. Raises what a transaction raises; :meth:`leave` settles any doubt.
        """
        fence = self._fence()
        result = await self._home.txn.run(
            (self.guard(), *when), (self._asked.remove, *then, *fence), repeat=Repeat.ONCE
        )
        if result.succeeded:
            self._left(result, fence)
        return result

    async def _leave_once(self) -> None:
        fence = self._fence()
        whole, parts = self._removal()
        # Where somebody else has removed our entry, a copy of the create may have made it again before the fence.
        look = self._own_reads() if fence else ()
        result = await self._home.txn.run(
            self.guards(), (*whole, *fence), (*parts, *fence, *look), repeat=Repeat.IDEMPOTENT
        )
        self._left(result, fence)
        if fence:
            if not result.succeeded:
                await self._remove_landed(result, len(parts) + len(fence))
            self._doubtful = False

    async def _remove_landed(self, result: TxnResult, place: int) -> None:
        """Remove what a copy of our create has made, as :meth:`_own_reads` has found it. The token stays that of before."""
        landed = [
            op.txn((compare.create_revision(kv.key) == kv.create_revision,), (op.delete(kv.key),))
            for kv in self._found(result, place)
            if self._is_ours(kv.value)
        ]
        if landed:
            await self._home.txn.run((), tuple(landed), repeat=Repeat.IDEMPOTENT)

    def _fence(self) -> tuple[Op, ...]:
        """Return what stops an unanswered create from landing later."""
        if not (self._doubtful and self._home.may_fence):
            return ()
        return (op.put(self._gate, _EMPTY, lease=self.session.lease_id),)

    def _left(self, result: TxnResult, fence: tuple[Op, ...]) -> None:
        if fence:
            self.session.gate_revisions[self.name] = result.revision
        elif self._doubtful:
            self._doubtful = False
            look_after(self._home, self)

    def forget(self) -> None:
        """Begin anew after our entry has been removed: the next :meth:`create` makes another one."""
        self.token = 0
        self.entry = self.other = None

    def _removal(self) -> tuple[tuple[Op, ...], tuple[Op, ...]]:
        """Return what removes all that we have, and what removes the rest when a part of it is gone."""
        rest = tuple(
            [
                op.txn((compare.create_revision(key) == self.token,), (op.delete(key),))
                for key in self.beside
            ]
        )
        return (self._asked.remove, *self.farewell, *rest), rest

    def _own_reads(self) -> tuple[Op, ...]:
        """Return what reads all that we may have, also what does not stand for us any more."""
        return tuple([op.get(key) for key in self._keys_put])

    async def has_landed(self) -> bool:
        """Look whether an entry of ours is there, and take note of it."""
        return self._note_landed(await self._home.txn.run((), self._own_reads()), 0)

    def _note_landed(self, result: TxnResult, place: int) -> bool:
        """Take note of our entry as :meth:`_own_reads` has found it, in the answers from ``place`` on."""
        found = self._found(result, place)
        self.token = next((kv.create_revision for kv in found if self._is_ours(kv.value)), 0)
        return self.token != 0

    @staticmethod
    def _found(result: TxnResult, place: int) -> list[KeyValue]:
        return [kv for n in range(place, len(result.responses)) for kv in result.range(n).items]

    def give_up(self, line: Turn | None) -> None:
        """Abandon the attempt in the background; the next one in the local ``line``, if any, waits for that.

        Without a line :func:`settled` waits for it.
        """
        if line is not None:
            line.give_up()

        async def abandon() -> None:
            try:
                await self.abandon()
            finally:
                if line is not None:
                    line.leave()

        task = self._home.background(abandon(), name="abandon")
        if line is None:
            _note_leaving(self.session, self.name, task)
        elif task is None:
            line.leave()

    async def abandon(self) -> None:
        """Give the attempt up, whatever became of it; repeated until done or the session has ended."""
        if self._doubtful or self.token:
            await self._until_done("abandon", self._abandon_once)

    async def _abandon_once(self) -> None:
        if self._doubtful and not self._home.may_fence:
            if not await self.has_landed():
                self._doubtful = False
                look_after(self._home, self)
        elif self._doubtful:
            result = await self._home.txn.run(
                (),
                (op.put(self._gate, _EMPTY, lease=self.session.lease_id), *self._own_reads()),
                repeat=Repeat.IDEMPOTENT,
            )
            self._doubtful = False
            self.session.gate_revisions[self.name] = result.revision
            self._note_landed(result, 1)
        if self.token:
            await self._leave_once()

    async def _until_done(
        self, what: Literal["release", "abandon"], step: Callable[[], Awaitable[None]]
    ) -> None:
        done = False
        try:
            done = await self._repeated(step)
        finally:
            note_cleanup(self.recipe, what, done=done)

    async def _repeated(self, step: Callable[[], Awaitable[None]]) -> bool:
        """Repeat ``step`` until it is done; False when the end of the lease must do it."""
        while self.session.valid_for() > 0:
            try:
                await while_valid(self.session, step())
            except LeaseNotFound:
                self.session.expire("lease not found")
                return False
            except (Unavailable, AmbiguousResult, CoordTimeout):
                await self._home.pause(RETRY_LOW_S, RETRY_HIGH_S)
            except (SessionError, CoordError):
                return False  # refused for good (rights, closed client): the lease's end removes the entry
            else:
                return True
        return False


def nested(result: TxnResult) -> TxnResult:
    """Return the answer of the transaction inside a failed one, which :meth:`Entry.create` made of ``instead``."""
    inner = result.responses[0]
    if not isinstance(inner, TxnResult):
        raise ProtocolError("a transaction inside another one was answered by something else")
    return inner


def _note_leaving(session: Session, name: bytes, task: asyncio.Task[object] | None) -> None:
    if task is None:
        return
    leaving = session.leaving.setdefault(name, set())
    leaving.add(task)

    def left(task: asyncio.Task[object]) -> None:
        leaving.discard(task)
        if not leaving and session.leaving.get(name) is leaving:
            del session.leaving[name]

    task.add_done_callback(left)


async def settled(session: Session, name: bytes) -> None:
    """Wait until no attempt of this session under ``name`` is being abandoned: what it left is not in the way (C5)."""
    while leaving := session.leaving.get(name):
        await while_valid(session, asyncio.wait(leaving))
