"""A namespace: one prefix that is put before every key on its way out and taken off on its way in (spec core 7.7).

The rooms that send requests (:mod:`coord.store.kv`, ``txn``, ``watch`` and ``lease``) hold one :class:`Keyspace` each
and apply it to the finished message, so that everything above them, the recipes too, speaks of the user's keys only.

A range end has three forms, and each keeps its meaning: none stays none, "from the key on" becomes the end of the
namespace, and any other bound gets the prefix like a key.
The key that equals the prefix itself lies in no namespace: a key is never empty.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from coord.store.keys import FROM_KEY, prefix_end

if TYPE_CHECKING:
    from collections.abc import Iterable

    from google.protobuf.internal.containers import RepeatedCompositeFieldContainer

    from coord.wire import rpc_pb2


class Keyspace:
    """The keys that start with ``prefix``; with an empty one, all keys, and nothing is changed or copied.

    ``size`` is the number of bytes that answers lose from each key.
    """

    __slots__ = ("_last", "prefix", "size")

    def __init__(self, prefix: bytes = b"") -> None:
        self.prefix: bytes = prefix
        self.size: int = len(prefix)
        self._last = prefix_end(prefix) if prefix else FROM_KEY

    def key(self, key: bytes) -> bytes:
        """Return the stored form of a key; an empty one stays empty, for the server to refuse."""
        return self.prefix + key if key else key

    def end(self, end: bytes) -> bytes:
        """Return the stored form of a range's end."""
        if not self.size or not end:
            return end
        return self._last if end == FROM_KEY else self.prefix + end

    def range(
        self, request: rpc_pb2.RangeRequest | rpc_pb2.DeleteRangeRequest | rpc_pb2.Compare
    ) -> None:
        """Move the range of a message into the namespace."""
        request.key = self.key(request.key)
        if request.range_end:
            request.range_end = self.end(request.range_end)

    def txn(self, request: rpc_pb2.TxnRequest) -> None:
        """Move a transaction, whatever is nested in it, into the namespace."""
        if self.size:
            for compare in request.compare:
                self.range(compare)
            self._ops(request.success)
            self._ops(request.failure)

    def _ops(self, ops: RepeatedCompositeFieldContainer[rpc_pb2.RequestOp]) -> None:
        for each in ops:
            match each.WhichOneof("request"):
                case "request_range":
                    self.range(each.request_range)
                case "request_put":
                    put = each.request_put
                    put.key = self.key(put.key)
                case "request_delete_range":
                    self.range(each.request_delete_range)
                case _:
                    self.txn(each.request_txn)

    def own(self, keys: Iterable[bytes]) -> tuple[bytes, ...]:
        """Return those of the stored ``keys`` that lie in the namespace, as the user knows them."""
        prefix, size = self.prefix, self.size
        return tuple([key[size:] for key in keys if len(key) > size and key.startswith(prefix)])


EVERYTHING = Keyspace()
"""No namespace."""
