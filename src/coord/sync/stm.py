"""The twin of an optimistic transaction: the function runs on the calling thread."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from coord.store import stm_txn
from coord.sync._portal import Portal, Twin, behind

if TYPE_CHECKING:
    from collections.abc import Callable

    from coord.store.stm import StmResult, StmRun
    from coord.sync.grants import Grant

T = TypeVar("T")


class StmTxn(Twin[stm_txn.StmTxn]):
    """What the function given to ``client.stm()`` works with; see :class:`coord.StmTxn`."""

    __slots__ = ()

    def get(self, key: str | bytes, default: bytes | None = None) -> bytes | None:
        """Return the value at ``key``, ``default`` if there is none."""
        return self._portal.call(self._async.get(key, default))

    def range(self, prefix: str | bytes) -> dict[bytes, bytes]:
        """Return the pairs of all keys that start with ``prefix``, in key order; an empty prefix means all keys."""
        return self._portal.call(self._async.range(prefix))

    def put(self, key: str | bytes, value: str | bytes, *, lease: int = 0) -> None:
        """Write one pair when the transaction commits, attached to the lease with this id if given."""
        self._async.put(key, value, lease=lease)

    def delete(self, key: str | bytes) -> None:
        """Delete one key when the transaction commits; a missing one is no error."""
        self._async.delete(key)

    def guard(self, grant: Grant[Any]) -> None:
        """Commit only if ``grant`` is still held then; else its lost error is raised."""
        self._async.guard(behind(grant))

    def revision(self, key: str | bytes) -> int:
        """Return the mod revision of a key as this transaction has read it, 0 if it was missing."""
        return self._async.revision(key)


def run_stm(portal: Portal, run: StmRun, fn: Callable[[StmTxn], T]) -> StmResult[T]:
    """Run ``fn`` on this thread until it is committed; see :func:`coord.store.stm.run_stm`."""
    twice = portal.runtime.loop.get_debug()
    while True:
        tx = portal.call(run.begin())
        try:
            if twice:
                fn(StmTxn(portal, tx))
                tx = run.rehearsed(tx)
            value = fn(StmTxn(portal, tx))
        except BaseException as error:  # noqa: BLE001 - failed() raises it, unless the attempt is to be repeated
            run.failed(tx, error)
            continue
        result = portal.call(run.commit(tx, value))
        if result is not None:
            return result
