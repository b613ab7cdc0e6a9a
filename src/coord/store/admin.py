"""Questions about the cluster (etcd API: Cluster.MemberList, Maintenance.Status)."""

from __future__ import annotations

from coord.store.caller import Caller, Repeat
from coord.store.values import Member, MemberStatus
from coord.wire import methods, rpc_pb2


class Admin:
    """Members and their state."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def members(self, *, timeout: float | None = None) -> tuple[Member, ...]:
        """Return the cluster's members, as the answering one knows them."""
        response = await self._caller.call(
            methods.CLUSTER_MEMBER_LIST,
            rpc_pb2.MemberListRequest(),
            repeat=Repeat.READ,
            timeout=timeout,
        )
        return tuple(
            [
                Member(
                    member_id=m.ID,
                    name=m.name,
                    peer_urls=tuple(m.peerURLs),
                    client_urls=tuple(m.clientURLs),
                    is_learner=m.isLearner,
                )
                for m in response.members
            ]
        )

    async def status(self, *, timeout: float | None = None) -> MemberStatus:
        """Ask one member, the one that the transport chooses, for its state."""
        response = await self._caller.call(
            methods.MAINTENANCE_STATUS, rpc_pb2.StatusRequest(), repeat=Repeat.READ, timeout=timeout
        )
        endpoints = self._caller.transport.endpoints
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
        )
