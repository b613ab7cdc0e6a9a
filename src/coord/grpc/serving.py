"""A gRPC server that is listed for as long as it serves."""

from __future__ import annotations

import contextlib
from importlib import import_module
from typing import TYPE_CHECKING, Any

from coord.errors import MissingExtra
from coord.runtime import finish

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    import grpc.aio

    from coord.recipes.opening import Opening
    from coord.recipes.registry import Registration

DRAIN_S = 3.0
GRACE_S = 10.0
_SLACK_S = 30.0


@contextlib.asynccontextmanager
async def register(
    server: grpc.aio.Server,
    registration: Opening[Registration],
    *,
    drain: float = DRAIN_S,
    grace: float = GRACE_S,
    health_services: Sequence[str] | None = None,
) -> AsyncGenerator[Registration]:
    """Serve, and be listed while serving: ``async with coord.grpc.register(server, registry.register(addr)):``.

    Starts ``server``, then registers. At the end of the block it says that it is draining, waits ``drain`` seconds for
    clients to notice, takes the entry away, and stops the server, whose running calls get ``grace`` seconds; a
    cancellation does not cut that short.
    ``health_services`` (names; ``""`` stands for the whole server) adds gRPC's health service, which answers SERVING
    until draining begins: raises :class:`coord.MissingExtra` without ``coord[grpc]``.
    Raises what registering raises; the server is stopped then.
    """
    health = None if health_services is None else _Health(server, ("", *health_services))
    await server.start()
    try:
        if health is not None:
            await health.tell(serving=True)
        made = await registration
    except BaseException:
        await finish(server.stop(None), within=_SLACK_S)
        raise
    try:
        yield made
    finally:
        await finish(_end(server, made, health, drain, grace), within=drain + grace + _SLACK_S)


async def _end(
    server: grpc.aio.Server,
    registration: Registration,
    health: _Health | None,
    drain: float,
    grace: float,
) -> None:
    try:
        if health is not None:
            await health.tell(serving=False)
        await registration.drain(drain)
    finally:
        await server.stop(grace)


class _Health:
    """gRPC's health service, on one server."""

    def __init__(self, server: grpc.aio.Server, services: tuple[str, ...]) -> None:
        try:
            health: Any = import_module("grpc_health.v1.health")
            messages: Any = import_module("grpc_health.v1.health_pb2")
            handlers: Any = import_module("grpc_health.v1.health_pb2_grpc")
        except ImportError:
            raise MissingExtra("the health service of gRPC", "grpc") from None
        self._services = dict.fromkeys(services)
        self._status: Any = messages.HealthCheckResponse
        self._servicer: Any = health.aio.HealthServicer()
        handlers.add_HealthServicer_to_server(self._servicer, server)

    async def tell(self, *, serving: bool) -> None:
        status = self._status.SERVING if serving else self._status.NOT_SERVING
        for service in self._services:
            await self._servicer.set(service, status)
