"""``etcdserverpb.Cluster``: the members, and how they are changed, one at a time (etcd ops: "Cluster").

A change is checked three times: here, by its shape; here, against what this member sees of the others
(``reconfig.py``); and when it is applied, by every member alike (``members.py``). The call returns once
the change is applied on this member, so the members in its answer are those after it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol

from coord.rpc.async_calls import async_unary
from coord.rpc.service import Method
from coord.rpc.status import RpcError, StatusCode
from coord.wire import methods as rpcs
from coord.wire import rpc_pb2
from coord_server import errors, reconfig
from coord_server.api.context import parse
from coord_server.config_check import parse_peer_url
from coord_server.errors import Refused
from coord_server.member_ids import added_member_id
from coord_server.member_records import MemberNote, encode_notes
from coord_server.raft.membership import ChangeKind, ChangeStep, ConfigChange
from coord_server.raft.types import NodeId
from coord_server.reconfig import Sight

if TYPE_CHECKING:
    from collections.abc import Iterable

    from coord.rpc.async_calls import AsyncCall
    from coord.rpc.server_core import ServerConnection
    from coord.rpc.service import RequestHead
    from coord_server.api.context import ApiContext

PROMOTE_KIND: Final = "promote"
"""The kind of the peer call with which a follower hands a promotion to the leader."""

# How long to wait before the leader is asked again, when there was none or it has changed.
_ASK_AGAIN_S: Final = 0.05


class ClusterReplica(Protocol):
    """What the services need of a replica to change the members and who leads them."""

    @property
    def member_id(self) -> int:
        """The id of this member."""
        ...

    @property
    def is_leader(self) -> bool:
        """Whether this member leads."""
        ...

    @property
    def leader_id(self) -> int:
        """The leader's id; 0 if there is none."""
        ...

    @property
    def last_index(self) -> int:
        """The last index of this member's log; the leader's is what learners are compared with."""
        ...

    def active_since(self, member_id: int) -> float | None:
        """Return since when this member is in touch with another, by ``clock.mono()``; None if it is not."""
        ...

    def match(self, member_id: int) -> int | None:
        """Return up to where a member is known to have the leader's log; None if it gets none from here."""
        ...

    async def propose_config(self, change: ConfigChange, context: bytes) -> None:
        """Bring a change into the log, on whichever member, and return when it is applied on this one.

        Raises RpcError: the refusal that `Members.apply_change` returned, or why it cannot be
        done. Bounded by the request timeout, also while another change is under way.
        """
        ...

    async def ask_leader(self, kind: str, request: bytes) -> bytes:
        """Call the leader; its answer, or its RpcError. UNAVAILABLE if nobody can be asked."""
        ...

    def transfer_leadership(self, target: int) -> None:
        """Begin to move the leadership to a voter. Raises RpcError if that cannot even begin."""
        ...


class Cluster:
    """The service. Without ``replica`` it only lists."""

    def __init__(self, context: ApiContext, replica: ClusterReplica | None = None) -> None:
        self._context = context
        self._replica = replica

    def member_list(
        self, connection: ServerConnection, stream_id: int, head: RequestHead, message: bytes
    ) -> bytes | None:
        """Answer with all members by id; a linearizable list waits as a linearizable read does."""
        context = self._context
        context.check_head(head)
        request = parse(rpc_pb2.MemberListRequest, message)
        if not request.linearizable or context.replica.read_ready():
            return self._list()
        context.replica.when_readable(
            lambda: connection.respond(stream_id, self._list()),
            lambda spec: connection.fail(stream_id, spec.code, spec.message),
        )
        return None

    async def member_add(self, call: AsyncCall, message: bytes) -> bytes:
        """Add a voter or a learner, which is to be started afterwards."""
        self._context.check_head(call.head)
        request = parse(rpc_pb2.MemberAddRequest, message)
        urls = _peer_urls(request.peerURLs)
        config = self._context.config
        if config.strict_reconfig_check:
            _raise_if(reconfig.add_refusal(self._sight(), learner=request.isLearner))
        number = added_member_id(urls, int(self._context.env.clock.wall()))
        member = rpc_pb2.Member(ID=number, peerURLs=urls, isLearner=request.isLearner)
        kind = ChangeKind.ADD_LEARNER if request.isLearner else ChangeKind.ADD_VOTER
        await self._change(
            kind, number, MemberNote(member=member, max_learners=config.max_learners)
        )
        answer = rpc_pb2.MemberAddResponse(member=member, members=self._context.members)
        return self._header() + answer.SerializeToString()

    async def member_remove(self, call: AsyncCall, message: bytes) -> bytes:
        """Remove a member for ever."""
        self._context.check_head(call.head)
        number = parse(rpc_pb2.MemberRemoveRequest, message).ID
        if self._context.config.strict_reconfig_check:
            _raise_if(reconfig.remove_refusal(self._sight(), number))
        await self._change(ChangeKind.REMOVE, number, MemberNote())
        answer = rpc_pb2.MemberRemoveResponse(members=self._context.members)
        return self._header() + answer.SerializeToString()

    async def member_update(self, call: AsyncCall, message: bytes) -> bytes:
        """Replace a member's peer URLs. Their shape is the client's business, as in etcd."""
        self._context.check_head(call.head)
        request = parse(rpc_pb2.MemberUpdateRequest, message)
        note = MemberNote(member=rpc_pb2.Member(ID=request.ID, peerURLs=request.peerURLs))
        await self._change(ChangeKind.UPDATE, request.ID, note)
        answer = rpc_pb2.MemberUpdateResponse(members=self._context.members)
        return self._header() + answer.SerializeToString()

    async def member_promote(self, call: AsyncCall, message: bytes) -> bytes:
        """Give a learner a vote. Only the leader knows how far a learner is, so it decides."""
        self._context.check_head(call.head)
        number = parse(rpc_pb2.MemberPromoteRequest, message).ID
        try:
            async with asyncio.timeout(self._context.config.request_timeout_s):
                answer = await self._promote_anywhere(number)
        except TimeoutError:
            raise Refused(errors.TIMEOUT) from None
        return self._header() + answer

    async def promote_here(self, request: bytes) -> bytes:
        """Serve the peer call ``PROMOTE_KIND``: a MemberPromoteRequest, answered without a header.

        Raises RpcError, NOT_LEADER among others.
        """
        return await self._promote(parse(rpc_pb2.MemberPromoteRequest, request).ID)

    async def _promote_anywhere(self, number: int) -> bytes:
        replica = self._changing()
        request = rpc_pb2.MemberPromoteRequest(ID=number).SerializeToString()
        while True:
            try:
                if replica.is_leader:
                    return await self._promote(number)
                if replica.leader_id:
                    return await replica.ask_leader(PROMOTE_KIND, request)
            except RpcError as error:
                # The leader went away or was another's by then: nothing was promoted, so ask again.
                is_gone = error.code == StatusCode.UNAVAILABLE and error.message not in _FINAL
                if not is_gone and error.message != errors.NOT_LEADER.message:
                    raise
            await asyncio.sleep(_ASK_AGAIN_S)

    async def _promote(self, number: int) -> bytes:
        replica = self._changing()
        if not replica.is_leader:
            raise Refused(errors.NOT_LEADER)
        if not reconfig.is_ready(replica.match(number), replica.last_index):
            raise Refused(errors.LEARNER_NOT_READY)
        if self._context.config.strict_reconfig_check:
            _raise_if(reconfig.promote_refusal(self._sight()))
        note = MemberNote(member=rpc_pb2.Member(ID=number), is_promote=True)
        await self._change(ChangeKind.ADD_VOTER, number, note)
        answer = rpc_pb2.MemberPromoteResponse(members=self._context.members)
        return answer.SerializeToString()

    async def _change(self, kind: ChangeKind, number: int, note: MemberNote) -> None:
        change = ConfigChange((ChangeStep(kind, NodeId(number)),))
        await self._changing().propose_config(change, encode_notes(note))

    def _changing(self) -> ClusterReplica:
        if self._replica is None:
            raise RpcError(StatusCode.UNIMPLEMENTED, "this server's members do not change")
        return self._replica

    def _sight(self) -> Sight:
        replica = self._changing()
        return Sight(
            members=self._context.members,
            own_id=replica.member_id,
            now=self._context.env.clock.mono(),
            active_since=replica.active_since,
        )

    def _list(self) -> bytes:
        answer = rpc_pb2.MemberListResponse(members=self._context.members)
        return self._header() + answer.SerializeToString()

    def _header(self) -> bytes:
        # Revision 0: headers of this service carry none (etcd ops: "How the header is filled").
        return self._context.header(0)

    def methods(self) -> list[Method]:
        """Return the methods of the service; those that change members only if they can."""
        listing = Method(rpcs.CLUSTER_MEMBER_LIST.path, unary=self.member_list)
        if self._replica is None:
            return [listing]
        return [
            listing,
            async_unary(rpcs.CLUSTER_MEMBER_ADD.path, self.member_add),
            async_unary(rpcs.CLUSTER_MEMBER_REMOVE.path, self.member_remove),
            async_unary(rpcs.CLUSTER_MEMBER_UPDATE.path, self.member_update),
            async_unary(rpcs.CLUSTER_MEMBER_PROMOTE.path, self.member_promote),
        ]


# UNAVAILABLE answers of a leader that are the outcome, not the lack of one.
_FINAL: Final = frozenset(
    (errors.UNHEALTHY.message, errors.TIMEOUT.message, errors.STOPPED.message)
)


def _raise_if(spec: errors.ErrorSpec | None) -> None:
    if spec is not None:
        raise Refused(spec)


def _peer_urls(texts: Iterable[str]) -> list[str]:
    """Return the URLs in etcd's order. Raises MEMBER_BAD_URLS."""
    given = [text.strip() for text in texts]
    if not given:
        raise Refused(errors.MEMBER_BAD_URLS)
    try:
        for text in given:
            parse_peer_url(text)
    except ValueError:
        raise Refused(errors.MEMBER_BAD_URLS) from None
    return sorted(given)


def methods(context: ApiContext, replica: ClusterReplica | None = None) -> list[Method]:
    """Return the methods of the service."""
    return Cluster(context, replica).methods()
