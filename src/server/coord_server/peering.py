"""A member among others: the listener for peers, the mesh, and what they need of the server.

Without an explicit listen URL for peers a member that is alone opens no port for them: two such servers
on one machine would want the same. It can then be no part of a larger cluster.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from google.protobuf.message import DecodeError

from coord.rpc.server import RpcServer
from coord.rpc.service import Registry
from coord.rpc.status import RpcError, StatusCode
from coord.wire import rpc_pb2
from coord_server.cluster_link import ClusterLink
from coord_server.member_records import MEMBERSHIP_KEY, decode_membership
from coord_server.peer import (
    Mesh,
    MeshLimits,
    SnapshotSource,
    Standing,
    applied_position,
    ask_url,
    server_limits,
)
from coord_server.raft import Membership, NodeId, SnapshotMeta
from coord_server.storage.backend import Bucket

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable

    from coord_server.bootstrap import Identity
    from coord_server.config import Config
    from coord_server.env import ServerEnv
    from coord_server.initial_cluster import AskMembers
    from coord_server.log import Log
    from coord_server.members import Members
    from coord_server.replica import Replica
    from coord_server.state import State
    from coord_server.storage.backend import View

MEMBERS_KIND: Final = "members"
"""The question by which one that wants to join learns who the members are; anyone may ask it.

The revision in the answer's header is the index up to which the answering member has applied the log: of two
lists the higher one is newer.
"""

_ASK_TIMEOUT_S: Final = 2.0


def member_asker(env: ServerEnv, tls: ssl.SSLContext | None) -> AskMembers:
    """Return what asks the member at a peer URL for the members of its cluster."""

    async def ask(url: str) -> rpc_pb2.MemberListResponse:
        answer = await ask_url(url, MEMBERS_KIND, b"", env=env, timeout=_ASK_TIMEOUT_S, tls=tls)
        try:
            return rpc_pb2.MemberListResponse.FromString(answer)
        except DecodeError as error:
            raise RpcError(StatusCode.INTERNAL, f"{url} does not answer with members") from error

    return ask


@final
class Peering:
    """The connections of one member. ``open`` the listener before the replica starts."""

    def __init__(
        self,
        config: Config,
        env: ServerEnv,
        log: Log,
        state: State,
        *,
        incarnation: int,
        scratch: str,
        tls: ssl.SSLContext | None,
        contacts: Iterable[rpc_pb2.Member],
        report: Callable[[str, BaseException], None],
        on_removed: Callable[[], None],
    ) -> None:
        self._applier = state.applier
        self._members: Members = state.applier.members
        self._identity: Identity = state.identity
        self._log = log
        self._source = SnapshotSource(
            env=env,
            directory=scratch,
            describe=_described,
            about={"member": f"{state.identity.member_id:x}"},
            log=log,
        )
        self.link = ClusterLink(state.backend, self._source, log)
        limits = MeshLimits()
        self.mesh = Mesh(
            cluster_id=state.identity.cluster_id,
            member_id=NodeId(state.identity.member_id),
            incarnation=incarnation,
            env=env,
            handler=self.link,
            log=log,
            urls=tuple(str(url) for url in config.initial_advertise_peer_urls),
            scratch=scratch,
            tls=tls,
            limits=limits,
            standing=self._standing,
            on_removed=on_removed,
        )
        self.mesh.serve_anyone(MEMBERS_KIND, self._list_members)
        self._contacts = {NodeId(m.ID): tuple(m.peerURLs) for m in contacts}
        self._env = env
        self._limits = limits
        self._report = report
        self.rpc: RpcServer | None = None

    def attach(self, replica: Replica) -> None:
        """Let messages flow between the replica and the members that are known."""
        self.link.attach(self.mesh, replica)
        self._members.listen(self._members_changed)
        self._members_changed()

    def _standing(self, node: NodeId) -> Standing:
        return Standing.REMOVED if self._members.is_removed(node) else Standing.NEW

    def make_listener(self) -> RpcServer:
        """Return the server for the peers' port; every question must have been registered before."""
        self.rpc = RpcServer(
            Registry(self.mesh.methods()),
            env=self._env,
            limits=server_limits(self._limits),
            on_error=self._report,
        )
        return self.rpc

    def _members_changed(self) -> None:
        known = {NodeId(node): urls for node, urls in self._members.peer_urls().items()}
        # One that joins knows nobody before it has the leader's state.
        self.mesh.set_peers(known or self._contacts)

    async def _list_members(self, _request: bytes) -> bytes:
        header = rpc_pb2.ResponseHeader(
            cluster_id=self._identity.cluster_id,
            member_id=self._identity.member_id,
            revision=self._applier.applied_index,
        )
        members = self._members.members()
        return rpc_pb2.MemberListResponse(header=header, members=members).SerializeToString()

    async def close(self) -> None:
        """End all connections; the listener is drained by its owner afterwards."""
        await self.mesh.close()
        await self.link.close()
        await self._source.close()
        if self.rpc is not None:
            await self.rpc.close()


def _described(view: View) -> SnapshotMeta:
    index, term = applied_position(view)
    membership = Membership()
    for key, value in view.scan(Bucket.MEMBERS):
        if key == MEMBERSHIP_KEY:
            membership = decode_membership(value)
    return SnapshotMeta(index=index, term=term, membership=membership)
