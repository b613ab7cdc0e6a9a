"""Whether something answers at a URL."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

import h11
from typing_extensions import override

from coord.errors import InvalidArgument
from coord.runtime import TcpAddress

if TYPE_CHECKING:
    from coord.runtime import Env

_OK_FROM, _OK_TO = 200, 400
_PORT_MAX = 65535
_READ_MAX = 65_536  # more than the head of any answer


class HealthUrl:
    """``tcp://host:port``: takes connections; ``http://host:port/path``: answers GET with 2xx or 3xx."""

    def __init__(self, text: str) -> None:
        parts = urlsplit(text)
        try:
            port = parts.port or (80 if parts.scheme == "http" else 0)
        except ValueError:
            port = 0
        if parts.scheme not in ("http", "tcp") or not parts.hostname or not 0 < port <= _PORT_MAX:
            raise InvalidArgument(
                f"health must be a function, http://host:port/path or tcp://host:port, not {text!r}"
            )
        self._http = parts.scheme == "http"
        self._address = TcpAddress(parts.hostname, port)
        self._path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")

    async def answers(self, env: Env) -> bool:
        """Return whether it does. Raises ``OSError`` when there is no connection."""
        visit = _Visit(self._path if self._http else None, str(self._address))
        transport, _ = await env.net.connect(lambda: visit, self._address)
        try:
            return await visit.verdict
        finally:
            transport.close()


class _Visit(asyncio.Protocol):
    """One GET; or only a connection, without a path."""

    def __init__(self, path: str | None, host: str) -> None:
        self._path = path
        self._host = host
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_READ_MAX)
        self.verdict: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._path is None:
            self._tell(good=True)
            return
        request = h11.Request(
            method="GET",
            target=self._path,
            headers=[("host", self._host), ("connection", "close"), ("user-agent", "coord")],
        )
        data = (self._http.send(request) or b"") + (self._http.send(h11.EndOfMessage()) or b"")
        cast("asyncio.Transport", transport).write(data)  # uvloop's is none by its class

    @override
    def data_received(self, data: bytes) -> None:
        try:
            self._http.receive_data(data)
            event = self._http.next_event()
            while isinstance(event, h11.InformationalResponse):
                event = self._http.next_event()
        except h11.RemoteProtocolError:
            self._tell(good=False)
            return
        if isinstance(event, h11.Response):
            self._tell(good=_OK_FROM <= event.status_code < _OK_TO)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._tell(good=False)

    def _tell(self, *, good: bool) -> None:
        if not self.verdict.done():
            self.verdict.set_result(good)
