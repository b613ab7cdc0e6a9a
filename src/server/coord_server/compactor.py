"""Auto-compaction: ordinary compactions that the leader proposes on a schedule.

Two modes (etcd ops: "Auto-compaction"). *periodic* keeps a span of time: it samples the revision ten
times per period, at most an hour, and compacts to the revision of one retention ago. *revision* keeps a
number of revisions and looks every five minutes.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

from coord.wire import rpc_pb2
from coord_server import config as configs
from coord_server import errors
from coord_server.ops import OpKind

if TYPE_CHECKING:
    from coord.rpc.service import Responder
    from coord_server.config import Config
    from coord_server.log import Log

_HOUR_S: Final = 3600.0
_REVISION_MODE_S: Final = 300.0
_SAMPLES_PER_PERIOD: Final = 10


class Leader(Protocol):
    """What the compactor needs of the replica."""

    @property
    def is_leader(self) -> bool:
        """Tell whether this member leads."""
        ...

    def propose(self, kind: int, payload: bytes, responder: Responder, stream_id: int) -> None:
        """Propose an operation; the responder hears of the outcome once."""
        ...


class Counted(Protocol):
    """What it needs of the store."""

    @property
    def revision(self) -> int:
        """Return the store's current revision."""
        ...


class Compactor:
    """Proposes compactions. ``tick`` is called often and acts when it is time.

    It is the responder of its own proposals; the number of a call is the revision.
    """

    def __init__(
        self, replica: Leader, store: Counted, log: Log, *, mode: str, retention: float
    ) -> None:
        self._replica = replica
        self._store = store
        self._log = log
        self._mode = mode
        self._retention = retention
        self._done = 0  # the last revision that was compacted
        self._next: float | None = None
        self._last_success: float | None = None
        self._now = 0.0
        self._samples: deque[int] = deque()
        period = min(retention, _HOUR_S)
        self._interval = _REVISION_MODE_S if mode == "revision" else period / _SAMPLES_PER_PERIOD
        self._wait = retention
        self._period = period
        self._window = 0 if mode == "revision" else int(retention / self._interval) + 1

    @classmethod
    def from_config(
        cls, config: Config, replica: Leader, store: Counted, log: Log
    ) -> Compactor | None:
        """Return what the flags ask for, None if that is nothing."""
        mode = config.auto_compaction_mode
        retention = (
            float(configs.retention_revisions(config))
            if mode == "revision"
            else configs.retention_s(config)
        )
        return cls(replica, store, log, mode=mode, retention=retention) if retention else None

    def tick(self, now: float) -> None:
        """Take a sample, and propose what is due. ``now`` is in seconds of a monotonic clock."""
        self._now = now
        if self._last_success is None:
            self._last_success = now
        if self._next is None:
            self._next = now if self._mode == "periodic" else now + self._interval
        if now < self._next:
            return
        self._next = now + self._interval
        if not self._replica.is_leader:
            return
        revision = self._due(now, self._last_success)
        if revision > 0 and revision != self._done:
            self._log.info(f"starting auto {self._mode} compaction", revision=revision)
            request = rpc_pb2.CompactionRequest(revision=revision)
            payload = request.SerializeToString()
            self._replica.propose(int(OpKind.COMPACT), payload, self, revision)

    def _due(self, now: float, last_success: float) -> int:
        """Return the revision to compact to, 0 for none."""
        if self._mode == "revision":
            return self._store.revision - int(self._retention)
        self._samples.append(self._store.revision)
        while len(self._samples) > self._window:
            self._samples.popleft()
        return self._samples[0] if now - last_success >= self._wait else 0

    def respond(self, stream_id: int, message: bytes) -> None:  # noqa: ARG002 - a Responder
        """Note that a compaction is done."""
        self._log.info(f"completed auto {self._mode} compaction", revision=stream_id)
        self._succeed(stream_id)

    def fail(
        self,
        stream_id: int,
        code: int,  # noqa: ARG002 - a Responder
        message: str,
        trailers: tuple[tuple[str, str | bytes], ...] = (),  # noqa: ARG002 - a Responder
    ) -> None:
        """Note that it failed; somebody else having compacted is fine."""
        if message == errors.COMPACTED.message:
            self._succeed(stream_id)
        else:
            self._log.warning(
                f"failed auto {self._mode} compaction", revision=stream_id, error=message
            )

    def _succeed(self, revision: int) -> None:
        self._done = revision
        self._last_success = self._now
        self._wait = self._period
