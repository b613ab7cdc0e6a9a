"""Every bound of the room in one place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from coord.rpc.limits import CLIENT_LIMITS, Limits

MIB: Final = 1 << 20
# A single entry may be larger than what usually shares a message (raft: max_append_bytes).
_MAX_MESSAGE_BYTES: Final = 256 * MIB
# So much of a stream lies in the connection; what is beyond waits here, where it is counted.
_LOW_WATER_BYTES: Final = MIB
_WINDOW_BYTES: Final = 8 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshLimits:
    """What one peer may cost. Sizes in bytes, durations in seconds."""

    # What waits for one peer because its connection is slower than we are; an empty queue takes one
    # packet of any size. Beyond it messages are dropped, and the peer counts as unreachable.
    waiting_bytes: int = 64 * MIB
    waiting_messages: int = 4096
    # Connecting and the handshake, per URL (etcd: 1 s + the election timeout).
    dial_timeout_s: float = 2.0
    # Between two rounds over a peer's URLs: doubled from the first to the second, half of it drawn.
    retry_min_s: float = 0.05
    retry_max_s: float = 1.0
    # A connection on which nothing is heard for so long is dead (etcd: 5 s); asked after a third of it.
    silence_s: float = 5.0
    # Members that speak to us before we know of them.
    guests: int = 8
    # Snapshots that are on their way to followers (etcd: 16).
    snapshots_in_flight: int = 16
    chunk_bytes: int = 256 * 1024
    # A transfer that gets nothing for so long, or in so many attempts, has failed.
    snapshot_stall_s: float = 30.0
    snapshot_attempts: int = 16


def server_limits(limits: MeshLimits) -> Limits:
    """Return the bounds for the listener of peers."""
    return Limits(
        max_receive_bytes=_MAX_MESSAGE_BYTES,
        max_unread_bytes=2 * _MAX_MESSAGE_BYTES,
        stream_window_bytes=_WINDOW_BYTES,
        connection_window_bytes=2 * _WINDOW_BYTES,
        low_water_bytes=limits.chunk_bytes,
        # Peers ask often whether we are there.
        min_ping_interval_s=0.0,
        keepalive_time_s=limits.silence_s / 3,
        keepalive_timeout_s=limits.silence_s * 2 / 3,
    )


def client_limits(limits: MeshLimits) -> Limits:
    """Return the bounds for connections to peers."""
    return Limits(
        max_receive_bytes=_MAX_MESSAGE_BYTES,
        max_header_list_bytes=CLIENT_LIMITS.max_header_list_bytes,
        stream_window_bytes=4 * MIB,
        max_unread_bytes=CLIENT_LIMITS.max_unread_bytes,
        max_buffered_bytes=CLIENT_LIMITS.max_buffered_bytes,
        low_water_bytes=_LOW_WATER_BYTES,
        keepalive_time_s=limits.silence_s / 3,
        keepalive_timeout_s=limits.silence_s * 2 / 3,
    )
