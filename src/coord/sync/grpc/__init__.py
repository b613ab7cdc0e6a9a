"""The twin of :mod:`coord.grpc`, for programs whose gRPC is the blocking one: ``import coord.sync.grpc``.

with client.registry("greeter").discover(strategy="least_loaded") as view:
    with coord.sync.grpc.balanced_channel(view, idempotent={"/greet.Greeter/Hello"}) as channel:
        stub = GreeterStub(channel)

with coord.sync.grpc.register(server, lambda: client.registry("greeter").register("10.0.0.1:50051")):
    server.wait_for_termination()
"""

from coord.sync.grpc.balanced import BalancedChannel, balanced_channel
from coord.sync.grpc.serving import register

__all__ = ["BalancedChannel", "balanced_channel", "register"]
