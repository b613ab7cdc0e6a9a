"""One place in the store's line for a name: enter, wait for the turn, leave, or abandon the attempt.

Shared by every recipe whose line is the keys under ``name/`` in order of their creation (spec recipes 3, layout of
Go's concurrency package).

A create whose answer is missing may still land later.
The *create fence* (C5) makes that harmless: each create also compares the fence key's mod revision, and giving up, or
leaving after an unanswered create, changes the fence, so that every copy still under way fails.
Where the store's rules deny the fence's keys, a reaper looks for late copies instead (C17).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from coord._telemetry import link_to_holder, note_cleanup, note_queue, wants_holder
from coord.errors import (
    AmbiguousResult,
    CoordError,
    CoordTimeout,
    InvalidArgument,
    LeaseNotFound,
    LostError,
    PermissionDenied,
    SessionError,
    SessionShared,
    Unavailable,
)
from coord.reaper import look_after
from coord.store import comparing as compare
from coord.store import operations as op
from coord.store.caller import Repeat
from coord.store.kv import SortBy
from coord.waiter import Done, Watch, wait_until, while_valid

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Literal

    from coord._telemetry import Recipe
    from coord.coordination import Coordination
    from coord.local_line import LocalLine
    from coord.session import Session
    from coord.store.comparing import Compare
    from coord.store.operations import Op
    from coord.store.txn import TxnResult
    from coord.store.values import KeyValue

META_PREFIX = b"_coord/"
_RETRY_LOW_S, _RETRY_HIGH_S = 0.05, 0.5
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


class Contender:
    """One attempt of one session to come first under one name. On the runtime's loop.

    ``is_ours`` tells from a value whether an entry under our key was made by this very attempt.
    """

    def __init__(
        self,
        home: Coordination,
        session: Session,
        name: bytes,
        *,
        recipe: Recipe,
        lost_error: type[LostError],
        is_ours: Callable[[bytes], bool],
    ) -> None:
        self._home = home
        self.session = session
        self.name = name
        self.prefix: bytes = name + b"/"
        lease = format(session.lease_id, "x").encode()
        self.key: bytes = self.prefix + lease
        self._gate = META_PREFIX + b"gate/" + lease + b"/" + name
        self.recipe = recipe
        self._lost_error = lost_error
        self._is_ours = is_ours
        self.token: int = 0
        self.entry: KeyValue | None = None
        """The entry that was found instead of created, if so."""
        self.behind: bytes | None = None
        """The key waited for, for messages."""
        self._doubtful = False
        self._was_denied = False
        self._first: Watch | None = None
        self._alone = False

    @property
    def text(self) -> str:
        """The name, for messages."""
        return self.name.decode(errors="backslashreplace")

    @property
    def doubtful(self) -> bool:
        """Whether an unanswered create may still land."""
        return self._doubtful

    def guard(self) -> Compare:
        """Return the comparison that holds exactly while our entry exists (C12)."""
        return compare.create_revision(self.key) == self.token

    # -- lining up -------------------------------------------------------------------------------------------------

    async def enter(self, value: bytes) -> None:
        """Create our entry, or find the one that an unanswered attempt created.

        Raises :class:`SessionExpired`, :class:`SessionShared`, and refusals of the store.
        """
        create: tuple[Op, ...] = (
            op.put(self.key, value, lease=self.session.lease_id),
            op.get_prefix(
                self.prefix,
                sort_by=SortBy.CREATE_REVISION,
                descending=True,
                limit=2,
                keys_only=True,
            ),
        )
        asks_holder = wants_holder(self.recipe)
        if asks_holder:
            # The first in line with its value, in the same request.
            create += (op.get_prefix(self.prefix, sort_by=SortBy.CREATE_REVISION, limit=1),)
        while self.token == 0:
            result = await self._create(create, (op.get(self.key), op.get(self._gate)))
            if result is None:
                continue
            if result.succeeded:
                self.token = result.revision
                others = [kv.key for kv in result.range(1).items if kv.key != self.key]
                self._alone = not others
                note_queue(self.recipe, result.range(1).count - 1)
                if others:
                    if asks_holder:
                        self._tell_holder(result)
                    self.behind = others[0]
                    self._first = Watch((others[0], self.key), result.revision)
                return
            self._adopt(result)

    def _tell_holder(self, result: TxnResult) -> None:
        for holder in result.range(2).items:
            link_to_holder(self.recipe, holder.key, holder.create_revision, holder.value)

    def _adopt(self, result: TxnResult) -> None:
        found = result.range(0).items
        if found:
            if not self._is_ours(found[0].value):
                raise SessionShared(self.text, self.session.lease_id)
            self.entry = found[0]
            self.token = found[0].create_revision
            return
        self._learn_gate(result)

    def _learn_gate(self, result: TxnResult) -> None:
        if len(result.responses) > 1:
            gate = result.range(1).items
            self.session.gate_revisions[self.name] = gate[0].mod_revision if gate else 0

    async def try_enter(self, value: bytes) -> bool:
        """Create our entry only if the line is empty: one request, nothing left behind otherwise."""
        create = (op.put(self.key, value, lease=self.session.lease_id),)
        look = (
            op.get_prefix(self.prefix, sort_by=SortBy.CREATE_REVISION, limit=1),
            op.get(self._gate),
        )
        while True:
            result = await self._create(create, look, empty=True)
            if result is None:
                continue
            if result.succeeded:
                self.token = result.revision
                self._alone = True
                return True
            first = result.range(0).items
            if first:
                if first[0].key != self.key or not self._is_ours(first[0].value):
                    link_to_holder(
                        self.recipe, first[0].key, first[0].create_revision, first[0].value
                    )
                    return False
                self.token = first[0].create_revision
                self._alone = True
                return True
            self._learn_gate(result)

    async def _create(
        self, then: tuple[Op, ...], otherwise: tuple[Op, ...], *, empty: bool = False
    ) -> TxnResult | None:
        """Send one create; None says that its answer is missing and that it is to be sent again."""
        self.session.check()
        gate = self.session.gate_revisions.get(self.name, 0)
        free = (
            compare.create_revision(self.prefix, prefix=True) == 0
            if empty
            else compare.create_revision(self.key) == 0
        )
        fenced = self._home.may_fence and not self._was_denied
        when = (free, compare.mod_revision(self._gate) == gate) if fenced else (free,)
        look = otherwise if fenced else otherwise[:1]
        doubt, self._doubtful = self._doubtful, True  # until an answer is here
        try:
            result = await while_valid(
                self.session, self._home.txn.run(when, then, look, repeat=Repeat.ONCE)
            )
        except PermissionDenied:
            self._doubtful = doubt
            # The name, or the fence? What is denied without the fence, too, is the name.
            if not fenced:
                raise
            self._was_denied = True
            return None
        except AmbiguousResult:
            await while_valid(self.session, self._home.pause(_RETRY_LOW_S, _RETRY_HIGH_S))
            return None
        except (Unavailable, CoordTimeout):
            self._doubtful = doubt
            await while_valid(self.session, self._home.pause(_RETRY_LOW_S, _RETRY_HIGH_S))
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

    # -- waiting ---------------------------------------------------------------------------------------------------

    async def wait_turn(self) -> None:
        """Wait until no older entry is left, confirmed by a transaction that saw our own entry alive."""
        if self._alone:
            self.session.check()
            return
        await wait_until(self._home, self._look, session=self.session, first=self._first)

    async def _look(self) -> Done[None] | Watch:
        ahead = op.get_prefix(
            self.prefix,
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
            raise self._lost_error(self.text, self.token, "revoked")
        items = result.range(0).items
        if not items:
            return Done(None)
        self.behind = items[0].key
        return Watch((items[0].key, self.key), result.revision)

    # -- leaving ---------------------------------------------------------------------------------------------------

    async def leave(self) -> None:
        """Remove our entry, and fence off any copy of its create; repeated until done or the session has ended."""
        await self._until_done("release", self._leave_once)

    async def _leave_once(self) -> None:
        fence: tuple[Op, ...] = ()
        if self._doubtful and self._home.may_fence:
            fence = (op.put(self._gate, _EMPTY, lease=self.session.lease_id),)
        result = await self._home.txn.run(
            (self.guard(),), (op.delete(self.key), *fence), fence, repeat=Repeat.IDEMPOTENT
        )
        if fence:
            self.session.gate_revisions[self.name] = result.revision
        elif self._doubtful:
            self._doubtful = False
            look_after(self._home, self)

    async def has_landed(self) -> bool:
        """Look whether an entry of ours is there, and take note of it."""
        found = await self._home.core.kv.get(self.key)
        self.token = found.create_revision if found and self._is_ours(found.value) else 0
        return self.token != 0

    def give_up(self, line: LocalLine) -> None:
        """Abandon the attempt in the background; the next one in the local ``line`` waits for that."""
        line.give_up()

        async def abandon() -> None:
            try:
                await self.abandon()
            finally:
                line.leave()

        if self._home.background(abandon(), name="abandon") is None:
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
                (op.put(self._gate, _EMPTY, lease=self.session.lease_id), op.get(self.key)),
                repeat=Repeat.IDEMPOTENT,
            )
            self._doubtful = False
            self.session.gate_revisions[self.name] = result.revision
            found = result.range(1).items
            self.token = found[0].create_revision if found and self._is_ours(found[0].value) else 0
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
                await step()
            except LeaseNotFound:
                self.session.expire("lease not found")
                return False
            except (Unavailable, AmbiguousResult, CoordTimeout):
                await self._home.pause(_RETRY_LOW_S, _RETRY_HIGH_S)
            except (SessionError, CoordError):
                return False  # refused for good (rights, closed client): the lease's end removes the entry
            else:
                return True
        return False
