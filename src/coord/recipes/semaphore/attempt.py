"""One attempt to get permits: its entry, and its way from the end of the line to the grant."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from coord._telemetry import SEMAPHORE, link_to_holder, note_queue, wants_holder
from coord.entry import Entry, nested
from coord.errors import AmbiguousResult, CoordTimeout, LeaseNotFound
from coord.metadata import metadata, nonce
from coord.recipes.semaphore.entries import ADVICE, MOST_READ, PermitLost, entry_of, limit_of
from coord.store import comparing as compare
from coord.store import operations as op
from coord.store.caller import Repeat
from coord.store.keys import prefix_range
from coord.store.kv import SortBy
from coord.store.paging import Pages
from coord.waiter import Done, Sight, Watch, wait_until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from coord.coordination import Coordination
    from coord.recipes.semaphore.entries import Limit, Names, PermitEntry
    from coord.session import Session
    from coord.store.comparing import Compare
    from coord.store.operations import Op
    from coord.store.txn import TxnResult
    from coord.store.values import KeyValue


@dataclass(frozen=True, slots=True)
class View:
    """What a request has told of an attempt: the entries before it, and the limit, as of ``revision``."""

    granted: bool
    """Whether our own entry says so."""
    before: PermitEntry | None
    """The next older entry."""
    held: int
    """The permits that those before us hold; meaningless unless we are the head."""
    limit: Limit | None
    revision: int


class Attempt(Entry):
    """One attempt to get permits. On the runtime's loop."""

    def __init__(
        self, home: Coordination, session: Session, names: Names, permits: int, owner: str
    ) -> None:
        own = nonce(home)
        # The nonce is in the key: whatever stands there is ours.
        super().__init__(
            home,
            session,
            names.name,
            names.holders + f"{session.lease_id:x}-{own}".encode(),
            recipe=SEMAPHORE,
            is_ours=lambda _: True,
        )
        self.permits = permits
        self._names = names
        self._meta = metadata(home, own, owner)
        self._view: View | None = None
        self.last: View | None = None
        """What was known when it last looked, for messages."""

    def _put(self, state: Literal["granted", "waiting"]) -> Op:
        value = f'{{"permits":{self.permits},"state":"{state}","meta":{self._meta}}}'
        return op.put(self.key, value, lease=self.session.lease_id)

    def _looks(self, limit: Limit | None, *, below: int, newest: int) -> tuple[Op, ...]:
        """Read the newest entries, those that may hold permits, and the limit."""
        most = MOST_READ if limit is None else min(limit.value + 1, MOST_READ)
        holders, by = self._names.holders, SortBy.CREATE_REVISION
        return (
            op.get_prefix(
                holders, sort_by=by, descending=True, limit=newest, max_create_revision=below
            ),
            op.get_prefix(holders, sort_by=by, limit=most, max_create_revision=below),
            op.get(self._names.limit),
        )

    async def enter(self, limit: Limit) -> bool:
        """Create our entry: granted if nobody else is there, else in line. Say whether it is granted."""
        fits: tuple[Compare, ...] = (compare.mod_revision(self._names.limit) == limit.revision,)
        if self.permits > limit.value:
            fits = (compare.version(self._names.limit) < 0,)  # never
        result = await self.create(
            (self._put("granted"),),
            also=(compare.create_revision(self._names.holders, prefix=True) == 0, *fits),
            instead=(self._put("waiting"), *self._looks(limit, below=0, newest=2)),
        )
        if self.token == 0:
            raise PermitLost(self.text, 0, "revoked")
        if result.succeeded:
            note_queue(self.recipe, 0)
            return True
        inner = nested(result)
        if inner.succeeded:
            # The outer answer's revision: the inner one has none.
            self._view = self.last = await self._seen(inner, result.revision, granted=False)
            note_queue(self.recipe, inner.range(1).count - 1)
            self._link(inner.range(2).items)
            return False
        # An earlier, unanswered attempt had made it; it says how far it came.
        return self.entry is not None and entry_of(self.entry).state == "granted"

    def _link(self, oldest: Iterable[KeyValue]) -> None:
        if wants_holder(self.recipe):
            for kv in oldest:
                holder = entry_of(kv)
                if holder.key != self.key:
                    said = json.dumps(dict(holder.metadata)).encode()
                    link_to_holder(self.recipe, holder.key, holder.token, said)
                return

    async def _seen(self, result: TxnResult, revision: int, *, granted: bool) -> View:
        """Take in the answers of :meth:`_looks`, which come second, as of ``revision``."""
        newest = [kv for kv in result.range(1).items if kv.create_revision < self.token]
        before = entry_of(newest[0]) if newest else None
        oldest = result.range(2)
        held = 0
        if before is None or before.state == "granted":
            items = [kv for kv in oldest.items if kv.create_revision < self.token]
            if oldest.more and len(items) == len(oldest.items):
                items = await self._all_before(revision)
            held = sum([entry_of(kv).permits for kv in items])
        return View(granted, before, held, limit_of(result.range(3)), revision)

    async def _all_before(self, revision: int) -> list[KeyValue]:
        pages = Pages(self._home.core.kv, prefix_range(self._names.holders), revision=revision)
        found = [kv async for page in pages for kv in page.items if kv.create_revision < self.token]
        self._home.core.key_counts.note(f"semaphore {self.text!r}", len(found), ADVICE)
        return found

    async def try_enter(self, limit: Limit, revision: int) -> bool:
        """Create our entry as granted, if nobody has come since ``revision`` and the limit is still the same."""
        await self.create(
            (self._put("granted"),),
            also=(
                compare.mod_revision(self._names.holders, prefix=True) < revision + 1,
                compare.mod_revision(self._names.limit) == limit.revision,
            ),
        )
        return self.token != 0

    # -- waiting ---------------------------------------------------------------------------------------------------

    async def wait_turn(self, follow: Callable[[Limit | None], Awaitable[object]]) -> None:
        """Wait until the permits are ours. ``follow`` is told the limit as it is seen, and may make a missing one."""

        async def look() -> Done[None] | Watch:
            while True:
                view, self._view = self._view or await self._read(), None
                self.last = view
                await follow(view.limit)
                if view.granted:
                    return Done(None)
                if view.before is not None and view.before.state == "waiting":
                    return Watch((Sight(view.before.key, on="any"), self.key), view.revision)
                if view.limit is None or view.held + self.permits > view.limit.value:
                    # Whoever leaves may make room, and our own entry is among them.
                    leaving = Sight(self._names.holders, prefix=True)
                    return Watch((leaving, Sight(self._names.limit, on="any")), view.revision)
                if await self._grant(view.limit):
                    return Done(None)

        await wait_until(self._home, look, session=self.session)

    async def _read(self) -> View:
        limit = None if self.last is None else self.last.limit
        looks = self._looks(limit, below=self.token - 1, newest=1)
        result = await self._home.txn.run((self.guard(),), (op.get(self.key), *looks))
        if not result.succeeded:
            await self.session.confirm_lost()
            self.session.check()
            raise PermitLost(self.text, self.token, "revoked")
        (own,) = result.range(0).items
        granted = entry_of(own).state == "granted"
        return await self._seen(result, result.revision, granted=granted)

    async def _grant(self, limit: Limit) -> bool:
        """Say in our entry that it is granted, if the limit is still the same. False: look again."""
        same = compare.mod_revision(self._names.limit) == limit.revision
        try:
            result = await self._home.txn.run(
                (self.guard(), same), (self._put("granted"),), repeat=Repeat.IDEMPOTENT
            )
        except (AmbiguousResult, CoordTimeout):
            return False  # the entry itself tells
        except LeaseNotFound:
            self.session.expire("lease not found")
            self.session.check()
            raise
        return result.succeeded
