"""Operations of a transaction (etcd API: Txn, ``RequestOp``).

op.put("k", "v", lease=lease.lease_id)
op.get_prefix("jobs/", limit=10)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from coord.store.keys import prefix_range, to_bytes, to_key
from coord.store.kv import SortBy, check_range, put_request, sorting
from coord.wire import fast, rpc_pb2

if TYPE_CHECKING:
    from coord.store.comparing import Compare


# The fields of RequestOp, by which the first byte of an encoded one tells its kind.
_RANGE, _PUT, _DELETE_RANGE, _TXN = 0x0A, 0x12, 0x1A, 0x22
_INT64_END = 1 << 63


@dataclass(frozen=True, slots=True)
class Op:
    """One operation, for ``then()`` and ``otherwise()``.

    Encoded at once: a message that is put into another one is copied, which costs more than all the rest.
    """

    body: bytes
    """The bytes of its RequestOp."""

    @property
    def wire(self) -> rpc_pb2.RequestOp:
        """A message of its own."""
        return rpc_pb2.RequestOp.FromString(self.body)

    @property
    def is_read(self) -> bool:
        """Whether it reads keys, and nothing else."""
        return self.body[0] == _RANGE

    @property
    def is_txn(self) -> bool:
        """Whether it is a transaction, which may hold anything."""
        return self.body[0] == _TXN


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
    if ignore_value or ignore_lease or not -_INT64_END <= lease < _INT64_END:
        request = put_request(
            key,
            value,
            lease=lease,
            prev_kv=prev_kv,
            ignore_value=ignore_value,
            ignore_lease=ignore_lease,
        ).SerializeToString()
    else:
        request = fast.encode_put(to_key(key), to_bytes(value, "value"), lease, prev_kv)
    return Op(fast.delimited(_PUT, request))


def get(
    key: str | bytes,
    *,
    revision: int | None = None,
    keys_only: bool = False,
    serializable: bool = False,
) -> Op:
    """Read one key; with ``keys_only`` its revisions, version and lease without the value."""
    check_range(0, revision)
    request = fast.encode_range(
        to_key(key),
        b"",
        revision=revision or 0,
        keys_only=keys_only,
        serializable=serializable,
    )
    return Op(fast.delimited(_RANGE, request))


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
    check_range(limit, revision)
    order, target = sorting(sort_by, descending=descending)
    request = fast.encode_range(
        to_key(start),
        to_bytes(end, "end"),
        limit=limit,
        revision=revision or 0,
        sort_order=order,
        sort_target=target,
        serializable=serializable,
        keys_only=keys_only,
        count_only=count_only,
        revisions=(
            min_mod_revision,
            max_mod_revision,
            min_create_revision,
            max_create_revision,
        ),
    )
    return Op(fast.delimited(_RANGE, request))


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
    request = fast.encode_delete_range(to_key(key), prev_kv=prev_kv)
    return Op(fast.delimited(_DELETE_RANGE, request))


def delete_range(start: str | bytes, end: str | bytes, *, prev_kv: bool = False) -> Op:
    """Delete ``[start, end)``."""
    request = fast.encode_delete_range(to_key(start), to_bytes(end, "end"), prev_kv)
    return Op(fast.delimited(_DELETE_RANGE, request))


def delete_prefix(prefix: str | bytes, *, prev_kv: bool = False) -> Op:
    """Delete all keys that start with ``prefix``."""
    start, end = prefix_range(prefix)
    return delete_range(start, end, prev_kv=prev_kv)


def txn(when: tuple[Compare, ...], then: tuple[Op, ...], otherwise: tuple[Op, ...] = ()) -> Op:
    """Nest a transaction; its comparisons see the state before the outer one."""
    return Op(fast.delimited(_TXN, txn_body(when, then, otherwise)))


def txn_body(
    when: tuple[Compare, ...], then: tuple[Op, ...], otherwise: tuple[Op, ...] = ()
) -> bytes:
    """Return the bytes of a TxnRequest."""
    return fast.encode_txn(
        [c.body for c in when], [o.body for o in then], [o.body for o in otherwise]
    )


def txn_request(
    when: tuple[Compare, ...], then: tuple[Op, ...], otherwise: tuple[Op, ...] = ()
) -> rpc_pb2.TxnRequest:
    """Build a TxnRequest."""
    return rpc_pb2.TxnRequest.FromString(txn_body(when, then, otherwise))
