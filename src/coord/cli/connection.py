"""From the global options to a connected client, for the length of one command."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING, TypeVar

from google.protobuf.message import Message

import coord
from coord.cli.namespaced import enter, leave
from coord.cli.output import Printer
from coord.errors import Unavailable, from_status
from coord.rpc.status import RpcError
from coord.store.caller import Repeat
from coord.wire import methods

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from coord.cli.options import Settings
    from coord.core import Core
    from coord.wire.methods import Rpc

Req = TypeVar("Req", bound=Message)
Resp = TypeVar("Resp", bound=Message)


class Store:
    """A connected client, and the typed calls below it: outputs in JSON show whole responses."""

    def __init__(self, client: coord.Client, settings: Settings) -> None:
        self.client = client
        self.settings = settings
        self.core: Core = client._core  # noqa: SLF001 - one product, two faces  # pyright: ignore[reportPrivateUsage]
        self.printer: Printer = Printer(as_json=settings.write_out == "json", as_hex=settings.hex)

    async def call(
        self, rpc: Rpc[Req, Resp], request: Req, *, repeat: Repeat = Repeat.READ
    ) -> Resp:
        """Make one call and return the whole response. Raises the errors of :mod:`coord.errors`."""
        space = self.core.keyspace
        if not space.size:
            return await self.core.caller.call(rpc, request, repeat=repeat)
        enter(space, request)
        response = await self.core.caller.call(rpc, request, repeat=repeat)
        leave(space, response)
        return response


@contextlib.asynccontextmanager
async def connected(settings: Settings, endpoint: str | None = None) -> AsyncGenerator[Store]:
    """Connect, to ``endpoint`` or to all that are set. Raises :class:`coord.Unavailable` when nobody answers in time."""
    tls = None
    if settings.cacert or settings.cert or settings.key or settings.insecure_skip_tls_verify:
        tls = coord.TlsConfig(
            ca=settings.cacert,
            cert=settings.cert,
            key=settings.key,
            verify=not settings.insecure_skip_tls_verify,
        )
    async with coord.connect(
        endpoint or settings.endpoints,
        tls=tls,
        request_timeout=settings.command_timeout,
        runtime="inline",
        name="coord-cli",
    ) as client:
        store = Store(client, settings)
        await _dial(store, settings.dial_timeout)
        yield store


async def _dial(store: Store, timeout: float) -> None:
    """Wait for a connection; requests have their own, longer limit."""
    try:
        stream = await store.core.transport.open_stream(
            methods.LEASE_KEEP_ALIVE.path, timeout=timeout
        )
    except RpcError as error:
        failure = from_status(error, operation="connect", writes=False, timeout=timeout)
        if isinstance(failure, coord.CoordTimeout | Unavailable):
            reason = error.message or f"no connection within {timeout:g} s"
            raise Unavailable(reason, endpoints=store.client.endpoints) from error
        raise failure from error
    stream.cancel()


def run(settings: Settings, work: Callable[[Store], Awaitable[int | None]]) -> int:
    """Connect, do the work of a command, and return its exit code, 0 if it names none."""

    async def whole() -> int:
        async with connected(settings) as store:
            return await work(store) or 0

    return asyncio.run(whole())


def each_endpoint(settings: Settings) -> list[str]:
    """Return the endpoints one by one, for commands that ask each of them."""
    given = settings.endpoints or os.environ.get("COORD_ENDPOINTS") or "local:"
    if given.partition(":")[0] in {"local", "memory", "etcd", "etcd+tls"}:
        return [given]
    return [part.strip() for part in given.split(",")]
