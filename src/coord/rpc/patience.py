"""How long a server bears with a client that pings too often, or does not read."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from coord.rpc.faults import ConnectionFault
from coord.rpc.frames import ErrorCode

if TYPE_CHECKING:
    from coord.rpc.limits import Limits

# grpc-go: pings of clients without calls must be this far apart, and two strikes are forgiven.
_IDLE_PING_INTERVAL_S: Final = 7_200.0
_MAX_PING_STRIKES: Final = 2


class PingPolicy:
    """grpc-go's keepalive enforcement, with PermitWithoutStream off, as etcd has it."""

    __slots__ = ("_interval_s", "_last", "_strikes")

    def __init__(self, limits: Limits) -> None:
        self._interval_s = limits.min_ping_interval_s
        self._last = -math.inf
        self._strikes = 0

    def judge(self, now: float, *, forgiven: bool, busy: bool) -> None:
        """Judge a ping. ``forgiven``: we sent data or headers since the last one.

        Raises ConnectionFault at the third strike.
        """
        last, self._last = self._last, now
        if forgiven:
            self._strikes = 0
            return
        interval = self._interval_s
        if interval > 0 and not busy:
            interval = _IDLE_PING_INTERVAL_S
        if now - last < interval:
            self._strikes += 1
            if self._strikes > _MAX_PING_STRIKES:
                raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too_many_pings")


class StallWatch:
    """Watches a connection that holds more than max_buffered_bytes of unsent payload.

    It may do so as long as it goes on reading: it ends if within ``stall_grace_s`` not a byte of
    what is queued has left.
    """

    __slots__ = ("_grace_s", "_limit", "_mark", "due_at")

    def __init__(self, limits: Limits) -> None:
        self._limit = limits.max_buffered_bytes
        self._grace_s = limits.stall_grace_s
        self._mark = 0
        self.due_at: float = math.inf

    def start(self, now: float, payload_left: int) -> None:
        """Begin to watch."""
        self._mark = payload_left
        self.due_at = now + self._grace_s

    def judge(self, now: float, unsent_bytes: int, payload_left: int) -> None:
        """Look again. Raises ConnectionFault if there was no progress in time."""
        if now < self.due_at:
            return
        if unsent_bytes <= self._limit:
            self.due_at = math.inf
        elif payload_left == self._mark:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "answers are not read")
        else:
            self.start(now, payload_left)
