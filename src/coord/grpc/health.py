"""gRPC's health service, on one server."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from coord.errors import MissingExtra

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class HealthService:
    """What a server says of its services, and of itself as a whole."""

    def __init__(self, server: object, services: Sequence[str], *, blocking: bool) -> None:
        try:
            health: Any = import_module("grpc_health.v1.health")
            messages: Any = import_module("grpc_health.v1.health_pb2")
            handlers: Any = import_module("grpc_health.v1.health_pb2_grpc")
        except ImportError:
            raise MissingExtra("the health service of gRPC", "grpc") from None
        self._services = dict.fromkeys(("", *services))
        self._status: Any = messages.HealthCheckResponse
        self._servicer: Any = health.HealthServicer() if blocking else health.aio.HealthServicer()
        handlers.add_HealthServicer_to_server(self._servicer, server)

    def tell(self, *, serving: bool) -> Iterator[Any]:
        """Change what is said, step by step; each is to be awaited unless it is ``blocking``."""
        status = self._status.SERVING if serving else self._status.NOT_SERVING
        for service in self._services:
            yield self._servicer.set(service, status)
