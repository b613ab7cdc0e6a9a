"""The one way in: :func:`connect` gives a :class:`Client`."""

from __future__ import annotations

import asyncio
import sys
import warnings
from typing import TYPE_CHECKING, Any, Literal, Self

from typing_extensions import override

from coord.coordination import Coordination
from coord.core import DEFAULT_REQUEST_TIMEOUT_S, Core, Options
from coord.election import Election
from coord.errors import ClientClosed, ForkedError, InvalidArgument, LeaseNotFound
from coord.mutex import Mutex
from coord.rpc.status import StatusCode
from coord.runtime import Runtime, finish, real_env
from coord.session import Session
from coord.store.keys import prefix_range, to_bytes, to_key
from coord.store.kv import SortBy, range_request
from coord.store.txn import Txn
from coord.store.values import WatchFilter
from coord.store.watch import WatchSpec
from coord.target import TargetKind, parse_target
from coord.watching import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Sequence
    from types import TracebackType

    from coord.core import Carrier, Placement
    from coord.runtime import Env
    from coord.store.values import (
        DeleteResult,
        KeyValue,
        LeaseGrant,
        LeaseInfo,
        Member,
        MemberStatus,
        PutResult,
        RangeResult,
    )
    from coord.target import TlsConfig

_CLOSE_WITHIN_S = 30.0


def connect(
    endpoints: str | Sequence[str] | None = None,
    *,
    tls: TlsConfig | None = None,
    request_timeout: float | None = None,
    runtime: Placement = "thread",
    transport: Carrier = "native",
    name: str | None = None,
) -> Connecting:
    """Connect to a store: ``async with coord.connect() as client``, or ``client = await coord.connect()``.

    ``endpoints``: see :mod:`coord.target`; None means ``COORD_ENDPOINTS``, else ``local:``.
    ``request_timeout`` in seconds bounds every single request; None means the URL's, else 10.
    ``runtime="inline"`` runs the client on the caller's loop instead of a thread of its own: lower latency, but a
    blocked loop then blocks lease renewals too, and other loops and threads must not outlive it.
    ``name`` appears in the name of the thread and in messages.
    Network connections are made when they are needed, so that a store that is down is noticed by the first call.

    Raises :class:`InvalidArgument` at once when an argument is wrong.
    """
    target = parse_target(endpoints, tls=tls)
    limit = request_timeout if request_timeout is not None else target.request_timeout
    if limit is not None and not limit > 0:
        raise InvalidArgument(f"request_timeout must be more than 0 seconds, not {limit}")
    if runtime not in ("thread", "inline"):
        raise InvalidArgument(f"runtime must be 'thread' or 'inline', not {runtime!r}")
    if transport not in ("native", "grpcio"):
        raise InvalidArgument(f"transport must be 'native' or 'grpcio', not {transport!r}")
    if transport == "grpcio" and target.kind is TargetKind.MEMORY:
        raise InvalidArgument("memory: needs the native transport: gRPC cannot see its network")
    return Connecting(
        Options(
            target=target,
            request_timeout=DEFAULT_REQUEST_TIMEOUT_S if limit is None else limit,
            placement=runtime,
            carrier=transport,
            name=name or "coord",
        )
    )


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
        await finish(undo(), within=_CLOSE_WITHIN_S)
        raise


class Client:
    """A client of one store. Made by :func:`connect`; usable from any thread and any number of event loops at once.

    Every call takes ``timeout=`` in seconds, None meaning the client's ``request_timeout``, and raises of
    :mod:`coord.errors`: :class:`Unavailable` (certainly nothing happened), :class:`AmbiguousResult` (a write may have
    happened), :class:`CoordTimeout`, :class:`RequestRefused` and its children, :class:`ClientClosed`, and in a forked
    child :class:`ForkedError`.
    Cancelling a call cancels it on the wire; a write may then have been applied or not.

    Keys and values are bytes; text is encoded as UTF-8.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self._home = Coordination(core)
        self._closed = False

    @override
    def __repr__(self) -> str:
        """Show the name and where the store is."""
        state = " closed" if self._closed else ""
        return f"<coord.Client {self._core.name!r} on {', '.join(self.endpoints)}{state}>"

    def __del__(self) -> None:
        """Warn about a client that nobody closed, and stop its thread."""
        # Missing when construction failed.
        core: Core | None = getattr(self, "_core", None)
        if core is None or self._closed or core.runtime.is_forked or sys.is_finalizing():
            return
        warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
        core.abandon()

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The endpoints that this client uses."""
        return self._core.transport.endpoints

    async def __aenter__(self) -> Self:
        """Close the client at the end of the block."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the client."""
        await self.close()

    async def close(self) -> None:
        """End sessions, watches and connections, and stop the client's thread.

        From any loop, and as often as you like; a second call returns when the first has finished.
        A cancelled call finishes first.
        """
        self._closed = True
        core = self._core
        if core.runtime.is_forked:
            return  # everything belongs to the parent, who goes on using it
        await finish(_close(core), within=_CLOSE_WITHIN_S)

    def after_fork(self) -> Connecting:
        """Return a fresh connection with the configuration of this client, for a forked child."""
        return Connecting(self._core.options)

    # Keys and values.

    async def get(
        self,
        key: str | bytes,
        *,
        revision: int | None = None,
        serializable: bool = False,
        timeout: float | None = None,
    ) -> KeyValue | None:
        """Return the pair at ``key``, None if there is none.

        ``revision`` reads the past; ``serializable=True`` allows the answering member to be behind, for speed.
        """
        return await self._core.kv.get(
            key, revision=revision, serializable=serializable, timeout=timeout
        )

    async def get_range(  # noqa: PLR0913 - the options of etcd's Range
        self,
        start: str | bytes,
        end: str | bytes,
        *,
        limit: int = 0,
        revision: int | None = None,
        sort_by: SortBy = SortBy.KEY,
        descending: bool = False,
        keys_only: bool = False,
        count_only: bool = False,
        serializable: bool = False,
        min_mod_revision: int = 0,
        max_mod_revision: int = 0,
        min_create_revision: int = 0,
        max_create_revision: int = 0,
        timeout: float | None = None,
    ) -> RangeResult:
        r"""Read ``[start, end)``; an ``end`` of ``b"\0"`` means everything from ``start`` on.

        ``limit`` 0 is no limit; ``count`` of the result counts the keys that the limit cut off, too.
        The four bounds leave out keys by their revisions; ``count`` still counts them.
        """
        request = range_request(
            to_key(start),
            to_bytes(end, "end"),
            limit=limit,
            revision=revision,
            sort_by=sort_by,
            descending=descending,
            keys_only=keys_only,
            count_only=count_only,
            serializable=serializable,
            min_mod_revision=min_mod_revision,
            max_mod_revision=max_mod_revision,
            min_create_revision=min_create_revision,
            max_create_revision=max_create_revision,
        )
        return await self._core.kv.range(request, timeout=timeout)

    async def get_prefix(  # noqa: PLR0913 - the options of etcd's Range
        self,
        prefix: str | bytes,
        *,
        limit: int = 0,
        revision: int | None = None,
        sort_by: SortBy = SortBy.KEY,
        descending: bool = False,
        keys_only: bool = False,
        count_only: bool = False,
        serializable: bool = False,
        min_mod_revision: int = 0,
        max_mod_revision: int = 0,
        min_create_revision: int = 0,
        max_create_revision: int = 0,
        timeout: float | None = None,
    ) -> RangeResult:
        """Read all keys that start with ``prefix``; an empty one means all keys. As :meth:`get_range`."""
        start, end = prefix_range(prefix)
        return await self.get_range(
            start,
            end,
            limit=limit,
            revision=revision,
            sort_by=sort_by,
            descending=descending,
            keys_only=keys_only,
            count_only=count_only,
            serializable=serializable,
            min_mod_revision=min_mod_revision,
            max_mod_revision=max_mod_revision,
            min_create_revision=min_create_revision,
            max_create_revision=max_create_revision,
            timeout=timeout,
        )

    async def count(self, prefix: str | bytes, *, timeout: float | None = None) -> int:
        """Return how many keys start with ``prefix``."""
        return await self._core.kv.count(prefix, timeout=timeout)

    async def put(
        self,
        key: str | bytes,
        value: str | bytes,
        *,
        lease: int | None = None,
        prev_kv: bool = False,
        timeout: float | None = None,
    ) -> PutResult:
        """Write one pair, attached to the lease with this id if given.

        After :class:`AmbiguousResult`, ``resolve()`` returns the pair as it is.
        """
        return await self._core.kv.put(
            key, value, lease=lease or 0, prev_kv=prev_kv, timeout=timeout
        )

    async def delete(
        self, key: str | bytes, *, prev_kv: bool = False, timeout: float | None = None
    ) -> DeleteResult:
        """Delete one key; a missing one is no error.

        After :class:`AmbiguousResult`, ``resolve()`` returns what is there now.
        """
        return await self._core.kv.delete(to_key(key), prev_kv=prev_kv, timeout=timeout)

    async def delete_range(
        self,
        start: str | bytes,
        end: str | bytes,
        *,
        prev_kv: bool = False,
        timeout: float | None = None,
    ) -> DeleteResult:
        """Delete ``[start, end)`` at one revision."""
        return await self._core.kv.delete(
            to_key(start), to_bytes(end, "end"), prev_kv=prev_kv, timeout=timeout
        )

    async def delete_prefix(
        self, prefix: str | bytes, *, prev_kv: bool = False, timeout: float | None = None
    ) -> DeleteResult:
        """Delete all keys that start with ``prefix`` at one revision; an empty one means all keys."""
        start, end = prefix_range(prefix)
        return await self._core.kv.delete(start, end, prev_kv=prev_kv, timeout=timeout)

    async def compact(
        self, revision: int, *, physical: bool = False, timeout: float | None = None
    ) -> int:
        """Forget history below ``revision`` and return the current revision.

        ``physical=True`` waits until it is gone from the disk, too.
        Raises :class:`Compacted` when that was done before, :class:`FutureRevision`.
        """
        return await self._core.kv.compact(revision, physical=physical, timeout=timeout)

    def txn(self) -> Txn:
        """Build a transaction: ``client.txn().when(...).then(...).otherwise(...).commit()``."""
        return Txn(self._core.txn)

    # Watches.

    def watch(
        self,
        key: str | bytes,
        *,
        end: str | bytes | None = None,
        prefix: bool = False,
        start_revision: int | None = None,
        prev_kv: bool = False,
        filters: Collection[WatchFilter] = (),
        progress_notify: bool = False,
    ) -> Watch:
        """Watch ``key``, ``[key, end)``, or with ``prefix=True`` all keys that start with ``key``.

        From ``start_revision`` on, which may be in the past; None means from when the watch is entered.
        ``prev_kv`` adds the pair before each change, as far as history reaches.
        """
        if prefix and end is not None:
            raise InvalidArgument("give either end or prefix, not both")
        if start_revision is not None and start_revision <= 0:
            raise InvalidArgument(
                f"start_revision must be None (now) or at least 1, not {start_revision}"
            )
        if prefix:
            first, last = prefix_range(key)
        else:
            first, last = to_key(key), b"" if end is None else to_bytes(end, "end")
        spec = WatchSpec(
            key=first,
            end=last,
            start_revision=start_revision or 0,
            prev_kv=prev_kv,
            no_put=WatchFilter.NO_PUT in filters,
            no_delete=WatchFilter.NO_DELETE in filters,
            progress_notify=progress_notify,
        )
        return Watch(self._core, spec)

    # Leases.

    async def lease_grant(
        self, ttl: int, *, lease_id: int | None = None, timeout: float | None = None
    ) -> LeaseGrant:
        """Grant a lease of ``ttl`` seconds; the server raises short ones to its minimum.

        Nobody renews it: :meth:`session` does that.
        Raises :class:`LeaseExists` when ``lease_id`` is taken.
        """
        return await self._core.leases.grant(ttl, lease_id=lease_id, timeout=timeout)

    async def lease_revoke(self, lease_id: int, *, timeout: float | None = None) -> int:
        """End a lease and delete its keys; return the revision. Raises :class:`LeaseNotFound`."""
        return await self._core.leases.revoke(lease_id, timeout=timeout)

    async def lease_time_to_live(
        self, lease_id: int, *, keys: bool = False, timeout: float | None = None
    ) -> LeaseInfo:
        """Ask how long a lease has, and with ``keys=True`` which keys are attached to it."""
        return await self._core.leases.time_to_live(lease_id, keys=keys, timeout=timeout)

    async def lease_keep_alive_once(self, lease_id: int, *, timeout: float | None = None) -> int:
        """Renew a lease once; return its full TTL in seconds. Raises :class:`LeaseNotFound`."""
        core = self._core
        ttl = await core.runtime.run(core.leases.keep_alive_once(lease_id, timeout=timeout))
        if ttl <= 0:
            raise LeaseNotFound(StatusCode.NOT_FOUND, "etcdserver: requested lease not found")
        return ttl

    async def leases(self, *, timeout: float | None = None) -> tuple[int, ...]:
        """Return the ids of all leases that the answering member knows."""
        return await self._core.leases.leases(timeout=timeout)

    # Coordination: sessions, mutexes, elections.

    def session(
        self,
        *,
        ttl: int = 15,
        lease_id: int | None = None,
        critical: bool = False,
        liveness: Literal["loop"] | Callable[[], bool] | None = None,
        liveness_timeout: float | None = None,
        name: str | None = None,
    ) -> Session:
        """Return a session, to be opened with ``async with`` or ``await session.open()``.

        ``ttl`` in seconds; the server raises short ones to its minimum.
        ``lease_id`` adopts a lease that exists, for example one that another process orphaned.
        ``critical=True`` renews on a stream of its own.
        ``liveness`` ties the session to a proof that the application is alive: ``"loop"``, that the loop which called
        this still runs, or a function that returns True; without a proof for ``liveness_timeout`` seconds (default:
        the TTL) renewals stop and the session expires as ``unhealthy``.
        """
        session = Session(
            self._home,
            ttl=ttl,
            lease_id=lease_id,
            critical=critical,
            liveness=liveness,
            liveness_timeout=liveness_timeout,
            name=name,
        )
        if liveness == "loop":
            session.beat_on(asyncio.get_running_loop())
        return session

    async def default_session(self) -> Session:
        """Return the session that mutexes and elections use when they are given none.

        Opened when first needed; replaced after it expired.
        """
        return await self._home.run(self._home.session_or_default(None))

    def mutex(
        self,
        name: str | bytes,
        *,
        session: Session | None = None,
        reentrant: bool = False,
        label: str | None = None,
    ) -> Mutex:
        """Return the lock called ``name``; see :class:`Mutex`. ``label`` is shown to those who inspect the line."""
        return Mutex(self._home, name, session=session, reentrant=reentrant, label=label)

    def election(self, name: str | bytes, *, session: Session | None = None) -> Election:
        """Return the election called ``name``; see :class:`Election`."""
        return Election(self._home, name, session=session)

    # The cluster.

    async def members(self, *, timeout: float | None = None) -> tuple[Member, ...]:
        """Return the cluster's members."""
        return await self._core.admin.members(timeout=timeout)

    async def status(self, *, timeout: float | None = None) -> MemberStatus:
        """Ask one member for its state."""
        return await self._core.admin.status(timeout=timeout)


async def _close(core: Core) -> None:
    """Close ``core`` and end its runtime, from any loop."""
    try:
        await core.runtime.run(core.close())
    except ClientClosed:
        pass  # somebody else has closed it, and its thread has ended
    finally:
        await core.runtime.aclose()
