"""A TCP proxy in front of one port of one member, which obeys the rules of its links."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from coord.testing.chaos.caller import CallerReader
from coord.testing.chaos.links import CHUNK_BYTES, CLIENTS, Cut

if TYPE_CHECKING:
    from collections.abc import Callable

    from coord.testing.chaos.links import Links

_NOBODY = ""
# On, for no time at all: closing then sends a reset instead of an orderly end.
_LINGER = struct.pack("ii", 1, 0)
# Members dial again and again while they are cut off; a held connection stays open as long.
_MAX_CONNECTIONS = 4_000


@dataclass(eq=False, slots=True)
class _Connection:
    """One caller's connection, and ours to the member."""

    caller: str
    outer: asyncio.StreamWriter
    inner: asyncio.StreamWriter
    sniffer: CallerReader | None

    def abort(self) -> None:
        for end in (self.outer, self.inner):
            raw: socket.socket | None = end.transport.get_extra_info("socket")
            if raw is not None and raw.fileno() >= 0:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
            end.transport.abort()


class ChaosProxy:
    """Listens on ``port`` (0: a free one) and forwards to the port ``target`` of the member ``name``.

    ``who`` names the member that has the given peer URLs; without it every caller is a client. The rules apply
    to bytes by their direction, whoever has dialled.
    """

    def __init__(
        self,
        name: str,
        target: int,
        links: Links,
        *,
        port: int = 0,
        who: Callable[[tuple[str, ...]], str | None] | None = None,
    ) -> None:
        self._name = name
        self._target = target
        self._links = links
        self._who = who
        self._server: asyncio.Server | None = None
        self._connections: dict[_Connection, None] = {}
        self._tasks: dict[asyncio.Task[None], None] = {}
        self.port: int = port
        self.opened: int = 0
        """How many connections it has ever made to the member."""
        self.bytes_in: int = 0
        """How many bytes callers have sent that have passed."""
        links.listen(self._rules_changed)

    async def __aenter__(self) -> Self:
        """Listen."""
        await self.accept()
        return self

    async def accept(self) -> None:
        """Take connections, at the same port as before."""
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Listen no more; the connections that there are stay."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
            await asyncio.sleep(0)

    async def __aexit__(self, *_: object) -> None:
        """End every connection."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        while self._tasks:
            await asyncio.wait(list(self._tasks))

    @property
    def callers(self) -> list[str]:
        """Who is connected: names of members, ``clients``, or empty for one that has not said."""
        return [connection.caller for connection in self._connections]

    def reset(self, caller: str | None = None) -> None:
        """Reset the connections of one caller, or all."""
        for connection in list(self._connections):
            if caller is None or connection.caller == caller:
                connection.abort()

    def _rules_changed(self) -> None:
        for connection in list(self._connections):
            caller = connection.caller
            ways = ((caller, self._name), (self._name, caller))
            if any(self._links.rule(*way).reset for way in ways):
                connection.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or len(self._connections) >= _MAX_CONNECTIONS:
            writer.transport.abort()
            return
        self._tasks[task] = None
        try:
            await self._forward(reader, writer)
        except asyncio.CancelledError:
            # Only ``__aexit__`` cancels; asyncio would log a callback that ends so.
            return
        finally:
            del self._tasks[task]
            writer.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            back_reader, back_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            return
        connection = (
            _Connection(CLIENTS, writer, back_writer, None)
            if self._who is None
            else _Connection(_NOBODY, writer, back_writer, CallerReader())
        )
        self._connections[connection] = None
        self.opened += 1
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(connection, reader, back_writer, inwards=True))
                group.create_task(self._pump(connection, back_reader, writer, inwards=False))
        finally:
            del self._connections[connection]
            connection.abort()
            for end in (writer, back_writer):
                with contextlib.suppress(OSError):
                    await end.wait_closed()

    async def _pump(
        self,
        connection: _Connection,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        inwards: bool,
    ) -> None:
        """Carry one direction to its end. What a held link does not carry is also that an end has gone."""
        try:
            while data := await reader.read(CHUNK_BYTES):
                if inwards and connection.sniffer is not None:
                    self._identify(connection, connection.sniffer, data)
                while data:
                    way = self._way(connection, inwards)
                    size = self._links.rule(*way).chunk_bytes
                    piece, data = data[:size], data[size:]
                    await self._links.passage(*way, len(piece))
                    self.bytes_in += len(piece) if inwards else 0
                    writer.write(piece)
                    await writer.drain()
        except Cut:
            connection.abort()
            return
        except OSError:
            pass
        with contextlib.suppress(Cut):
            await self._links.passage(*self._way(connection, inwards), 0)
            writer.close()
            return
        connection.abort()

    def _way(self, connection: _Connection, inwards: bool) -> tuple[str, str]:  # noqa: FBT001 - a direction
        return (connection.caller, self._name) if inwards else (self._name, connection.caller)

    def _identify(self, connection: _Connection, sniffer: CallerReader, data: bytes) -> None:
        sniffer.feed(data)
        if sniffer.is_done:
            connection.sniffer = None
            if self._who is not None:
                connection.caller = self._who(sniffer.urls) or _NOBODY
