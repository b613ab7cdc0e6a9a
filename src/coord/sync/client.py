"""The twins of ``connect()`` and of a client."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from typing_extensions import override

from coord import client
from coord.core import Core
from coord.errors import ClientClosed, ForkedError, InvalidArgument
from coord.runtime import Runtime, real_env
from coord.store.kv import SortBy
from coord.sync._portal import Portal, Twin, behind
from coord.sync.election import Election
from coord.sync.mutex import Mutex
from coord.sync.session import Session
from coord.sync.txn import Txn
from coord.sync.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from types import TracebackType
    from typing import Self

    from coord.core import Carrier, Options
    from coord.store.values import (
        DeleteResult,
        KeyValue,
        LeaseGrant,
        LeaseInfo,
        Member,
        MemberStatus,
        PutResult,
        RangeResult,
        WatchFilter,
    )
    from coord.target import TlsConfig


def connect(
    endpoints: str | Sequence[str] | None = None,
    *,
    tls: TlsConfig | None = None,
    request_timeout: float | None = None,
    transport: Carrier = "native",
    name: str | None = None,
) -> Client:
    """Connect to a store: ``with coord.sync.connect() as client``, or keep the client and close it yourself.

    As :func:`coord.connect`, on a thread of the client's own.
    """
    connecting = client.connect(
        endpoints, tls=tls, request_timeout=request_timeout, transport=transport, name=name
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


class Client(Twin[client.Client]):
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
        """Return a fresh client with the configuration of this one, for a forked child."""
        return _open(self._portal.core.options)

    # Keys and values.

    def get(
        self,
        key: str | bytes,
        *,
        revision: int | None = None,
        serializable: bool = False,
        timeout: float | None = None,
    ) -> KeyValue | None:
        """Return the pair at ``key``, None if there is none."""
        return self._portal.call(
            self._async.get(key, revision=revision, serializable=serializable, timeout=timeout)
        )

    def get_range(  # noqa: PLR0913 - the options of etcd's Range
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
        """Read ``[start, end)``; see :meth:`coord.Client.get_range`."""
        return self._portal.call(
            self._async.get_range(
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
        )

    def get_prefix(  # noqa: PLR0913 - the options of etcd's Range
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
        """Read all keys that start with ``prefix``; an empty one means all keys."""
        return self._portal.call(
            self._async.get_prefix(
                prefix,
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
        )

    def count(self, prefix: str | bytes, *, timeout: float | None = None) -> int:
        """Return how many keys start with ``prefix``."""
        return self._portal.call(self._async.count(prefix, timeout=timeout))

    def put(
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
        return self._portal.call(
            self._async.put(key, value, lease=lease, prev_kv=prev_kv, timeout=timeout)
        )

    def delete(
        self, key: str | bytes, *, prev_kv: bool = False, timeout: float | None = None
    ) -> DeleteResult:
        """Delete one key; a missing one is no error."""
        return self._portal.call(self._async.delete(key, prev_kv=prev_kv, timeout=timeout))

    def delete_range(
        self,
        start: str | bytes,
        end: str | bytes,
        *,
        prev_kv: bool = False,
        timeout: float | None = None,
    ) -> DeleteResult:
        """Delete ``[start, end)`` at one revision."""
        return self._portal.call(
            self._async.delete_range(start, end, prev_kv=prev_kv, timeout=timeout)
        )

    def delete_prefix(
        self, prefix: str | bytes, *, prev_kv: bool = False, timeout: float | None = None
    ) -> DeleteResult:
        """Delete all keys that start with ``prefix`` at one revision; an empty one means all keys."""
        return self._portal.call(
            self._async.delete_prefix(prefix, prev_kv=prev_kv, timeout=timeout)
        )

    def compact(
        self, revision: int, *, physical: bool = False, timeout: float | None = None
    ) -> int:
        """Forget history below ``revision`` and return the current revision."""
        return self._portal.call(self._async.compact(revision, physical=physical, timeout=timeout))

    def txn(self) -> Txn:
        """Build a transaction: ``client.txn().when(...).then(...).otherwise(...).commit()``."""
        return Txn(self._portal, self._async.txn())

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
        """Watch ``key``, ``[key, end)``, or with ``prefix=True`` all keys that start with ``key``."""
        watch = self._async.watch(
            key,
            end=end,
            prefix=prefix,
            start_revision=start_revision,
            prev_kv=prev_kv,
            filters=filters,
            progress_notify=progress_notify,
        )
        return Watch(self._portal, watch)

    # Leases.

    def lease_grant(
        self, ttl: int, *, lease_id: int | None = None, timeout: float | None = None
    ) -> LeaseGrant:
        """Grant a lease of ``ttl`` seconds, which nobody renews: :meth:`session` does that."""
        return self._portal.call(self._async.lease_grant(ttl, lease_id=lease_id, timeout=timeout))

    def lease_revoke(self, lease_id: int, *, timeout: float | None = None) -> int:
        """End a lease and delete its keys; return the revision. Raises :class:`coord.LeaseNotFound`."""
        return self._portal.call(self._async.lease_revoke(lease_id, timeout=timeout))

    def lease_time_to_live(
        self, lease_id: int, *, keys: bool = False, timeout: float | None = None
    ) -> LeaseInfo:
        """Ask how long a lease has, and with ``keys=True`` which keys are attached to it."""
        return self._portal.call(
            self._async.lease_time_to_live(lease_id, keys=keys, timeout=timeout)
        )

    def lease_keep_alive_once(self, lease_id: int, *, timeout: float | None = None) -> int:
        """Renew a lease once; return its full TTL in seconds. Raises :class:`coord.LeaseNotFound`."""
        return self._portal.call(self._async.lease_keep_alive_once(lease_id, timeout=timeout))

    def leases(self, *, timeout: float | None = None) -> tuple[int, ...]:
        """Return the ids of all leases that the answering member knows."""
        return self._portal.call(self._async.leases(timeout=timeout))

    # Coordination: sessions, mutexes, elections.

    def session(
        self,
        *,
        ttl: int = 15,
        lease_id: int | None = None,
        critical: bool = False,
        liveness: Callable[[], bool] | None = None,
        liveness_timeout: float | None = None,
        name: str | None = None,
    ) -> Session:
        """Return a session, to be opened with ``with`` or ``session.open()``; see :meth:`coord.Client.session`.

        ``liveness`` is a function, which worker threads call; there is no loop to watch here.
        """
        if liveness is not None and not callable(liveness):
            raise InvalidArgument(
                f"liveness must be a function that returns True while all is well, not {liveness!r}"
            )
        session = self._async.session(
            ttl=ttl,
            lease_id=lease_id,
            critical=critical,
            liveness=liveness,
            liveness_timeout=liveness_timeout,
            name=name,
        )
        return Session(self._portal, session)

    def default_session(self) -> Session:
        """Return the session that mutexes and elections use when they are given none."""
        return Session(self._portal, self._portal.call(self._async.default_session()))

    def mutex(
        self,
        name: str | bytes,
        *,
        session: Session | None = None,
        reentrant: bool = False,
        label: str | None = None,
    ) -> Mutex:
        """Return the lock called ``name``; see :class:`Mutex`. ``label`` is shown to those who inspect the line."""
        inner = None if session is None else behind(session)
        mutex = self._async.mutex(name, session=inner, reentrant=reentrant, label=label)
        return Mutex(self._portal, mutex)

    def election(self, name: str | bytes, *, session: Session | None = None) -> Election:
        """Return the election called ``name``; see :class:`Election`."""
        inner = None if session is None else behind(session)
        return Election(self._portal, self._async.election(name, session=inner))

    # The cluster.

    def members(self, *, timeout: float | None = None) -> tuple[Member, ...]:
        """Return the cluster's members."""
        return self._portal.call(self._async.members(timeout=timeout))

    def status(self, *, timeout: float | None = None) -> MemberStatus:
        """Ask one member for its state."""
        return self._portal.call(self._async.status(timeout=timeout))
