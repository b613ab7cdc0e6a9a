"""One attempt of an optimistic transaction: what it has read, what it wants to write, and what must not have changed.

What an attempt learns is kept per key, so a key reads the same for as long as the attempt lasts.
At the two serializable levels everything is read at one *base revision*, which the first read fixes.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Protocol

from coord.errors import (
    Compacted,
    CoordError,
    FutureRevision,
    InvalidArgument,
)
from coord.store import operations as op
from coord.store.keys import prefix_range, to_key
from coord.store.kv import range_request
from coord.store.paging import DEFAULT_PAGE_SIZE, Pages
from coord.store.stm_check import Conditions, covers
from coord.store.value_limits import to_value

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import TypeVar

    from coord.store.kv import KV
    from coord.store.operations import Op
    from coord.store.stm_check import Bounds, Guarding, Known
    from coord.store.txn import TxnResult, TxnRunner
    from coord.store.values import KeyValue, RangeResult

    T = TypeVar("T")

Isolation = Literal["serializable_snapshot", "serializable", "repeatable_reads", "read_committed"]
ISOLATIONS: tuple[Isolation, ...] = (
    "serializable_snapshot",
    "serializable",
    "repeatable_reads",
    "read_committed",
)
_PINNED = frozenset({"serializable_snapshot", "serializable"})


class AttemptDoomed(CoordError):
    """Raised inside the function, for its blocks to unwind: the attempt cannot end well and is run again."""


class Calls(Protocol):
    """What an attempt needs of the run that it belongs to."""

    kv: KV
    txn: TxnRunner

    async def patiently(self, call: Callable[[float], Awaitable[T]]) -> T:
        """Make a read with the timeout that is left, again after failures that pass."""
        ...


@dataclass(frozen=True, slots=True)
class _Write:
    value: bytes | None
    lease: int = 0


class StmTxn:
    """What the function given to ``client.stm()`` works with. Good for that one call of the function only.

    Reads see the attempt's own writes.
    """

    def __init__(self, calls: Calls, isolation: Isolation, known: Known) -> None:
        self._calls = calls
        self._isolation = isolation
        self._pinned = isolation in _PINNED
        self.known = known
        self._reads: dict[bytes, int] = {}
        self._ranges: dict[Bounds, RangeResult] = {}
        self._writes: dict[bytes, _Write] = {}
        self.grants: list[Guarding] = []
        self._first_read = asyncio.Lock()
        self.last_revision: int = known.revision
        self.doomed: AttemptDoomed | None = None
        self._ended = False

    # -- for the function ------------------------------------------------------------------------------------------

    async def get(self, key: str | bytes, default: bytes | None = None) -> bytes | None:
        """Return the value at ``key``, ``default`` if there is none.

        A connection that is lost is waited for. Raises :class:`StmTimeout`.
        """
        self._check()
        raw = to_key(key)
        written = self._writes.get(raw)
        if written is not None:
            return default if written.value is None else written.value
        found = await self._look(raw)
        self._check()
        self._reads[raw] = found.mod_revision if found is not None else 0
        return default if found is None else found.value

    async def range(self, prefix: str | bytes) -> dict[bytes, bytes]:
        """Return the pairs of all keys that start with ``prefix``, in key order; an empty prefix means all keys.

        A transaction that writes checks every pair again, so it can read as many as a transaction may compare, some
        120; one that only reads has no limit.
        """
        self._check()
        bounds = prefix_range(prefix)
        if bounds not in self.known.ranges:
            async with self._first_read:
                self.known.add_range(bounds, await self._read_range(bounds))
        self._check()
        found = self.known.ranges[bounds]
        self._ranges[bounds] = found
        pairs = {kv.key: kv.value for kv in found.items}
        for key, written in self._writes.items():
            if covers(*bounds, key):
                if written.value is None:
                    pairs.pop(key, None)
                else:
                    pairs[key] = written.value
        return dict(sorted(pairs.items()))

    def put(self, key: str | bytes, value: str | bytes, *, lease: int = 0) -> None:
        """Write one pair when the transaction commits, attached to the lease with this id if given.

        Raises :class:`PayloadTooLarge` for a value above the client's ``max_value_bytes``.
        """
        self._check()
        raw = to_key(key)
        what = f"the value of {raw.decode(errors='backslashreplace')!r}"
        self._writes[raw] = _Write(to_value(value, what, self._calls.txn.max_value_bytes), lease)

    def delete(self, key: str | bytes) -> None:
        """Delete one key when the transaction commits; a missing one is no error."""
        self._check()
        self._writes[to_key(key)] = _Write(None)

    def guard(self, grant: Guarding) -> None:
        """Commit only if ``grant`` is still held then; else its lost error is raised. Raises it at once if known."""
        self._check()
        grant.check()
        if grant not in self.grants:
            self.grants.append(grant)

    def revision(self, key: str | bytes) -> int:
        """Return the mod revision of a key as this transaction has read it, 0 if it was missing.

        Raises :class:`InvalidArgument` for a key that it has not read.
        """
        raw = to_key(key)
        if raw in self._reads:
            return self._reads[raw]
        if any(covers(*bounds, raw) for bounds in self._ranges):
            _, found = self.known.find(raw)
            return 0 if found is None else found.mod_revision
        raise InvalidArgument(f"{raw!r} has not been read in this transaction")

    # -- reading ---------------------------------------------------------------------------------------------------

    async def _look(self, key: bytes) -> KeyValue | None:
        known, found = self.known.find(key)
        if known:
            return found
        if self._pinned and not self.known.revision:
            # Of several tasks of the function, one fixes the base.
            async with self._first_read:
                return await self._read(key)
        return await self._read(key)

    async def _read(self, key: bytes) -> KeyValue | None:
        known, found = self.known.find(key)  # by another task meanwhile
        if known:
            return found
        base = self.known.revision if self._pinned else 0
        result = await self._at(key, base)
        if self._pinned and not base:
            self.known.revision = result.revision
        self.last_revision = max(self.last_revision, base or result.revision)
        # Two tasks may have read it: the first answer stays.
        return self.known.keys.setdefault(key, result.items[0] if result.items else None)

    async def _at(self, key: bytes, base: int) -> RangeResult:
        """Read ``key`` as it is, or at ``base``, which any member may answer that has come so far."""
        kv, patiently = self._calls.kv, self._calls.patiently
        if not base:
            return await patiently(lambda t: kv.range(range_request(key, b""), timeout=t))
        try:
            return await patiently(
                lambda t: kv.range(
                    range_request(key, b"", revision=base, serializable=True), timeout=t
                )
            )
        except FutureRevision:
            pass  # that member lags: ask one that cannot
        except Compacted as error:
            raise self._doom(error) from error
        try:
            return await patiently(
                lambda t: kv.range(range_request(key, b"", revision=base), timeout=t)
            )
        except Compacted as error:
            raise self._doom(error) from error

    async def _read_range(self, bounds: Bounds) -> RangeResult:
        if bounds in self.known.ranges:
            return self.known.ranges[bounds]
        pages = Pages(
            self._calls.kv,
            bounds,
            page_size=DEFAULT_PAGE_SIZE,
            revision=(self.known.revision or None) if self._pinned else None,
            keys_only=False,
            timeout=None,
        )
        items: list[KeyValue] = []
        while True:
            try:
                page = await self._calls.patiently(pages.read)
            except Compacted as error:
                raise self._doom(error) from error
            items += page.items
            if not page.more:
                break
        if self._pinned:
            self.known.revision = page.revision
        self.last_revision = max(self.last_revision, page.revision)
        found = replace(page, items=tuple(items), count=len(items))
        if self._isolation == "repeatable_reads":
            self._compare_with_earlier(bounds, found)
        return found

    def _compare_with_earlier(self, bounds: Bounds, found: RangeResult) -> None:
        """Give up early if a range shows another state of a key than an earlier read: the commit would fail."""
        now = {kv.key: kv.mod_revision for kv in found.items}
        for key, seen in self._reads.items():
            if covers(*bounds, key) and now.get(key, 0) != seen:
                raise self._doom(f"{key!r} has changed since it was read")

    def _doom(self, reason: object) -> AttemptDoomed:
        self.doomed = AttemptDoomed(f"this attempt is run again: {reason}")
        return self.doomed

    def _check(self) -> None:
        if self._ended:
            raise InvalidArgument("the transaction has ended: use it inside its function only")
        if self.doomed is not None:
            raise self.doomed

    # -- for the run -----------------------------------------------------------------------------------------------

    def end(self) -> None:
        """Refuse further use."""
        self._ended = True

    async def prefetch(self, keys: list[bytes]) -> None:
        """Learn these keys in as few requests as possible, before the function asks for them."""
        txn, width = self._calls.txn, self._calls.txn.max_ops
        for first in range(0, len(keys), width):
            base = (self.known.revision or None) if self._pinned else None
            some = keys[first : first + width]
            reads = tuple([op.get(key, revision=base) for key in some])

            def read(timeout: float, reads: tuple[Op, ...] = reads) -> Awaitable[TxnResult]:
                return txn.run((), reads, timeout=timeout)

            try:
                result = await self._calls.patiently(read)
            except Compacted as error:
                self._doom(error)  # told to the function, which then is run again
                return
            if self._pinned and not self.known.revision:
                self.known.revision = result.revision
            self.last_revision = max(self.last_revision, base or result.revision)
            for index, key in enumerate(some):
                items = result.range(index).items
                self.known.keys[key] = items[0] if items else None

    @property
    def base(self) -> int:
        """The revision at which everything was read, 0 if nothing was or at no single one."""
        return self.known.revision if self._pinned and (self._reads or self._ranges) else 0

    @property
    def writes(self) -> tuple[Op, ...]:
        """The operations that the function asked for."""
        return tuple(
            [
                op.delete(key) if w.value is None else op.put(key, w.value, lease=w.lease)
                for key, w in self._writes.items()
            ]
        )

    @property
    def needs_check(self) -> bool:
        """Whether a transaction that writes nothing must ask the store nevertheless."""
        return bool(self.grants) or (
            self._isolation == "repeatable_reads" and bool(self._reads or self._ranges)
        )

    @property
    def read_keys(self) -> list[bytes]:
        """The single keys that were read."""
        return list(self._reads)

    def conditions(self) -> Conditions:
        """Return what must hold for this attempt to be committed."""
        grants = tuple(self.grants)
        if self._isolation == "read_committed" or (self._pinned and not self._writes):
            return Conditions(keys={}, unwritten={}, ranges={}, grants=grants)
        keys = dict(self._reads)
        for found in self._ranges.values():
            for kv in found.items:
                # If a single read saw another state, its condition is the one that must fail.
                keys.setdefault(kv.key, kv.mod_revision)
        unwritten: dict[bytes, int] = {}
        if self._isolation == "serializable_snapshot" and self.base:
            unwritten = {
                key: self.base
                for key in self._writes
                if key not in keys and not any(covers(*b, key) for b in self._ranges)
            }
        ranges = {bounds: found.revision for bounds, found in self._ranges.items()}
        return Conditions(keys=keys, unwritten=unwritten, ranges=ranges, grants=grants)
