"""A blocking gRPC server that is listed for as long as it serves."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from coord.grpc.health import HealthService
from coord.grpc.serving import DRAIN_S, GRACE_S

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    import grpc

    from coord.sync.registry import Registration


@contextlib.contextmanager
def register(
    server: grpc.Server,
    registration: Callable[[], Registration],
    *,
    drain: float = DRAIN_S,
    grace: float = GRACE_S,
    health_services: Sequence[str] | None = None,
) -> Generator[Registration]:
    """Serve, and be listed while serving: ``with coord.sync.grpc.register(server, lambda: registry.register(addr)):``.

    As :func:`coord.grpc.register`; ``registration`` is called once the server has started.
    """
    health = (
        None if health_services is None else HealthService(server, health_services, blocking=True)
    )
    server.start()
    try:
        if health is not None:
            list(health.tell(serving=True))
        made = registration()
    except BaseException:
        server.stop(None).wait()
        raise
    try:
        yield made
    finally:
        try:
            if health is not None:
                list(health.tell(serving=False))
            made.drain(drain)
        finally:
            server.stop(grace).wait()
