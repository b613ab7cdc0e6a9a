"""gRPC: a server that is listed while it serves, and a channel over all that are listed."""

import asyncio

import grpc

import coord
import coord.grpc


async def hello(request: bytes, _: object) -> bytes:
    return b"hello " + request


async def main() -> None:
    server = grpc.aio.server()
    methods: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        "Hello": grpc.unary_unary_rpc_method_handler(hello)
    }
    service = grpc.method_handlers_generic_handler("greet.Greeter", methods)
    server.add_generic_rpc_handlers((service,))
    port = server.add_insecure_port("127.0.0.1:0")

    async with coord.connect() as client:
        registry = client.registry("examples/greeter")
        instance = registry.register(f"127.0.0.1:{port}")
        async with (
            coord.grpc.register(server, instance, drain=0.1),
            registry.discover() as view,
            coord.grpc.balanced_channel(view) as channel,
        ):
            call = channel.unary_unary("/greet.Greeter/Hello")
            print(await call(b"world", timeout=10, wait_for_ready=True))


if __name__ == "__main__":
    asyncio.run(main())
