"""Exact shared numbers (spec recipes 12): a counter, one spread over several keys, and blocks of unique ids.

A counter is one key with a decimal number in it, so ``etcdctl get`` shows it and ``etcdctl put`` sets it.
An addition is one transaction: "if the key is as I saw it last, write the sum".
Who lost to another learns the present number from the answer, and tries again after a pause that grows: many writers
then end up one behind the other, instead of all in each other's way.
An operation marker tells what became of a transaction whose answer is missing, so nothing is added twice or not at all.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from typing_extensions import override

from coord.entry import check_name
from coord.errors import CoordError, CoordTimeout, InvalidArgument
from coord.runtime import Backoff
from coord.store import comparing as compare
from coord.store import operations as op
from coord.store.keys import prefix_end
from coord.store.kv import range_request
from coord.store.marker import Marked
from coord.store.txn import present_state

if TYPE_CHECKING:
    from coord.coordination import Coordination
    from coord.core import Core
    from coord.store.comparing import Compare
    from coord.store.operations import Op
    from coord.store.values import KeyValue

_DECIMAL = re.compile(rb"-?[0-9]+\Z")
_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1
# Python refuses to convert more digits than 4300, unless told otherwise.
_MOST_DIGITS = 4000
_PAUSE_MIN_S, _PAUSE_MAX_S = 0.001, 1.0
_DEFAULT_SHARDS = 16
_MOST_SHARDS = 10_000
_BLOCK = 1000
_LARGEST_BLOCK = 100_000  # they are kept one by one


class NotANumber(CoordError):
    """The key of a counter holds something else than a decimal number. ``key`` and ``found`` say what and where."""

    def __init__(self, key: bytes, found: bytes) -> None:
        self.key: bytes = key
        self.found = found
        super().__init__(f"the counter {key!r} holds no number but {found[:40]!r}")


class Overflow(CoordError):
    """The number would not fit into 64 bits with a sign; nothing was written. ``bigint=True`` allows larger ones."""

    def __init__(self, key: bytes, *, digits: int | None = None) -> None:
        self.key: bytes = key
        limit = "64 bits" if digits is None else f"{digits} digits"
        super().__init__(f"the counter {key!r} would leave {limit}")


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the key held last time: its number, and its mod revision, 0 for a missing key."""

    number: int
    revision: int


class Cell:
    """One key with a number in it, and what is known of it. For the recipes of this file; on any loop."""

    def __init__(
        self, core: Core, key: bytes, *, initial: int, exactly_once: bool, bigint: bool
    ) -> None:
        self._core = core
        self.key: bytes = key
        self._bigint = bigint
        self._initial = self.fitting(initial)
        self._exactly_once = exactly_once
        # Replaced as a whole, by whoever learned something; a wrong guess costs one more attempt.
        self.seen: _Seen = _Seen(self._initial, 0)

    async def add(self, n: int, *, timeout: float | None) -> tuple[int, int]:
        """Add ``n``; return the sum, and how often others changed what was known."""
        _check_int(n)
        clock = self._core.env.clock
        limit = self._core.caller.request_timeout if timeout is None else timeout
        deadline = clock.mono() + limit
        backoff: Backoff | None = None
        met = 0
        stale = True
        while True:
            left = deadline - clock.mono()
            if left <= 0:
                explain = f"others came first {met} times"
                raise CoordTimeout("adding to the counter", limit, explain=explain)
            seen, begun = self.seen, clock.mono()
            total = self.fitting(seen.number + n)
            marked = await self._write(
                (compare.mod_revision(self.key) == seen.revision,),
                (op.put(self.key, b"%d" % total),),
                (op.get(self.key),),
                timeout=left,
            )
            if marked.applied:
                self._note(_Seen(total, marked.revision))
                return total, met
            if marked.result is not None:
                items = marked.result.range(0).items
                self._note(self._parsed(items[0] if items else None))
            met += seen.revision > 0  # else it was unknown, not changed
            if stale:
                stale = False  # it has only learned, and at once is when that is true
                continue
            if backoff is None:
                # In attempts, since for that long one is in the way of the others.
                took = max(_PAUSE_MIN_S, clock.mono() - begun)
                backoff = Backoff(self._core.env.rand, 8 * took, _PAUSE_MAX_S, spread=1)
            await backoff.pause(max(0.0, deadline - clock.mono()))
            stale = True

    async def value(self, *, timeout: float | None) -> int:
        """Read the number."""
        seen = self._parsed(await self._core.kv.get(self.key, timeout=timeout))
        self._note(seen)
        return seen.number

    async def reset(self, number: int, *, timeout: float | None) -> None:
        """Set the number."""
        write = op.put(self.key, b"%d" % self.fitting(number))
        marked = await self._write((), (write,), (), timeout=timeout)
        self._note(_Seen(number, marked.revision))

    async def _write(
        self,
        when: tuple[Compare, ...],
        then: tuple[Op, ...],
        otherwise: tuple[Op, ...],
        *,
        timeout: float | None,
    ) -> Marked:
        if self._exactly_once:
            return await self._core.markers.run(when, then, otherwise, timeout=timeout)
        txn = self._core.txn
        result = await txn.run(
            when, then, otherwise, timeout=timeout, resolver=present_state(txn, then)
        )
        return Marked(applied=result.succeeded, revision=result.revision, result=result)

    def _note(self, seen: _Seen) -> None:
        # Answers may arrive out of order; a missing key is believed, since nothing tells when it went.
        if not seen.revision or seen.revision > self.seen.revision:
            self.seen = seen

    def _parsed(self, found: KeyValue | None) -> _Seen:
        if found is None:
            return _Seen(self._initial, 0)
        return _Seen(self.fitting(number_of(found.key, found.value)), found.mod_revision)

    def fitting(self, number: int) -> int:
        """Return ``number``. Raises :class:`Overflow` if it is too large."""
        _check_int(number)
        if not self._bigint:
            if not _INT64_MIN <= number <= _INT64_MAX:
                raise Overflow(self.key)
        elif abs(number) >= 10**_MOST_DIGITS:
            raise Overflow(self.key, digits=_MOST_DIGITS)
        return number


class Counter:
    """A shared number. Made by ``client.counter(name)``; may be shared between tasks, loops and threads.

    Additions and readings are linearizable, and each addition takes effect exactly once or not at all.
    With ``exactly_once=False`` it writes one key less, and a lost answer raises :class:`coord.AmbiguousResult`.
    """

    def __init__(
        self,
        home: Coordination,
        name: str | bytes,
        *,
        initial: int = 0,
        exactly_once: bool = True,
        bigint: bool = False,
    ) -> None:
        self.name: bytes = home.claim(check_name(name))
        """The name, which is the key."""
        self._cell = Cell(
            home.core, self.name, initial=initial, exactly_once=exactly_once, bigint=bigint
        )

    @override
    def __repr__(self) -> str:
        """Show the name and the number that was seen last."""
        return f"<coord.Counter {self.name!r}, last seen {self._cell.seen.number}>"

    async def add(self, n: int = 1, *, timeout: float | None = None) -> int:
        """Add ``n``, which may be negative, and return the sum that this addition made.

        The first addition ever starts from ``initial``. ``timeout`` in seconds is for all attempts together; None
        means the client's ``request_timeout``.
        Raises :class:`NotANumber`, :class:`Overflow`; :class:`coord.Unavailable` and :class:`coord.CoordTimeout` when
        nothing was added; :class:`coord.AmbiguousResult` when it stayed unknown, whose ``resolve()`` returns the
        revision of the addition, or None if there was none and never will be.
        After a cancellation it was added once or not at all.
        """
        return (await self._cell.add(n, timeout=timeout))[0]

    async def value(self, *, timeout: float | None = None) -> int:
        """Return the number, ``initial`` if nobody has written one. Raises :class:`NotANumber`, :class:`Overflow`."""
        return await self._cell.value(timeout=timeout)

    async def reset(self, value: int = 0, *, timeout: float | None = None) -> None:
        """Set the number, whatever is there. Errors as of :meth:`add`."""
        await self._cell.reset(value, timeout=timeout)


def number_of(key: bytes, value: bytes) -> int:
    """Return the number that a value stands for. Raises :class:`NotANumber`."""
    if not _DECIMAL.match(value) or len(value) > _MOST_DIGITS + 1:
        raise NotANumber(key, value)
    return int(value)


def _check_int(number: object) -> None:
    if not isinstance(number, int) or isinstance(number, bool):
        raise InvalidArgument(f"a counter counts integers, not {type(number).__name__}")


class ShardedCounter:
    """A number that is kept in several keys, so that many writers do not meet. Made by ``client.sharded_counter()``.

    Adding does not tell the sum: for that, all parts are read, at one revision.
    Processes may use different numbers of shards; every part counts.
    """

    def __init__(
        self,
        home: Coordination,
        name: str | bytes,
        *,
        shards: int = _DEFAULT_SHARDS,
        exactly_once: bool = True,
    ) -> None:
        if not 1 <= shards <= _MOST_SHARDS:
            raise InvalidArgument(f"shards must be from 1 to {_MOST_SHARDS}, not {shards}")
        self._core = home.core
        self.name: bytes = home.claim(check_name(name))
        """The name; the parts are the keys below ``name + "/"``."""
        self._prefix = self.name + b"/"
        self._shards = shards
        self._exactly_once = exactly_once
        self._mine = self._another()

    async def add(self, n: int = 1, *, timeout: float | None = None) -> None:
        """Add ``n`` to one of the parts. Errors as of :meth:`coord.Counter.add`.

        After it has met another writer it goes on with another part.
        """
        part = self._mine
        _, met = await part.add(n, timeout=timeout)
        if met and self._mine is part:
            self._mine = self._another()

    async def value(self, *, timeout: float | None = None) -> int:
        """Return the sum of all parts as of one moment. Raises :class:`NotANumber`."""
        request = range_request(self._prefix, prefix_end(self._prefix))
        found = await self._core.kv.range(request, timeout=timeout)
        return sum(number_of(kv.key, kv.value) for kv in found.items)

    def _another(self) -> Cell:
        index = min(int(self._core.env.rand.uniform(0, self._shards)), self._shards - 1)
        return Cell(
            self._core,
            self._prefix + b"%d" % index,
            initial=0,
            exactly_once=self._exactly_once,
            bigint=False,
        )


class IdAllocator:
    """Unique numbers that rise, taken from the store in blocks. Made by ``client.id_allocator(name)``.

    Ids of one allocator rise in the order in which they are taken; between allocators they are unique, and that is
    all. A process that ends wastes what is left of its block.
    """

    def __init__(self, home: Coordination, name: str | bytes, *, block: int = _BLOCK) -> None:
        if not 1 <= block <= _LARGEST_BLOCK:
            raise InvalidArgument(f"block must be from 1 to {_LARGEST_BLOCK}, not {block}")
        self._home = home
        self.name: bytes = home.claim(check_name(name))
        """The name, which is the key; it holds the largest id that was handed to anybody."""
        self._cell = Cell(home.core, self.name, initial=0, exactly_once=True, bigint=False)
        self._block = block
        # Taking from the left is atomic, also between threads.
        self._ids: deque[int] = deque()
        self._refilling = asyncio.Lock()

    async def next(self, *, timeout: float | None = None) -> int:
        """Return an id that nobody else has or will have; the first one is 1.

        Only one call in ``block`` sends a request. Errors as of :meth:`coord.Counter.add`.
        A cancelled call may waste a block.
        """
        while True:
            try:
                return self._ids.popleft()
            except IndexError:
                await self._home.run(self._refill(timeout))

    async def _refill(self, timeout: float | None) -> None:
        """Take another block, unless somebody has just done so. On the runtime's loop."""
        limit = self._home.core.caller.request_timeout if timeout is None else timeout
        deadline = self._home.env.clock.mono() + limit
        try:
            async with asyncio.timeout(limit):
                await self._refilling.acquire()
        except TimeoutError:
            raise CoordTimeout("taking a block of ids", limit) from None
        try:
            if not self._ids:
                left = max(0.0, deadline - self._home.env.clock.mono())
                last, _ = await self._cell.add(self._block, timeout=left)
                self._ids.extend(range(last - self._block + 1, last + 1))
        finally:
            self._refilling.release()
