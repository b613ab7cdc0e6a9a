"""``/metrics``: Prometheus text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from coord.rpc.http1_messages import Http1Response

if TYPE_CHECKING:
    from coord_server.http.routes import Handler, Request, Respond
    from coord_server.metrics import Metrics

_TYPE: Final = (("Content-Type", "text/plain; version=0.0.4; charset=utf-8"),)


def metrics_route(metrics: Metrics) -> Handler:
    """Return the handler that prints ``metrics``, for any method as etcd's."""

    def handle(_request: Request, respond: Respond) -> None:
        respond(Http1Response(200, _TYPE, metrics.text().encode()))

    return handle
