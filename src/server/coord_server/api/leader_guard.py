"""Ends the streams that asked for a leader once this member has been without one for too long."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from coord_server import errors

if TYPE_CHECKING:
    from coord.rpc.server_stream import ServerStream
    from coord_server.api.context import ApiContext

# In election timeouts (etcd API: Watch, "require-leader"): one election must not end a stream.
PATIENCE: Final = 3


class LeaderGuard:
    """The open streams of one service that were opened with ``hasleader: true``."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context
        self._patience_s = PATIENCE * context.config.election_timeout_s
        self._streams: dict[ServerStream, None] = {}
        self._seen_at: float | None = None
        context.replica.add_ticker(self.tick)

    def __len__(self) -> int:
        return len(self._streams)

    def watch_over(self, stream: ServerStream) -> None:
        """End this stream with NO_LEADER when the time comes, unless it is let go before."""
        self._streams[stream] = None

    def let_go(self, stream: ServerStream) -> None:
        """Forget a stream, known or not."""
        self._streams.pop(stream, None)

    def tick(self, now: float) -> None:
        """Look for the leader; ``now`` in seconds of the monotonic clock."""
        if self._context.replica.leader_id or self._seen_at is None:
            self._seen_at = now
        elif now - self._seen_at >= self._patience_s and self._streams:
            streams, self._streams = self._streams, {}
            for stream in streams:
                stream.abort(errors.NO_LEADER.code, errors.NO_LEADER.message)
