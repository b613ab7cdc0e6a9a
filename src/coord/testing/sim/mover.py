"""A program that moves leadership on and on, within milliseconds each time.

Elections of their own take a second of virtual time. What needs two leaderships in a row, or one that comes
back, meets that here.
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
    from collections.abc import Sequence

    from coord.testing.sim.invariants import Observer
    from coord.testing.sim.journal import Journal
    from coord.testing.sim.machine import Stage

HOST: Final = "10.0.7.1"
_CALL_S: Final = 1.0
# How long a sync takes on a leader's disk that hangs, and how long before a move it begins to.
_HANG_S: Final = 0.8
_BEFORE_S: Final = 0.6


class Mover(ClientNode):
    """The program. ``every_s`` is how long it waits on average between two moves.

    ``hangs``: in half of the moves the disk of the leader hangs, so that what it has begun meets its successor.
    """

    def __init__(
        self,
        stage: Stage,
        hosts: Sequence[str],
        observer: Observer,
        journal: Journal,
        *,
        depth: str,
        every_s: float,
        hangs: bool,
    ) -> None:
        super().__init__(stage, HOST, hosts, (), journal, depth=depth, lease_ttl_s=1)
        self.is_on: bool = every_s > 0
        """Until it is told to stop."""
        self._observer = observer
        self._every_s = every_s
        self._hangs = hangs
        self._chance = Chance(stage.seed, "mover")

    @override
    def start(self) -> None:
        """Begin."""
        self.boot(self._move_on)

    async def _move_on(self) -> None:
        while self.is_on:
            await asyncio.sleep(self._chance.exponential(self._every_s))
            leader = self._observer.leader()
            others = [member for member in self._observer.members if member is not leader]
            if leader is None or not others:
                continue
            disk, hangs = leader.node.disk, self._hangs and self._chance.below(0.5)
            if hangs:
                disk.slow_s = _HANG_S
                await asyncio.sleep(self._chance.uniform(0.0, _BEFORE_S))
            request = rpc_pb2.MoveLeaderRequest(targetID=self._chance.choice(others).id)
            carrier = self.carrier([leader.name])
            # It may not be the leader any more, and the target a learner, or behind.
            with contextlib.suppress(RpcError):
                path = rpcs.MAINTENANCE_MOVE_LEADER.path
                await carrier.unary(path, request.SerializeToString(), timeout=_CALL_S)
            await carrier.close()
            if hangs:
                disk.slow_s = 0.0
