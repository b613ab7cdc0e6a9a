"""A network inside the process: transports that hand bytes over through the loop.

Both ends live on one loop. It has the flow control of real transports and none of their chunking:
what was written in one turn arrives in one piece.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from typing_extensions import override

from coord.runtime import Address, Listener, TcpAddress

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable

_FIRST_PORT: Final = 49_152
_HIGH_BYTES: Final = 64 * 1024


class MemoryNet:
    """Implements ``Net``; addresses mean something within one object only. No TLS."""

    def __init__(self) -> None:
        self._listeners: dict[str, _MemoryListener] = {}
        self._next_port = _FIRST_PORT

    async def connect(
        self,
        factory: Callable[[], asyncio.Protocol],
        address: Address,
        *,
        tls: ssl.SSLContext | None = None,
        server_name: str | None = None,  # noqa: ARG002 - names nobody without TLS
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        """Connect to a listener of this network. Raises ConnectionRefusedError without one."""
        _refuse_tls(tls)
        listener = self._listeners.get(str(address))
        if listener is None:
            raise ConnectionRefusedError(f"nobody listens at {address} in this process")
        loop = asyncio.get_running_loop()
        port = self._take_port()
        theirs = listener.factory()
        mine = factory()
        near = _MemoryTransport(
            loop, mine, {"peername": _name(address), "sockname": ("memory", port)}
        )
        far = _MemoryTransport(
            loop, theirs, {"peername": ("memory", port), "sockname": _name(address)}
        )
        near.peer = far
        far.peer = near
        theirs.connection_made(far)
        mine.connection_made(near)
        return near, mine

    async def listen(
        self,
        factory: Callable[[], asyncio.Protocol],
        address: Address,
        *,
        tls: ssl.SSLContext | None = None,
    ) -> Listener:
        """Accept connections at ``address``; port 0 chooses one. Raises OSError if it is taken."""
        _refuse_tls(tls)
        if isinstance(address, TcpAddress) and not address.port:
            address = TcpAddress(address.host, self._take_port())
        if str(address) in self._listeners:
            raise OSError(f"somebody listens at {address} already")
        listener = _MemoryListener(self._listeners, factory, address)
        self._listeners[str(address)] = listener
        return listener

    def _take_port(self) -> int:
        self._next_port += 1
        return self._next_port


class _MemoryListener:
    def __init__(
        self,
        listeners: dict[str, _MemoryListener],
        factory: Callable[[], asyncio.Protocol],
        address: Address,
    ) -> None:
        self.factory = factory
        self._listeners = listeners
        self._address = address

    @property
    def addresses(self) -> tuple[Address, ...]:
        return (self._address,)

    def close(self) -> None:
        if self._listeners.get(str(self._address)) is self:
            del self._listeners[str(self._address)]

    async def wait_closed(self) -> None:
        await asyncio.sleep(0)


class _MemoryTransport(asyncio.Transport):
    """One end. What it writes waits here until the other end's protocol reads."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, protocol: asyncio.BaseProtocol, extra: dict[str, Any]
    ) -> None:
        super().__init__(extra)
        self.peer: _MemoryTransport | None = None
        self._loop = loop
        self._protocol = protocol
        self._outbox: list[bytes] = []
        self._size = 0
        self._high = _HIGH_BYTES
        self._low = _HIGH_BYTES // 4
        self._is_reading = True
        self._writer_paused = False
        self._is_scheduled = False
        self._is_closing = False
        self._wrote_eof = False
        self._is_aborted = False
        self._is_lost = False

    @override
    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        if self._is_closing or self._wrote_eof or not data:
            return
        self._outbox.append(bytes(data))
        self._size += len(data)
        self._schedule()
        if self._size > self._high and not self._writer_paused:
            self._writer_paused = True
            self._protocol.pause_writing()

    @override
    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview[Any]]) -> None:
        self.write(b"".join(list_of_data))

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        """Hand what was written to the other end, if it reads."""
        self._is_scheduled = False
        peer = self.peer
        if peer is None or peer._is_lost or self._is_aborted:  # noqa: SLF001 - the other end is of this class
            self._outbox.clear()
            return
        if not peer._is_reading:  # noqa: SLF001 - the other end is of this class
            return
        if self._outbox:
            data = b"".join(self._outbox)
            self._outbox.clear()
            self._size = 0
            protocol = peer._protocol  # noqa: SLF001 - the other end is of this class
            if isinstance(protocol, asyncio.Protocol) and not peer._is_closing:  # noqa: SLF001 - the other end is of this class
                protocol.data_received(data)
        if self._writer_paused and self._size <= self._low and not self._is_lost:
            self._writer_paused = False
            self._protocol.resume_writing()
        if not self._outbox and (self._is_closing or self._wrote_eof):
            self._end_reached(peer)

    def _end_reached(self, peer: _MemoryTransport) -> None:
        protocol = peer._protocol
        keep = False
        if isinstance(protocol, asyncio.Protocol) and not peer._is_closing:
            keep = bool(protocol.eof_received())
        if self._is_closing:
            self._lose(None)
            peer._lose(None)
        elif not keep:
            peer.close()

    @override
    def close(self) -> None:
        if not self._is_closing:
            self._is_closing = True
            self._schedule()
            if self.peer is not None and not self.peer._is_reading:  # noqa: SLF001 - the other end is of this class
                # Nobody will ever take it: do not wait.
                self._loop.call_soon(self.abort)

    @override
    def abort(self) -> None:
        self._is_closing = True
        self._is_aborted = True
        self._outbox.clear()
        self._loop.call_soon(self._lose, None)
        if self.peer is not None:
            self.peer._is_closing = True  # noqa: SLF001 - the other end is of this class
            self._loop.call_soon(self.peer._lose, ConnectionResetError("the other end aborted"))  # noqa: SLF001 - the other end is of this class

    def _lose(self, error: Exception | None) -> None:
        if not self._is_lost:
            self._is_lost = True
            self._is_closing = True
            self._protocol.connection_lost(error)

    @override
    def is_closing(self) -> bool:
        return self._is_closing

    @override
    def can_write_eof(self) -> bool:
        return True

    @override
    def write_eof(self) -> None:
        self._wrote_eof = True
        self._schedule()

    @override
    def pause_reading(self) -> None:
        self._is_reading = False

    @override
    def resume_reading(self) -> None:
        self._is_reading = True
        if self.peer is not None:
            self.peer._schedule()  # noqa: SLF001 - the other end is of this class

    @override
    def is_reading(self) -> bool:
        return self._is_reading and not self._is_closing

    @override
    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = _HIGH_BYTES if high is None else high
        self._low = self._high // 4 if low is None else low

    @override
    def get_write_buffer_size(self) -> int:
        return self._size

    @override
    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low, self._high

    @override
    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    @override
    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol


def _name(address: Address) -> object:
    return (address.host, address.port) if isinstance(address, TcpAddress) else str(address)


def _refuse_tls(tls: ssl.SSLContext | None) -> None:
    if tls is not None:
        raise ValueError("the memory network has no TLS")
