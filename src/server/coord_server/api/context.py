"""What every service of one server shares: its state, its header, and the checks before each call."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar, final

from google.protobuf.message import DecodeError, Message

from coord.rpc.status import RpcError, StatusCode
from coord_server import errors
from coord_server.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from coord.rpc.service import RequestHead
    from coord.wire import rpc_pb2
    from coord.wire.fast import HeaderStamp
    from coord_server.alarms import Alarms
    from coord_server.api.cluster import ClusterReplica
    from coord_server.api.space import Room
    from coord_server.config import Config
    from coord_server.env import ServerEnv
    from coord_server.lease.lessor import Lessor
    from coord_server.log import Log
    from coord_server.metrics import Counter, Metrics
    from coord_server.mvcc.hub import WatchHub
    from coord_server.mvcc.store import Store
    from coord_server.replica import Replica
    from coord_server.storage.backend import Backend

M = TypeVar("M", bound=Message)

# Bytes around a request in etcd's log entry: its size limit counts them, so ours does.
ENVELOPE_BYTES: Final = 18
# Distinct client versions that get a metric of their own; a client chooses the text freely.
_MAX_VERSIONS: Final = 32

_DAMAGED: Final = "proto: cannot parse invalid wire-format data"
UNREADABLE: Final = f"grpc: error unmarshalling request: {_DAMAGED}"
"""grpc-go's answer to bytes that are no such message; the code is INTERNAL."""
UNREADABLE_IN_STREAM: Final = f"grpc: failed to unmarshal the received message: {_DAMAGED}"
"""And on a stream."""


@final
class _Seen:
    """What a header block means for every call that carries it."""

    __slots__ = ("counter", "needs_leader")

    def __init__(self, counter: Counter, *, needs_leader: bool) -> None:
        self.counter = counter
        self.needs_leader = needs_leader


@dataclass(kw_only=True)
class ApiContext:
    """The parts that handlers use. One object per server."""

    replica: Replica
    store: Store
    lessor: Lessor
    alarms: Alarms
    hub: WatchHub
    stamp: HeaderStamp
    config: Config
    env: ServerEnv
    metrics: Metrics
    log: Log
    backend: Backend
    room: Room
    scratch: str
    """A directory for files that live no longer than a call; emptied of them at the start."""
    is_learner: bool = False
    """Whether this member has no vote, and so answers next to nothing; kept up to date."""
    control: ClusterReplica | None = None
    """What goes to the leader; None where there is nobody to ask."""
    _after_sweep: list[Callable[[], None]] = field(default_factory=list["Callable[[], None]"])
    _versions: set[str] = field(default_factory=set[str])

    def __post_init__(self) -> None:
        """Follow the table of members."""
        self.replica.applier.members.listen(self._members_changed)
        self.store.on_swept = self._run_after_sweep
        self._members_changed()

    def _members_changed(self) -> None:
        replica = self.replica
        self.is_learner = replica.applier.members.is_learner(replica.member_id)

    @property
    def members(self) -> list[rpc_pb2.Member]:
        """The members of the cluster by ascending id, as of the last applied change."""
        return self.replica.applier.members.members()

    def header(self, revision: int | None = None) -> bytes:
        """Return the ResponseHeader field for now, or for ``revision`` (0 leaves it out)."""
        return self.stamp.field(
            self.store.revision if revision is None else revision, self.replica.term
        )

    def check_head(self, head: RequestHead) -> None:
        """Refuse a unary call that this member, or its metadata, forbids (etcd API: order of checks, 2-4)."""
        if self.is_learner:
            raise Refused(errors.NOT_SUPPORTED_FOR_LEARNER)
        self.check_metadata(head)

    def check_metadata(self, head: RequestHead) -> None:
        """Do the same for a call that a learner answers, too."""
        seen = head.memo.get("unary")
        if not isinstance(seen, _Seen):
            seen = self._read_head(head, "unary")
        seen.counter.value += 1
        if seen.needs_leader and not self.replica.leader_id:
            raise Refused(errors.NO_LEADER)

    def check_stream_head(self, head: RequestHead) -> bool:
        """Refuse a stream as ``check_head`` does; return whether it must end without a leader."""
        if self.is_learner:
            raise Refused(errors.NOT_SUPPORTED_FOR_LEARNER)
        return self.check_stream_metadata(head)

    def check_stream_metadata(self, head: RequestHead) -> bool:
        """Do the same for a stream that a learner serves, too."""
        seen = head.memo.get("stream")
        if not isinstance(seen, _Seen):
            seen = self._read_head(head, "stream")
        seen.counter.value += 1
        if seen.needs_leader and not self.replica.leader_id:
            raise Refused(errors.NO_LEADER)
        return seen.needs_leader

    def check_size(self, request: bytes) -> None:
        """Refuse a request that would be too large in the log (etcd API: limits)."""
        if len(request) + ENVELOPE_BYTES > self.config.max_request_bytes:
            raise Refused(errors.REQUEST_TOO_LARGE)

    def after_sweep(self, run: Callable[[], None]) -> None:
        """Call ``run`` once no compaction is under way."""
        if self.store.compacting:
            self._after_sweep.append(run)
        else:
            run()

    def tick(self, _now: float) -> None:
        """Look at the room. Called by the replica."""
        self.room.look()

    def _run_after_sweep(self) -> None:
        waiting, self._after_sweep = self._after_sweep, []
        for run in waiting:
            run()

    def _read_head(self, head: RequestHead, kind: str) -> _Seen:
        version = head.first("client-api-version")
        if version is None:
            version = "unknown"
        elif isinstance(version, bytes) or not _is_utf8(version):
            raise Refused(errors.INVALID_CLIENT_API_VERSION)
        if version not in self._versions:
            if len(self._versions) >= _MAX_VERSIONS:
                version = "other"
            self._versions.add(version)
        counter = self.metrics.counter(
            "etcd_server_client_requests_total",
            "The total number of client requests per client version.",
            type=kind,
            client_api_version=version,
        )
        seen = _Seen(counter, needs_leader=head.first("hasleader") == "true")
        head.memo[kind] = seen
        return seen


def _is_utf8(text: str) -> bool:
    r"""Tell whether metadata was valid UTF-8; bytes beyond ASCII arrive as ``\xNN`` escapes."""
    if "\\x" not in text:
        return True
    try:
        text.encode("ascii").decode("unicode_escape").encode("latin-1").decode()
    except UnicodeError:
        return False
    return True


def parse(kind: type[M], message: bytes) -> M:
    """Return the request message. Raises RpcError(INTERNAL) for bytes that are none."""
    try:
        return kind.FromString(message)
    except DecodeError:
        raise unreadable() from None


def parse_streamed(kind: type[M], message: bytes) -> M:
    """Return a message of a stream. Raises RpcError(INTERNAL) for bytes that are none."""
    try:
        return kind.FromString(message)
    except DecodeError:
        raise RpcError(StatusCode.INTERNAL, UNREADABLE_IN_STREAM) from None


def unreadable() -> RpcError:
    """Return the refusal of a message that cannot be parsed."""
    return RpcError(StatusCode.INTERNAL, UNREADABLE)
