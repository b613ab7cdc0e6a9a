"""``/version``: what clients and tools take this server for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coord_server.http.routes import json_answer, only_get

if TYPE_CHECKING:
    from coord_server.http.routes import Handler, Request, Respond


def version_route(server: str, cluster: str) -> Handler:
    """Return the handler that names the server's and the cluster's version (etcd ops: "/version")."""
    body = f'{{"etcdserver":"{server}","etcdcluster":"{cluster}"}}'

    def handle(_request: Request, respond: Respond) -> None:
        respond(json_answer(body))

    return only_get(handle)
