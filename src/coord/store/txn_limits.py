"""How large a transaction may be, asked before anything is sent (spec core 2.7.1, recipes C16)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coord.errors import TxnTooLarge
from coord.rpc.status import StatusCode

if TYPE_CHECKING:
    from coord.wire import rpc_pb2

DEFAULT_MAX_TXN_OPS = 128
"""What etcd allows unless ``--max-txn-ops`` says otherwise."""


def check_size(request: rpc_pb2.TxnRequest, allowed: int) -> None:
    """Raise :class:`TxnTooLarge` if the server would: each of the three lists counts for itself.

    A nested transaction may have as many as the lists of those around it leave.
    """
    count = max(len(request.compare), len(request.success), len(request.failure))
    if count > allowed:
        raise too_large(count, allowed)
    for branch in (request.success, request.failure):
        for each in branch:
            if each.HasField("request_txn"):
                check_size(each.request_txn, allowed - count)


def too_large(count: int, allowed: int) -> TxnTooLarge:
    """Return the error for ``count`` comparisons or operations where ``allowed`` are."""
    return TxnTooLarge(
        StatusCode.INVALID_ARGUMENT,
        f"too many operations or comparisons in one transaction: {count}, but at most {allowed} are allowed",
    )
