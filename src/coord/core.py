"""The parts of a client that live on its runtime's loop, put together and taken apart again."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from coord.errors import ClientClosed, InvalidArgument
from coord.runtime import RealOffload, Supervisor, finish, start_task
from coord.store.admin import Admin
from coord.store.caller import Caller
from coord.store.kv import KV
from coord.store.lease import Leases
from coord.store.txn import TxnRunner
from coord.store.watch import WatchMux
from coord.syncing import EndpointSync
from coord.target import Endpoint, Opened, Target, TargetKind, parse_target

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from coord.runtime import Env, Runtime
    from coord.transport import CarrierLimits, ClientTransport

Placement = Literal["thread", "inline"]
Carrier = Literal["native", "grpcio"]

DEFAULT_REQUEST_TIMEOUT_S = 10.0
# What the parts registered with `at_close` may take together, for example to revoke leases.
_FAREWELL_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Everything that ``connect()`` decided; enough to make the same client again."""

    target: Target
    request_timeout: float = DEFAULT_REQUEST_TIMEOUT_S
    placement: Placement = "thread"
    carrier: Carrier = "native"
    name: str = "coord"
    auto_sync: float | None = None
    carrier_limits: CarrierLimits | None = None


class Core:
    """What a client is made of. Everything here belongs to the runtime's loop, unless it says otherwise.

    ``kv``, ``txn``, ``leases``, ``admin`` and ``caller`` keep no state and may be used from any loop: what they send
    crosses over to the runtime's.
    ``closing`` is set as soon as the client begins to close; ``closed`` when nothing is left.
    """

    def __init__(
        self,
        options: Options,
        runtime: Runtime,
        transport: ClientTransport,
        opened: Opened | None,
        *,
        target: Target,
        env: Env,
    ) -> None:
        self.options = options
        self.target = target
        self._carrier_env = env
        self.name = options.name
        self.runtime = runtime
        self.env = runtime.env
        self.transport = transport
        self.closing = asyncio.Event()
        self.closed = False
        self._gone = asyncio.Event()
        self.supervisor = Supervisor(self._note_failure)
        self.caller = Caller(transport, runtime, request_timeout=options.request_timeout)
        self.kv = KV(self.caller)
        self.txn = TxnRunner(self.caller)
        self.leases = Leases(self.caller)
        self.admin = Admin(self.caller)
        self.sync = EndpointSync(
            self.admin,
            transport,
            self.env,
            target,
            fixed=opened is not None,
        )
        # A member that has lost its leader ends the stream, instead of leaving us with a stale view.
        self.watches = WatchMux(
            transport, self.env, self.supervisor, metadata=(("hasleader", "true"),)
        )
        self.describe_token: Callable[[], str] = lambda: "no credentials"
        """Says how this client authenticates, for people."""
        self._opened = opened
        self._farewells: dict[int, Callable[[], Awaitable[None]]] = {}
        self._last_farewell = 0

    @classmethod
    async def start(cls, options: Options, runtime: Runtime) -> Core:
        """Put the parts together on the running loop; finds or starts the server of ``local:`` and ``memory:``.

        Connections to endpoints are made when they are needed.
        """
        opened: Opened | None = None
        env, target = runtime.env, options.target
        if target.kind is not TargetKind.ENDPOINTS:
            from coord.embed import open_target  # the server is loaded only by those who start one

            opened = await open_target(target, env)
            env = replace(env, net=opened.net)
            target = Target(kind=TargetKind.ENDPOINTS, endpoints=opened.endpoints)
        try:
            transport = _make_transport(options, target, env)
        except BaseException:
            if opened is not None:
                await opened.close()
            raise
        core = cls(options, runtime, transport, opened, target=target, env=env)
        if options.auto_sync is not None:
            core.supervisor.spawn(core.sync.keep_syncing(options.auto_sync), name="endpoint-sync")
        return core

    @contextlib.asynccontextmanager
    async def only(self, endpoint: str | None) -> AsyncGenerator[Caller]:
        """Yield a caller whose calls go to one endpoint, over a connection of their own; None: to the client's.

        On the runtime's loop. Raises :class:`InvalidArgument` for what is no endpoint, or not fit for this client.
        """
        if endpoint is None:
            yield self.caller
            return
        if self.closing.is_set():
            raise ClientClosed
        chosen = replace(self.target, endpoints=(self.endpoint(endpoint),))
        transport = _make_transport(self.options, chosen, self._carrier_env)
        forget = self.at_close(transport.close)
        try:
            yield self.caller.over(transport)
        finally:
            forget()
            await finish(transport.close(), within=_FAREWELL_S)

    def endpoint(self, text: str) -> Endpoint:
        """Return the endpoint that ``text`` names: one of the client's, or another one of the same kind.

        Raises :class:`InvalidArgument`.
        """
        for known in self.target.endpoints:
            if known.text == text:
                return known
        tls = self.target.tls
        parsed = parse_target([text], tls=tls)
        if parsed.kind is not TargetKind.ENDPOINTS or len(parsed.endpoints) != 1:
            raise InvalidArgument(f"endpoint {text!r}: give one host:port or URL")
        found = parsed.endpoints[0]
        if found.tls != (tls is not None):
            kind = "uses TLS" if tls is not None else "does not use TLS"
            raise InvalidArgument(f"endpoint {text!r} does not fit: this client {kind}")
        return found

    def at_close(self, farewell: Callable[[], Awaitable[None]]) -> Callable[[], None]:
        """Run ``farewell`` when the client closes, before its connections do; the newest first.

        Returns a function that takes it back.
        """
        self._last_farewell += 1
        key = self._last_farewell
        self._farewells[key] = farewell
        return lambda: self._farewells.pop(key, None) and None

    async def close(self) -> None:
        """End everything: farewells, watches, background tasks, connections, the embedded server. Idempotent."""
        if self.closing.is_set():
            await self._gone.wait()
            return
        self.closing.set()
        await finish(self._close(), within=_FAREWELL_S * 4)

    def abandon(self) -> None:
        """Close in the background, and end the runtime; from any thread. For a client that nobody closed."""

        def begin() -> None:
            start_task(self.close()).add_done_callback(lambda _: self.runtime.stop_soon())

        with contextlib.suppress(RuntimeError):  # the loop has ended, and everything on it
            self.runtime.post(begin)

    async def _close(self) -> None:
        try:
            try:
                async with asyncio.timeout(_FAREWELL_S):
                    while self._farewells:
                        _, farewell = self._farewells.popitem()
                        await self._say(farewell)
            except TimeoutError as error:
                self._note_failure("close", error)
            await self.watches.close()
            await self.supervisor.close()
            await self.transport.close()
            if self._opened is not None:
                await self._opened.close()
            if isinstance(self.env.offload, RealOffload):
                self.env.offload.close()
        finally:
            self.closed = True
            self._gone.set()

    async def _say(self, farewell: Callable[[], Awaitable[None]]) -> None:
        try:
            await farewell()
        except Exception as error:  # noqa: BLE001 - one part's failure must not keep the others open
            self._note_failure("farewell", error)

    def _note_failure(self, name: str, error: BaseException) -> None:
        """Hand an unexpected failure of a background task to the loop's handler, where applications listen."""
        asyncio.get_running_loop().call_exception_handler(
            {
                "message": f"coord: background task {name!r} of client {self.name!r} failed",
                "exception": error,
            }
        )


def _make_transport(options: Options, target: Target, env: Env) -> ClientTransport:
    carrier, limits = options.carrier, options.carrier_limits
    match carrier:
        case "native":
            from coord.transport.native import NativeTransport

            return NativeTransport(target.endpoints, env, tls=target.tls, limits=limits)
        case "grpcio":
            from coord.transport.grpcio import GrpcioTransport  # 116 ms that only its users pay

            return GrpcioTransport(target.endpoints, env, tls=target.tls, limits=limits)
        case _:  # pyright: ignore[reportUnnecessaryComparison] - callers without a type checker
            raise InvalidArgument(f"transport must be 'native' or 'grpcio', not {carrier!r}")  # pyright: ignore[reportUnreachable]
