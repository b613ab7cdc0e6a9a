"""``v3lockpb.Lock``: a lock held by a lease, for clients that bring no recipes of their own.

The service keeps no lease alive and no state: an owner is whoever has the oldest key (etcd API: Lock
and Election services; Mutex).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from coord.rpc.async_calls import AsyncCall, async_unary
from coord.rpc.status import RpcError, StatusCode
from coord.wire import lock_pb2, rpc_pb2
from coord.wire import methods as rpcs
from coord_server import errors
from coord_server.api.context import parse
from coord_server.api.waiting import Lines, PlaceLost, plain_errors
from coord_server.errors import Refused
from coord_server.ops import OpKind

if TYPE_CHECKING:
    from coord.rpc.service import Method
    from coord_server.api.context import ApiContext

SESSION_EXPIRED: Final = "mutex: session is expired"


class _Lock:
    def __init__(self, context: ApiContext) -> None:
        self._context = context
        self._lines = Lines(context)

    async def lock(self, call: AsyncCall, message: bytes) -> bytes:
        """Answer once the lock is held; a call that ends before leaves no key in line."""
        self._context.check_head(call.head)
        request = parse(lock_pb2.LockRequest, message)
        with plain_errors():
            return await self._acquire(request)

    async def _acquire(self, request: lock_pb2.LockRequest) -> bytes:
        lines = self._lines
        lease = request.lease or await lines.fresh_lease()
        place, entered = await lines.enter(request.name, lease, b"")
        try:
            waited = await lines.wait(place)
        except PlaceLost:
            raise RpcError(StatusCode.UNKNOWN, SESSION_EXPIRED) from None
        except (asyncio.CancelledError, RpcError):
            await lines.leave(place)
            raise
        answer = lock_pb2.LockResponse(key=place.key)
        if waited or lines.was_behind(place, entered.header.revision):
            return self._context.header() + answer.SerializeToString()
        answer.header.CopyFrom(entered.header)
        return answer.SerializeToString()

    async def unlock(self, call: AsyncCall, message: bytes) -> bytes:
        """Delete a key, whoever owns it; one that does not exist is unlocked already."""
        context = self._context
        context.check_head(call.head)
        request = parse(lock_pb2.UnlockRequest, message)
        with plain_errors():
            if not request.key:
                raise Refused(errors.EMPTY_KEY)
            payload = rpc_pb2.DeleteRangeRequest(key=request.key).SerializeToString()
            context.check_size(payload)
            answer = await context.replica.submit(OpKind.DELETE_RANGE, payload)
        header = rpc_pb2.DeleteRangeResponse.FromString(answer).header
        return lock_pb2.UnlockResponse(header=header).SerializeToString()


def methods(context: ApiContext) -> list[Method]:
    """Return the methods of the service."""
    service = _Lock(context)
    return [
        async_unary(rpcs.LOCK_LOCK.path, service.lock),
        async_unary(rpcs.LOCK_UNLOCK.path, service.unlock),
    ]
