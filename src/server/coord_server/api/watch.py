"""``etcdserverpb.Watch``: its one method, and the streams that have room again (etcd API: Watch)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from coord.rpc.service import Method
from coord.rpc.status import RpcError
from coord.wire import methods as rpcs
from coord_server.api.leader_guard import LeaderGuard
from coord_server.api.watch_stream import WatchStream

if TYPE_CHECKING:
    from coord.rpc.server_stream import ServerStream
    from coord_server.api.context import ApiContext


class _Watch:
    def __init__(self, context: ApiContext) -> None:
        self._context = context
        context.hub.header = context.header
        self._guard = LeaderGuard(context)
        self._writable: dict[WatchStream, None] = {}

    def watch(self, stream: ServerStream) -> None:
        """Serve one call. It lives until the client cancels it or the connection ends."""
        try:
            needs_leader = self._context.check_stream_head(stream.head)
        except RpcError as error:
            stream.finish(error.code, error.message)
            return
        watching = WatchStream(self._context, stream, later=self._later)

        def closed() -> None:
            self._guard.let_go(stream)
            self._writable.pop(watching, None)
            watching.close()

        stream.on_closed = closed
        if needs_leader:
            self._guard.watch_over(stream)

    def _later(self, watching: WatchStream) -> None:
        if not self._writable:
            asyncio.get_running_loop().call_soon(self._go_on)
        self._writable[watching] = None

    def _go_on(self) -> None:
        writable, self._writable = self._writable, {}
        for watching in writable:
            watching.go_on()


def methods(context: ApiContext) -> list[Method]:
    """Return the methods of the service. The hub's events go to it from now on."""
    return [Method(rpcs.WATCH_WATCH.path, stream=_Watch(context).watch)]
