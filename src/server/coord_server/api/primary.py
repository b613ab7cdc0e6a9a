"""Questions about leases for the leader, which alone has their deadlines.

A member that does not lead hands renewals and remaining times on, and waits out a change of leader as a
client would (etcd API: Lease, "forwarding"). Asking twice does no harm: a renewal is idempotent.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, final

from coord.rpc.status import RpcError, StatusCode
from coord_server import errors
from coord_server.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from coord.runtime import Supervisor
    from coord_server.api.cluster import ClusterReplica

RENEW_KIND: Final = "renew"
"""A LeaseKeepAliveRequest, answered by a LeaseKeepAliveResponse whose header is the leader's."""
TIME_TO_LIVE_KIND: Final = "time-to-live"
"""A LeaseTimeToLiveRequest, answered by a LeaseTimeToLiveResponse without a header."""

_ASK_AGAIN_S: Final = 0.05


@final
class Primary:
    """The way to the leader. ``timeout_s`` bounds each question."""

    def __init__(
        self, control: ClusterReplica, supervisor: Supervisor, *, timeout_s: float
    ) -> None:
        self._control = control
        self._supervisor = supervisor
        self._timeout_s = timeout_s

    def ask(
        self,
        kind: str,
        request: bytes,
        answer: Callable[[bytes], None],
        fail: Callable[[RpcError], None],
    ) -> None:
        """Ask in the background; one of the two is called, unless the server stops before."""
        self._supervisor.spawn(self._ask(kind, request, answer, fail), name=kind)

    async def _ask(
        self,
        kind: str,
        request: bytes,
        answer: Callable[[bytes], None],
        fail: Callable[[RpcError], None],
    ) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                body = await self._until_told(kind, request)
        except TimeoutError:
            fail(Refused(errors.TIMEOUT if self._control.leader_id else errors.NO_LEADER))
        except RpcError as error:
            fail(error)
        else:
            answer(body)

    async def _until_told(self, kind: str, request: bytes) -> bytes:
        while True:
            try:
                return await self._control.ask_leader(kind, request)
            except RpcError as error:
                gone = error.code in {StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED}
                if not gone and error.message != errors.NOT_PRIMARY_LESSOR.message:
                    raise
            await asyncio.sleep(_ASK_AGAIN_S)
