"""Every bound of a connection in one place: what the peer may make us hold, do, or wait for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one connection; sizes in bytes, durations in seconds. The defaults suit a server.

    Budgets of frames are counted over ``budget_window_s``; a peer that goes beyond one is told
    ENHANCE_YOUR_CALM and loses its connection.
    """

    # Larger messages end their call with RESOURCE_EXHAUSTED, before they are buffered.
    max_receive_bytes: int = 4 * MIB
    max_send_bytes: int = (1 << 31) - 1
    # Calls of one connection that have not ended; beyond: REFUSED_STREAM.
    max_concurrent_streams: int = 1_000
    # A decoded header list, counted as in RFC 9113 section 6.5.2; beyond: RESOURCE_EXHAUSTED.
    max_header_list_bytes: int = 16 * 1024
    # A header block over all its CONTINUATION frames, which end the connection beyond.
    max_header_block_bytes: int = 64 * 1024
    max_continuations: int = 128
    # Our half of HPACK: what the peer's encoder may keep in our memory.
    header_table_bytes: int = 4096

    # Receive windows. Large ones cost few WINDOW_UPDATEs; the first bounds what a paused stream
    # holds. A connection's window is at least 65,535, as the protocol cannot start lower.
    stream_window_bytes: int = MIB
    connection_window_bytes: int = 16 * MIB
    # Parts of messages and messages that nobody has taken yet, over all streams of a connection.
    # The call that would go beyond ends with RESOURCE_EXHAUSTED.
    max_unread_bytes: int = 64 * MIB

    # Answers of unary calls that the peer's windows, or a peer that does not read, keep here.
    # Beyond, new calls get REFUSED_STREAM, and a connection that stays beyond for
    # ``stall_grace_s`` is closed.
    max_buffered_bytes: int = 16 * MIB
    stall_grace_s: float = 60.0
    # A stream tells its owner that it is writable again when less than this is unsent.
    low_water_bytes: int = 64 * 1024
    # DATA that leaves in one turn of the loop, so that one connection cannot hold up the others.
    turn_bytes: int = 512 * 1024

    budget_window_s: float = 10.0
    # Calls that the peer cancels while they run. As high as the number of calls it may have at
    # once, so that an honest client may give up all of them together.
    max_resets: int = 1_000
    max_settings: int = 100
    # Pings that no min_ping_interval_s forbids.
    max_pings: int = 100
    max_empty_data: int = 100
    # PRIORITY and frames of unknown types.
    max_ignored: int = 1_000

    # Pings more often than this, without data or headers sent by us in between, are strikes; so
    # are pings within two hours while no call runs. The third strike ends the connection with
    # "too_many_pings", as in grpc-go.
    min_ping_interval_s: float = 5.0
    # Our own pings: after this much silence, and how long their answer may take. None: never.
    keepalive_time_s: float | None = 7_200.0
    keepalive_timeout_s: float = 20.0
    # Whether to ping while no call runs (clients only; servers always do).
    keepalive_without_calls: bool = True
    # From the first byte, or from connecting, to the peer's SETTINGS.
    handshake_timeout_s: float = 10.0


SERVER_LIMITS: Final = Limits()

CLIENT_LIMITS: Final = Limits(
    # A client asked for what it gets: the bound only catches nonsense.
    max_receive_bytes=(1 << 31) - 1,
    max_header_list_bytes=64 * 1024,
    stream_window_bytes=4 * MIB,
    max_unread_bytes=(1 << 62),
    max_buffered_bytes=(1 << 62),
    keepalive_time_s=None,
)
