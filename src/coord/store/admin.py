"""Questions about the cluster, and changes of its membership (etcd API: Cluster, Maintenance.Status)."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from coord.errors import AmbiguousResult
from coord.store.caller import Caller, Repeat
from coord.store.values import Member, MemberStatus
from coord.wire import methods, rpc_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable

    from google.protobuf.message import Message

    from coord.wire.methods import Rpc

    Req = TypeVar("Req", bound=Message)
    Resp = TypeVar("Resp", bound=Message)


class Admin:
    """Members and their state. A change whose answer is missing is not sent again: it may have been made."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def members(
        self, *, linearizable: bool = False, timeout: float | None = None
    ) -> tuple[Member, ...]:
        """Return the cluster's members, as the answering one knows them, or with ``linearizable`` a quorum."""
        response = await self._caller.call(
            methods.CLUSTER_MEMBER_LIST,
            rpc_pb2.MemberListRequest(linearizable=linearizable),
            repeat=Repeat.READ,
            timeout=timeout,
        )
        return _members(response.members)

    async def add_member(
        self, peer_urls: tuple[str, ...], *, learner: bool, timeout: float | None = None
    ) -> Member:
        """Add a member, which has no name until it starts, and return it."""
        request = rpc_pb2.MemberAddRequest(peerURLs=peer_urls, isLearner=learner)
        response = await self._change(methods.CLUSTER_MEMBER_ADD, request, timeout)
        return _member(response.member)

    async def remove_member(
        self, member_id: int, *, timeout: float | None = None
    ) -> tuple[Member, ...]:
        """Remove a member and return those that stay."""
        request = rpc_pb2.MemberRemoveRequest(ID=member_id)
        response = await self._change(methods.CLUSTER_MEMBER_REMOVE, request, timeout)
        return _members(response.members)

    async def update_member(
        self, member_id: int, peer_urls: tuple[str, ...], *, timeout: float | None = None
    ) -> tuple[Member, ...]:
        """Give a member other peer URLs and return all members."""
        request = rpc_pb2.MemberUpdateRequest(ID=member_id, peerURLs=peer_urls)
        response = await self._change(methods.CLUSTER_MEMBER_UPDATE, request, timeout)
        return _members(response.members)

    async def promote_member(
        self, member_id: int, *, timeout: float | None = None
    ) -> tuple[Member, ...]:
        """Make a learner a voter and return all members."""
        request = rpc_pb2.MemberPromoteRequest(ID=member_id)
        response = await self._change(methods.CLUSTER_MEMBER_PROMOTE, request, timeout)
        return _members(response.members)

    async def _change(self, rpc: Rpc[Req, Resp], request: Req, timeout: float | None) -> Resp:
        try:
            return await self._caller.call(rpc, request, repeat=Repeat.ONCE, timeout=timeout)
        except AmbiguousResult as error:
            raise AmbiguousResult(
                error.operation, error.reason, resolver=lambda: self.members(linearizable=True)
            ) from error.__cause__

    async def status(self, *, timeout: float | None = None) -> MemberStatus:
        """Ask one member, the one that the transport chooses, for its state."""
        return await status_of(self._caller, timeout=timeout)


async def status_of(caller: Caller, *, timeout: float | None = None) -> MemberStatus:
    """Ask the member that ``caller`` reaches for its state."""
    response = await caller.call(
        methods.MAINTENANCE_STATUS, rpc_pb2.StatusRequest(), repeat=Repeat.READ, timeout=timeout
    )
    endpoints = caller.transport.endpoints
    return MemberStatus(
        endpoint=endpoints[0] if len(endpoints) == 1 else "",
        member_id=response.header.member_id,
        cluster_id=response.header.cluster_id,
        version=response.version,
        db_size_bytes=response.dbSize,
        db_in_use_bytes=response.dbSizeInUse,
        leader=response.leader,
        raft_term=response.raftTerm,
        raft_index=response.raftIndex,
        revision=response.header.revision,
        is_learner=response.isLearner,
        errors=tuple(response.errors),
        raft_applied_index=response.raftAppliedIndex,
        storage_version=response.storageVersion,
        db_quota_bytes=response.dbSizeQuota,
    )


def _members(wire: Iterable[rpc_pb2.Member]) -> tuple[Member, ...]:
    return tuple([_member(m) for m in wire])


def _member(wire: rpc_pb2.Member) -> Member:
    return Member(
        member_id=wire.ID,
        name=wire.name,
        peer_urls=tuple(wire.peerURLs),
        client_urls=tuple(wire.clientURLs),
        is_learner=wire.isLearner,
    )
