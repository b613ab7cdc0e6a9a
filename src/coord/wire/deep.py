"""Transactions nested deeper than protobuf's parser goes.

etcd lets a transaction nest as deep as its budget of operations allows, 128 levels by default. A level
is two messages, and protobuf refuses more than 100 within each other, so half of that depth is out of
its reach; its limit can only be lifted for the whole process, and then stack overflows are within reach
of any client. So what protobuf refuses is taken apart here, level by level, and put together again.

The result equals protobuf's in everything else: fields in any order, the last of a oneof counts, parts
of one nested transaction are merged. Groups, which the API has never had, are refused.
"""

from __future__ import annotations

from typing import Final

from google.protobuf.message import DecodeError

from coord.wire import rpc_pb2
from coord.wire.fast import read_varint

# More than etcd's default budget allows, and few enough for recursion over a whole transaction.
MAX_NESTED: Final = 150
# Taking apart costs a microsecond or two for each field. Who nests this deep has few of them.
_MAX_FIELDS: Final = 20_000

_LENGTH_DELIMITED: Final = 2
_FIXED_SIZES: Final = {1: 8, 5: 4}
_SUCCESS: Final = 2
_FAILURE: Final = 3
_NESTED_TXN: Final = 4


class NestedTooDeep(ValueError):
    """More levels than ``MAX_NESTED``."""


def decode_txn(data: bytes) -> rpc_pb2.TxnRequest | None:
    """Decode a TxnRequest of any depth up to ``MAX_NESTED``; None for bytes that are none.

    Raises NestedTooDeep for deeper ones, whose rest is not looked at.
    """
    try:
        return rpc_pb2.TxnRequest.FromString(data)
    except DecodeError:
        pass
    request = rpc_pb2.TxnRequest()
    try:
        _Builder(data).txn(request, 0, len(data), 0)
    except NestedTooDeep:
        raise
    except (DecodeError, ValueError):
        return None
    return request


class _Builder:
    """Fills messages in place: appending one that is too deep would make protobuf copy it."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._fields = 0

    def txn(self, request: rpc_pb2.TxnRequest, pos: int, end: int, depth: int) -> None:
        """Merge the TxnRequest between two positions."""
        while pos < end:
            number, body, after = self._field(pos, end)
            if body and number == _SUCCESS:
                self._op(request.success.add(), body, after, depth)
            elif body and number == _FAILURE:
                self._op(request.failure.add(), body, after, depth)
            else:
                request.MergeFromString(self._data[pos:after])
            pos = after

    def _op(self, op: rpc_pb2.RequestOp, pos: int, end: int, depth: int) -> None:
        while pos < end:
            number, body, after = self._field(pos, end)
            if body and number == _NESTED_TXN:
                if depth == MAX_NESTED:
                    raise NestedTooDeep
                op.request_txn.SetInParent()
                self.txn(op.request_txn, body, after, depth + 1)
            else:
                op.MergeFromString(self._data[pos:after])
            pos = after

    def _field(self, pos: int, end: int) -> tuple[int, int, int]:
        """Return a field's number, where its body begins if it has a length, and where it ends."""
        self._fields += 1
        if self._fields > _MAX_FIELDS:
            raise DecodeError
        tag, body = read_varint(self._data, pos)
        kind = tag & 7
        if kind == _LENGTH_DELIMITED:
            size, body = read_varint(self._data, body)
            after = body + size
        else:
            if kind == 0:
                after = read_varint(self._data, body)[1]
            elif kind in _FIXED_SIZES:
                after = body + _FIXED_SIZES[kind]
            else:
                raise DecodeError
            body = 0
        if after > end:
            raise DecodeError
        return tag >> 3, body, after
