"""One attempt to read or to write: its entries, and whom it waits for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from coord._telemetry import RWLOCK, link_to_holder, note_queue, wants_holder
from coord.entry import Entry
from coord.errors import AmbiguousResult, CoordTimeout, LockLost, Unavailable
from coord.metadata import nonce
from coord.store import comparing as compare
from coord.store import operations as op
from coord.store.caller import Repeat
from coord.store.kv import SortBy
from coord.waiter import RETRY_HIGH_S, RETRY_LOW_S, Done, Watch, wait_until, while_valid

if TYPE_CHECKING:
    from coord.coordination import Coordination
    from coord.session import Session
    from coord.store.comparing import Compare
    from coord.store.operations import Op
    from coord.store.txn import TxnResult
    from coord.store.values import KeyValue

Mode = Literal["read", "write"]


class Place(Entry):
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
            self.stand_on(self.key, beside=(folder + b"read" + leaf,))
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
        self.stand_on(read, beside=(self.key,))

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
            self.stand_on(read, beside=())
            return True
