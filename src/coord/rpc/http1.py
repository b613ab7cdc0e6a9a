"""HTTP/1.1, the server's side, without I/O: h11 does the protocol, this adds bounds and order.

The shell feeds bytes, writes what ``take_output`` returns, and closes once ``should_close`` is
true and the output has gone. Requests of one connection are handled one after the other.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import h11

from coord.rpc.http1_messages import Http1Limits, Http1Request, Http1Response

if TYPE_CHECKING:
    from collections.abc import Callable

    from coord.rpc.http1_messages import Http1Handler


_FRAMING: Final = frozenset(("content-length", "transfer-encoding", "connection"))
_WITHOUT_BODY: Final = frozenset((HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED))


def _nobody() -> None:
    """Stand in for a shell that looks for output by itself."""


class Http1Connection:
    """One accepted connection.

    ``handler(request, respond)`` is called for each whole request and calls ``respond`` once, at
    once or later; later calls are ignored, as are those after the connection has ended. If the
    answer comes outside of ``feed`` and ``eof``, ``wake`` is called, as there is output then. What
    the handler raises comes out of ``feed``, after a 500 was put into the output.
    """

    def __init__(
        self,
        handler: Http1Handler,
        *,
        limits: Http1Limits | None = None,
        wake: Callable[[], None] = _nobody,
    ) -> None:
        self.should_close: bool = False
        self._handler = handler
        self._limits = limits or Http1Limits()
        self._wake = wake
        # h11 refuses a head that is still incomplete beyond its bound, so one byte less is exact.
        self._h11 = h11.Connection(
            h11.SERVER, max_incomplete_event_size=self._limits.max_header_bytes - 1
        )
        self._output: list[bytes] = []
        self._request: h11.Request | None = None
        self._body = bytearray()
        self._head_bytes = 0  # given to h11 since the last request ended
        self._waiting: bytearray | None = None  # input behind the request that is being answered
        self._eof = False
        self._running = False

    @property
    def answering(self) -> bool:
        """Whether a request is with the handler; reading may be paused until that has changed."""
        return self._waiting is not None

    @property
    def idle(self) -> bool:
        """Whether the connection is between requests, so that closing it harms nobody."""
        return self._waiting is None and self._request is None and self._head_bytes == 0

    def feed(self, data: bytes) -> None:
        """Take bytes from the peer, any split."""
        if self.should_close or not data:
            return
        if self._waiting is not None:
            self._waiting += data
            if len(self._waiting) > self._limits.max_pipelined_bytes:
                self.should_close = True
            return
        self._receive(data)
        self._run()

    def eof(self) -> None:
        """Note that the peer will send no more; a request that is whole is still answered."""
        self._eof = True
        if self._waiting is None and not self.should_close:
            self._h11.receive_data(b"")
            self._run()

    def take_output(self) -> bytes:
        """Return the bytes to write, each once."""
        output = b"".join(self._output)
        self._output.clear()
        return output

    def _receive(self, data: bytes) -> None:
        if self._request is None:
            self._head_bytes += len(data)
        self._h11.receive_data(data)

    def _run(self) -> None:
        """Go on until more input or an answer is needed."""
        self._running = True
        try:
            while not self.should_close and self._waiting is None:
                try:
                    event = self._h11.next_event()
                except h11.RemoteProtocolError as error:
                    self._refuse(error.error_status_hint)
                    return
                if isinstance(event, type):  # NEED_DATA; PAUSED until the cycle starts anew
                    return
                self._on_event(event)
        finally:
            self._running = False

    def _on_event(self, event: h11.Event) -> None:
        match event:
            case h11.Request():
                self._on_request(event)
            case h11.Data():
                self._body += event.data
                if len(self._body) > self._limits.max_body_bytes:
                    self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            case h11.EndOfMessage() if self._request is not None:
                self._on_end(self._request)
            case _:
                self.should_close = True  # ConnectionClosed

    def _on_request(self, event: h11.Request) -> None:
        size = self._head_bytes - len(self._h11.trailing_data[0])
        lengths = [value for name, value in event.headers if name == b"content-length"]
        chunked = any(name == b"transfer-encoding" for name, _ in event.headers)
        if size > self._limits.max_header_bytes:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        elif event.http_version[:2] != b"1.":
            self._refuse(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED)
        elif lengths and chunked:
            # Two ideas of where the request ends are how requests are smuggled (RFC 9112 11.2).
            self._refuse(HTTPStatus.BAD_REQUEST)
        elif event.method == b"CONNECT":
            self._refuse(HTTPStatus.METHOD_NOT_ALLOWED)
        elif lengths and int(lengths[0]) > self._limits.max_body_bytes:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        else:
            self._request = event
            if self._h11.they_are_waiting_for_100_continue:
                go_on = h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue")
                self._send(go_on)

    def _on_end(self, event: h11.Request) -> None:
        request = Http1Request(
            event.method.decode("ascii"),
            event.target.decode("latin-1"),
            tuple((name.decode("ascii"), value.decode("latin-1")) for name, value in event.headers),
            bytes(self._body),
        )
        self._body.clear()
        self._waiting = bytearray()

        def respond(response: Http1Response) -> None:
            if self._request is event and not self.should_close:
                self._answer(event, response)

        try:
            self._handler(request, respond)
        except Exception:
            if self._request is event:
                self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR)
            raise

    def _answer(self, request: h11.Request, response: Http1Response) -> None:
        """Write the response, and turn to what waits behind the request.

        Raises ValueError for a status or header that HTTP cannot carry; nothing was sent then.
        """
        headers = [
            (name, value) for name, value in response.headers if name.lower() not in _FRAMING
        ]
        bodiless = response.status in _WITHOUT_BODY
        if not bodiless:
            headers.append(("content-length", str(len(response.body))))
        try:
            head = h11.Response(
                status_code=response.status, headers=headers, reason=_reason(response.status)
            )
        except (h11.LocalProtocolError, UnicodeEncodeError) as error:
            raise ValueError(f"response cannot be sent: {error}") from error
        self._send(head)
        if response.body and not bodiless and request.method != b"HEAD":
            self._send(h11.Data(data=response.body))
        self._send(h11.EndOfMessage())
        self._next_request()
        if not self._running:
            try:
                self._run()
            finally:
                self._wake()

    def _next_request(self) -> None:
        waiting = bytes(self._waiting or b"")
        self._request = None
        self._waiting = None
        if self._h11.our_state is not h11.DONE:
            self.should_close = True  # either side asked for it, or speaks HTTP/1.0
            return
        self._h11.start_next_cycle()
        self._head_bytes = len(self._h11.trailing_data[0])
        if waiting:
            self._receive(waiting)
        if self._eof:
            self._h11.receive_data(b"")

    def _refuse(self, status: int) -> None:
        """Answer the request that is being read or handled with a bare status; end the connection."""
        self._request = None
        self._waiting = None
        self.should_close = True
        text = _reason(status)
        headers = [
            ("content-type", "text/plain; charset=utf-8"),
            ("content-length", str(len(text))),
            ("connection", "close"),
        ]
        self._send(h11.Response(status_code=status, headers=headers, reason=text))
        self._send(h11.Data(data=text))
        self._send(h11.EndOfMessage())

    def _send(self, event: h11.Event) -> None:
        data = self._h11.send(event)
        if data:
            self._output.append(data)


def _reason(status: int) -> bytes:
    try:
        return HTTPStatus(status).phrase.encode("ascii")
    except ValueError:
        return b""
