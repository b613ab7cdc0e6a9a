"""A TCP proxy on the test's loop that can cut, hold and refuse: the network's misbehaviour, on command."""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from typing import Self

_CHUNK = 64 * 1024


class _Pipe:
    """One client's connection, and ours to the server."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.writers = (client, server)

    def abort(self) -> None:
        for writer in self.writers:
            writer.transport.abort()


class Proxy:
    """Forwards to ``target`` (``host:port``) until told otherwise.

    ``endpoint`` stays the same over :meth:`refuse` and :meth:`accept`.
    """

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._server: asyncio.Server | None = None
        self._port = 0
        self._pipes: dict[_Pipe, None] = {}
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._up = asyncio.Event()
        self._down = asyncio.Event()
        self._up.set()
        self._down.set()
        self._stranded: list[asyncio.Event] = []
        self.connections = 0
        self.bytes_up = 0

    @property
    def endpoint(self) -> str:
        """Where clients connect."""
        return f"127.0.0.1:{self._port}"

    @property
    def open_connections(self) -> int:
        """Connections that run through it now."""
        return len(self._pipes)

    async def __aenter__(self) -> Self:
        await self.accept()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.refuse()
        self.pass_on()
        for gate in self._stranded:
            gate.set()
        self.cut()
        while self._tasks:
            await asyncio.wait(list(self._tasks))

    async def accept(self) -> None:
        """Take connections, at the same port as before."""
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
            self._port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Take no new connections; those that exist stay."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
            await asyncio.sleep(0)

    def cut(self) -> None:
        """Reset every connection."""
        for pipe in list(self._pipes):
            pipe.abort()

    def hold_requests(self) -> None:
        """Keep what clients send from now on."""
        self._up.clear()

    def hold_answers(self) -> None:
        """Keep what the server sends from now on."""
        self._down.clear()

    def strand(self) -> None:
        """Let nothing through any more on the connections that exist, and keep them open; new ones pass."""
        self._stranded += [self._up, self._down]
        self._up.clear()
        self._down.clear()
        self._up, self._down = asyncio.Event(), asyncio.Event()
        self.pass_on()

    def pass_on(self) -> None:
        """Forward again, first what was held."""
        self._up.set()
        self._down.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks[task] = None
        try:
            await self._forward(reader, writer)
        finally:
            del self._tasks[task]

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            back_reader, back_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        self.connections += 1
        pipe = _Pipe(writer, back_writer)
        self._pipes[pipe] = None
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, back_writer, self._up, is_up=True))
                group.create_task(self._pump(back_reader, writer, self._down, is_up=False))
        finally:
            del self._pipes[pipe]
            pipe.abort()
            for end in (writer, back_writer):
                with contextlib.suppress(OSError):
                    await end.wait_closed()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        gate: asyncio.Event,
        *,
        is_up: bool,
    ) -> None:
        try:
            while data := await reader.read(_CHUNK):
                await gate.wait()
                if is_up:
                    self.bytes_up += len(data)
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        for pipe in list(self._pipes):
            if writer in pipe.writers:
                pipe.abort()
