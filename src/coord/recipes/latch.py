"""A latch that opens once after so many distinct arrivals, and can be reset (spec recipes 9.3).

``name`` holds ``<remaining> <generation>``, and each arrival a key ``name/arrived/<who>``: so an arrival counts once,
however often it is reported.
Every change compares the mod revision of ``name``: a late copy of a request that has been answered for fails.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from coord._telemetry import LATCH, observed_wait
from coord.entry import check_name
from coord.errors import (
    AmbiguousResult,
    CoordError,
    CoordTimeout,
    DecodeError,
    InvalidArgument,
    Unavailable,
)
from coord.names import as_text
from coord.recipes.barrier import check_timeout
from coord.runtime import Backoff
from coord.store import comparing as compare
from coord.store import operations as op
from coord.store.caller import Repeat
from coord.store.values import EventType
from coord.waiter import Done, Sight, Watch, wait_until

if TYPE_CHECKING:
    from coord.coordination import Coordination
    from coord.store.values import KeyValue, WatchEvent

_RETRY_FIRST_S, _RETRY_MAX_S = 0.025, 0.5
# Somebody has arrived, so all are a step further: go on soon, and not in step.
_CONFLICT_FIRST_S, _CONFLICT_MAX_S = 0.002, 0.05
_FIELDS = 2
_ADVICE = (
    "each arrival is a key until the next reset; let groups arrive in the place of single ones"
)


class LatchTimeout(CoordTimeout):
    """The latch did not open, or the store did not answer, in time; an arrival that was reported is not counted."""


class LatchMismatch(CoordError):
    """The latch in the store was made for ``found`` arrivals, not for the ``wanted`` ones."""

    def __init__(self, name: str, wanted: int, found: int) -> None:
        self.name = name
        self.wanted = wanted
        self.found = found
        super().__init__(f"latch {name!r} is one of {found} arrivals, not of {wanted}")


class LatchPending(CoordError):
    """The latch is not open yet, so it cannot be reset: ``remaining`` arrivals are missing."""

    def __init__(self, name: str, remaining: int) -> None:
        self.name = name
        self.remaining = remaining
        super().__init__(f"latch {name!r} still waits for {remaining} arrivals")


@dataclass(frozen=True, slots=True)
class _State:
    remaining: int
    generation: int
    mod_revision: int

    @classmethod
    def of(cls, kv: KeyValue) -> _State:
        """Parse what stands under the name. Raises :class:`DecodeError`."""
        fields = kv.value.split(b" ")
        if len(fields) != _FIELDS or not all(f.isdigit() for f in fields):
            raise DecodeError("latch", "it is not '<remaining> <generation>'", key=kv.key)
        return cls(int(fields[0]), int(fields[1]), kv.mod_revision)

    @property
    def wire(self) -> bytes:
        return f"{self.remaining} {self.generation}".encode()


@dataclass(frozen=True, slots=True)
class _Reading:
    state: _State
    total: int
    revision: int


class _Register:
    """The latch in the store, and what is known of it. On the runtime's loop."""

    def __init__(self, home: Coordination, name: bytes, count: int) -> None:
        self._home = home
        self.name = name
        self.text = as_text(name)
        self.count = count
        self.arrived = name + b"/arrived/"
        # As of the last answer; what is based on it compares its revision.
        self._known: _State | None = None
        self.turn = asyncio.Lock()
        """Taken by one arrival of this process at a time: two would only be in each other's way."""

    async def read(self, timeout: float | None = None) -> _Reading:
        """Return the present state; create the latch if there is none."""
        made = _State(self.count, 1, 0)
        result = await self._home.txn.run(
            (compare.missing(self.name),),
            (op.put(self.name, made.wire),),
            (op.get(self.name), op.get_prefix(self.arrived, count_only=True)),
            repeat=Repeat.IDEMPOTENT,
            timeout=timeout,
        )
        if result.succeeded:
            state, total = _State(self.count, 1, result.revision), self.count
        else:
            state, arrived = _State.of(result.range(0).items[0]), result.range(1).count
            total = state.remaining + arrived
            self._home.core.key_counts.note(f"the latch {self.text!r}", arrived, _ADVICE)
        self._known = state
        return _Reading(state, total, result.revision)

    def check(self, reading: _Reading) -> _State:
        """Return the state. Raises :class:`LatchMismatch` when the latch is of another number of arrivals."""
        if reading.total != self.count:
            self._known = None
            raise LatchMismatch(self.text, self.count, reading.total)
        return reading.state

    def known(self) -> _State | None:
        """Return the state as of the last answer; None where only a fresh one will do."""
        state = self._known
        return state if state is not None and state.remaining else None

    def learn(self, state: _State | None) -> None:
        """Take note of a state."""
        self._known = state


class CountdownLatch:
    """A named latch. Made by ``client.latch(name, count)``; created in the store when first used."""

    def __init__(self, home: Coordination, name: str | bytes, count: int) -> None:
        self._home = home
        self._store = _Register(home, home.claim(check_name(name)), _checked_count(count))

    @property
    def name(self) -> bytes:
        """The name, as it stands in the store."""
        return self._store.name

    @property
    def count(self) -> int:
        """How many arrivals open it."""
        return self._store.count

    async def count_down(
        self, who: str | bytes | None = None, *, timeout: float | None = None
    ) -> int:
        """Report an arrival and return how many are missing now; 0 if it is open, and then nothing is written.

        The same ``who`` counts once until the latch is reset, over retries and restarts; None stands for somebody new.
        ``timeout`` in seconds, None meaning the client's ``request_timeout``; then :class:`LatchTimeout`, and nothing
        was counted, or :class:`AmbiguousResult`: whose ``resolve()`` tells whether ``who`` has been counted.
        Cancelled, it is counted or not. Raises :class:`LatchMismatch`.
        """
        if who is None:
            key = self._store.arrived + format(self._home.env.rand.bits(64), "016x").encode()
        elif who:
            key = self._store.arrived + check_name(who)
        else:
            raise InvalidArgument("who must not be empty")
        limit = self._home.core.options.request_timeout if timeout is None else timeout
        check_timeout(limit)
        return await self._home.run(_Arrival(self._home, self._store, key).report(limit))

    async def wait(self, *, timeout: float | None = None) -> None:
        """Return when the latch has opened, at once if it is open, and even if it has been reset meanwhile.

        Raises :class:`LatchTimeout` after ``timeout`` seconds, :class:`LatchMismatch`. A cancelled wait leaves nothing
        behind.
        """
        check_timeout(timeout)
        waiting = observed_wait(
            LATCH,
            LATCH.wait,
            self._store.text,
            lambda: self._wait(timeout),
            clock=self._home.env.clock,
        )
        await self._home.run(waiting)

    async def remaining(self, *, timeout: float | None = None) -> int:
        """Return how many arrivals are missing, as of now (linearizable).

        Raises :class:`LatchMismatch`; :class:`LatchTimeout` or :class:`Unavailable` when the store does not answer.
        """
        limit = self._home.core.options.request_timeout if timeout is None else timeout
        try:
            reading = await self._home.run(self._store.read(limit))
        except (AmbiguousResult, CoordTimeout) as error:
            # Whether it has created the latch is nothing that anybody asked.
            what = f"looking at latch {self._store.text!r}"
            raise LatchTimeout(what, limit, explain=str(error)) from None
        return self._store.check(reading).remaining

    async def reset(self, count: int, *, timeout: float | None = None) -> None:
        """Close an open latch again, for ``count`` new arrivals; those before may arrive again.

        Who waited for the opening still returns. Raises :class:`LatchPending` while it is not open; of several who
        reset at the same time one does.
        """
        await self._home.run(self._reset(_checked_count(count), timeout))

    # -- on the runtime's loop -------------------------------------------------------------------------------------

    async def _wait(self, timeout: float | None) -> None:
        generation = 0
        missing = self.count

        def opens(event: WatchEvent) -> bool:
            if event.type is EventType.DELETE:
                return True
            state = _State.of(event.kv)
            return state.remaining == 0 or state.generation > generation

        def ended(event: WatchEvent) -> Done[None] | None:
            return None if event.type is EventType.DELETE else Done(None)

        async def condition() -> Done[None] | Watch:
            nonlocal generation, missing
            reading = await self._store.read()
            # Later it may have been reset for another number of arrivals, and has been open before that.
            state = reading.state if generation else self._store.check(reading)
            missing = state.remaining
            # Another generation: it was open in between, and the event that told has been compacted away.
            if missing == 0 or state.generation > (generation or state.generation):
                return Done(None)
            generation = state.generation
            sight = Sight(self.name, on="any", where=opens)
            return Watch((sight,), reading.revision, ended=ended)

        scope = asyncio.timeout(timeout)
        try:
            async with scope:
                await wait_until(self._home, condition, session=None)
        except TimeoutError:
            if not scope.expired():
                raise
            explain = f"{missing} arrivals were missing when it began"
            raise LatchTimeout(
                f"waiting for latch {self._store.text!r}", timeout, explain=explain
            ) from None

    async def _reset(self, count: int, timeout: float | None) -> None:
        clock, limit = self._home.env.clock, self._home.core.options.request_timeout
        deadline = clock.mono() + (limit if timeout is None else timeout)
        state = (await self._store.read(timeout)).state
        while state.remaining == 0:
            fresh = _State(count, state.generation + 1, 0)
            marked = await self._home.core.markers.run(
                (compare.mod_revision(self.name) == state.mod_revision,),
                (op.put(self.name, fresh.wire), op.delete_prefix(self._store.arrived)),
                timeout=max(0.0, deadline - clock.mono()),
            )
            if marked.applied:
                self._store.count = count
                self._store.learn(_State(count, fresh.generation, marked.revision))
                return
            state = (await self._store.read(max(0.0, deadline - clock.mono()))).state
        raise LatchPending(self._store.text, state.remaining)


class _Arrival:
    """One report of one arrival, until the store says what became of it. On the runtime's loop."""

    def __init__(self, home: Coordination, store: _Register, key: bytes) -> None:
        self._home = home
        self._store = store
        self._key = key
        # The generation that an unanswered request was meant for, and why it is not answered.
        self._doubt: int | None = None
        self._reason = ""
        self._deadline = 0.0

    async def report(self, limit: float) -> int:
        """Return how many are missing now. Raises as :meth:`CountdownLatch.count_down`."""
        self._deadline = self._home.env.clock.mono() + limit
        try:
            async with asyncio.timeout(limit):
                await self._store.turn.acquire()
        except TimeoutError:
            raise self._timeout(limit) from None
        try:
            return await self._report(limit)
        finally:
            self._store.turn.release()

    async def _report(self, limit: float) -> int:
        rand = self._home.env.rand
        failures = Backoff(rand, _RETRY_FIRST_S, _RETRY_MAX_S)
        conflicts = Backoff(rand, _CONFLICT_FIRST_S, _CONFLICT_MAX_S, spread=1)
        state = self._store.known()
        while self._left() > 0:
            try:
                if state is None:
                    state = await self._look()
                # A generation that has passed was open, with this arrival or without it.
                if not state.remaining or self._doubt not in (None, state.generation):
                    return 0
                verdict = await self._send(state)
            except AmbiguousResult as error:
                self._reason = error.reason
                await failures.pause(max(0.0, self._left()))
            except (Unavailable, CoordTimeout):
                await failures.pause(max(0.0, self._left()))
            else:
                if isinstance(verdict, int):
                    return verdict
                state = verdict
                await conflicts.pause(max(0.0, self._left()))
        if self._doubt is not None:
            raise AmbiguousResult("CountDown", self._reason, resolver=self._resolve)
        raise self._timeout(limit)

    def _left(self) -> float:
        return self._deadline - self._home.env.clock.mono()

    def _once(self) -> float:
        """Return how long one request may take: a request that is cut off by its own limit says if it was sent."""
        return max(0.001, min(self._left(), self._home.core.options.request_timeout))

    def _timeout(self, limit: float) -> LatchTimeout:
        return LatchTimeout(f"an arrival at latch {self._store.text!r}", limit)

    async def _look(self) -> _State:
        reading = await self._store.read(self._once())
        if self._doubt in (None, reading.state.generation):
            self._store.check(reading)
        return reading.state

    async def _send(self, state: _State) -> int | _State | None:
        """Return how many are missing if that is settled, else the state to try again from; None: look."""
        store, left = self._store, _State(state.remaining - 1, state.generation, 0)
        before, self._doubt = self._doubt, state.generation  # until an answer is here
        try:
            result = await self._home.txn.run(
                (
                    compare.mod_revision(store.name) == state.mod_revision,
                    compare.missing(self._key),
                ),
                (op.put(store.name, left.wire), op.put(self._key, b"")),
                (op.get(store.name), op.get(self._key)),
                repeat=Repeat.ONCE,
                timeout=self._once(),
            )
        except AmbiguousResult:
            raise
        except CoordError:
            self._doubt = before
            raise
        if result.succeeded:
            store.learn(_State(left.remaining, left.generation, result.revision))
            return left.remaining
        # Copies that are still under way will fail as this one did: the name has changed, or we have arrived.
        found = result.range(0).items
        fresh = _State.of(found[0]) if found else None
        store.learn(fresh)
        is_same = fresh is not None and fresh.generation == state.generation
        self._doubt = None if is_same else before
        if fresh is not None and result.range(1).items:
            return fresh.remaining
        return fresh

    async def _resolve(self) -> bool:
        """Say whether the arrival is counted."""
        return await self._home.run(self._home.core.kv.get(self._key)) is not None


def _checked_count(count: int) -> int:
    if count < 1:
        raise InvalidArgument(f"a latch opens after at least 1 arrival, not {count}")
    return count
