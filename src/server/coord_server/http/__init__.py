"""The plain HTTP endpoints beside gRPC on the client port: health, version, metrics.

The problem: load balancers, orchestrators, Prometheus and etcd's own tools ask over HTTP/1.1, on the
port where clients speak HTTP/2. The listener tells the two apart; whole requests arrive here.

Vocabulary: a *route* is a path and a handler; a handler takes the request and a function that sends
the answer, at once or later; a *check* is one question of ``/livez`` or ``/readyz``.

Invariants: every request is answered once; nothing here changes the store; a probe never waits longer
than the request timeout.

Left out: HTTP itself (``coord.rpc.http1``), what the figures mean (their owners register them).
"""

from coord_server.http.health import Health, Node
from coord_server.http.metrics import metrics_route
from coord_server.http.routes import Request, Router
from coord_server.http.version import version_route

__all__ = ["Health", "Node", "Request", "Router", "metrics_route", "version_route"]
