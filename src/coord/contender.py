"""One place in the store's line for a name: enter, wait for the turn, leave, or abandon the attempt.

Shared by every recipe whose line is the keys under ``name/`` in order of their creation (spec recipes 3, layout of
Go's concurrency package).
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from coord._telemetry import link_to_holder, note_queue, wants_holder
from coord.entry import Entry
from coord.errors import LostError, SessionShared
from coord.roster import note_length
from coord.store import comparing as compare
from coord.store import operations as op
from coord.store.kv import SortBy
from coord.waiter import Done, Watch, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from coord._telemetry import Recipe
    from coord.coordination import Coordination
    from coord.session import Session
    from coord.store.operations import Op
    from coord.store.txn import TxnResult
    from coord.store.values import KeyValue


@lru_cache(maxsize=256)  # a lock is mostly taken again and again
def _newest(prefix: bytes) -> Op:
    """Return the reading of the last in line and of who is before it."""
    return op.get_prefix(
        prefix, sort_by=SortBy.CREATE_REVISION, descending=True, limit=2, keys_only=True
    )


class Contender(Entry):
    """One attempt of one session to come first under one name. On the runtime's loop."""

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
        self.prefix: bytes = name + b"/"
        key = self.prefix + format(session.lease_id, "x").encode()
        super().__init__(home, session, name, key, recipe=recipe, is_ours=is_ours)
        self._lost_error = lost_error
        self.behind: bytes | None = None
        """The key waited for, for messages."""
        self.after: int = 0
        """Create revision of the entry last waited for, 0 if there was none."""
        self._first: Watch | None = None
        self._alone: bool = False

    # -- lining up -------------------------------------------------------------------------------------------------

    async def enter(self, value: bytes) -> None:
        """Create our entry, or find the one that an unanswered attempt created.

        Raises :class:`SessionExpired`, :class:`SessionShared`, and refusals of the store.
        """
        create: tuple[Op, ...] = (
            op.put(self.key, value, lease=self.session.lease_id),
            _newest(self.prefix),
        )
        asks_holder = wants_holder(self.recipe)
        if asks_holder:
            # The first in line with its value, in the same request.
            create += (op.get_prefix(self.prefix, sort_by=SortBy.CREATE_REVISION, limit=1),)
        result = await self.create(create)
        if self.token == 0:
            raise SessionShared(self.text, self.session.lease_id)
        if not result.succeeded:
            return  # who is ahead of the adopted entry, the first look tells
        others = [kv for kv in result.range(1).items if kv.key != self.key]
        self._alone = not others
        note_queue(self.recipe, result.range(1).count - 1)
        note_length(self._home.core, self.name, result.range(1).count)
        if others:
            if asks_holder:
                self._tell_holder(result)
            self._first = self.watch_behind(others[0], result.revision)

    def _tell_holder(self, result: TxnResult) -> None:
        for holder in result.range(2).items:
            link_to_holder(self.recipe, holder.key, holder.create_revision, holder.value)

    async def try_enter(self, value: bytes) -> bool:
        """Create our entry only if the line is empty: one request, nothing left behind otherwise."""
        result = await self.create(
            (op.put(self.key, value, lease=self.session.lease_id),),
            (op.get_prefix(self.prefix, sort_by=SortBy.CREATE_REVISION, limit=1),),
            also=(compare.create_revision(self.prefix, prefix=True) == 0,),
        )
        self._alone = self.token != 0
        if not self._alone:
            for first in result.range(0).items:
                link_to_holder(self.recipe, first.key, first.create_revision, first.value)
        return self._alone

    # -- waiting ---------------------------------------------------------------------------------------------------

    async def wait_turn(self) -> None:
        """Wait until no older entry is left, confirmed by a transaction that saw our own entry alive."""
        if self._alone:
            self.session.check()
            return
        await wait_until(self._home, self._look, session=self.session, first=self._first)

    async def _look(self) -> Done[None] | Watch:
        result = await self._home.txn.run((self.guard(),), (self.ahead(),))
        if not result.succeeded:
            await self.raise_lost(self._lost_error)
        items = result.range(0).items
        if not items:
            return Done(None)
        return self.watch_behind(items[0], result.revision)

    def watch_behind(self, kv: KeyValue, revision: int) -> Watch:
        """Return what to wait for when ``kv`` is right before us."""
        self.behind, self.after = kv.key, kv.create_revision
        return Watch((kv.key, self.key), revision)

    def ahead(self) -> Op:
        """Read the entry right before ours."""
        return op.get_prefix(
            self.prefix,
            max_create_revision=self.token - 1,
            sort_by=SortBy.CREATE_REVISION,
            descending=True,
            limit=1,
            keys_only=True,
        )

    def look_again(self) -> None:
        """Ask who is before us, whatever earlier requests told."""
        self._first = None
