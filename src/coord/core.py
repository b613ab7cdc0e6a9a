"""The parts of a client that live on its runtime's loop, put together and taken apart again."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from coord.errors import ClientClosed
from coord.notices import KeyCounts
from coord.runtime import RealOffload, Supervisor, finish, start_task
from coord.store.admin import Admin
from coord.store.caller import Caller
from coord.store.keyspace import Keyspace
from coord.store.kv import KV
from coord.store.lease import Leases
from coord.store.marker import Markers
from coord.store.txn import TxnRunner
from coord.store.txn_limits import DEFAULT_MAX_TXN_OPS
from coord.store.value_limits import DEFAULT_MAX_VALUE_BYTES
from coord.store.watch import WatchMux
from coord.syncing import EndpointSync
from coord.target import Opened, Target, TargetKind
from coord.ways import Ways

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from coord.credentials import Credentials
    from coord.runtime import Env, Runtime
    from coord.transport import CarrierLimits, ClientTransport, Transport

Placement = Literal["thread", "inline"]
Carrier = Literal["native", "grpcio"]

DEFAULT_REQUEST_TIMEOUT_S = 10.0
FAREWELL_S = 5.0
"""Seconds that the parts registered with ``at_close`` may take together, for example to revoke leases."""


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
    max_value_bytes: int = DEFAULT_MAX_VALUE_BYTES
    auto_sync: float | None = None
    carrier_limits: CarrierLimits | None = None


class Core:
    """What a client is made of. Everything here belongs to the runtime's loop, unless it says otherwise.

    ``kv``, ``txn``, ``leases``, ``admin``, ``markers`` and ``caller`` may be used from any loop: what they send
    crosses over to the runtime's.
    ``closing`` is set as soon as the client begins to close; ``closed`` when nothing is left.
    """

    def __init__(
        self, options: Options, runtime: Runtime, ways: Ways, opened: Opened | None
    ) -> None:
        self.options = options
        self.name: str = options.name
        self.runtime = runtime
        self.env: Env = runtime.env
        self.ways = ways
        self.carrier: ClientTransport = ways.carrier
        transport = ways.transport
        self.transport: Transport = transport
        self.closing: asyncio.Event = asyncio.Event()
        self.closed: bool = False
        self._gone = asyncio.Event()
        self.supervisor: Supervisor = Supervisor(self._note_failure)
        self.caller: Caller = Caller(transport, runtime, request_timeout=options.request_timeout)
        keyspace = Keyspace(options.namespace)
        self.keyspace: Keyspace = keyspace
        self.kv: KV = KV(self.caller, keyspace)
        self.txn: TxnRunner = TxnRunner(
            self.caller, keyspace, options.max_txn_ops, options.max_value_bytes
        )
        self.leases: Leases = Leases(self.caller, keyspace)
        self.admin: Admin = Admin(self.caller)
        self.sync: EndpointSync = EndpointSync(
            self.admin, ways.carrier, self.env, ways.target, fixed=opened is not None
        )
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
        self.key_counts: KeyCounts = KeyCounts()
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
            ways = Ways(options, target, env)
        except BaseException:
            if opened is not None:
                await opened.close()
            raise
        core = cls(options, runtime, ways, opened)
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
        transport = self.ways.to(endpoint)
        forget = self.at_close(transport.close)
        try:
            yield self.caller.over(transport)
        finally:
            forget()
            await finish(transport.close(), within=FAREWELL_S)

    def at_close(self, farewell: Callable[[], Awaitable[None]]) -> Callable[[], None]:
        """Run ``farewell`` when the client closes, before its connections do; all at once, for ``FAREWELL_S`` at most.

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
        await finish(self._close(), within=FAREWELL_S * 4)

    def abandon(self) -> None:
        """Close in the background, and end the runtime; from any thread. For a client that nobody closed."""

        def begin() -> None:
            start_task(self.close()).add_done_callback(lambda _: self.runtime.stop_soon())

        with contextlib.suppress(RuntimeError):  # the loop has ended, and everything on it
            self.runtime.post(begin)

    async def _close(self) -> None:
        try:
            await self._say_all()
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

    async def _say_all(self) -> None:
        """Give every farewell the same time, so that none is kept from a server by the silence of another.

        What a server has not answered by then is no failure of ours: leases end by their TTL.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_S):
                while self._farewells:
                    async with asyncio.TaskGroup() as group:
                        while self._farewells:
                            _, farewell = self._farewells.popitem()
                            group.create_task(self._say(farewell))

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
