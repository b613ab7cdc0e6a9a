"""The twins of ``connect()`` and of a client."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from typing_extensions import override

from coord import client
from coord.core import Core
from coord.errors import ClientClosed, ForkedError
from coord.runtime import Runtime, real_env
from coord.store.txn_limits import DEFAULT_MAX_TXN_OPS
from coord.store.value_limits import DEFAULT_MAX_VALUE_BYTES
from coord.sync._auth import AuthCalls
from coord.sync._cells import CellCalls
from coord.sync._cluster import ClusterCalls
from coord.sync._endpoints import EndpointCalls
from coord.sync._gates import GateCalls
from coord.sync._jobs import JobCalls
from coord.sync._keys import KeyCalls
from coord.sync._leases import LeaseCalls
from coord.sync._live import LiveCalls
from coord.sync._locks import LockCalls
from coord.sync._portal import Portal
from coord.sync._queues import QueueCalls
from coord.sync._recipes import RecipeCalls
from coord.sync._registry import RegistryCalls
from coord.sync._shares import ShareCalls
from coord.sync._views import ViewCalls

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

    from coord.core import Carrier, Options
    from coord.credentials import Password
    from coord.target import TlsConfig


def connect(  # noqa: PLR0913 - everything that a client can be told
    endpoints: str | Sequence[str] | None = None,
    *,
    tls: TlsConfig | None = None,
    user: str | None = None,
    password: Password | None = None,
    token: str | None = None,
    namespace: str | bytes = b"",
    request_timeout: float | None = None,
    transport: Carrier = "native",
    name: str | None = None,
    debug: bool = False,
    max_txn_ops: int = DEFAULT_MAX_TXN_OPS,
    max_value_bytes: int = DEFAULT_MAX_VALUE_BYTES,
    auto_sync: float | None = None,
) -> Client:
    """Connect to a store: ``with coord.sync.connect() as client``, or keep the client and close it yourself.

    As :func:`coord.connect`, on a thread of the client's own.
    """
    connecting = client.connect(
        endpoints,
        tls=tls,
        user=user,
        password=password,
        token=token,
        namespace=namespace,
        request_timeout=request_timeout,
        transport=transport,
        name=name,
        debug=debug,
        max_txn_ops=max_txn_ops,
        max_value_bytes=max_value_bytes,
        auto_sync=auto_sync,
    )
    return _open(connecting._options)  # noqa: SLF001 - one product, two faces  # pyright: ignore[reportPrivateUsage]


def _open(options: Options) -> Client:
    """Start a runtime and put a client on it. A failed or interrupted start leaves nothing behind."""
    runtime = Runtime.threaded(
        real_env(), f"{options.name}-runtime", forked=ForkedError, stopped=ClientClosed
    )
    made: list[Core] = []

    async def start() -> None:
        made.append(await Core.start(options, runtime))

    try:
        runtime.call_blocking(start())
        return Client(made[0])
    except BaseException:
        for core in made:
            runtime.call_blocking(core.close())
        runtime.close()
        raise


class Client(
    KeyCalls,
    LeaseCalls,
    RecipeCalls,
    ClusterCalls,
    EndpointCalls,
    AuthCalls,
    ViewCalls,
    GateCalls,
    ShareCalls,
    LockCalls,
    CellCalls,
    LiveCalls,
    QueueCalls,
    JobCalls,
    RegistryCalls,
):
    """A client of one store; see :class:`coord.Client`. Made by :func:`connect`; for any number of threads at once.

    A call waits until it has its answer; from a coroutine it would block the whole loop.
    Ctrl-C during a call cancels it on the wire; a write may then have been applied or not.
    """

    __slots__ = ()

    def __init__(self, core: Core) -> None:
        super().__init__(Portal(core), client.Client(core))

    @override
    def __repr__(self) -> str:
        """Show the name and where the store is."""
        return repr(self._async).replace("coord.Client", "coord.sync.Client", 1)

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The endpoints that this client uses."""
        return self._async.endpoints

    def __enter__(self) -> Self:
        """Close the client at the end of the block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the client."""
        self.close()

    def close(self) -> None:
        """End sessions, watches and connections, and stop the client's thread. As often as you like.

        Locks that are still held go with their sessions, whose leases are revoked.
        A server that does not answer holds it up by 5 seconds at most, however much is open; leases then end by their
        TTL, and nothing of the client is left here.
        Calls that are under way in other threads raise :class:`coord.ClientClosed`.
        """
        runtime = self._portal.runtime
        if runtime.is_forked:
            return  # everything belongs to the parent, who goes on using it
        # The last thing that close() does is to end the loop that it runs on.
        with contextlib.suppress(ClientClosed):
            self._portal.call(self._async.close())
        runtime.close()

    def after_fork(self) -> Client:
        """Return a fresh client with the configuration of this one, for a forked child.

        Not with ``transport="grpcio"``: what gRPC has made in a process works in no child of it.
        """
        return _open(self._portal.core.options)
