"""Operations, for ``then()`` and ``otherwise()`` of a transaction.

    op.put("k", "v", lease=session.lease_id)
    op.get_prefix("jobs/", limit=1)

The result of the transaction holds an answer for each, in the same order.
"""

from coord.store.operations import (
    delete,
    delete_prefix,
    delete_range,
    get,
    get_prefix,
    get_range,
    put,
    txn,
)

__all__ = [
    "delete",
    "delete_prefix",
    "delete_range",
    "get",
    "get_prefix",
    "get_range",
    "put",
    "txn",
]
