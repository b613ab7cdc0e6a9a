"""Who offers a service, where, and which of them to use (spec recipes 8; layout of Go's ``naming/endpoints``).

A *registration* is a leased key ``<service>/<id>`` whose value says where an *instance* listens. It is put again when
its session has ended, taken away while its health check fails, and gone when its process is.
A *view* is a live list of the instances of one service. It never becomes empty because of the store: while that cannot
be reached it stays as it was, and when too many instances vanish at once, a *brake* keeps them for a while.
A *strategy* picks one of them, with the local knowledge of who has failed (*ejection*).

Left out: anything between the picking and the call. :mod:`coord.grpc` does that for gRPC.
"""

from coord.recipes.registry.errors import AlreadyRegistered, NoInstance, ServiceTimeout
from coord.recipes.registry.health import HealthCheck
from coord.recipes.registry.instance import Instance
from coord.recipes.registry.picking import Strategy
from coord.recipes.registry.registration import Registration
from coord.recipes.registry.service import Registry, services
from coord.recipes.registry.view import ServiceView

__all__ = [
    "AlreadyRegistered",
    "HealthCheck",
    "Instance",
    "NoInstance",
    "Registration",
    "Registry",
    "ServiceTimeout",
    "ServiceView",
    "Strategy",
    "services",
]
