"""gRPC servers that are found by name, and calls that go on when one of them dies.

Problem: clients must find the servers of a service, use new ones at once, leave alone those that go, and not fail
because one of them has just died without a word.

Guarantee: a server is listed while it serves: it says that it is draining, waits, is taken from the list, and only
then stops. A call is sent to another server if it surely was not processed by the one before; an idempotent one also
if nobody knows. A server that died is put out after five failed calls in a row, and gone from the list when its lease ends.

On loss: a server that is cut off from the store goes on serving, and so do those who know it; it is back in the list
by itself. Clients that are cut off keep the list they have.

Run it: ``python -m recipes.grpc_failover``, or each server in a terminal: ``python -m recipes.grpc_failover serve``.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import grpc

import coord
import coord.grpc

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

SERVICE = "recipes/grpc-failover/greeter"
HELLO = "/greet.Greeter/Hello"
TTL_S = 5
"""Seconds after which a server that died is gone from the list."""


def make_server(name: str) -> tuple[grpc.aio.Server, int]:
    """Return a server that says its name, and its port. Generated code has the same in ``add_..._to_server``."""

    async def hello(request: bytes, _: object) -> bytes:
        return b"hello " + request + b" from " + name.encode()

    server = grpc.aio.server()
    methods: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        "Hello": grpc.unary_unary_rpc_method_handler(hello)
    }
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("greet.Greeter", methods),)
    )
    return server, server.add_insecure_port("127.0.0.1:0")


@asynccontextmanager
async def serving(
    client: coord.Client, name: str, *, drain: float = 3.0
) -> AsyncGenerator[grpc.aio.Server]:
    """Serve, and be listed, for the length of the block; ``drain``: seconds for clients to notice the end."""
    server, port = make_server(name)
    registry = client.registry(SERVICE, ttl=TTL_S)
    listing = registry.register(f"127.0.0.1:{port}", metadata={"pid": os.getpid()})
    async with coord.grpc.register(server, listing, drain=drain):
        yield server


async def serve() -> None:
    """Serve until SIGTERM or Ctrl-C."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with coord.connect() as client, serving(client, "a process"):
        print("serving", flush=True)
        await stop.wait()


@asynccontextmanager
async def channel(client: coord.Client, servers: int) -> AsyncGenerator[grpc.aio.Channel]:
    """Give a channel over the whole service, once there are so many servers."""
    async with client.registry(SERVICE).discover() as view:
        await view.wait_for(servers, timeout=30)
        async with coord.grpc.balanced_channel(view, idempotent={HELLO}) as made:
            yield made


async def ask(over: grpc.aio.Channel, times: int) -> Counter[str]:
    """Call so often; return who has answered. Raises what a call raises."""
    call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = over.unary_unary(HELLO)
    answers: Counter[str] = Counter()
    for _ in range(times):
        answer = await call(b"you", timeout=10)
        answers[answer.decode().rpartition(" ")[2]] += 1
    return answers


async def main() -> None:
    async with (
        coord.connect() as client,
        serving(client, "one", drain=0.1),
        serving(client, "two", drain=0.1) as two,
        channel(client, servers=2) as over,
    ):
        answers = await ask(over, 20)
        print("20 calls, answered by", " and ".join(sorted(answers)))
        await two.stop(None)  # dies; nobody has told the registry
        answers = await ask(over, 20)
        print("20 calls, answered by", " and ".join(sorted(answers)))
        async with serving(client, "three", drain=0.1):
            while not (await ask(over, 20))["three"]:
                pass
            print("three is there, and was found")


if __name__ == "__main__":
    asyncio.run(serve() if sys.argv[1:] == ["serve"] else main())
