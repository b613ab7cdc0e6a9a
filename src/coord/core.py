"""The parts of a client that live on its runtime's loop, put together and taken apart again."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from coord.errors import InvalidArgument
from coord.runtime import RealOffload, Supervisor, finish, start_task
from coord.store.admin import Admin
from coord.store.caller import Caller
from coord.store.keyspace import Keyspace
from coord.store.kv import KV
from coord.store.lease import Leases
from coord.store.marker import Markers
from coord.store.txn import TxnRunner
from coord.store.txn_limits import DEFAULT_MAX_TXN_OPS
from coord.store.watch import WatchMux
from coord.target import Opened, Target, TargetKind
from coord.transport.taps import tapped

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from coord.credentials import Credentials
    from coord.runtime import Env, Runtime
    from coord.transport import Transport

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
    credentials: Credentials | None = None
    name: str = "coord"
    debug: bool = False
    namespace: bytes = b""
    max_txn_ops: int = DEFAULT_MAX_TXN_OPS


class Core:
    """What a client is made of. Everything here belongs to the runtime's loop, unless it says otherwise.

    ``kv``, ``txn``, ``leases``, ``admin``, ``markers`` and ``caller`` may be used from any loop: what they send
    crosses over to the runtime's.
    ``closing`` is set as soon as the client begins to close; ``closed`` when nothing is left.
    """

    def __init__(
        self, options: Options, runtime: Runtime, transport: Transport, opened: Opened | None
    ) -> None:
        self.options = options
        self.name: str = options.name
        self.runtime = runtime
        self.env: Env = runtime.env
        self.transport = transport
        self.closing: asyncio.Event = asyncio.Event()
        self.closed: bool = False
        self._gone = asyncio.Event()
        self.supervisor: Supervisor = Supervisor(self._note_failure)
        self.caller: Caller = Caller(transport, runtime, request_timeout=options.request_timeout)
        keyspace = Keyspace(options.namespace)
        self.keyspace: Keyspace = keyspace
        self.kv: KV = KV(self.caller, keyspace)
        self.txn: TxnRunner = TxnRunner(self.caller, keyspace, options.max_txn_ops)
        self.leases: Leases = Leases(self.caller, keyspace)
        self.admin: Admin = Admin(self.caller)
        # A member that has lost its leader ends the stream, instead of leaving us with a stale view.
        self.watches: WatchMux = WatchMux(
            transport,
            self.env,
            self.supervisor,
            metadata=(("hasleader", "true"),),
            keyspace=keyspace,
        )
        self.markers: Markers = Markers(
            runtime,
            self.txn,
            self.leases,
            request_timeout=options.request_timeout,
            at_close=self.at_close,
        )
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
            transport = tapped(options.name, _make_transport(options.carrier, target, env))
            if options.credentials is not None:
                transport = _authenticated(transport, options.credentials, env)
        except BaseException:
            if opened is not None:
                await opened.close()
            raise
        return cls(options, runtime, transport, opened)

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


def _make_transport(carrier: Carrier, target: Target, env: Env) -> Transport:
    match carrier:
        case "native":
            from coord.transport.native import NativeTransport

            return NativeTransport(target.endpoints, env, tls=target.tls)
        case "grpcio":
            from coord.transport.grpcio import GrpcioTransport  # 116 ms that only its users pay

            return GrpcioTransport(target.endpoints, env, tls=target.tls)
        case _:  # pyright: ignore[reportUnnecessaryComparison] - callers without a type checker
            raise InvalidArgument(f"transport must be 'native' or 'grpcio', not {carrier!r}")  # pyright: ignore[reportUnreachable]


def _authenticated(transport: Transport, credentials: Credentials, env: Env) -> Transport:
    """Put who the client is around ``transport``. Loaded, and in the way, for those with credentials only."""
    if credentials.token is not None:
        from coord.transport.fixed_token import FixedTokenTransport

        return FixedTokenTransport(transport, credentials.token)
    from coord.transport.authenticated import AuthenticatedTransport

    return AuthenticatedTransport(transport, env, credentials)
