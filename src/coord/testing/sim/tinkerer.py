"""A program that never leaves the members alone: it says again and again where each of them is reached.

Each time a change of membership goes through the log, at any moment of an election too, with others on
their way. Nothing else comes of it, so the operator's work is not disturbed.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

from typing_extensions import override

from coord.rpc.status import RpcError
from coord.testing.sim.chance import Chance
from coord.testing.sim.client_node import ClientNode
from coord.wire import methods as rpcs
from coord.wire import rpc_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from coord.testing.sim.journal import Journal
    from coord.testing.sim.machine import Stage

_CALL_S: Final = 2.0
_PAUSE_S: Final = 0.05


class Tinkerer(ClientNode):
    """One such program. ``able`` returns the hosts of the members that are not gone."""

    def __init__(
        self,
        stage: Stage,
        name: str,
        hosts: Sequence[str],
        journal: Journal,
        *,
        depth: str,
        able: Callable[[], list[str]],
    ) -> None:
        super().__init__(stage, name, hosts, (), journal, depth=depth, lease_ttl_s=1)
        self.is_on = True
        """Until it is told to stop."""
        self._able = able
        self._chance = Chance(stage.seed, "tinkerer", name)

    @override
    def start(self) -> None:
        """Begin."""
        self.boot(self._tinker)

    async def _tinker(self) -> None:
        while self.is_on:
            await asyncio.sleep(self._chance.exponential(_PAUSE_S))
            # Whoever is asked may be dead or behind, and the change may be refused.
            with contextlib.suppress(RpcError):
                await self._update(self._chance.choice(self._able()))

    async def _update(self, host: str) -> None:
        carrier = self.carrier([host])
        try:
            wish = rpc_pb2.MemberListRequest(linearizable=False).SerializeToString()
            raw = await carrier.unary(rpcs.CLUSTER_MEMBER_LIST.path, wish, timeout=_CALL_S)
            members = rpc_pb2.MemberListResponse.FromString(raw).members
            for member in self._chance.some(members, 1):
                update = rpc_pb2.MemberUpdateRequest(ID=member.ID, peerURLs=member.peerURLs)
                path = rpcs.CLUSTER_MEMBER_UPDATE.path
                await carrier.unary(path, update.SerializeToString(), timeout=_CALL_S)
        finally:
            await carrier.close()
