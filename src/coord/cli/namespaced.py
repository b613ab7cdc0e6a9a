"""Whole requests and responses in a namespace, for outputs that show them (``--endpoints=etcd://host/team-a/``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coord.wire import rpc_pb2

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from coord.store.keyspace import Keyspace


def enter(space: Keyspace, request: Message) -> None:
    """Put the namespace before the keys of a request."""
    match request:
        case rpc_pb2.RangeRequest() | rpc_pb2.DeleteRangeRequest():
            space.range(request)
        case rpc_pb2.PutRequest():
            request.key = space.key(request.key)
        case rpc_pb2.TxnRequest():
            space.txn(request)
        case _:
            pass


def leave(space: Keyspace, response: Message) -> None:
    """Take it off the keys of a response."""
    match response:
        case rpc_pb2.RangeResponse():
            for kv in response.kvs:
                kv.key = kv.key[space.size :]
        case rpc_pb2.PutResponse():
            if response.HasField("prev_kv"):
                response.prev_kv.key = response.prev_kv.key[space.size :]
        case rpc_pb2.DeleteRangeResponse():
            for kv in response.prev_kvs:
                kv.key = kv.key[space.size :]
        case rpc_pb2.TxnResponse():
            for each in response.responses:
                name = each.WhichOneof("response")
                if name is not None:
                    leave(space, getattr(each, name))
        case rpc_pb2.LeaseTimeToLiveResponse():
            own = space.own(response.keys)
            del response.keys[:]
            response.keys.extend(own)
        case _:
            pass
