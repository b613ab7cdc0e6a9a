"""What a watch does that the server refuses for the sake of who asks.

A watch is checked when it is created, against the token that its stream was opened with.
Streams live longer than tokens, and etcd up to 3.5 says "permission denied" for a token that has ended, too.
So the refusal alone proves nothing: a read of the same range needs the same right, and is made with the present token.
If it is denied, so is the watch; else the stream is the reason, and all its watches move to another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from coord.errors import CoordError, CoordTimeout, PermissionDenied, Unavailable, from_status
from coord.rpc.status import RpcError
from coord.wire import methods, rpc_pb2

if TYPE_CHECKING:
    from coord.rpc.metadata import Metadata
    from coord.transport import Transport

REFUSALS_MAX = 3
"""How often in a row a watch may be refused that the store would let read."""

_READ_TIMEOUT_S = 5.0
_ABOUT_THE_USER = (
    "permission denied",
    "invalid auth token",
    "revision of auth store is old",
    "user name is empty",
)


def is_about_the_user(reason: str) -> bool:
    """Say whether a watch was refused for who asked, and not for what."""
    return any(text in reason for text in _ABOUT_THE_USER)


async def denial(
    transport: Transport, create: rpc_pb2.WatchCreateRequest, metadata: Metadata
) -> CoordError | None:
    """Ask the store whether the range of a watch may be read.

    Returns None if so, :class:`PermissionDenied` if not, :class:`Unavailable` or :class:`CoordTimeout` when it did not
    answer.
    """
    request = rpc_pb2.RangeRequest(
        key=create.key, range_end=create.range_end, limit=1, count_only=True
    )
    try:
        await transport.unary(
            methods.KV_RANGE.path,
            request.SerializeToString(),
            timeout=_READ_TIMEOUT_S,
            metadata=metadata,
        )
    except RpcError as error:
        failure = from_status(error, operation="Watch", writes=False, timeout=_READ_TIMEOUT_S)
        if isinstance(failure, PermissionDenied | Unavailable | CoordTimeout):
            return failure
    return None
