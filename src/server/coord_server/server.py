"""One server put together: data directory, log, backend, replica, services, listeners; and taken apart.

``start`` builds from the bottom up and serves only when the member can answer linearizable reads; ``stop``
goes the other way: no new calls, the running ones end, everything is flushed, the lock is released.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from coord.rpc.limits import Limits
from coord.rpc.server import RpcServer
from coord.rpc.service import Registry
from coord.runtime import Address, Supervisor, TcpAddress, UnixAddress
from coord.wire import rpc_pb2
from coord_server import __version__, disk_trouble, figures
from coord_server.api import cluster, election, health, kv, lease, lock, maintenance, watch
from coord_server.api.calls import Calls
from coord_server.api.context import ApiContext
from coord_server.api.primary import RENEW_KIND, TIME_TO_LIVE_KIND, Primary
from coord_server.api.space import Room
from coord_server.attributes import publish
from coord_server.bootstrap import DataDir, Identity, open_data_dir
from coord_server.checkpoints import Checkpointer
from coord_server.cluster_control import ClusterControl
from coord_server.compactor import Compactor
from coord_server.expiry import Expirer
from coord_server.head_start import HeadStart
from coord_server.http import Health, Router, metrics_route, version_route
from coord_server.initial_cluster import plan_beginning
from coord_server.installation import Installation
from coord_server.metrics import Metrics
from coord_server.peer import draw_incarnation
from coord_server.peering import Peering, member_asker
from coord_server.removal import Removal
from coord_server.replica import Replica
from coord_server.replica_bounds import ReplicaBounds
from coord_server.server_tls import make_contexts
from coord_server.srv_records import DnsResolver
from coord_server.state import State, open_state
from coord_server.storage.lmdb_backend import LmdbBackend
from coord_server.storage.wal import SEGMENT_BYTES, Wal
from coord_server.usage import ETCD_CLUSTER_VERSION, ETCD_VERSION

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from coord.rpc.service import Method
    from coord_server.config import Config
    from coord_server.env import ServerEnv
    from coord_server.flag_values import Url
    from coord_server.initial_cluster import Beginning
    from coord_server.log import Log
    from coord_server.peer import Mesh
    from coord_server.storage.backend import Backend

# For unary calls that run, and clients that do not hang up. etcd waits for its request timeout; a
# supervisor's patience is usually 10 s.
_DRAIN_S: Final = 5.0
# Calls in flight on one connection unless the flag says otherwise. A client with a stream per watch
# needs thousands; without any bound one connection could fill the memory.
_DEFAULT_STREAMS: Final = 10_000
_ETCD_UNLIMITED: Final = (1 << 32) - 1
# etcd's tools wait for these words.
_SECURE: Final = "serving client traffic securely"
_INSECURE: Final = "serving client traffic insecurely; this is strongly discouraged!"


class StartError(Exception):
    """The server cannot start; one sentence says why."""


class Server:
    """A member that runs in this process.

    ``make_backend`` opens the store in a directory; ``on_fatal`` is told the error after which the
    server must be stopped because it can no longer say what its state is; ``on_removed`` is called when the
    member was removed from its cluster, and the server is to be stopped. ``segment_bytes`` is the
    size of a piece of the log. ``on_opened`` sees the state before anything runs on it: for those who
    watch a server from the inside.
    """

    def __init__(
        self,
        config: Config,
        env: ServerEnv,
        log: Log,
        *,
        make_backend: Callable[[str], Backend] = LmdbBackend,
        on_fatal: Callable[[BaseException], None] | None = None,
        on_removed: Callable[[], None] | None = None,
        segment_bytes: int = SEGMENT_BYTES,
        on_opened: Callable[[State], None] | None = None,
    ) -> None:
        self._config = config
        self._env = env
        self._log = log
        self._make_backend = make_backend
        self._on_fatal = on_fatal
        self._on_removed = on_removed
        self._segment_bytes = segment_bytes
        self._on_opened = on_opened
        self.metrics: Metrics = Metrics()
        self._data_dir: DataDir | None = None
        self._state: State | None = None
        self._replica: Replica | None = None
        self._peering: Peering | None = None
        self._primary: Primary | None = None
        self._tasks = Supervisor(self._report)
        self._context: ApiContext | None = None
        self._calls: Calls | None = None
        self._rpc: RpcServer | None = None
        self._probes: RpcServer | None = None
        self._sockets: list[str] = []
        self._urls: tuple[str, ...] = ()
        self._addresses: tuple[Address, ...] = ()
        self._drain_s = _DRAIN_S
        self._stopped = False

    @property
    def client_urls(self) -> tuple[str, ...]:
        """Where clients are really served, as URLs, with the ports that were chosen for 0."""
        return self._urls

    @property
    def client_addresses(self) -> tuple[Address, ...]:
        """The same as addresses for ``Net.connect``."""
        return self._addresses

    @property
    def registry(self) -> Registry:
        """The methods that clients call, for carriers of another kind. Raises before ``start``."""
        if self._rpc is None:
            raise StartError("the server has not been started")
        return self._rpc.registry

    @property
    def connection_count(self) -> int:
        """How many clients are connected."""
        return 0 if self._rpc is None else self._rpc.connection_count

    @property
    def member_id(self) -> int:
        """The member's id; 0 before it is known."""
        return 0 if self._state is None else self._state.identity.member_id

    @property
    def context(self) -> ApiContext:
        """What the services share, for tests and tools in the same process. Raises before ``start``."""
        if self._context is None:
            raise StartError("the server has not been started")
        return self._context

    async def start(self) -> None:
        """Come up until clients are served.

        Raises StartError, DataDirError, AlreadyLocked, CorruptLog or BackendError; what had been opened
        is closed again then, also if the call is cancelled.
        """
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> None:
        config, log = self._config, self._log
        self._data_dir, strangers = open_data_dir(self._env.disk, config)
        try:
            tls = make_contexts(config, self._env, log, self._data_dir.root)
        except ValueError as error:
            raise StartError(str(error)) from error
        self._announce(strangers)
        beginning = await self._beginning(self._data_dir, tls.calling)
        state = self._state = open_state(
            config,
            self._env.disk,
            self._data_dir,
            make_backend=self._make_backend,
            log=log,
            beginning=beginning,
            segment_bytes=self._segment_bytes,
        )
        if self._on_opened is not None:
            self._on_opened(state)
        removal = Removal(state, log, data_dir=config.data_path, told=self._removed)
        incarnation = draw_incarnation(self._env.rand)
        peering = self._peering = Peering(
            config,
            self._env,
            log,
            state,
            incarnation=incarnation,
            scratch=self._data_dir.scratch,
            tls=tls.calling,
            contacts=() if beginning is None else beginning.contacts,
            report=self._report,
            on_removed=removal.confirmed,
        )
        replica = self._replica = Replica(
            core=state.core,
            wal=state.wal,
            applier=state.applier,
            hub=state.hub,
            backend=state.backend,
            env=self._env,
            config=config,
            bounds=_bounds(config),
            peers=peering.link,
            installation=Installation(
                disk=self._env.disk,
                place=self._data_dir.place,
                backend=state.backend,
                make_backend=self._make_backend,
            ),
            incarnation=incarnation,
            on_fatal=self._fatal,
        )
        context = self._context = self._make_context(state, replica, self._data_dir.scratch)
        control = context.control = ClusterControl(
            replica, peering.mesh, request_timeout_s=config.request_timeout_s
        )
        primary = self._primary = Primary(control, self._tasks, timeout_s=config.request_timeout_s)
        self._give_head_start(replica, peering.mesh)
        services = _services(context, peering.mesh, control, primary)
        await self._listen_to_peers(peering, tls.peers)
        peering.attach(replica)
        await replica.start()
        major_minor = ETCD_CLUSTER_VERSION.rpartition(".")[0]
        log.info("enabled capabilities for version", cluster_version=major_minor)
        calls = self._calls = Calls(services, self.metrics)
        self._rpc = rpc = RpcServer(
            Registry(calls.methods),
            env=self._env,
            limits=_limits(config),
            http1=self._router(context, everything=True),
            on_error=self._report,
        )
        figures.register(context, rpc)
        await self._listen(context, rpc, tls.clients)
        for address in self._urls:
            log.info("ready to serve client requests", address=address)

    def _give_head_start(self, replica: Replica, mesh: Mesh) -> None:
        if self._config.initial_election_tick_advance:
            head_start = HeadStart(
                replica,
                election_ticks=self._config.election_ticks,
                peers=lambda: list(mesh.peers),
                active_since=mesh.active_since,
            )
            replica.add_ticker(head_start.tick)

    async def _beginning(self, data_dir: DataDir, tls: ssl.SSLContext | None) -> Beginning | None:
        """Return what a member without a log begins with; one that has a log needs no flags for it."""
        if Wal.exists(self._env.disk, data_dir.wal):
            return None
        ask = member_asker(self._env, tls)
        return await plan_beginning(self._config, ask=ask, resolver=DnsResolver(), log=self._log)

    async def _listen_to_peers(self, peering: Peering, tls: ssl.SSLContext | None) -> None:
        """Open the port for peers, unless this member is alone and nobody asked for one."""
        config = self._config
        state = self._state
        alone = state is None or len(state.applier.members.members()) == 1
        rpc = peering.make_listener()
        if alone and "listen-peer-urls" not in config.origins:
            return
        for url in config.listen_peer_urls:
            address = await self._bind(rpc, url, tls)
            self._log.info("serving peer traffic", address=_shown(url, address))

    def _announce(self, strangers: tuple[str, ...]) -> None:
        config, log = self._config, self._log
        for msg, fields in config.warnings:
            log.warning(msg, **fields)
        if "name" not in config.origins:
            log.warning("using the default name for this member", name=config.name)
        for name in strangers:
            log.warning("found invalid file under data directory", filename=name)
        log.info(
            "starting an etcd server",
            etcd_version=ETCD_VERSION,
            coord_server_version=__version__,
            name=config.name,
            data_dir=config.data_path,
            listen_client_urls=config.listen_client_urls,
            quota_backend_bytes=config.quota_bytes,
            origins=dict(config.origins),
        )

    def _make_context(self, state: State, replica: Replica, scratch: str) -> ApiContext:
        context = ApiContext(
            replica=replica,
            store=state.applier.store,
            lessor=state.applier.lessor,
            alarms=state.applier.alarms,
            hub=state.hub,
            stamp=state.stamp,
            config=self._config,
            env=self._env,
            metrics=self.metrics,
            log=self._log,
            backend=state.backend,
            room=Room(
                state.backend,
                self._config.quota_bytes,
                member_id=state.identity.member_id,
                replica=replica,
                log=self._log,
            ),
            scratch=scratch,
        )
        expirer = Expirer(state.applier.lessor, replica, self._env.clock)
        replica.add_ticker(context.tick)
        replica.add_ticker(expirer.tick)
        if self._config.lease_checkpoint:
            interval_s = self._config.lease_checkpoint_interval_s
            checkpointer = Checkpointer(state.applier.lessor, replica, interval_s=interval_s)
            replica.add_ticker(checkpointer.tick)
        compactor = Compactor.from_config(self._config, replica, state.applier.store, self._log)
        if compactor is not None:
            replica.add_ticker(compactor.tick)
        return context

    def _router(self, context: ApiContext, *, everything: bool) -> Router:
        config = self._config
        probes = Health(
            context.replica,
            alarms=context.alarms.names,
            is_learner=lambda: context.is_learner,
            timeout_s=config.request_timeout_s,
            metrics=self.metrics,
            log=self._log,
        )
        routes = {**probes.routes(), "/metrics": metrics_route(self.metrics)}
        if everything:
            routes["/version"] = version_route(ETCD_VERSION, ETCD_CLUSTER_VERSION)
        return Router(routes, cors=config.cors, hosts=config.host_whitelist)

    async def _listen(
        self, context: ApiContext, rpc: RpcServer, tls: ssl.SSLContext | None
    ) -> None:
        config, log = self._config, self._log
        bound = [(url, await self._bind(rpc, url, tls)) for url in config.listen_client_urls]
        self._addresses = tuple(address for _, address in bound)
        self._urls = tuple(_shown(url, address) for url, address in bound)
        if config.listen_metrics_urls:
            self._probes = RpcServer(
                Registry(()),
                env=self._env,
                limits=_limits(config),
                http1=self._router(context, everything=False),
                on_error=self._report,
            )
            for url in config.listen_metrics_urls:
                address = await self._bind(self._probes, url, tls)
                log.info("serving metrics", address=_shown(url, address))
        identity = self._identity()
        own = rpc_pb2.Member(
            ID=identity.member_id, name=config.name, clientURLs=self._advertised(bound)
        )
        await publish(
            context.replica,
            context.replica.applier.members,
            own,
            cluster_id=identity.cluster_id,
            log=log,
        )
        for url, address in bound:
            msg = _SECURE if url.is_secure else _INSECURE
            log.info(msg, traffic="grpc+http", address=str(address))

    async def _bind(self, rpc: RpcServer, url: Url, tls: ssl.SSLContext | None) -> Address:
        # Go binds one address for localhost, and clients of both families find 127.0.0.1.
        host = "127.0.0.1" if url.host == "localhost" else url.host
        address: Address = UnixAddress(url.path) if url.is_unix else TcpAddress(host, url.port)
        try:
            real = await rpc.listen(address, tls=tls if url.is_secure else None)
        except OSError as error:
            kind = "unix" if url.is_unix else "tcp"
            where = url.path if url.is_unix else str(address)
            # asyncio wraps the reason in a sentence of its own, which ends with it.
            reason = (error.strerror or str(error)).rpartition(": ")[2].lower()
            raise StartError(f"listen {kind} {where}: bind: {reason}") from error
        if url.is_unix:
            self._sockets.append(url.path)
        return real

    def _advertised(self, bound: list[tuple[Url, Address]]) -> list[str]:
        """Return what clients are told: what was asked for, a port 0 in it replaced by the real one."""
        if not self._config.advertise_client_urls:
            return [_shown(url, address) for url, address in bound]
        ports = [address.port for _, address in bound if isinstance(address, TcpAddress)]
        urls: list[str] = []
        for url in self._config.advertise_client_urls:
            text = str(url)
            if not url.is_unix and not url.port and ports:
                text = f"{text[: text.rindex(':')]}:{ports[0]}"
            urls.append(text)
        return urls

    def _identity(self) -> Identity:
        if self._state is None:
            raise StartError("the server was stopped while it started")
        return self._state.identity

    def _fatal(self, error: BaseException) -> None:
        # Calls that run will never be answered: there is nothing to wait for.
        self._drain_s = 0.0
        self._log.fatal(
            "the server cannot go on",
            kind=type(error).__name__,
            error=str(error),
            **disk_trouble.reason(error, self._config.data_path),
        )
        if self._on_fatal is not None:
            self._on_fatal(error)

    def _removed(self) -> None:
        if self._replica is not None:
            # Calls that wait for the others would wait in vain, and their clients can ask another member.
            self._replica.refuse_all()
        if self._on_removed is not None:
            self._on_removed()

    def _report(self, where: str, error: BaseException) -> None:
        self._log.error("internal error", where=where, kind=type(error).__name__, error=str(error))

    async def stop(self) -> None:
        """End calls and connections, flush, and release the data directory. A second call does nothing."""
        if self._stopped:
            return
        self._stopped = True
        if self._rpc is not None:
            self._log.info("closing etcd server", name=self._config.name)
            if self._calls is not None:
                self._calls.stop()
            if self._replica is not None and not self._replica.leader_id:
                self._replica.refuse_all()
            await self._rpc.drain(within=self._drain_s)
            await self._rpc.close()
        if self._probes is not None:
            await self._probes.close()
        await self._tasks.close()
        for path in self._sockets:
            if self._env.disk.exists(path):
                self._env.disk.unlink(path)
        if self._replica is not None:
            await self._replica.stop()
        if self._peering is not None:
            await self._peering.close()
        if self._state is not None:
            self._state.close()
        if self._data_dir is not None:
            self._data_dir.close()
        if self._rpc is not None:
            self._log.info("closed etcd server", name=self._config.name)


def _services(
    context: ApiContext, mesh: Mesh, control: ClusterControl, primary: Primary
) -> list[Method]:
    members = cluster.Cluster(context, control)
    leases = lease.Leases(context, primary)
    mesh.serve(cluster.PROMOTE_KIND, lambda _, request: members.promote_here(request))
    mesh.serve(RENEW_KIND, lambda _, request: leases.renew_here(request))
    mesh.serve(TIME_TO_LIVE_KIND, lambda _, request: leases.time_to_live_here(request))
    return [
        *kv.methods(context),
        *watch.methods(context),
        *leases.methods(),
        *lock.methods(context),
        *election.methods(context),
        *members.methods(),
        *maintenance.methods(context, control),
        *health.methods(context),
    ]


def _bounds(config: Config) -> ReplicaBounds:
    return ReplicaBounds(
        tick_s=config.heartbeat_interval_ms / 1000,
        catch_up_entries=config.snapshot_catchup_entries,
        flush_ops=config.flush_limit,
        compaction_step=config.compaction_batch_limit or 1000,
        compaction_pause_s=config.compaction_sleep_interval_s or 0.01,
    )


def _limits(config: Config) -> Limits:
    streams = config.max_concurrent_streams
    if streams == _ETCD_UNLIMITED:
        streams = _DEFAULT_STREAMS
    return Limits(
        max_receive_bytes=config.max_receive_bytes,
        max_concurrent_streams=streams,
        # An honest client may give up all its calls together.
        max_resets=max(1_000, streams),
        min_ping_interval_s=config.grpc_keepalive_min_time_s,
        keepalive_time_s=config.grpc_keepalive_interval_s or None,
        keepalive_timeout_s=config.grpc_keepalive_timeout_s,
    )


def _shown(url: Url, address: Address) -> str:
    """Return the URL with the port that it got."""
    if isinstance(address, UnixAddress):
        return f"{url.scheme}://{address.path}"
    host = f"[{url.host}]" if ":" in url.host else url.host
    return f"{url.scheme}://{host}:{address.port}"
