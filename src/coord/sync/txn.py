"""The twin of the transaction builder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coord.store import txn
from coord.sync._portal import Twin

if TYPE_CHECKING:
    from typing import Self

    from coord.store.comparing import Compare
    from coord.store.operations import Op
    from coord.store.txn import TxnResult


class Txn(Twin[txn.Txn]):
    """Builds one transaction; see :class:`coord.Txn`. Made by ``client.txn()``."""

    __slots__ = ()

    def when(self, *comparisons: Compare) -> Self:
        """Set the comparisons that all must hold. Raises :class:`coord.InvalidArgument` out of order."""
        self._async.when(*comparisons)
        return self

    def then(self, *ops: Op) -> Self:
        """Set what runs when the comparisons hold. Raises :class:`coord.InvalidArgument` out of order."""
        self._async.then(*ops)
        return self

    def otherwise(self, *ops: Op) -> Self:
        """Set what runs when they do not. Raises :class:`coord.InvalidArgument` the second time."""
        self._async.otherwise(*ops)
        return self

    def commit(self, *, timeout: float | None = None) -> TxnResult:
        """Send it and return what happened. Raises :class:`AmbiguousResult` when the outcome is unknown."""
        return self._portal.call(self._async.commit(timeout=timeout))
