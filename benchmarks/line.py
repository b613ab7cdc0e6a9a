"""A line between a client and a server that can be cut, closed to new connections, or left without a sign of life."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Self

from coord.runtime import Supervisor

if TYPE_CHECKING:
    from types import TracebackType

CHUNK_BYTES = 64 * 1024


class Line:
    """Forwards to ``target`` (``host:port``); an async context manager.

    What tells it from the proxies of the tests is :meth:`strand`, which parts old connections from new ones.
    """

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._server: asyncio.Server | None = None
        self._port = 0
        self._writers: dict[asyncio.StreamWriter, None] = {}
        self._pumps = Supervisor(self._broken)
        self._passes = asyncio.Event()  # for the connections that are made from now on
        self._passes.set()

    @property
    def endpoint(self) -> str:
        """Where the client connects, the same for ever."""
        return f"127.0.0.1:{self._port}"

    async def __aenter__(self) -> Self:
        """Begin to accept."""
        await self.accept()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End everything."""
        self.refuse()
        self.cut()
        await self._pumps.close()

    async def accept(self) -> None:
        """Take connections."""
        if self._server is None:
            self._server = await asyncio.start_server(self._joined, "127.0.0.1", self._port)
            self._port = self._server.sockets[0].getsockname()[1]

    def refuse(self) -> None:
        """Take no new connections; those that exist stay."""
        server, self._server = self._server, None
        if server is not None:
            server.close()

    def cut(self) -> None:
        """Reset every connection."""
        for writer in list(self._writers):
            writer.transport.abort()

    def strand(self) -> None:
        """Let nothing through any more on the connections that exist, and keep them open; new ones pass."""
        self._passes.clear()
        self._passes = asyncio.Event()
        self._passes.set()

    async def _joined(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        passes = self._passes
        try:
            back_reader, back_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        for source, sink in ((reader, back_writer), (back_reader, writer)):
            self._writers[sink] = None
            self._pumps.spawn(self._pump(source, sink, passes, (writer, back_writer)), name="pump")

    async def _pump(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        passes: asyncio.Event,
        both: tuple[asyncio.StreamWriter, asyncio.StreamWriter],
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(CHUNK_BYTES):
                await passes.wait()
                sink.write(data)
                await sink.drain()
        # A stranded connection does not even tell its other end that this one is gone.
        await passes.wait()
        for end in both:
            self._writers.pop(end, None)
            end.transport.abort()

    def _broken(self, name: str, error: BaseException) -> None:
        asyncio.get_running_loop().call_exception_handler({"message": name, "exception": error})
