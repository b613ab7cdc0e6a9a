"""What a member tells the others about itself: its name and where clients reach it.

It goes through the log like any change, so every member lists the same, and until it is there the member
counts as not started (etcd ops: "Cluster"). There may be no leader for a long time, so it is proposed
again until it is applied.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol

from coord.rpc.status import RpcError
from coord_server import errors
from coord_server.ops import OpKind

if TYPE_CHECKING:
    from coord.wire import rpc_pb2
    from coord_server.log import Log
    from coord_server.members import Members

# A refusal comes at once when nobody leads: this keeps the retries from being a flood.
_RETRY_S: Final = 0.5


class Submits(Protocol):
    """What this needs of a replica."""

    async def submit(self, kind: int, payload: bytes) -> bytes:
        """Propose an operation and return its response; bounded by the request timeout. Raises RpcError."""
        ...


def is_published(members: Members, own: rpc_pb2.Member) -> bool:
    """Tell whether the table says of ``own`` what it says of itself."""
    known = members.get(own.ID)
    return known is not None and (known.name, list(known.clientURLs)) == (
        own.name,
        list(own.clientURLs),
    )


async def publish(
    replica: Submits,
    members: Members,
    own: rpc_pb2.Member,
    *,
    cluster_id: int,
    log: Log,
    retry_s: float = _RETRY_S,
) -> bool:
    """Make ID, name and client URLs of ``own`` known to the cluster; return whether they are.

    Returns False if the server stops meanwhile or this member was removed, and tries for ever else:
    the caller cancels it. Nothing is proposed if the table is right already.
    """
    attributes = {"Name": own.name, "ClientURLs": list(own.clientURLs)}
    while not is_published(members, own):
        if members.is_removed(own.ID):
            return False
        try:
            await replica.submit(OpKind.MEMBER_ATTRIBUTES, own.SerializeToString())
        except RpcError as error:
            if error.message == errors.STOPPED.message:
                log.warning("stopped publish because server is stopping")
                return False
            log.warning(
                "failed to publish local member to cluster through raft",
                local_member_id=f"{own.ID:x}",
                local_member_attributes=attributes,
                error=error.message,
            )
            await asyncio.sleep(retry_s)
        else:
            # Applied where it was proposed: by now here too, unless this member was removed.
            break
    log.info(
        "published local member to cluster through raft",
        local_member_id=f"{own.ID:x}",
        cluster_id=f"{cluster_id:x}",
        local_member_attributes=attributes,
    )
    return True
