"""Put and DeleteRange: what they check, what they change, what they answer.

A check comes before any change of its request, and a change cannot fail.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

from coord.wire import fast
from coord_server import errors
from coord_server.errors import Refused
from coord_server.mvcc.fields import decode_field

if TYPE_CHECKING:
    from coord.wire import rpc_pb2
    from coord_server.mvcc.store import Store

    PutRequest: TypeAlias = fast.Put | rpc_pb2.PutRequest
    """A put as the fast codec decodes it, or as protobuf does."""

_DELETED_TAG: Final = b"\x10"
_PREV_KVS_TAG: Final = b"\x1a"


def check_put(store: Store, request: PutRequest) -> None:
    """Raise `Refused` LEASE_NOT_FOUND or KEY_NOT_FOUND, in this order, if the put cannot be done."""
    if request.lease and not store.lease_exists(request.lease):
        raise Refused(errors.LEASE_NOT_FOUND)
    if (request.ignore_value or request.ignore_lease) and store.find(request.key) is None:
        raise Refused(errors.KEY_NOT_FOUND)


def put(store: Store, request: PutRequest) -> bytes:
    """Do a checked put; return its PutResponse without header."""
    if not (request.prev_kv or request.ignore_value or request.ignore_lease):
        store.put(request.key, request.value, request.lease)
        return b""
    history = store.find(request.key)
    prev = b"" if history is None else store.pair_field(history)
    value, lease = request.value, request.lease
    if history is not None:
        if request.ignore_value:
            value = decode_field(prev).value
        if request.ignore_lease:
            lease = history.lease
    store.put(request.key, value, lease)
    return prev if request.prev_kv else b""


def delete_range(store: Store, request: rpc_pb2.DeleteRangeRequest) -> bytes:
    """Do a delete; return its DeleteRangeResponse without header."""
    keys = store.keys(request.key, request.range_end)
    if not keys:
        return b""
    parts = [_DELETED_TAG, fast.varint(len(keys))]
    if request.prev_kv:
        for history in store.find_all(request.key, request.range_end):
            # The pair stands in field 2 of most answers, and in field 3 of this one.
            parts += (_PREV_KVS_TAG, store.pair_field(history)[1:])
    for key in keys:
        store.delete(key)
    return b"".join(parts)
