"""The transactions of one scheduler: every step of a tick, exactly once whatever answers are lost."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from coord.errors import AmbiguousResult, CoordTimeout, LeaseNotFound, Unavailable
from coord.recipes.cron.errors import TickLost
from coord.recipes.cron.job import TickRecord
from coord.recipes.cron.layout import (
    State,
    encode_record,
    is_running,
    tick_id,
    tick_time,
)
from coord.recipes.cron.tick import Tick, TickEntry
from coord.recipes.work_queue.tombstones import Tombstones
from coord.runtime import process_identity
from coord.store import comparing as compare
from coord.store import operations as op
from coord.store.caller import Repeat
from coord.waiter import RETRY_HIGH_S, RETRY_LOW_S

if TYPE_CHECKING:
    from coord.coordination import Coordination
    from coord.grants import Grant
    from coord.recipes.cron.job import Outcome
    from coord.recipes.cron.layout import Begun, JobDoc, Layout
    from coord.recipes.cron.rules import Lose, Skip, Start
    from coord.store.comparing import Compare
    from coord.store.operations import Op
    from coord.store.txn import TxnResult
    from coord.store.values import KeyValue

_MOST_AT_ONCE = 100
"""How many keys one transaction reads; a store allows 128."""


@dataclass(slots=True, kw_only=True)
class Page:
    """What a scheduler knows of one job. ``revision`` and ``doc_revision`` are what its transactions compare."""

    key: bytes
    doc: JobDoc
    doc_revision: int
    state: State
    revision: int = -1
    """Of the state; -1: not read yet, 0: there is none."""

    @property
    def is_read(self) -> bool:
        """Whether the state is known."""
        return self.revision >= 0

    def forget(self) -> None:
        """Have the state read again."""
        self.revision = -1


class Book:
    """Reads and writes the states and ticks of one cron. On the runtime's loop."""

    def __init__(
        self, home: Coordination, name: bytes, layout: Layout, *, history_s: float
    ) -> None:
        self._home = home
        self._name = name
        self._layout = layout
        self._leases = Tombstones(home, history_s)

    # -- reading ---------------------------------------------------------------------------------------------------

    async def read(self, pages: list[Page]) -> set[tuple[bytes, str]]:
        """Read the states of ``pages``; return which of their running ticks somebody runs, by job and tick."""
        for begin in range(0, len(pages), _MOST_AT_ONCE):
            part = pages[begin : begin + _MOST_AT_ONCE]
            result = await self._look([self._layout.state + page.key for page in part])
            for page, found in zip(part, result, strict=True):
                page.state = State() if found is None else State.decode(found.value)
                page.revision = 0 if found is None else found.mod_revision
        begun = [(page.key, tick) for page in pages for tick in page.state.running]
        alive: set[tuple[bytes, str]] = set()
        for begin in range(0, len(begun), _MOST_AT_ONCE):
            part_of = begun[begin : begin + _MOST_AT_ONCE]
            result = await self._look([self._layout.tick(job, tick) for job, tick in part_of])
            alive |= {
                each
                for each, found in zip(part_of, result, strict=True)
                if found is not None and is_running(found.value)
            }
        return alive

    async def _look(self, keys: list[bytes]) -> list[KeyValue | None]:
        result = await self._home.txn.run((), tuple([op.get(key) for key in keys]))
        return [next(iter(result.range(n).items), None) for n in range(len(keys))]

    # -- beginning -------------------------------------------------------------------------------------------------

    async def start(self, page: Page, owner: Grant, step: Start) -> Tick | None:
        """Begin a tick; None if the job, its state or its owner is not as it seemed, and nothing was begun.

        One start per tick: the tick's key must not be there, and the state must be the one that the tick follows from.
        """
        home, layout = self._home, self._layout
        nonce = format(home.env.rand.bits(64), "016x")
        entry = TickEntry(
            home, owner.session, self._name, layout, job=page.key, tick=step.tick, nonce=nonce
        )
        state = page.state.begun(step.tick, step.attempt, asked=step.asked)
        host, pid = process_identity()
        record = self.record(
            step.tick,
            "running",
            attempt=step.attempt,
            started_at=self.now(),
            missed_since=step.missed_since,
            host=host,
            pid=pid,
        )
        try:
            await entry.create(
                (
                    op.put(entry.key, encode_record(record, nonce), lease=owner.session.lease_id),
                    op.put(layout.state + page.key, state.encode()),
                ),
                also=self._as_seen(page, owner),
            )
        except BaseException:
            entry.give_up(None)
            raise
        if not entry.token:
            if entry.doubtful:  # a copy of the create may still be under way
                entry.give_up(None)
            if entry.other is not None and page.state.is_new(step.tick):
                # Run in an earlier life of the job, by a clock ahead of the one that has added it again.
                await self._pass_over(page, owner, step)
            page.forget()
            return None
        page.state, page.revision = state, entry.token
        return Tick(
            home,
            entry,
            page.doc.job,
            attempt=step.attempt,
            asked=step.asked or "." in step.tick,
            missed_since=step.missed_since,
        )

    async def _pass_over(self, page: Page, owner: Grant, step: Start) -> None:
        """Take note of a tick that has a key already, which nobody begins again."""
        state = page.state.begun(step.tick, 1, asked=step.asked).ended(step.tick)
        await self._home.txn.run(
            self._as_seen(page, owner),
            (op.put(self._layout.state + page.key, state.encode()),),
            repeat=Repeat.IDEMPOTENT,
        )

    def _as_seen(self, page: Page, owner: Grant) -> tuple[Compare, ...]:
        """Return what holds while the job, its state and its owner are as they seem."""
        return (
            compare.mod_revision(self._layout.state + page.key) == page.revision,
            compare.mod_revision(self._layout.jobs + page.key) == page.doc_revision,
            owner.guard(),
        )

    # -- leaving out -----------------------------------------------------------------------------------------------

    async def skip(self, page: Page, owner: Grant, step: Skip) -> None:
        """Leave ticks out, and note that in the history."""
        record = self.record(step.tick, "missed", missed_since=step.since)
        await self._note(page, owner, (), step.tick, record, page.state.missed(step.tick))

    async def lose(self, page: Page, owner: Grant, step: Lose) -> None:
        """Note that a tick is lost: whoever ran it is gone."""
        free = compare.create_revision(self._layout.tick(page.key, step.tick)) == 0
        record = self.record(step.tick, "lost", attempt=step.attempt, error="its scheduler is gone")
        await self._note(page, owner, (free,), step.tick, record, page.state.ended(step.tick))

    async def _note(
        self,
        page: Page,
        owner: Grant,
        when: tuple[Compare, ...],
        tick: str,
        record: TickRecord,
        state: State,
    ) -> None:
        lease = await self._leases.lease()
        try:
            result = await self._home.txn.run(
                (*when, *self._as_seen(page, owner)),
                (
                    op.put(
                        self._layout.tick(page.key, tick), encode_record(record, ""), lease=lease
                    ),
                    op.put(self._layout.state + page.key, state.encode()),
                ),
                repeat=Repeat.ONCE,
            )
        except LeaseNotFound:
            self._leases.forget(lease)
        except AmbiguousResult:
            page.forget()  # a look will tell
        else:
            if result.succeeded:
                page.state, page.revision = state, result.revision
            else:
                page.forget()

    # -- ending ----------------------------------------------------------------------------------------------------

    async def finish(self, page: Page, tick: Tick, record: TickRecord) -> None:
        """Write down how a tick has ended. Raises :class:`TickLost` when it is not ours any more."""
        await self._end(page, tick, record, None)

    async def put_back(self, page: Page, tick: Tick, begun: Begun) -> None:
        """Have a tick begun again, by us or by others. Raises :class:`TickLost` when it is not ours any more."""
        await self._end(page, tick, None, begun)

    async def _end(
        self, page: Page, tick: Tick, record: TickRecord | None, begun: Begun | None
    ) -> None:
        """End an attempt, repeated under its guard until the store says what became of it.

        ``record`` is the result; without one the tick's key goes.
        """
        ident, doubtful = tick_id(tick.at), False
        tick.close()
        while tick.session.valid_for() > 0:
            try:
                if not page.is_read:
                    await self.read([page])
                state = page.state
                if ident in state.running:
                    state = state.ended(ident) if begun is None else state.again(ident, begun)
                result = await self._end_once(page, tick, record, state)
            except AmbiguousResult:
                doubtful = True
            except (Unavailable, CoordTimeout):
                pass
            else:
                if result is None:
                    continue
                if result.succeeded:
                    page.state, page.revision = state, result.revision if page.revision else 0
                    tick.end()
                    return
                if self._has_ended(page, tick, result, was_deleted=doubtful and record is None):
                    tick.end()
                    return
                continue
            await self._home.pause(RETRY_LOW_S, RETRY_HIGH_S)
        raise TickLost(tick.name, tick.token, tick.lost_reason or "its session ended")

    async def _end_once(
        self, page: Page, tick: Tick, record: TickRecord | None, state: State
    ) -> TxnResult | None:
        key, state_key = tick.key, self._layout.state + page.key
        lease = 0
        then: tuple[Op, ...] = (op.delete(key),)
        if record is not None:
            lease = await self._leases.lease()
            then = (op.put(key, encode_record(record, ""), lease=lease),)
        if page.revision:
            then += (op.put(state_key, state.encode()),)
        try:
            return await self._home.txn.run(
                # The key changes once, with its end: a copy of that finds it changed, and does nothing.
                (
                    compare.mod_revision(key) == tick.token,
                    compare.mod_revision(state_key) == page.revision,
                ),
                then,
                (op.get(key), op.get(state_key)),
                repeat=Repeat.ONCE,
            )
        except LeaseNotFound:
            self._leases.forget(lease)
            return None

    @staticmethod
    def _has_ended(page: Page, tick: Tick, result: TxnResult, *, was_deleted: bool) -> bool:
        """Say whether an earlier copy has ended the tick, from what a failed one has read."""
        found = next(iter(result.range(0).items), None)
        state = next(iter(result.range(1).items), None)
        page.state = State() if state is None else State.decode(state.value)
        page.revision = 0 if state is None else state.mod_revision
        if found is None or found.create_revision != tick.token:
            if not was_deleted:
                tick.revoke()
                raise TickLost(tick.name, tick.token, "revoked")
            return True
        return found.mod_revision != tick.token

    # -- records ---------------------------------------------------------------------------------------------------

    def record(self, tick: str, outcome: Outcome, **said: Any) -> TickRecord:  # noqa: ANN401 - its fields
        """Return what is to be said of a tick."""
        at = tick_time(tick)
        if at is None:
            raise ValueError(f"no tick: {tick!r}")
        return TickRecord(tick=at, outcome=outcome, **said)

    def now(self) -> datetime:
        """Return the time by this machine's wall clock, in UTC."""
        return datetime.fromtimestamp(self._home.env.clock.wall(), UTC)
