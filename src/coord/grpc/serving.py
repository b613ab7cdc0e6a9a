"""A gRPC server that is listed for as long as it serves."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from coord.grpc.health import HealthService
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
    health = (
        None if health_services is None else HealthService(server, health_services, blocking=False)
    )
    await server.start()
    try:
        if health is not None:
            await _tell(health, serving=True)
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
    health: HealthService | None,
    drain: float,
    grace: float,
) -> None:
    try:
        if health is not None:
            await _tell(health, serving=False)
        await registration.drain(drain)
    finally:
        await server.stop(grace)


async def _tell(health: HealthService, *, serving: bool) -> None:
    for told in health.tell(serving=serving):
        await told
