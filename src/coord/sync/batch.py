"""The twin of a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

from coord import errors
from coord.store import batch
from coord.sync._portal import AmbiguousResult, Portal, Twin

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from coord.store.values import DeleteResult, KeyValue, PutResult

T = TypeVar("T")


async def _outcome(pending: batch.Pending[T]) -> T:
    return await pending


class Pending(Generic[T]):
    """The outcome of one operation of a batch."""

    def __init__(self, portal: Portal, pending: batch.Pending[T]) -> None:
        self._portal = portal
        self._pending = pending

    @property
    def key(self) -> bytes:
        """The key of the operation."""
        return self._pending.key

    @property
    def done(self) -> bool:
        """Whether the outcome is known, or known to stay unknown."""
        return self._pending.done

    @property
    def error(self) -> errors.CoordError | None:
        """What :meth:`result` raises, None if it returns or is not done."""
        error = self._pending.error
        return None if error is None else _blocking(self._portal, error)

    def result(self) -> T:
        """Return the outcome or raise why there is none; sends the batch as far as it has come if that is needed."""
        return self._portal.call(_outcome(self._pending))


class Batch(Twin[batch.Batch]):
    """Collects operations and sends them in as few transactions as possible; see :class:`coord.Batch`."""

    __slots__ = ()

    def __len__(self) -> int:
        """Return the number of operations that have not been sent."""
        return len(self._async)

    def put(
        self, key: str | bytes, value: str | bytes, *, lease: int = 0, prev_kv: bool = False
    ) -> Pending[PutResult]:
        """Write one pair, attached to the lease with this id if given."""
        return self._pending(self._async.put(key, value, lease=lease, prev_kv=prev_kv))

    def get(self, key: str | bytes) -> Pending[KeyValue | None]:
        """Read one pair, None if there is none; after the operations on this key that came before."""
        return self._pending(self._async.get(key))

    def delete(self, key: str | bytes, *, prev_kv: bool = False) -> Pending[DeleteResult]:
        """Delete one key; a missing one is no error."""
        return self._pending(self._async.delete(key, prev_kv=prev_kv))

    def _pending(self, pending: batch.Pending[Any]) -> Pending[Any]:
        return Pending(self._portal, pending)

    def flush(self) -> None:
        """Send what has been collected, and wait for the answers. Raises :class:`coord.BatchFailed`."""
        try:
            self._portal.call(self._async.flush())
        except errors.BatchFailed as error:
            raise self._blocking(error) from error.__cause__

    def __enter__(self) -> Self:
        """Collect until the end of the block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Send everything, or after an exception nothing more."""
        try:
            self._portal.call(self._async.__aexit__(kind, error, trace))
        except errors.BatchFailed as failed:
            raise self._blocking(failed) from failed.__cause__

    def _blocking(self, failed: errors.BatchFailed) -> errors.BatchFailed:
        return errors.BatchFailed(
            failed.sent, tuple([(key, _blocking(self._portal, e)) for key, e in failed.errors])
        )


def _blocking(portal: Portal, error: errors.CoordError) -> errors.CoordError:
    """Return ``error``, with a ``resolve()`` that blocks if it has one."""
    return AmbiguousResult(portal, error) if isinstance(error, errors.AmbiguousResult) else error
