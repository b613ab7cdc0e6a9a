"""The two ends of a simulated connection, as asyncio transports.

Bytes keep their order and nothing else: what was written at once may arrive in pieces, what was written
in pieces may arrive at once. At most a window of bytes is under way in each direction; the rest waits
at the writer, who is told to pause. A reader that pauses therefore stops the writer, as in TCP.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Iterable

    from coord.testing.sim.links import Lane
    from coord.testing.sim.nodeloop import NodeLoop

WINDOW_BYTES: Final = 256 * 1024
_HIGH_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Ack:
    """The reader has taken so many bytes."""

    size: int


EOF: Final = "eof"
RESET: Final = "reset"


class SimTransport(asyncio.Transport):
    """One end of a connection. ``lane`` leads to the other end, and is set before anything is written."""

    def __init__(self, loop: NodeLoop, host: str, extra: dict[str, Any]) -> None:
        super().__init__(extra)
        self.loop = loop
        self.host = host
        self.lane: Lane | None = None
        self.peer: SimTransport | None = None
        self._protocol: asyncio.BaseProtocol | None = None
        self._buffer = bytearray()
        self._under_way = 0
        self._taken = 0
        self._inbox: list[bytes | str] = []
        self._high = _HIGH_BYTES
        self._low = _HIGH_BYTES // 4
        self._is_reading = True
        self._read_scheduled = False
        self._writer_paused = False
        self._is_closing = False
        self._wrote_eof = False
        self._eof_sent = False
        self._got_eof = False
        self.is_lost: bool = False
        """The protocol was told, or the process is gone: this end takes nothing any more."""

    def begin(self, protocol: asyncio.BaseProtocol) -> None:
        """Give the connection to its protocol, on the own loop."""
        self._protocol = protocol
        protocol.connection_made(self)
        if self._inbox:
            self._schedule_read()

    # Writing.

    @override
    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        self.loop.check_alive()
        if self._is_closing or self._wrote_eof or not data:
            return
        self._buffer += data
        self._pump()
        if (
            len(self._buffer) > self._high
            and not self._writer_paused
            and self._protocol is not None
        ):
            self._writer_paused = True
            self._protocol.pause_writing()

    @override
    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview[Any]]) -> None:
        self.write(b"".join(list_of_data))

    def _pump(self) -> None:
        """Put on its way what the window allows."""
        lane = self.lane
        if lane is None:
            return
        room = WINDOW_BYTES - self._under_way
        while self._buffer and room > 0:
            size = min(len(self._buffer), room)
            if size > 1 and lane.link.splits():
                size = lane.link.cut(size)
            piece = bytes(self._buffer[:size])
            del self._buffer[:size]
            self._under_way += size
            room -= size
            lane.send(piece, size)
        if not self._buffer and (self._wrote_eof or self._is_closing) and not self._eof_sent:
            self._eof_sent = True
            lane.send(EOF)
            if self._is_closing:
                self.loop.call_soon(self._lose, None)

    def _acked(self, size: int) -> None:
        self._under_way -= size
        if self.is_lost:
            return
        self._pump()
        if self._writer_paused and len(self._buffer) <= self._low and self._protocol is not None:
            self._writer_paused = False
            self._protocol.resume_writing()

    # Reading.

    def arrive(self, item: bytes | str | Ack) -> None:
        """Take what the lane brings, outside of any loop: the kernel's half."""
        if self.is_lost or self.loop.is_dead:
            if isinstance(item, bytes):
                self._refuse()
            return
        if isinstance(item, Ack):
            self.loop.call_soon(self._acked, item.size)
            return
        if item == RESET:
            self._inbox.clear()
        self._inbox.append(item)
        if self._is_reading or item == RESET:
            self._schedule_read()

    def _refuse(self) -> None:
        """Answer bytes for a connection that is no more; the own host must be up for that."""
        if self.lane is not None and self.answers_for_the_dead():
            self.lane.send(RESET)

    def answers_for_the_dead(self) -> bool:
        """Tell whether the host of this end is up, although the process may not be."""
        return True

    def _schedule_read(self) -> None:
        if not self._read_scheduled and self._protocol is not None:
            self._read_scheduled = True
            self.loop.call_soon(self._read)

    def _read(self) -> None:
        self._read_scheduled = False
        protocol = self._protocol
        while self._inbox and not self.is_lost and protocol is not None:
            if self._inbox[0] == RESET:
                self._inbox.clear()
                self._lose(ConnectionResetError("connection reset by peer"))
                return
            if not self._is_reading:
                return
            if self._inbox[0] == EOF:
                del self._inbox[0]
                self._end_reached(protocol)
                continue
            self._hand_over(self._take())
            protocol = self._protocol  # it may have given way to another

    def _take(self) -> bytes:
        """Return the bytes that have come, in one piece: what arrived before it was read has merged."""
        count = 0
        parts: list[bytes] = []
        for item in self._inbox:
            if not isinstance(item, bytes):
                break
            parts.append(item)
            count += 1
        del self._inbox[:count]
        return parts[0] if count == 1 else b"".join(parts)

    def _hand_over(self, data: bytes) -> None:
        self._taken += len(data)
        peer = self.peer
        # A look at the other end saves the acknowledgements that would change nothing there.
        if peer is not None and (self._taken > WINDOW_BYTES // 4 or peer.get_write_buffer_size()):
            if self.lane is not None:
                self.lane.send(Ack(self._taken))
            self._taken = 0
        if not self._is_closing and isinstance(self._protocol, asyncio.Protocol):
            self._protocol.data_received(data)
        elif self._is_closing:
            self._refuse()

    def _end_reached(self, protocol: asyncio.BaseProtocol) -> None:
        self._got_eof = True
        if self._is_closing:
            return
        keep = isinstance(protocol, asyncio.Protocol) and bool(protocol.eof_received())
        if not keep:
            self.close()

    # The end.

    @override
    def close(self) -> None:
        if not self._is_closing:
            self._is_closing = True
            self._pump()

    @override
    def abort(self) -> None:
        if self.loop.is_dead or self.is_lost:
            return
        self._is_closing = True
        self._buffer.clear()
        if not self._eof_sent and self.lane is not None:
            self._eof_sent = True
            self.lane.send(RESET)
        self.loop.call_soon(self._lose, None)

    def _lose(self, error: Exception | None) -> None:
        if not self.is_lost:
            self.is_lost = True
            self._is_closing = True
            self._inbox.clear()
            self._buffer.clear()
            if self._protocol is not None:
                self._protocol.connection_lost(error)

    # What else transports have.

    @override
    def is_closing(self) -> bool:
        return self._is_closing

    @override
    def can_write_eof(self) -> bool:
        return True

    @override
    def write_eof(self) -> None:
        self.loop.check_alive()
        self._wrote_eof = True
        self._pump()

    @override
    def pause_reading(self) -> None:
        self._is_reading = False

    @override
    def resume_reading(self) -> None:
        self._is_reading = True
        if self._inbox:
            self._schedule_read()

    @override
    def is_reading(self) -> bool:
        return self._is_reading and not self._is_closing

    @override
    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = _HIGH_BYTES if high is None else high
        self._low = self._high // 4 if low is None else low

    @override
    def get_write_buffer_size(self) -> int:
        return len(self._buffer)

    @override
    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low, self._high

    @override
    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    @override
    def get_protocol(self) -> asyncio.BaseProtocol:
        if self._protocol is None:
            raise RuntimeError("the connection has not begun")
        return self._protocol
