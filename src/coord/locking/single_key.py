"""A lock that is one key, as many programs make themselves: whoever creates it has the lock (spec recipes 3).

There is no line: when the key goes, all who wait try at once, and any of them may win.
It is for fleets that move from such a lock; the key, not a key below it, is what the others create.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from coord._telemetry import link_to_holder, note_queue
from coord.entry import Entry
from coord.store import operations as op
from coord.waiter import Done, Watch, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from coord._telemetry import Recipe
    from coord.coordination import Coordination
    from coord.session import Session
    from coord.store.txn import TxnResult


class SingleKey(Entry):
    """One attempt of one session to create the key. On the runtime's loop; to be used as a ``Contender``."""

    def __init__(
        self,
        home: Coordination,
        session: Session,
        name: bytes,
        *,
        recipe: Recipe,
        is_ours: Callable[[bytes], bool],
    ) -> None:
        super().__init__(home, session, name, name, recipe=recipe, is_ours=is_ours)
        self.behind: bytes | None = None
        """The key waited for, for messages."""
        self.after: int = 0
        """Create revision of the entry last waited for, 0 if there was none."""
        self._value = b""
        self._first: Watch | None = None

    async def enter(self, value: bytes) -> None:
        """Create the key if it is free. Raises :class:`SessionExpired`, and refusals of the store."""
        self._value = value
        result = await self._attempt()
        note_queue(self.recipe, 0 if self.token else 1)
        if self.other is not None:
            link_to_holder(self.recipe, self.key, self.other.create_revision, self.other.value)
            self._first = Watch((self.key,), result.revision)

    async def try_enter(self, value: bytes) -> bool:
        """Create the key if it is free, and say whether it was: one request."""
        await self.enter(value)
        return self.token != 0

    async def wait_turn(self) -> None:
        """Wait until our create has succeeded."""
        if self.token:
            self.session.check()
            return
        await wait_until(self._home, self._look, session=self.session, first=self._first)

    async def _look(self) -> Done[None] | Watch:
        result = await self._attempt()
        return Done(None) if self.token else Watch((self.key,), result.revision)

    async def _attempt(self) -> TxnResult:
        result = await self.create((op.put(self.key, self._value, lease=self.session.lease_id),))
        if self.other is not None:
            self.behind, self.after = self.key, self.other.create_revision
        return result
