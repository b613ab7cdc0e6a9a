"""What all parts of a mesh share: who this member is, and how it reaches others."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from coord.rpc.channel import Channel
from coord.rpc.status import RpcError, StatusCode
from coord.runtime import Address, TcpAddress, UnixAddress
from coord_server.flag_values import parse_url
from coord_server.peer.handshake import HELLO_KEY, Hello, encode_hello
from coord_server.peer.limits import MeshLimits, client_limits
from coord_server.raft.types import NOBODY, NodeId

if TYPE_CHECKING:
    import ssl

    from coord.rpc.metadata import Metadata
    from coord.runtime import Env
    from coord_server.env import ServerEnv
    from coord_server.log import Log

# Sentences that were logged are remembered, so that a peer that is refused all day is told of once.
_MAX_TOLD: Final = 1024


@dataclass(slots=True)
class PeerCounters:
    """What has passed between this member and one other since the start."""

    sent_bytes: int = 0
    sent_messages: int = 0
    send_failures: int = 0  # messages that were dropped
    received_bytes: int = 0
    received_messages: int = 0
    receive_failures: int = 0  # messages that were no good
    sent_snapshot_bytes: int = 0
    received_snapshot_bytes: int = 0
    connects: int = 0
    disconnects: int = 0


@dataclass(slots=True, kw_only=True)
class Local:
    """The member itself, as the parts of its mesh see it."""

    hello: Hello  # to nobody in particular
    env: ServerEnv
    tls: ssl.SSLContext | None
    log: Log
    limits: MeshLimits
    counters: dict[NodeId, PeerCounters] = field(default_factory=dict[NodeId, PeerCounters])
    _told: dict[tuple[NodeId, str], None] = field(default_factory=dict[tuple[NodeId, str], None])

    @property
    def member_id(self) -> NodeId:
        """The id of this member."""
        return self.hello.sender

    def hello_to(self, node: NodeId) -> Hello:
        """Return what we say to a member."""
        own = self.hello
        return Hello(
            cluster_id=own.cluster_id,
            sender=own.sender,
            to=node,
            incarnation=own.incarnation,
            urls=own.urls,
        )

    def metadata(self, node: NodeId) -> Metadata:
        """Return what goes with every call to a member."""
        return ((HELLO_KEY, encode_hello(self.hello_to(node))),)

    def counters_of(self, node: NodeId) -> PeerCounters:
        """Return what is counted for a member."""
        return self.counters.setdefault(node, PeerCounters())

    async def dial(self, url: str) -> Channel:
        """Connect to a member's URL. Raises RpcError(UNAVAILABLE)."""
        limits = self.limits
        return await dial(
            url, env=self.env, tls=self.tls, limits=limits, timeout=limits.dial_timeout_s
        )

    def tell_once(self, node: NodeId, msg: str, reason: str) -> None:
        """Log a warning about a member unless it was logged since it last was well."""
        if (node, reason) in self._told:
            return
        if len(self._told) >= _MAX_TOLD:
            self._told.clear()
        self._told[node, reason] = None
        self.log.warning(msg, remote_peer_id=f"{node:x}", error=reason)

    def forget_told(self, node: NodeId) -> None:
        """Let what is wrong with a member be logged again."""
        for key in [key for key in self._told if key[0] == node]:
            del self._told[key]


@dataclass(frozen=True, slots=True)
class Target:
    """What a peer's URL says: where to connect, what goes into requests, whose certificate is expected."""

    address: Address
    authority: str
    server_name: str
    is_secure: bool


def target_of(url: str) -> Target:
    """Return what a URL says. Raises ValueError for what is no URL of a peer."""
    parsed = parse_url(url)
    if parsed.is_unix:
        return Target(UnixAddress(parsed.path), "localhost", "localhost", parsed.is_secure)
    # As the listener does: Go's tools mean 127.0.0.1.
    host = "127.0.0.1" if parsed.host == "localhost" else parsed.host
    authority = str(TcpAddress(parsed.host, parsed.port))
    return Target(TcpAddress(host, parsed.port), authority, parsed.host, parsed.is_secure)


async def dial(
    url: str, *, env: Env, tls: ssl.SSLContext | None, limits: MeshLimits, timeout: float
) -> Channel:
    """Connect to a peer within ``timeout`` seconds. Raises RpcError(UNAVAILABLE, sent=False)."""
    try:
        target = target_of(url)
    except ValueError as error:
        text = f"{url!r} is no URL of a peer"
        raise RpcError(StatusCode.UNAVAILABLE, text, sent=False) from error
    if target.is_secure and tls is None:
        text = f"{url} asks for TLS, and no certificates of peers are configured"
        raise RpcError(StatusCode.UNAVAILABLE, text, sent=False)
    channel = Channel(
        target.address,
        env=env,
        authority=target.authority,
        tls=tls if target.is_secure else None,
        server_name=target.server_name,
        limits=client_limits(limits),
        user_agent="coord-server-peer",
        writes_at_once=True,
    )
    try:
        await channel.connect(timeout=timeout)
    except UnicodeError as error:
        # Names that DNS cannot have fail before anybody is asked, and not as OSError.
        text = f"cannot connect to {url}: no host can have that name"
        raise RpcError(StatusCode.UNAVAILABLE, text, sent=False) from error
    return channel


NOT_CONNECTED: Final = "no connection to member {node:x}"


def unavailable(node: NodeId) -> RpcError:
    """Return the error for a member that is not connected: nothing was sent."""
    return RpcError(StatusCode.UNAVAILABLE, NOT_CONNECTED.format(node=node), sent=False)


def own_hello(
    *, cluster_id: int, member_id: NodeId, incarnation: int, urls: tuple[str, ...]
) -> Hello:
    """Return the hello that `Local` keeps."""
    return Hello(
        cluster_id=cluster_id, sender=member_id, to=NOBODY, incarnation=incarnation, urls=urls
    )
