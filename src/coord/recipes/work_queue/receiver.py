"""What claims the items of one work queue object: it follows the queue, and claims when it is its turn.

Receivers that wait at the same time are served by one transaction.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, cast

from coord._telemetry import entry_context
from coord.cache import Cache
from coord.cache.mirror import Limits
from coord.errors import (
    AmbiguousResult,
    ClientClosed,
    CoordError,
    CoordTimeout,
    LeaseNotFound,
    SessionError,
    Unavailable,
)
from coord.names import as_text
from coord.recipes.turns import Turns
from coord.recipes.work_queue.agenda import Agenda
from coord.recipes.work_queue.claim import Claim, WorkItem
from coord.recipes.work_queue.errors import ConfMismatch
from coord.recipes.work_queue.layout import Attempts, envelope, parse
from coord.recipes.work_queue.tombstones import Tombstones
from coord.recipes.work_queue.visibility import Visibility
from coord.runtime import process_identity
from coord.store import comparing as compare
from coord.store import operations as op
from coord.store.caller import Repeat
from coord.store.keys import prefix_range
from coord.waiter import RETRY_HIGH_S, RETRY_LOW_S, while_valid

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from coord.cache import Changes, Mirrors
    from coord.coordination import Coordination
    from coord.recipes.work_queue.agenda import Candidate
    from coord.recipes.work_queue.backoff import Backoff
    from coord.recipes.work_queue.layout import Conf, Layout
    from coord.session import Session
    from coord.store.comparing import Compare
    from coord.store.operations import Op
    from coord.store.values import KeyValue

_LIMITS = Limits(max_keys=1_000_000, max_bytes=1 << 30)
# A wall clock may be set while somebody waits for it.
_LONGEST_WAIT_S = 30.0
_CATCH_UP_S = 1.0
MOST_AT_ONCE = 40
"""How many items one transaction claims at most: three comparisons, and up to three operations, for each."""
_to_json = json.JSONEncoder(separators=(",", ":")).encode

Claimed = list[WorkItem] | CoordError
"""How an attempt to claim ended: what was claimed, which may be nothing, or that it failed."""


class Receiver:
    """Claims items of one queue. On the runtime's loop."""

    def __init__(
        self,
        home: Coordination,
        mirrors: Mirrors,
        name: bytes,
        layout: Layout,
        conf: Conf,
        *,
        backoff: Backoff,
        session: Session | None,
        max_processing: float | None,
    ) -> None:
        self._max_processing = max_processing
        self._home = home
        self._mirrors = mirrors
        self._name = name
        self._layout = layout
        self._conf = conf
        self._backoff = backoff
        self._given = session
        self._clock = home.env.clock
        self._tombstones = Tombstones(home, conf.dedup_window)
        self._agenda = Agenda(layout)
        self._turns = Turns()
        self._receivers = 0
        self._asked = 0  # how many items they want, all of them together
        self._line = asyncio.Lock()  # wakes its waiters in order
        self._flight: asyncio.Task[Claimed] | None = None
        self._spare: deque[WorkItem] = deque()
        self._held: dict[bytes, WorkItem] = {}
        self._news = asyncio.Event()
        self._view: Cache[bytes] | None = None
        self._follower: asyncio.Task[object] | None = None
        self._enrolled: Session | None = None
        self._enrolling: asyncio.Task[object] | None = None
        self._one_by_one = False
        self._own_revision = 0
        self._shown_revision = 0
        self._failed: CoordError | None = None
        self._closed = False
        self._forget: Callable[[], None] | None = None

    @property
    def is_open(self) -> bool:
        """Whether something has to be closed."""
        return self._forget is not None

    # -- receivers -------------------------------------------------------------------------------------------------

    async def receive(self, most: int) -> list[WorkItem]:
        """Wait until there is something to claim, and claim up to ``most`` items."""
        self._receivers += 1
        self._asked += most
        try:
            async with self._line:
                return await self._next(most)
        finally:
            self._receivers -= 1
            self._asked -= most
            self._leave()

    async def _next(self, most: int) -> list[WorkItem]:
        while True:
            self._check()
            self._drop_lost_spares()
            if self._spare:
                return [self._spare.popleft() for _ in range(min(most, len(self._spare)))]
            if self._flight is None:
                session = await self._session()
                try:
                    wanted = await while_valid(session, self._candidates(most))
                except SessionError:
                    self._raise_if_given()
                    continue
                if not wanted:
                    continue
                self._flight = self._begin(session, wanted)
            # A receiver that goes away in this moment leaves the flight to the next one.
            await asyncio.wait({self._flight})
            flight, self._flight = self._flight, None
            if flight.cancelled():
                raise ClientClosed
            claimed = flight.result()
            if isinstance(claimed, SessionError) and self._given is None:
                continue
            if isinstance(claimed, CoordError):
                raise claimed
            if claimed:
                # The others were for those who wait behind us.
                self._spare.extend(claimed[most:])
                return claimed[:most]

    def _raise_if_given(self) -> None:
        if self._given is not None:
            self._given.check()

    def _drop_lost_spares(self) -> None:
        self._spare = deque(item for item in self._spare if not item.lost.is_set())

    def _leave(self) -> None:
        """Give back what the last receiver has left behind."""
        if self._receivers:
            return
        while self._spare:
            self._spare.popleft().discard()
        if self._flight is not None:
            self._flight.add_done_callback(self._landed)

    def _landed(self, flight: asyncio.Task[Claimed]) -> None:
        if self._flight is flight and not self._receivers:
            self._flight = None
            if not flight.cancelled() and isinstance(claimed := flight.result(), list):
                self.give_back(claimed)

    def give_back(self, items: list[WorkItem]) -> None:
        """Give items to the next receiver, or back to the queue."""
        if self._receivers:
            self._spare.extend(items)
            self._news.set()
            return
        for item in items:
            item.discard()

    # -- what to claim ---------------------------------------------------------------------------------------------

    async def _session(self) -> Session:
        session = await self._home.session_or_default(self._given)
        session.check()
        if self._enrolled is not session:
            self._enrolled = session
            self._enrolling = self._home.background(self._enrol(session), name="work-consumer")
        return session

    async def _enrol(self, session: Session) -> None:
        """Let the other consumers know of us. What fails here costs requests only."""
        with contextlib.suppress(CoordError):
            await self._home.txn.run(
                (),
                (op.put(self._own_key(session), b"", lease=session.lease_id),),
                repeat=Repeat.IDEMPOTENT,
            )

    def _own_key(self, session: Session) -> bytes:
        return self._layout.consumers + format(session.lease_id, "x").encode()

    async def _candidates(self, most: int) -> list[Candidate]:
        """Wait until there are items whose turn it is, or some to spare (an empty list)."""
        while not self._spare:
            self._check()
            view = self._view
            if view is None:
                await self._open()
                continue
            self._news.clear()
            if self._shown_revision < self._own_revision:
                await self._catch_up()
                continue
            snapshot, now, wall = view.snapshot(), self._clock.mono(), self._home.env.clock.wall()
            self._agenda.promote(snapshot, now, wall)
            wanted, within = self._choose(most, now)
            if wanted:
                return wanted
            due = self._agenda.due_in(wall)
            waits = [_LONGEST_WAIT_S, *[w for w in (within, due) if w is not None]]
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, min(waits))):
                    await self._news.wait()
        return []

    def note_own(self, revision: int) -> None:
        """Take note of a change of ours, which what is claimed from now on should reckon with. From any thread."""
        self._own_revision = max(self._own_revision, revision)

    async def _catch_up(self) -> None:
        """Wait until the view shows our own changes, but not for long: it saves a surprise and nothing else."""
        wanted = self._own_revision
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CATCH_UP_S):
                await self._news.wait()
                return
        if self._own_revision == wanted:
            self._own_revision = 0

    def _choose(self, most: int, now: float) -> tuple[list[Candidate], float | None]:
        """Return the items whose turn it is, or after how many seconds it may be that of one."""
        if self._view is None:
            return [], None
        wanted: list[Candidate] = []
        within: float | None = None
        if self._conf.claim == "session":  # else each has a lease, which begins before the claim
            most = max(most, min(self._asked, MOST_AT_ONCE))
        limit = 1 if self._one_by_one else most
        window = max(2 * self._turns.count, most)
        for candidate in islice(self._agenda.ready(self._view.snapshot()), window):
            wait = self._turns.left(candidate.item.key, now, now - candidate.since)
            if wait == 0:
                wanted.append(candidate)
                if len(wanted) == limit:
                    break
            elif within is None or wait < within:
                within = wait
        return wanted, within

    # -- claiming --------------------------------------------------------------------------------------------------

    def _begin(self, session: Session, wanted: list[Candidate]) -> asyncio.Task[Claimed]:
        """Start to claim, which goes on whoever waits for it."""
        task = self._home.background(self._attempt(session, wanted), name="work-claim")
        if task is None:
            raise ClientClosed
        return cast("asyncio.Task[Claimed]", task)

    async def _attempt(self, session: Session, wanted: list[Candidate]) -> Claimed:
        try:
            dead = [c for c in wanted if c.attempts.n >= self._conf.max_attempts]
            for candidate in dead:
                await self._bury(candidate)
            alive = [c for c in wanted if c.attempts.n < self._conf.max_attempts]
            return await self._claim(session, alive) if alive else []
        except (Unavailable, CoordTimeout):
            await self._pause()
            return []
        except CoordError as error:
            return error

    async def _claim(self, session: Session, wanted: list[Candidate]) -> list[WorkItem]:
        """Claim all of ``wanted`` in one transaction, sent until the store says what became of it."""
        nonce = format(self._home.env.rand.bits(64), "016x")
        holders = await self._holders(session, len(wanted))
        items: list[WorkItem] = []
        try:
            token = await self._token(session, holders, wanted, nonce)
            if token:
                items = [self._hold(h, c, token) for h, c in zip(holders, wanted, strict=True)]
            return items
        finally:
            if not items:
                self._end_own(holders)

    async def _holders(self, session: Session, count: int) -> list[Session]:
        """Return whom each of the claims lives with."""
        if self._conf.claim == "session":
            return [session] * count
        made: list[Session] = []
        try:
            for _ in range(count):
                claim = Visibility(self._home, self._conf.visibility)
                await claim.open()
                made.append(claim)
        except BaseException:
            self._end_own(made)
            raise
        return made

    def _end_own(self, holders: list[Session]) -> None:
        for holder in holders:
            if isinstance(holder, Visibility):
                self._home.background(holder.shut(), name="work-visibility")

    async def _token(
        self, session: Session, holders: list[Session], wanted: list[Candidate], nonce: str
    ) -> int:
        """Send the claims until the store says what became of them; return their token, 0 if we have not got them."""
        when, then = self._claiming(holders, wanted, nonce)
        first = self._layout.claims + wanted[0].id
        doubtful = False
        while True:
            if not self._receivers:
                return await self._give_up(wanted[0], nonce) if doubtful else 0
            try:
                result = await while_valid(
                    session,
                    self._home.txn.run(when, then, (op.get(first),), repeat=Repeat.ONCE),
                )
            except AmbiguousResult:
                doubtful = True
            except (Unavailable, CoordTimeout):
                pass
            except LeaseNotFound:
                if holders[0] is not session:
                    return 0  # took longer than a claim may last
                session.expire("lease not found")
                session.check()
                raise
            else:
                found = () if result.succeeded else result.range(0).items
                token = result.revision if result.succeeded else _token(found, nonce)
                self._note(wanted, token)
                return token
            await while_valid(session, self._home.pause(RETRY_LOW_S, RETRY_HIGH_S))

    def _note(self, wanted: list[Candidate], token: int) -> None:
        """Draw the conclusions from the store's answer."""
        now = self._clock.mono()
        if not token:
            self._turns.lost(now)
        if token or len(wanted) == 1:
            self._one_by_one = False
            for candidate in wanted:
                self._agenda.tried(candidate)
                has_been = now - candidate.since
                if token and self._turns.left(candidate.item.key, now, has_been) == 0:
                    self._turns.passed(candidate.item.key, now)
        else:
            self._one_by_one = True  # one of them is gone, and the others may not be

    def _claiming(
        self, holders: list[Session], wanted: list[Candidate], nonce: str
    ) -> tuple[tuple[Compare, ...], tuple[Op, ...]]:
        host, pid = process_identity()
        entry: dict[str, object] = {"v": 1, "nonce": nonce, "host": host, "pid": pid}
        entry["since"] = round(self._home.env.clock.wall(), 3)
        value = _to_json(entry | entry_context()).encode()
        when: list[Compare] = []
        then: list[Op] = []
        for holder, candidate in zip(holders, wanted, strict=True):
            when += self._unclaimed(candidate)
            attempts = Attempts(candidate.attempts.n + 1, candidate.attempts.last_error)
            then += [
                op.put(self._layout.claims + candidate.id, value, lease=holder.lease_id),
                op.put(self._layout.attempts + candidate.id, attempts.encode()),
            ]
            if candidate.is_delayed:
                then.append(op.delete(self._layout.delay + candidate.id))
        return tuple(when), tuple(then)

    def _unclaimed(self, candidate: Candidate) -> tuple[Compare, ...]:
        layout, item_id = self._layout, candidate.id
        return (
            compare.create_revision(layout.items + item_id) == candidate.item.create_revision,
            compare.create_revision(layout.claims + item_id) == 0,
            compare.mod_revision(layout.attempts + item_id) == candidate.attempts_revision,
        )

    async def _give_up(self, first: Candidate, nonce: str) -> int:
        """Make every copy of a claim still under way fail; return the token if one has come into force."""
        attempts, claim = self._layout.attempts + first.id, self._layout.claims + first.id
        while True:
            try:
                result = await self._home.txn.run(
                    (compare.mod_revision(attempts) == first.attempts_revision,),
                    (op.put(attempts, first.attempts.encode()),),
                    (op.get(claim),),
                    repeat=Repeat.IDEMPOTENT,
                )
            except (Unavailable, CoordTimeout, AmbiguousResult):
                await self._pause()
            else:
                return 0 if result.succeeded else _token(result.range(0).items, nonce)

    def _hold(self, session: Session, candidate: Candidate, token: int) -> WorkItem:
        claim = Claim(
            self._home,
            session,
            self._name,
            self._layout,
            candidate,
            token=token,
            tombstones=self._tombstones,
            backoff=self._backoff,
            given_back=self.note_own,
        )
        item = self._held[candidate.id] = WorkItem(
            self._home, claim, max_processing=self._max_processing
        )

        def ended() -> None:
            if self._held.get(candidate.id) is item:
                del self._held[candidate.id]
            self._end_own([session])

        item.ended.watch(ended)
        return item

    async def _bury(self, candidate: Candidate) -> None:
        """Make a dead letter of an item that failed too often."""
        layout, item_id = self._layout, candidate.id
        letter = envelope(candidate.item.value, candidate.attempts)
        try:
            await self._home.txn.run(
                self._unclaimed(candidate),
                (
                    op.put(layout.dead + item_id, letter),
                    op.delete(layout.items + item_id),
                    op.delete(layout.attempts + item_id),
                    op.delete(layout.delay + item_id),
                ),
                # A second copy finds the item gone.
                repeat=Repeat.IDEMPOTENT,
            )
        except (Unavailable, CoordTimeout, AmbiguousResult):
            await self._pause()  # the view will tell, or it is tried again
        else:
            self._agenda.tried(candidate)

    # -- the view --------------------------------------------------------------------------------------------------

    async def _open(self) -> None:
        await self._agree()
        start, end = prefix_range(self._layout.prefix)
        view: Cache[bytes] = Cache(
            self._mirrors, start, end, codec=None, limits=_LIMITS, timeout=None
        )
        await view.open()
        if self._closed:
            view.close()
            return
        changes = view.changes()
        wall = self._home.env.clock.wall()
        self._agenda.start(view.snapshot(), self._clock.mono(), wall)
        self._shown_revision = view.as_of
        self._view = view
        self._note_consumers()
        self._follower = self._home.background(self._follow(changes), name="work-view")
        if self._forget is None:
            self._forget = self._home.core.at_close(self.close)

    async def _agree(self) -> None:
        """Write down how this queue works, or find out that it works so. Raises :class:`ConfMismatch`."""
        key = self._layout.conf
        while True:
            try:
                result = await self._home.txn.run(
                    (compare.missing(key),),
                    (op.put(key, self._conf.encode()),),
                    (op.get(key),),
                    repeat=Repeat.IDEMPOTENT,
                )
            except (Unavailable, CoordTimeout, AmbiguousResult):
                await self._pause()
                continue
            break
        if result.succeeded:
            return
        found = parse(result.range(0).items[0].value)
        ours = {k: v for k, v in self._conf.fields().items() if found.get(k) != v}
        if ours:
            text = as_text(self._name)
            raise ConfMismatch(text, ours, {key: found.get(key) for key in ours})

    async def _follow(self, changes: Changes[bytes]) -> None:
        try:
            async for batch in changes:
                view = self._view
                if view is None:
                    return
                now, wall = self._clock.mono(), self._home.env.clock.wall()
                self._agenda.feed(batch, view.snapshot(), now, wall)
                self._shown_revision = batch.revision
                if any(change.key.startswith(self._layout.consumers) for change in batch.changes):
                    self._note_consumers()
                self._find_revoked()
                self._news.set()
        except CoordError as error:
            self._failed = error
            self._news.set()

    def _note_consumers(self) -> None:
        if self._view is not None:
            own = None if self._enrolled is None else self._own_key(self._enrolled)
            self._turns.update(self._view.keys(self._layout.consumers), own)

    def _find_revoked(self) -> None:
        """Tell those whose claims somebody has deleted."""
        if self._view is None:
            return
        snapshot = self._view.snapshot()
        for item_id, item in list(self._held.items()):
            entry = snapshot.entry(self._layout.claims + item_id)
            gone = entry is None or entry.create_revision != item.token
            if gone and snapshot.revision >= item.token:
                item.revoke()

    # -- the end ---------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        if self._closed:
            raise ClientClosed("the work queue")
        if self._failed is not None:
            raise self._failed

    def _pause(self) -> Awaitable[None]:
        return self._home.pause(RETRY_LOW_S, RETRY_HIGH_S)

    async def close(self) -> None:
        """End it: receivers raise :class:`ClientClosed`, the view closes. What is claimed stays so."""
        self._closed = True
        self._news.set()
        forget, self._forget = self._forget, None
        if forget is not None:
            forget()
        if self._flight is not None:
            await asyncio.wait({self._flight})
        if self._follower is not None:
            self._follower.cancel()
        view, self._view = self._view, None
        if view is not None:
            view.close()
        session, self._enrolled = self._enrolled, None
        if session is not None and session.valid_for() > 0:
            key = self._own_key(session)
            if self._enrolling is not None:  # else it may land after we have taken it away
                await asyncio.wait({self._enrolling}, timeout=1.0)
            with contextlib.suppress(CoordError):  # it goes with its lease
                await self._home.txn.run(
                    (compare.lease(key) == session.lease_id,),
                    (op.delete(key),),
                    repeat=Repeat.IDEMPOTENT,
                    timeout=1.0,
                )

    def close_soon(self) -> None:
        """Close in the background."""
        self._home.background(self.close(), name="work-close")


def _token(found: Iterable[KeyValue], nonce: str) -> int:
    """Return the token of the claim that carries our nonce, 0 if it is somebody else's, or none."""
    for kv in found:
        if parse(kv.value).get("nonce") == nonce:
            return kv.create_revision
    return 0
