"""Many independent puts, gets and deletes in few transactions (decision 7: said by the caller, never done silently).

Operations are packed into transactions up to the server's limits.
Those on one key keep their order: they share a transaction if one may hold them (etcd takes one put per key, and no
delete beside it), and otherwise stand in different *waves*.
The transactions of a wave have no key in common and are sent side by side; a wave begins when the one before has
ended.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from coord.errors import (
    AmbiguousResult,
    BatchFailed,
    CoordError,
    InvalidArgument,
    Unavailable,
)
from coord.store import operations as op
from coord.store.keys import to_key
from coord.store.values import RangeResult

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Iterator
    from types import TracebackType

    from coord.store.kv import KV
    from coord.store.operations import Op
    from coord.store.txn import TxnRunner
    from coord.store.values import DeleteResult, KeyValue, PutResult

T = TypeVar("T")

DEFAULT_MAX_BYTES = 1 << 20
"""Of one request; etcd refuses more than 1.5 MiB unless ``--max-request-bytes`` says otherwise."""
MAX_QUEUED = 100_000
"""Operations that may wait to be sent."""
_OP_OVERHEAD_BYTES = 8  # tags and lengths around an operation
_SIDE_BY_SIDE = (
    8  # enough to share the server's disk writes, and too few to get in the way of others
)


class _Nothing(Enum):
    YET = 0


class Pending(Generic[T]):
    """The outcome of one operation of a batch: await it, or ask :meth:`result` behind the ``async with``."""

    __slots__ = ("_error", "_send", "_value", "key")

    def __init__(self, key: bytes, send: Callable[[], Awaitable[object]]) -> None:
        self.key: bytes = key
        self._send = send
        self._value: T | _Nothing = _Nothing.YET
        self._error: CoordError | None = None

    @property
    def done(self) -> bool:
        """Whether the outcome is known, or known to stay unknown."""
        return self._error is not None or self._value is not _Nothing.YET

    @property
    def error(self) -> CoordError | None:
        """What :meth:`result` raises, None if it returns or is not done."""
        return self._error

    def result(self) -> T:
        """Return the outcome, or raise why there is none.

        :class:`AmbiguousResult` means that the transaction which it was part of may have been applied; ``resolve()``
        returns the pair as it is.
        Any other error means that the operation was not applied.
        Raises :class:`InvalidArgument` before it was sent.
        """
        if self._error is not None:
            raise self._error
        if self._value is _Nothing.YET:
            raise InvalidArgument(
                "this operation has not been sent yet: await it, or flush its batch"
            )
        return self._value

    def __await__(self) -> Generator[Any, None, T]:
        """Send the batch as far as it has come, unless that has happened, and return or raise the outcome."""
        return self._wait().__await__()

    async def _wait(self) -> T:
        if not self.done:
            await self._send()
        return self.result()

    def settle(self, outcome: T | CoordError) -> None:
        """Set the outcome, once; for the batch."""
        if not self.done:
            if isinstance(outcome, CoordError):
                self._error = outcome
            else:
                self._value = outcome


class Kind(Enum):
    """What an operation does."""

    PUT = 0
    GET = 1
    DELETE = 2


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """One operation that waits to be sent."""

    kind: Kind
    op: Op
    size_bytes: int
    pending: Pending[Any]


@dataclass(slots=True, eq=False)
class Group:
    """The operations of one transaction."""

    items: list[Item] = field(default_factory=list[Item])
    size_bytes: int = 0
    _put: set[bytes] = field(default_factory=set[bytes])
    _deleted: set[bytes] = field(default_factory=set[bytes])

    def takes(self, item: Item, max_ops: int, max_bytes: int) -> bool:
        """Say whether one more fits, by number, size, and etcd's rule that a transaction changes a key once."""
        if self.items and (
            len(self.items) >= max_ops or self.size_bytes + item.size_bytes > max_bytes
        ):
            return False
        key = item.pending.key
        match item.kind:
            case Kind.PUT:
                return key not in self._put and key not in self._deleted
            case Kind.DELETE:
                return key not in self._put
            case Kind.GET:
                return True

    def add(self, item: Item) -> None:
        """Take one more."""
        self.items.append(item)
        self.size_bytes += item.size_bytes
        if item.kind is Kind.PUT:
            self._put.add(item.pending.key)
        elif item.kind is Kind.DELETE:
            self._deleted.add(item.pending.key)


def pack(items: list[Item], *, max_ops: int, max_bytes: int) -> list[list[Group]]:
    """Distribute operations over waves of transactions; only the last transaction of a wave is still filled."""
    waves: list[list[Group]] = []
    # Where the last operation on each key went.
    places: dict[bytes, tuple[int, Group]] = {}
    for item in items:
        wave, before = places.get(item.pending.key, (0, None))
        if before is not None and (
            before is not waves[wave][-1] or not before.takes(item, max_ops, max_bytes)
        ):
            wave += 1
        if wave == len(waves):
            waves.append([Group()])
        group = waves[wave][-1]
        if not group.takes(item, max_ops, max_bytes):
            group = Group()
            waves[wave].append(group)
        group.add(item)
        places[item.pending.key] = (wave, group)
    return waves


class Batch:
    """Collects operations and sends them in as few transactions as possible. Made by ``client.batch()``.

    Nothing is sent before the end of the ``async with``, :meth:`flush`, or somebody awaits one of the operations.
    The end raises :class:`BatchFailed` if any operation failed; each keeps its own outcome.
    When the block ends with an exception, what has not been sent never is.

    The batch as a whole is not atomic, though each of its transactions is: operations that share one also share its
    revision and its fate.
    Operations on one key take place in their order, and one that failed does not hold up the next.
    For one task, or thread, at a time.
    """

    def __init__(
        self,
        kv: KV,
        txn: TxnRunner,
        *,
        max_ops: int | None,
        max_bytes: int,
        timeout: float | None,
        key_overhead: int,
    ) -> None:
        allowed = txn.max_ops
        if max_ops is not None and not 1 <= max_ops <= allowed:
            raise InvalidArgument(
                f"max_ops must be from 1 to the client's max_txn_ops, {allowed}, not {max_ops}"
            )
        if max_bytes < 1:
            raise InvalidArgument(f"max_bytes must be at least 1, not {max_bytes}")
        self._kv = kv
        self._txn = txn
        self._max_ops = allowed if max_ops is None else max_ops
        self._max_bytes = max_bytes
        self._timeout = timeout
        self._overhead = key_overhead + _OP_OVERHEAD_BYTES
        self._queue: list[Item] = []
        # Of all flushes together: the end of the block tells of each failure that no flush has told.
        self._untold: list[Item] = []
        self._sent = 0
        self._sending = asyncio.Lock()
        self._ended = False

    def __len__(self) -> int:
        """Return the number of operations that have not been sent."""
        return len(self._queue)

    def put(
        self, key: str | bytes, value: str | bytes, *, lease: int = 0, prev_kv: bool = False
    ) -> Pending[PutResult]:
        """Write one pair, attached to the lease with this id if given."""
        return self._add(Kind.PUT, key, op.put(key, value, lease=lease, prev_kv=prev_kv))

    def get(self, key: str | bytes) -> Pending[KeyValue | None]:
        """Read one pair, None if there is none; after the operations on this key that came before."""
        return self._add(Kind.GET, key, op.get(key))

    def delete(self, key: str | bytes, *, prev_kv: bool = False) -> Pending[DeleteResult]:
        """Delete one key; a missing one is no error."""
        return self._add(Kind.DELETE, key, op.delete(key, prev_kv=prev_kv))

    def _add(self, kind: Kind, key: str | bytes, wire: Op) -> Pending[Any]:
        if self._ended:
            raise InvalidArgument("the batch has ended")
        if len(self._queue) >= MAX_QUEUED:
            raise InvalidArgument(f"{MAX_QUEUED} operations wait to be sent: flush the batch first")
        pending: Pending[Any] = Pending(to_key(key), self._send)
        self._queue.append(Item(kind, wire, len(wire.body) + self._overhead, pending))
        return pending

    async def flush(self) -> None:
        """Send what has been collected, and wait for the answers.

        Raises :class:`BatchFailed` if an operation has failed since the last flush.
        After a cancellation, operations under way are :class:`AmbiguousResult`, and those behind them were not sent.
        """
        await self._send()
        items, self._untold = self._untold, []
        sent, self._sent = self._sent, 0
        errors = [(i.pending.key, e) for i in items if (e := i.pending.error) is not None]
        if errors:
            raise BatchFailed(sent, tuple(errors)) from errors[0][1]

    async def __aenter__(self) -> Self:
        """Collect until the end of the block."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Send everything, or after an exception nothing more."""
        self._ended = True
        if error is None:
            await self.flush()
            return
        items, self._queue = self._queue, []
        for item in items:
            item.pending.settle(Unavailable("its batch was given up before this was sent"))

    async def _send(self) -> None:
        async with self._sending:  # who comes second finds its operations done
            items, self._queue = self._queue, []
            self._sent += len(items)
            try:
                for wave in pack(items, max_ops=self._max_ops, max_bytes=self._max_bytes):
                    await self._send_wave(wave)
            finally:
                for item in items:
                    item.pending.settle(Unavailable("its batch was cancelled before this was sent"))
                self._untold += [item for item in items if item.pending.error is not None]

    async def _send_wave(self, wave: list[Group]) -> None:
        groups = iter(wave)
        if len(wave) == 1:
            await self._work(groups)
            return
        async with asyncio.TaskGroup() as tasks:
            for _ in range(min(_SIDE_BY_SIDE, len(wave))):
                tasks.create_task(self._work(groups))

    async def _work(self, groups: Iterator[Group]) -> None:
        for group in groups:
            await self._send_group(group)

    async def _send_group(self, group: Group) -> None:
        try:
            result = await self._txn.run(
                (), tuple([item.op for item in group.items]), timeout=self._timeout
            )
        except AmbiguousResult as error:
            self._unknown(group, error.reason)
        except CoordError as error:
            for item in group.items:
                item.pending.settle(error)
        except asyncio.CancelledError:
            self._unknown(group, "the call was cancelled")
            raise
        else:
            for item, response in zip(group.items, result.responses, strict=True):
                if isinstance(response, RangeResult):
                    item.pending.settle(response.items[0] if response.items else None)
                else:
                    item.pending.settle(response)

    def _unknown(self, group: Group, reason: str) -> None:
        for item in group.items:
            key = item.pending.key

            def resolve(key: bytes = key) -> Awaitable[KeyValue | None]:
                return self._kv.get(key)

            error = AmbiguousResult(f"Txn with {key!r}", reason, resolver=resolve)
            item.pending.settle(error)
