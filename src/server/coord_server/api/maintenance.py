"""``etcdserverpb.Maintenance``: what a member says about itself, its alarms, its hashes and its file.

Snapshot is in ``snapshot.py``. Downgrade is answered with UNIMPLEMENTED, as a server without the
method does.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from coord.rpc.async_calls import async_unary
from coord.rpc.service import Method
from coord.rpc.status import RpcError, StatusCode
from coord.wire import methods as rpcs
from coord.wire import rpc_pb2
from coord_server import errors, hashing
from coord_server.api.context import parse
from coord_server.api.snapshot import Snapshots
from coord_server.errors import Refused
from coord_server.ops import OpKind
from coord_server.storage.backend import BackendError
from coord_server.usage import ETCD_VERSION

if TYPE_CHECKING:
    from collections.abc import Iterable

    from coord.rpc.async_calls import AsyncCall
    from coord.rpc.server_core import ServerConnection
    from coord.rpc.service import RequestHead
    from coord_server.api.cluster import ClusterReplica
    from coord_server.api.context import ApiContext


class _Maintenance:
    def __init__(self, context: ApiContext) -> None:
        self._context = context

    def status(
        self, _connection: ServerConnection, _stream_id: int, head: RequestHead, message: bytes
    ) -> bytes:
        """Answer from local state (etcd ops: "Status"); sizes are bytes."""
        context = self._context
        context.check_metadata(head)
        parse(rpc_pb2.StatusRequest, message)
        replica = context.replica
        answer = rpc_pb2.StatusResponse(
            version=ETCD_VERSION,
            dbSize=context.backend.size_bytes(),
            dbSizeInUse=context.backend.in_use_bytes(),
            leader=replica.leader_id,
            raftIndex=replica.committed_index,
            raftTerm=replica.term,
            raftAppliedIndex=replica.applied_index,
            errors=list(_error_texts(context)),
            isLearner=replica.applier.members.is_learner(replica.member_id),
        )
        return context.header() + answer.SerializeToString()

    def alarm(
        self, connection: ServerConnection, stream_id: int, head: RequestHead, message: bytes
    ) -> bytes | None:
        """Raise or disarm through the log; list once everything acknowledged before is applied."""
        context = self._context
        context.check_head(head)
        request = parse(rpc_pb2.AlarmRequest, message)
        if request.action != rpc_pb2.AlarmRequest.GET:
            context.check_size(message)
            context.replica.propose(OpKind.ALARM, message, connection, stream_id)
            return None

        def answer() -> bytes:
            return context.header() + context.alarms.listed(request.alarm).SerializeToString()

        if context.replica.read_ready():
            return answer()
        context.replica.when_readable(
            lambda: connection.respond(stream_id, answer()),
            lambda spec: connection.fail(stream_id, spec.code, spec.message),
        )
        return None

    async def hash_kv(self, call: AsyncCall, message: bytes) -> bytes:
        """Hash the keys at a revision (etcd ops: "HashKV")."""
        context = self._context
        context.check_head(call.head)
        request = parse(rpc_pb2.HashKVRequest, message)
        found = await hashing.hash_keys(context.replica, context.backend, request.revision)
        answer = rpc_pb2.HashKVResponse(
            hash=found.value,
            compact_revision=found.compact_revision,
            hash_revision=found.revision,
        )
        return context.header(found.current) + answer.SerializeToString()

    async def hash(self, call: AsyncCall, message: bytes) -> bytes:
        """Hash all that this member's backend holds; comparable with nothing but itself."""
        context = self._context
        context.check_head(call.head)
        parse(rpc_pb2.HashRequest, message)
        await context.replica.flush()
        value = await context.env.offload.run(hashing.hash_backend, context.backend)
        return context.header() + rpc_pb2.HashResponse(hash=value).SerializeToString()

    async def defragment(self, call: AsyncCall, message: bytes) -> bytes:
        """Give free space back; requests are served meanwhile. The answer has no header, as in etcd."""
        context = self._context
        context.check_head(call.head)
        parse(rpc_pb2.DefragmentRequest, message)
        backend, clock = context.backend, context.env.clock
        await context.replica.flush()
        before, begun = backend.size_bytes(), clock.mono()
        context.log.info("defragmenting", current_db_size_bytes=before)
        try:
            await context.env.offload.run(backend.defragment)
        except (BackendError, OSError) as error:
            context.log.warning("defragmentation failed", error=str(error))
            raise RpcError(StatusCode.UNKNOWN, f"defragmentation failed: {error}") from error
        context.room.look()
        context.log.info(
            "finished defragmenting directory",
            current_db_size_bytes_diff=backend.size_bytes() - before,
            current_db_size_bytes=backend.size_bytes(),
            took_s=round(clock.mono() - begun, 3),
        )
        return rpc_pb2.DefragmentResponse().SerializeToString()


class LeaderMoves:
    """MoveLeader, of a replica that can hand its leadership over."""

    def __init__(self, context: ApiContext, replica: ClusterReplica) -> None:
        self._context = context
        self._replica = replica

    async def move_leader(self, call: AsyncCall, message: bytes) -> bytes:
        """Hand the leadership to a voter, and return once it is seen to lead; the answer has no header.

        Only the leader does this. It may have been handed over although the call has failed.
        """
        context, replica = self._context, self._replica
        context.check_head(call.head)
        target = parse(rpc_pb2.MoveLeaderRequest, message).targetID
        if not replica.is_leader:
            raise Refused(errors.NOT_LEADER)
        member = context.replica.applier.members.get(target)
        if member is None or member.isLearner:
            raise Refused(errors.BAD_LEADER_TRANSFEREE)
        if replica.leader_id != target:
            replica.transfer_leadership(target)
        try:
            async with asyncio.timeout(context.config.request_timeout_s):
                # In heartbeats, as etcd looks: moves are too rare for an event of their own.
                while replica.leader_id != target:  # noqa: ASYNC110 - see above
                    await asyncio.sleep(context.config.heartbeat_interval_ms / 1000)
        except TimeoutError:
            raise Refused(errors.LEADER_TRANSFER_TIMEOUT) from None
        return rpc_pb2.MoveLeaderResponse().SerializeToString()

    def method(self) -> Method:
        """Return the method."""
        return async_unary(rpcs.MAINTENANCE_MOVE_LEADER.path, self.move_leader)


def _error_texts(context: ApiContext) -> Iterable[str]:
    if not context.replica.leader_id:
        yield errors.NO_LEADER.message
    for alarm in context.alarms.listed().alarms:
        # Protobuf's text form, in which a member of id 0 is not named, with the trailing blank that
        # etcd 3.4 to 3.6 have.
        name = rpc_pb2.AlarmType.Name(alarm.alarm) if alarm.alarm in _KNOWN else str(alarm.alarm)
        member = f"memberID:{alarm.memberID} " if alarm.memberID else ""
        yield f"{member}alarm:{name} "


_KNOWN = frozenset(rpc_pb2.AlarmType.values())


def methods(context: ApiContext, replica: ClusterReplica | None = None) -> list[Method]:
    """Return the methods of the service; MoveLeader only with a replica that can hand over."""
    service = _Maintenance(context)
    moves = [] if replica is None else [LeaderMoves(context, replica).method()]
    return [
        Method(rpcs.MAINTENANCE_STATUS.path, unary=service.status),
        Method(rpcs.MAINTENANCE_ALARM.path, unary=service.alarm),
        async_unary(rpcs.MAINTENANCE_HASH_KV.path, service.hash_kv),
        async_unary(rpcs.MAINTENANCE_HASH.path, service.hash),
        async_unary(rpcs.MAINTENANCE_DEFRAGMENT.path, service.defragment),
        Snapshots(context).method(),
        *moves,
    ]
