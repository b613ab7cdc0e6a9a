"""From the global options to a connected client, for the length of one command."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING, Any, TypeVar

from google.protobuf.message import Message

import coord
from coord.cli.login import settle
from coord.cli.namespaced import enter, leave
from coord.cli.options import EXIT_BAD_CONNECTION, CommandFailed
from coord.cli.output import Printer
from coord.errors import PermissionDenied, Unavailable, from_status
from coord.rpc.status import RpcError
from coord.store.caller import Repeat
from coord.wire import methods

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine

    from coord.cli.options import Settings
    from coord.core import Core
    from coord.wire.methods import Rpc

Req = TypeVar("Req", bound=Message)
Resp = TypeVar("Resp", bound=Message)


class LoginFailed(CommandFailed):
    """The store refuses the user, so that nothing was tried."""

    def __init__(self, text: str) -> None:
        super().__init__(text, EXIT_BAD_CONNECTION)


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
    """Connect, to ``endpoint`` or to all that are set, as the user that :func:`begin` has settled.

    Raises :class:`coord.Unavailable` when nobody answers in time, :class:`LoginFailed`.
    """
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
        user=settings.user,
        password=settings.password,
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
        if isinstance(failure, PermissionDenied):
            raise LoginFailed(failure.message) from error
        raise failure from error
    stream.cancel()


def begin(settings: Settings, main: Callable[[Settings], Coroutine[Any, Any, int]]) -> int:
    """Settle who the user is, run ``main`` on a loop, and return its exit code."""
    # Before there is a loop, which would take the Ctrl-C of somebody who is asked for a password.
    settle(settings)
    return asyncio.run(main(settings))


def run(settings: Settings, work: Callable[[Store], Awaitable[int | None]]) -> int:
    """Connect, do the work of a command, and return its exit code, 0 if it names none."""

    async def whole(settings: Settings) -> int:
        async with connected(settings) as store:
            return await work(store) or 0

    return begin(settings, whole)


def each_endpoint(settings: Settings) -> list[str]:
    """Return the endpoints one by one, for commands that ask each of them."""
    given = settings.endpoints or os.environ.get("COORD_ENDPOINTS") or "local:"
    if given.partition(":")[0] in {"local", "memory", "etcd", "etcd+tls"}:
        return [given]
    return [part.strip() for part in given.split(",")]
