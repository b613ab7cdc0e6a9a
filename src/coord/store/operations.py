"""Operations of a transaction (etcd API: Txn, ``RequestOp``).

op.put("k", "v", lease=lease.lease_id)
op.get_prefix("jobs/", limit=10)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from coord.store.keys import prefix_range, to_bytes, to_key
from coord.store.kv import SortBy, put_request, range_request
from coord.wire import rpc_pb2

if TYPE_CHECKING:
    from coord.store.comparing import Compare


@dataclass(frozen=True, slots=True)
class Op:
    """One operation, for ``then()`` and ``otherwise()``."""

    wire: rpc_pb2.RequestOp


def put(
    key: str | bytes,
    value: str | bytes,
    *,
    lease: int = 0,
    prev_kv: bool = False,
    ignore_value: bool = False,
    ignore_lease: bool = False,
) -> Op:
    """Write one pair; the options as for ``client.put()``."""
    request = put_request(
        key,
        value,
        lease=lease,
        prev_kv=prev_kv,
        ignore_value=ignore_value,
        ignore_lease=ignore_lease,
    )
    return Op(rpc_pb2.RequestOp(request_put=request))


def get(
    key: str | bytes,
    *,
    revision: int | None = None,
    keys_only: bool = False,
    serializable: bool = False,
) -> Op:
    """Read one key; with ``keys_only`` its revisions, version and lease without the value."""
    request = range_request(
        to_key(key),
        b"",
        revision=revision,
        keys_only=keys_only,
        serializable=serializable,
    )
    return Op(rpc_pb2.RequestOp(request_range=request))


def get_range(  # noqa: PLR0913 - the options of etcd's Range
    start: str | bytes,
    end: str | bytes,
    *,
    limit: int = 0,
    revision: int | None = None,
    sort_by: SortBy = SortBy.KEY,
    descending: bool = False,
    keys_only: bool = False,
    count_only: bool = False,
    serializable: bool = False,
    min_mod_revision: int = 0,
    max_mod_revision: int = 0,
    min_create_revision: int = 0,
    max_create_revision: int = 0,
) -> Op:
    """Read ``[start, end)``; the options as for ``client.get_range()``.

    ``serializable`` counts only if every operation of the transaction reads, and all say so.
    """
    request = range_request(
        to_key(start),
        to_bytes(end, "end"),
        limit=limit,
        revision=revision,
        sort_by=sort_by,
        descending=descending,
        keys_only=keys_only,
        count_only=count_only,
        serializable=serializable,
        min_mod_revision=min_mod_revision,
        max_mod_revision=max_mod_revision,
        min_create_revision=min_create_revision,
        max_create_revision=max_create_revision,
    )
    return Op(rpc_pb2.RequestOp(request_range=request))


def get_prefix(
    prefix: str | bytes,
    *,
    limit: int = 0,
    revision: int | None = None,
    sort_by: SortBy = SortBy.KEY,
    descending: bool = False,
    keys_only: bool = False,
    count_only: bool = False,
    serializable: bool = False,
    min_mod_revision: int = 0,
    max_mod_revision: int = 0,
    min_create_revision: int = 0,
    max_create_revision: int = 0,
) -> Op:
    """Read all keys that start with ``prefix``; as :meth:`get_range`."""
    start, end = prefix_range(prefix)
    return get_range(
        start,
        end,
        limit=limit,
        revision=revision,
        sort_by=sort_by,
        descending=descending,
        keys_only=keys_only,
        count_only=count_only,
        serializable=serializable,
        min_mod_revision=min_mod_revision,
        max_mod_revision=max_mod_revision,
        min_create_revision=min_create_revision,
        max_create_revision=max_create_revision,
    )


def delete(key: str | bytes, *, prev_kv: bool = False) -> Op:
    """Delete one key."""
    request = rpc_pb2.DeleteRangeRequest(key=to_key(key), prev_kv=prev_kv)
    return Op(rpc_pb2.RequestOp(request_delete_range=request))


def delete_range(start: str | bytes, end: str | bytes, *, prev_kv: bool = False) -> Op:
    """Delete ``[start, end)``."""
    request = rpc_pb2.DeleteRangeRequest(
        key=to_key(start), range_end=to_bytes(end, "end"), prev_kv=prev_kv
    )
    return Op(rpc_pb2.RequestOp(request_delete_range=request))


def delete_prefix(prefix: str | bytes, *, prev_kv: bool = False) -> Op:
    """Delete all keys that start with ``prefix``."""
    start, end = prefix_range(prefix)
    return delete_range(start, end, prev_kv=prev_kv)


def txn(when: tuple[Compare, ...], then: tuple[Op, ...], otherwise: tuple[Op, ...] = ()) -> Op:
    """Nest a transaction; its comparisons see the state before the outer one."""
    return Op(rpc_pb2.RequestOp(request_txn=txn_request(when, then, otherwise)))


def txn_request(
    when: tuple[Compare, ...], then: tuple[Op, ...], otherwise: tuple[Op, ...] = ()
) -> rpc_pb2.TxnRequest:
    """Build a TxnRequest."""
    return rpc_pb2.TxnRequest(
        compare=[c.wire for c in when],
        success=[o.wire for o in then],
        failure=[o.wire for o in otherwise],
    )
