"""From arguments to a client: :func:`connect`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from coord.client.client import CLOSE_WITHIN_S, Client
from coord.core import DEFAULT_REQUEST_TIMEOUT_S, Core, Options
from coord.credentials import credentials
from coord.errors import ClientClosed, ForkedError, InvalidArgument
from coord.runtime import Runtime, finish, real_env
from coord.store.keys import to_bytes
from coord.store.txn_limits import DEFAULT_MAX_TXN_OPS
from coord.store.value_limits import DEFAULT_MAX_VALUE_BYTES
from coord.target import TargetKind, parse_target

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from types import TracebackType

    from coord.core import Carrier, Placement
    from coord.credentials import Password
    from coord.runtime import Env
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
    runtime: Placement = "thread",
    transport: Carrier = "native",
    name: str | None = None,
    debug: bool = False,
    max_txn_ops: int = DEFAULT_MAX_TXN_OPS,
    max_value_bytes: int = DEFAULT_MAX_VALUE_BYTES,
    auto_sync: float | None = None,
) -> Connecting:
    """Connect to a store: ``async with coord.connect() as client``, or ``client = await coord.connect()``.

    ``endpoints``: see :mod:`coord.target`; None means ``COORD_ENDPOINTS``, else ``local:``.
    ``namespace`` is put before every key and taken off every answer, verbatim, so end it with a slash: the client sees
    the keys under it as if there were no others. It may stand in the URL instead: ``etcd://host/team-a/``.
    ``user`` logs in with ``password``, when the first call needs it and again whenever the server wants it.
    ``password`` may be a function that returns it, called in a thread before each login, for secrets that change.
    Without them the URL's count, then ``COORD_USER`` and ``COORD_PASSWORD`` (not for ``local:`` and ``memory:``).
    ``token`` is sent as it is instead, and never renewed.
    ``request_timeout`` in seconds bounds every single request; None means the URL's, else 10.
    ``runtime="inline"`` runs the client on the caller's loop instead of a thread of its own: lower latency, but a
    blocked loop then blocks lease renewals too, and other loops and threads must not outlive it.
    ``auto_sync`` in seconds lets the endpoints follow the cluster's members, asked for that often; see
    :meth:`Client.sync_endpoints`. None keeps the list.
    ``name`` appears in the name of the thread and in messages.
    ``debug=True`` looks for mistakes at some cost: recipes whose names would count each other's keys raise
    :class:`NameConflict`.
    ``max_txn_ops`` bounds the comparisons and the operations of one transaction; it is the servers' ``--max-txn-ops``.
    ``max_value_bytes`` bounds one value that a recipe writes for you: an election's, a lock's label, those of ``stm()``;
    a larger one raises :class:`PayloadTooLarge`.
    Network connections are made when they are needed, so that a store that is down is noticed by the first call.

    Raises :class:`InvalidArgument` at once when an argument is wrong.
    """
    target = parse_target(endpoints, tls=tls)
    space = to_bytes(namespace, "namespace")
    if space and target.namespace:
        raise InvalidArgument("the namespace stands in the URL and in namespace=: give it once")
    limit = request_timeout if request_timeout is not None else target.request_timeout
    if limit is not None and not limit > 0:
        raise InvalidArgument(f"request_timeout must be more than 0 seconds, not {limit}")
    _at_least_one(max_txn_ops=max_txn_ops, max_value_bytes=max_value_bytes)
    if auto_sync is not None and not auto_sync > 0:
        raise InvalidArgument(f"auto_sync must be None or more than 0 seconds, not {auto_sync}")
    if runtime not in ("thread", "inline"):
        raise InvalidArgument(f"runtime must be 'thread' or 'inline', not {runtime!r}")
    if transport not in ("native", "grpcio"):
        raise InvalidArgument(f"transport must be 'native' or 'grpcio', not {transport!r}")
    if transport == "grpcio" and target.kind is TargetKind.MEMORY:
        raise InvalidArgument("memory: needs the native transport: gRPC cannot see its network")
    if target.kind is TargetKind.MEMORY and (user, password, token) != (None, None, None):
        raise InvalidArgument("memory: knows no users")
    return Connecting(
        Options(
            target=target,
            credentials=credentials(
                user=user,
                password=password,
                token=token,
                url=target.credentials,
                environment=target.kind is TargetKind.ENDPOINTS,
            ),
            request_timeout=DEFAULT_REQUEST_TIMEOUT_S if limit is None else limit,
            placement=runtime,
            carrier=transport,
            name=name or "coord",
            debug=debug,
            namespace=space or target.namespace,
            max_txn_ops=max_txn_ops,
            max_value_bytes=max_value_bytes,
            auto_sync=auto_sync,
        )
    )


def _at_least_one(**given: int) -> None:
    for name, number in given.items():
        if number < 1:
            raise InvalidArgument(f"{name} must be at least 1, not {number}")


class Connecting:
    """A connection about to be made: await it, or enter it. Nothing happens before."""

    def __init__(self, options: Options, env: Env | None = None) -> None:
        self._options = options
        self._env = env
        self._client: Client | None = None

    def __await__(self) -> Generator[Any, None, Client]:
        """Make the client; its owner must close it."""
        return open_client(self._options, self._env).__await__()

    async def __aenter__(self) -> Client:
        """Make the client for this block."""
        if self._client is not None:
            raise InvalidArgument("this connection is in use: call connect() again")
        self._client = await open_client(self._options, self._env)
        return self._client

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the client."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()


async def open_client(options: Options, env: Env | None = None) -> Client:
    """Start a runtime and put a client on it. A cancelled or failed start leaves nothing behind."""
    world = env or real_env()
    if options.placement == "inline":
        runtime = Runtime.inline(world, forked=ForkedError, stopped=ClientClosed)
    else:
        runtime = Runtime.threaded(
            world, f"{options.name}-runtime", forked=ForkedError, stopped=ClientClosed
        )
    made: list[Core] = []

    async def start() -> Core:
        made.append(await Core.start(options, runtime))
        return made[0]

    async def undo() -> None:
        for core in made:
            await runtime.run(core.close())
        await runtime.aclose()

    try:
        return Client(await runtime.run(start()))
    except BaseException:
        await finish(undo(), within=CLOSE_WITHIN_S)
        raise
