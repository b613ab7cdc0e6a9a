"""How requests reach a store: bytes in, bytes out, over one of several carriers.

A :class:`Transport` hides connections, endpoints, failover and deadlines; what it does not do is repeat a request
that may have been processed: that decision needs to know what the request means, and is made in ``coord.store``.
Every failure is an :class:`coord.rpc.RpcError`, whose ``sent`` tells whether the request can have had an effect.

``native`` runs over our own HTTP/2 in ``coord.rpc``; ``grpcio`` over the gRPC library, for those who need its proxies
and credentials.
All methods are called on the runtime's loop.
"""

from coord.transport.base import Cancellable, ClientTransport, MessageStream, Transport
from coord.transport.limits import CarrierLimits

__all__ = ["Cancellable", "CarrierLimits", "ClientTransport", "MessageStream", "Transport"]
