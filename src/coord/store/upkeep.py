"""Looking after members: alarms, hashes, free space, the leader, backups (etcd API: Maintenance).

Each function asks the member that its ``caller`` reaches.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from coord.errors import CoordTimeout, ProtocolError, RequestRefused
from coord.rpc.status import RpcError
from coord.store.caller import Repeat, decode
from coord.wire import methods, rpc_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from coord.errors import CoordError
    from coord.store.caller import Caller
    from coord.store.values import MemberStatus

NOT_LEADER_TEXT = "etcdserver: not leader"
_DIGEST_BYTES = hashlib.sha256().digest_size


class AlarmType(Enum):
    """Why a member raised an alarm."""

    NONE = 0
    NOSPACE = 1
    """Its store is over the quota; writes that need space are refused."""
    CORRUPT = 2
    """Its data differ from the others'; writes are refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """An alarm of one member; a corruption whose culprit is unknown has the id 0."""

    member_id: int
    type: AlarmType


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointStatus:
    """What an endpoint answered when it was asked for its status: ``status``, or the ``error`` instead."""

    endpoint: str
    status: MemberStatus | None = None
    error: CoordError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyspaceHash:
    """The hash of one member's keys (etcd API: HashKV); equal on all members for equal revisions.

    ``hash_revision`` is the revision up to which was hashed; servers before etcd 3.6 do not tell it (0).
    ``compact_revision`` is -1 before any compaction.
    """

    hash: int
    compact_revision: int
    hash_revision: int
    revision: int
    member_id: int


class DowngradeAction(Enum):
    """What to do about a downgrade of the cluster."""

    VALIDATE = 0
    """Only ask whether it would be possible."""
    ENABLE = 1
    CANCEL = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedSnapshot:
    """A snapshot on disk: the backend, and behind it ``sha256`` of it, as etcd's tools read it."""

    path: str
    size_bytes: int
    sha256: bytes


async def hash_kv(caller: Caller, revision: int, timeout: float | None) -> KeyspaceHash:
    """Hash the keys up to ``revision``, 0 meaning now."""
    request = rpc_pb2.HashKVRequest(revision=revision)
    answer = await caller.call(
        methods.MAINTENANCE_HASH_KV, request, repeat=Repeat.READ, timeout=timeout
    )
    return KeyspaceHash(
        hash=answer.hash,
        compact_revision=answer.compact_revision,
        hash_revision=answer.hash_revision,
        revision=answer.header.revision,
        member_id=answer.header.member_id,
    )


async def defragment(caller: Caller, timeout: float | None) -> None:
    """Give free space back to the file system. Not repeated: it holds the member up while it runs."""
    request = rpc_pb2.DefragmentRequest()
    await caller.call(methods.MAINTENANCE_DEFRAGMENT, request, repeat=Repeat.ONCE, timeout=timeout)


async def list_alarms(caller: Caller, timeout: float | None) -> tuple[Alarm, ...]:
    """Return all alarms."""
    return await _alarms(caller, rpc_pb2.AlarmRequest(), Repeat.READ, timeout)


async def disarm(caller: Caller, alarm: Alarm, timeout: float | None) -> tuple[Alarm, ...]:
    """Take one alarm back; one that is not there is no error, so repeating it is safe."""
    request = rpc_pb2.AlarmRequest(
        action=rpc_pb2.AlarmRequest.DEACTIVATE,
        memberID=alarm.member_id,
        alarm=rpc_pb2.AlarmType.Value(alarm.type.name),
    )
    return await _alarms(caller, request, Repeat.IDEMPOTENT, timeout)


async def _alarms(
    caller: Caller, request: rpc_pb2.AlarmRequest, repeat: Repeat, timeout: float | None
) -> tuple[Alarm, ...]:
    answer = await caller.call(methods.MAINTENANCE_ALARM, request, repeat=repeat, timeout=timeout)
    return tuple([Alarm(member_id=a.memberID, type=AlarmType(a.alarm)) for a in answer.alarms])


async def move_leader(caller: Caller, member_id: int, timeout: float | None) -> bool:
    """Ask a member to hand its leadership over; False when it is not the leader.

    Safe to repeat: a second request either finds the same leader, or no leader here.
    """
    request = rpc_pb2.MoveLeaderRequest(targetID=member_id)
    try:
        await caller.call(
            methods.MAINTENANCE_MOVE_LEADER, request, repeat=Repeat.IDEMPOTENT, timeout=timeout
        )
    except RequestRefused as error:
        if error.message == NOT_LEADER_TEXT:
            return False
        raise
    return True


async def downgrade(
    caller: Caller, action: DowngradeAction, version: str, timeout: float | None
) -> str:
    """Validate, begin or cancel a downgrade, and return the cluster's version."""
    request = rpc_pb2.DowngradeRequest(
        action=rpc_pb2.DowngradeRequest.DowngradeAction.Value(action.name), version=version
    )
    repeat = Repeat.READ if action is DowngradeAction.VALIDATE else Repeat.ONCE
    answer = await caller.call(
        methods.MAINTENANCE_DOWNGRADE, request, repeat=repeat, timeout=timeout
    )
    return answer.version


async def snapshot(caller: Caller, timeout: float) -> AsyncGenerator[bytes]:
    """Yield the parts of a snapshot, the last one being the 32 bytes of its checked SHA-256.

    ``timeout`` bounds each wait for a part. Raises :class:`ProtocolError` when the hash does not fit.
    """
    path = methods.MAINTENANCE_SNAPSHOT.path
    stream = None
    digest, tail = hashlib.sha256(), b""
    try:
        stream = await caller.transport.open_stream(path, timeout=timeout)
        stream.send(rpc_pb2.SnapshotRequest().SerializeToString())
        stream.half_close()
        while True:
            async with asyncio.timeout(timeout):
                message = await stream.receive()
            if message is None:
                break
            # What comes last is the hash, wherever the parts are cut.
            data = tail + decode(rpc_pb2.SnapshotResponse, message).blob
            part, tail = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
            if part:
                digest.update(part)
                yield part
    except TimeoutError:
        raise CoordTimeout("Snapshot", timeout, explain="no part came") from None
    except RpcError as error:
        raise caller.failure(path, error, Repeat.READ, timeout) from error
    finally:
        if stream is not None:
            stream.cancel()
    if tail != digest.digest():
        raise ProtocolError("the snapshot does not have the SHA-256 that stands at its end")
    yield tail
