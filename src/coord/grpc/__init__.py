"""For programs whose own calls are gRPC: channels over discovered instances, and servers that list themselves.

    async with client.registry("greeter").discover(strategy="least_loaded") as view:
        async with coord.grpc.balanced_channel(view, idempotent={"/greet.Greeter/Hello"}) as channel:
            stub = GreeterStub(channel)

    async with coord.grpc.register(server, client.registry("greeter").register("10.0.0.1:50051")):
        await server.wait_for_termination()

Python's gRPC has no way to plug in a resolver, so :func:`balanced_channel` is a channel itself: it keeps a channel for
each instance, and picks one for each call. Its blocking twin is :mod:`coord.sync.grpc`.
Imported on its own, ``import coord.grpc``, since it loads gRPC.
"""

from coord.grpc.balanced import BalancedChannel, balanced_channel
from coord.grpc.serving import register

__all__ = ["BalancedChannel", "balanced_channel", "register"]
