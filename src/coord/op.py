"""Operations, for ``then()`` and ``otherwise()`` of a transaction.

    op.put("k", "v", lease=session.lease_id)
    op.get_prefix("jobs/", limit=1)

The result of the transaction holds an answer for each, in the same order.
"""

from coord.store.txn import op as _op

delete = _op.delete
delete_prefix = _op.delete_prefix
delete_range = _op.delete_range
get = _op.get
get_prefix = _op.get_prefix
get_range = _op.get_range
put = _op.put
txn = _op.txn

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
