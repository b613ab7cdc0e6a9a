# ruff: noqa: ANN401 - grpcio is untyped, and options are those of the messages
"""Short words for raw requests, and where the gotchas are tried.

Every test here talks to the server with grpcio and plain protobuf, never with the SDK. The variable
``COORD_GOTCHAS_ON=etcd`` runs the same tests against etcd 3.5.1: a test that is wrong about etcd fails
there. Where 3.5.1 is known to be older than the contract the test is marked ``newer_than_3_5_1``.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from coord.runtime import real_env
from coord.wire import kv_pb2, rpc_pb2
from coord.wire import methods as rpcs
from tests.server.endpoint import Endpoint, JumpingClock, error_of, serving
from tests.support.servers import real_etcd

ON_ETCD = os.environ.get("COORD_GOTCHAS_ON") == "etcd"
newer_than_3_5_1 = pytest.mark.xfail(ON_ETCD, reason="etcd 3.5.1 is older", strict=True)

PUT, DELETE = kv_pb2.Event.PUT, kv_pb2.Event.DELETE
Compare = rpc_pb2.Compare
Range = rpc_pb2.RangeRequest

EMPTY_KEY = ("INVALID_ARGUMENT", "etcdserver: key is not provided")
COMPACTED = ("OUT_OF_RANGE", "etcdserver: mvcc: required revision has been compacted")
FUTURE_REV = ("OUT_OF_RANGE", "etcdserver: mvcc: required revision is a future revision")
LEASE_NOT_FOUND = ("NOT_FOUND", "etcdserver: requested lease not found")
DUPLICATE_KEY = ("INVALID_ARGUMENT", "etcdserver: duplicate key given in txn request")
TOO_MANY_OPS = ("INVALID_ARGUMENT", "etcdserver: too many operations in txn request")
NO_SPACE = ("RESOURCE_EXHAUSTED", "etcdserver: mvcc: database space exceeded")


@asynccontextmanager
async def somewhere(directory: Path, *, quota_bytes: int = 0) -> AsyncGenerator[Endpoint, None]:
    """Yield a fresh store: ours in this process, or a real etcd if that is asked for."""
    if not ON_ETCD:
        async with serving(quota_backend_bytes=quota_bytes) as running:
            yield running
        return
    flags = ("--unsafe-no-fsync", f"--quota-backend-bytes={quota_bytes}")
    with real_etcd(directory, *flags) as server:
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        async with grpc.aio.insecure_channel(server.endpoint, options) as channel:
            yield Endpoint(None, channel, JumpingClock(real_env().clock))


async def get(endpoint: Endpoint, key: bytes, end: bytes = b"", **options: Any) -> Any:
    request = rpc_pb2.RangeRequest(key=key, range_end=end, **options)
    return await endpoint.call(rpcs.KV_RANGE, request)


async def pair(endpoint: Endpoint, key: bytes) -> Any:
    """Return the one pair under a key."""
    (found,) = (await get(endpoint, key)).kvs
    return found


def keys(response: Any) -> list[bytes]:
    return [kv.key for kv in response.kvs]


async def put(endpoint: Endpoint, key: bytes, value: bytes = b"v", **options: Any) -> Any:
    request = rpc_pb2.PutRequest(key=key, value=value, **options)
    return await endpoint.call(rpcs.KV_PUT, request)


async def remove(endpoint: Endpoint, key: bytes, end: bytes = b"", **options: Any) -> Any:
    request = rpc_pb2.DeleteRangeRequest(key=key, range_end=end, **options)
    return await endpoint.call(rpcs.KV_DELETE_RANGE, request)


def put_op(key: bytes, value: bytes = b"v", **options: Any) -> rpc_pb2.RequestOp:
    request = rpc_pb2.PutRequest(key=key, value=value, **options)
    return rpc_pb2.RequestOp(request_put=request)


def get_op(key: bytes, end: bytes = b"", **options: Any) -> rpc_pb2.RequestOp:
    request = rpc_pb2.RangeRequest(key=key, range_end=end, **options)
    return rpc_pb2.RequestOp(request_range=request)


def delete_op(key: bytes, end: bytes = b"", **options: Any) -> rpc_pb2.RequestOp:
    request = rpc_pb2.DeleteRangeRequest(key=key, range_end=end, **options)
    return rpc_pb2.RequestOp(request_delete_range=request)


def txn_op(*success: rpc_pb2.RequestOp, **options: Any) -> rpc_pb2.RequestOp:
    return rpc_pb2.RequestOp(request_txn=rpc_pb2.TxnRequest(success=success, **options))


async def txn(
    endpoint: Endpoint,
    *success: rpc_pb2.RequestOp,
    when: Sequence[rpc_pb2.Compare] = (),
    otherwise: Sequence[rpc_pb2.RequestOp] = (),
) -> Any:
    request = rpc_pb2.TxnRequest(compare=when, success=success, failure=otherwise)
    return await endpoint.call(rpcs.KV_TXN, request)


async def holds(endpoint: Endpoint, *compares: rpc_pb2.Compare) -> bool:
    """Tell whether compares hold."""
    return bool((await txn(endpoint, when=compares)).succeeded)


async def revision_of(endpoint: Endpoint) -> int:
    return int((await get(endpoint, b"none")).header.revision)


async def refused(call: Awaitable[object]) -> tuple[str, str | None]:
    """Return the status of a call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return error_of(caught.value)


async def together(*calls: Awaitable[Any]) -> list[Any]:
    """Run calls at the same time; return their results."""

    async def run(call: Awaitable[Any]) -> Any:
        return await call

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(run(call)) for call in calls]
    return [task.result() for task in tasks]


def brief(response: rpc_pb2.WatchResponse) -> list[tuple[int, bytes, int]]:
    return [(event.type, event.kv.key, event.kv.mod_revision) for event in response.events]


async def time_to_live(endpoint: Endpoint, lease: int) -> rpc_pb2.LeaseTimeToLiveResponse:
    request = rpc_pb2.LeaseTimeToLiveRequest(ID=lease, keys=True)
    return await endpoint.call(rpcs.LEASE_TIME_TO_LIVE, request)
