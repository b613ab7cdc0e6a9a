"""What a member can ask of the cluster as a whole: changes of membership, the leader's answers.

Some questions only the leader can answer: it alone has the deadlines of leases and knows how far a
learner is, and changes go through it. On any other member the question goes to the leader's own port for
peers, and the answer comes back as if this member had known it.
"""

from __future__ import annotations

import asyncio
import struct
from typing import TYPE_CHECKING, Final, final

from typing_extensions import override

from coord.rpc.status import RpcError, StatusCode
from coord_server import errors
from coord_server.api.cluster import ClusterReplica
from coord_server.departure import removed_by
from coord_server.errors import Refused
from coord_server.raft import NodeId, decode_change, encode_change

if TYPE_CHECKING:
    from coord_server.errors import ErrorSpec
    from coord_server.peer import Mesh
    from coord_server.raft import ConfigChange
    from coord_server.replica import Replica

CHANGE_KIND: Final = "change"
"""The question with which a change of membership is handed to the leader."""

_INDEX: Final = struct.Struct(">Q")
# How long to wait before the leader is asked again, when there was none.
_ASK_AGAIN_S: Final = 0.05


@final
class ClusterControl(ClusterReplica):
    """The replica and the mesh, as the services see them. ``request_timeout_s`` bounds every wait."""

    def __init__(self, replica: Replica, mesh: Mesh, *, request_timeout_s: float) -> None:
        self._replica = replica
        self._mesh = mesh
        self._request_timeout_s = request_timeout_s
        mesh.serve(CHANGE_KIND, self._change_here)

    @property
    @override
    def member_id(self) -> int:
        return self._replica.member_id

    @property
    @override
    def is_leader(self) -> bool:
        return self._replica.is_leader

    @property
    @override
    def leader_id(self) -> int:
        return self._replica.leader_id

    @property
    @override
    def last_index(self) -> int:
        return self._replica.last_index

    @override
    def active_since(self, member_id: int) -> float | None:
        return self._mesh.active_since(NodeId(member_id))

    @override
    def match(self, member_id: int) -> int | None:
        return self._replica.match(NodeId(member_id))

    @override
    async def propose_config(self, change: ConfigChange, context: bytes) -> None:
        try:
            async with asyncio.timeout(self._request_timeout_s):
                # Elections are too rare for an event of their own.
                while not await self._proposed(change, context):  # noqa: ASYNC110 - see above
                    await asyncio.sleep(_ASK_AGAIN_S)
        except TimeoutError:
            raise Refused(errors.TIMEOUT) from None

    async def _proposed(self, change: ConfigChange, context: bytes) -> bool:
        """Return whether a change was made; False if there is no leader, or it is about to change."""
        replica = self._replica
        if not replica.leader_id:
            return False
        try:
            if replica.is_leader:
                await replica.change_membership(change, context)
            else:
                answer = await self._ask_once(CHANGE_KIND, encode_change(change, context))
                await replica.wait_applied(_INDEX.unpack(answer)[0])
        except RpcError as error:
            if _says(error, errors.NOT_LEADER):
                return False  # said of what was not proposed, so it may be asked for again
            if not (self.member_id in removed_by(change) and _says(error, errors.TIMEOUT)):
                raise
            # The leader hangs up on a member that it has removed, and that may come before its answer.
            members = replica.applier.members
            while not members.is_removed(self.member_id):  # noqa: ASYNC110 - see propose_config
                await asyncio.sleep(_ASK_AGAIN_S)
        return True

    async def _change_here(self, _sender: NodeId, request: bytes) -> bytes:
        try:
            change, context = decode_change(request)
        except ValueError as error:
            raise RpcError(StatusCode.INVALID_ARGUMENT, str(error)) from error
        return _INDEX.pack(await self._replica.change_membership(change, context))

    async def _ask_once(self, kind: str, request: bytes) -> bytes:
        """Ask the leader; a question whose answer was lost may have had its effect."""
        try:
            return await self.ask_leader(kind, request)
        except RpcError as error:
            if error.code in {StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED} and error.sent:
                raise Refused(errors.TIMEOUT) from error
            raise

    @override
    async def ask_leader(self, kind: str, request: bytes) -> bytes:
        leader = self._replica.leader_id
        if not leader:
            raise Refused(errors.NO_LEADER)
        timeout = self._request_timeout_s
        return await self._mesh.ask(NodeId(leader), kind, request, timeout=timeout)

    @override
    def transfer_leadership(self, target: int) -> None:
        if not self._replica.transfer(NodeId(target)):
            raise Refused(errors.BAD_LEADER_TRANSFEREE)


def _says(error: RpcError, spec: ErrorSpec) -> bool:
    return (error.code, error.message) == (spec.code, spec.message)
