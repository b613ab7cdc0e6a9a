"""One gRPC call in plain HTTP/2, with whatever bytes and headers a test wants to send.

Other clients refuse to send most of what a server has to survive. This one checks nothing of ours and
uses nothing of ours: it is the h2 package over a socket.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import unquote

import h2.config
import h2.connection
import h2.events
import h2.exceptions

_CHUNK = 1 << 16


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended: a gRPC status, or how HTTP/2 ended it (``reset``, ``goaway``, ``closed``)."""

    code: int | None
    text: str
    body: bytes = field(default=b"", compare=False)


def message(data: bytes, *, flag: int = 0, length: int | None = None) -> bytes:
    """Return a message with its gRPC prefix; ``length`` lies about its size."""
    return struct.pack(">BI", flag, len(data) if length is None else length) + data


def call(
    endpoint: str,
    path: str,
    body: bytes,
    *,
    headers: Sequence[tuple[str, bytes | str]] = (),
    replaced: Mapping[str, str] | None = None,
    timeout: float = 20.0,
) -> Outcome:
    """Make a call with ``body`` as its whole DATA, and wait for its end.

    ``replaced`` are headers of every gRPC request that this one sends otherwise. A call that does not end
    within ``timeout`` seconds ends with TimeoutError.
    """
    host, _, port = endpoint.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=timeout) as connection:
        return _Call(connection).run(path, body, headers, dict(replaced or {}))


def leave_open(connection: socket.socket, path: str, body: bytes) -> None:
    """Begin a call, send ``body`` as the begin of what it has to say, and say no more."""
    client = _Call(connection)
    client.send(client.start(_usual(path).items()), body, end=False)


def _usual(path: str) -> dict[str, str]:
    return {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "localhost",
        "content-type": "application/grpc",
        "te": "trailers",
    }


class _Call:
    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        config = h2.config.H2Configuration(
            client_side=True,
            header_encoding=None,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
            validate_inbound_headers=False,
        )
        self._h2 = h2.connection.H2Connection(config)
        self._answer: dict[bytes, bytes] = {}
        self._body = b""
        self._outcome: Outcome | None = None

    def run(
        self,
        path: str,
        body: bytes,
        headers: Sequence[tuple[str, bytes | str]],
        replaced: dict[str, str],
    ) -> Outcome:
        usual = _usual(path) | replaced
        stream = self.start((*usual.items(), *headers))
        self.send(stream, body, end=True)
        while self._outcome is None:
            self._receive(stream)
        return self._outcome

    def start(self, headers: Iterable[tuple[str, bytes | str]]) -> int:
        """Open the connection and a stream; return its number."""
        self._h2.initiate_connection()
        stream = self._h2.get_next_available_stream_id()
        block = [(_bytes(name), _bytes(value)) for name, value in headers]
        self._h2.send_headers(stream, cast("Any", block))
        self._flush()
        return stream

    def send(self, stream: int, body: bytes, *, end: bool) -> None:
        """Send as fast as the server's windows allow, unless the call ends meanwhile."""
        sent = 0
        while self._outcome is None and sent < len(body):
            room = self._room(stream)
            if room:
                part = body[sent : sent + room]
                sent += len(part)
                self._h2.send_data(stream, part)
                self._flush()
            else:
                self._receive(stream)
        if end and self._outcome is None:
            self._h2.end_stream(stream)
            self._flush()

    def _room(self, stream: int) -> int:
        try:
            window = self._h2.local_flow_control_window(stream)
        except h2.exceptions.ProtocolError:
            return 0  # it has ended
        return min(window, self._h2.max_outbound_frame_size, _CHUNK)

    def _flush(self) -> None:
        try:
            self._socket.sendall(self._h2.data_to_send())
        except ConnectionError:
            self._outcome = self._outcome or Outcome(None, "closed", self._body)

    def _receive(self, stream: int) -> None:
        try:
            data = self._socket.recv(_CHUNK)
        except ConnectionError:
            data = b""
        if not data:
            self._outcome = self._outcome or Outcome(None, "closed", self._body)
            return
        for event in self._h2.receive_data(data):
            match event:
                case h2.events.ResponseReceived() | h2.events.TrailersReceived():
                    self._answer.update(cast("Any", event.headers))
                case h2.events.DataReceived():
                    self._body += event.data
                    size = event.flow_controlled_length
                    self._h2.acknowledge_received_data(size, stream)
                case h2.events.StreamEnded():
                    self._end()
                case h2.events.StreamReset():
                    # After a whole answer it only says that the rest of the request is not wanted.
                    reset = Outcome(None, f"reset {int(event.error_code or 0)}", self._body)
                    self._outcome = self._outcome or reset
                case h2.events.ConnectionTerminated():
                    gone = Outcome(None, f"goaway {int(event.error_code or 0)}")
                    self._outcome = self._outcome or gone
                case _:
                    pass
        self._flush()

    def _end(self) -> None:
        if b"grpc-status" not in self._answer:
            status = self._answer.get(b":status", b"").decode()
            self._outcome = Outcome(None, f"http {status}", self._body)
            return
        text = unquote(self._answer.get(b"grpc-message", b"").decode())
        self._outcome = Outcome(int(self._answer[b"grpc-status"]), text, self._body)


def _bytes(text: bytes | str) -> bytes:
    return text.encode() if isinstance(text, str) else text
