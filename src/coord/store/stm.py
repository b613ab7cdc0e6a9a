"""Software transactional memory: a function over keys that takes effect as a whole, or is run again (spec core 8.5).

The function reads and writes through a :class:`StmTxn`; nothing is sent but reads until it returns.
Then one transaction writes everything if nothing of what it read has changed, and otherwise reads it all anew, so that
the next attempt can begin with that.

Contention: two retries follow at once, on the data of the failed commit, which is the freshest there is.
Further ones come after a growing random pause and read again, since after a pause that data is old.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from coord.errors import (
    CoordTimeout,
    InvalidArgument,
    StmConflict,
    StmTimeout,
    Unavailable,
)
from coord.runtime import Backoff
from coord.store.keys import to_key
from coord.store.marker import MARKER_OPS
from coord.store.stm_check import Known
from coord.store.stm_txn import ISOLATIONS, StmTxn
from coord.store.txn import present_state
from coord.store.txn_limits import too_large

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from coord.runtime import Env
    from coord.store.kv import KV
    from coord.store.marker import Markers
    from coord.store.operations import Op
    from coord.store.stm_check import Conditions
    from coord.store.stm_txn import Isolation
    from coord.store.txn import TxnResult, TxnRunner

T = TypeVar("T")

_EAGER_RETRIES = 2
_BACKOFF_FIRST_S, _BACKOFF_MAX_S = 0.01, 0.25
_REREAD_FIRST_S, _REREAD_MAX_S = 0.05, 1.0
_HOTTEST = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class StmResult(Generic[T]):
    """What the function returned, and the revision at which its transaction took place.

    That is the commit's, or where nothing was written the one that was read; 0 if it touched nothing.
    """

    value: T
    revision: int


class StmRun:
    """All attempts of one call of ``client.stm()``; on one loop.

    Used as: :meth:`begin`, the function, :meth:`commit`, until that returns a result.
    """

    def __init__(
        self,
        kv: KV,
        txn: TxnRunner,
        markers: Markers,
        env: Env,
        *,
        request_timeout: float,
        isolation: Isolation,
        max_attempts: int,
        timeout: float | None,
        prefetch: Iterable[str | bytes],
        marker: bool,
    ) -> None:
        if isolation not in ISOLATIONS:
            raise InvalidArgument(  # pyright: ignore[reportUnreachable]
                f"isolation is one of {', '.join(ISOLATIONS)}, not {isolation!r}"
            )
        if max_attempts < 1:
            raise InvalidArgument(f"max_attempts must be at least 1, not {max_attempts}")
        if timeout is not None and not timeout > 0:
            raise InvalidArgument(f"timeout must be None or more than 0 seconds, not {timeout}")
        self.kv = kv
        self.txn = txn
        self._markers = markers
        self._env = env
        self._request_timeout = request_timeout
        self._isolation: Isolation = isolation
        self._max_attempts = max_attempts
        self._timeout = timeout
        self._deadline = None if timeout is None else env.clock.mono() + timeout
        self._marker = marker
        self._wanted = dict.fromkeys(to_key(key) for key in prefetch)
        self._attempts = 0
        self._backoff = Backoff(env.rand, _BACKOFF_FIRST_S, _BACKOFF_MAX_S, spread=1)
        self._seed: Known | None = None
        self._conflicts: Counter[bytes] = Counter()
        self._last: Exception | None = None  # the last failure that passes, to explain a timeout

    # -- one attempt -----------------------------------------------------------------------------------------------

    async def begin(self) -> StmTxn:
        """Start an attempt. Raises :class:`StmConflict` after the last one, :class:`StmTimeout`."""
        if self._attempts == self._max_attempts:
            raise self._conflict()
        retries = self._attempts
        self._attempts += 1
        if retries > _EAGER_RETRIES:
            self._seed = None
            await self._backoff.pause(self.left())
        seed, self._seed = self._seed, None
        tx = StmTxn(self, self._isolation, seed or Known())
        if seed is None and self._wanted:
            await tx.prefetch(list(self._wanted))
        return tx

    def rehearsed(self, tx: StmTxn) -> StmTxn:
        """Return the same attempt anew, for debug mode, which throws away the first run of the function."""
        tx.end()
        return StmTxn(self, self._isolation, tx.known)

    def failed(self, tx: StmTxn, error: BaseException) -> None:
        """Take note that the function raised. Raises ``error``, unless the attempt was doomed and is to be repeated."""
        tx.end()
        if tx.doomed is None or not isinstance(error, Exception):
            raise error
        self._wanted.update(dict.fromkeys(tx.read_keys))

    async def commit(self, tx: StmTxn, value: T) -> StmResult[T] | None:
        """Commit what the function did. None: it has to be run again.

        Raises :class:`TxnTooLarge`, :class:`StmTimeout`, :class:`AmbiguousResult`, the lost error of a guard, and
        refusals of the store.
        """
        tx.end()
        if tx.doomed is not None:
            self._wanted.update(dict.fromkeys(tx.read_keys))
            return None
        writes = tx.writes
        if not writes and not tx.needs_check:
            return StmResult(value=value, revision=tx.base or tx.last_revision)
        conditions = tx.conditions()
        self._check_size(conditions, writes)
        applied, revision, result = await self._send(conditions, writes)
        if applied:
            return StmResult(value=value, revision=tx.base if not writes and tx.base else revision)
        if result is not None:
            self._learn(tx, conditions, result)
        return None

    # -- its parts -------------------------------------------------------------------------------------------------

    def _check_size(self, conditions: Conditions, writes: tuple[Op, ...]) -> None:
        marks = MARKER_OPS if self._marker and writes else 0
        count = marks + max(len(conditions.compares), len(conditions.reads), len(writes))
        if count > self.txn.max_ops:
            raise too_large(count, self.txn.max_ops)

    async def _send(
        self, conditions: Conditions, writes: tuple[Op, ...]
    ) -> tuple[bool, int, TxnResult | None]:
        when, otherwise = conditions.compares, conditions.reads
        if not writes:
            result = await self.patiently(lambda t: self.txn.run(when, (), otherwise, timeout=t))
            return result.succeeded, result.revision, result
        left = self.left()
        limit = self._request_timeout if left is None else min(left, self._request_timeout)
        try:
            if not self._marker:
                result = await self.txn.run(
                    when,
                    writes,
                    otherwise,
                    timeout=limit,
                    resolver=present_state(self.txn, writes),
                )
                return result.succeeded, result.revision, result
            marked = await self._markers.run(when, writes, otherwise, timeout=left or limit)
        except (Unavailable, CoordTimeout) as error:
            # Certainly not applied, so the function may be run again while there is time.
            self._last = error
            self.left()
            return False, 0, None
        return marked.applied, marked.revision, marked.result

    def _learn(self, tx: StmTxn, conditions: Conditions, result: TxnResult) -> None:
        conditions.check_grants(result)
        known, changed = conditions.learn(result)
        self._conflicts.update(changed)
        self._wanted.update(dict.fromkeys(tx.read_keys))
        if self._isolation in ("serializable_snapshot", "serializable"):
            self._seed = known

    async def patiently(self, call: Callable[[float], Awaitable[T]]) -> T:
        """Make a read, again after failures that pass, until the time is up. Raises :class:`StmTimeout`."""
        backoff = Backoff(self._env.rand, _REREAD_FIRST_S, _REREAD_MAX_S, spread=1)
        while True:
            left = self.left()
            limit = self._request_timeout if left is None else min(left, self._request_timeout)
            try:
                return await call(limit)
            except (Unavailable, CoordTimeout) as error:
                self._last = error
            await backoff.pause(self.left())

    def left(self) -> float | None:
        """Return the seconds that are left. Raises :class:`StmTimeout` when none are."""
        if self._deadline is None:
            return None
        left = self._deadline - self._env.clock.mono()
        if left <= 0:
            raise self.timed_out() from self._last
        return left

    def timed_out(self) -> StmTimeout:
        """Return the error for a run that has used all its time."""
        explain = f"in attempt {self._attempts}"
        if self._last is not None:
            explain += f": {self._last}"
        return StmTimeout("the transaction", self._timeout, explain=explain)

    def _conflict(self) -> StmConflict:
        hottest = tuple(self._conflicts.most_common(_HOTTEST))
        return StmConflict(self._attempts, hottest)


async def run_stm(
    run: StmRun, fn: Callable[[StmTxn], Awaitable[T]], *, twice: bool
) -> StmResult[T]:
    """Run ``fn`` until it is committed; ``twice`` on each attempt in debug mode, so that other effects of it show."""
    while True:
        tx = await run.begin()
        scope = asyncio.timeout(run.left())
        try:
            async with scope:
                if twice:
                    await fn(tx)
                    tx = run.rehearsed(tx)
                value = await fn(tx)
        except TimeoutError as error:
            tx.end()
            if scope.expired():
                raise run.timed_out() from None
            run.failed(tx, error)
            continue
        except BaseException as error:  # noqa: BLE001 - failed() raises it, unless the attempt is to be repeated
            run.failed(tx, error)
            continue
        result = await run.commit(tx, value)
        if result is not None:
            return result
