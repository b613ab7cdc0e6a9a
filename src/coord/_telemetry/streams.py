"""Streams: a span from their opening to their end, which says how it came."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coord._telemetry import names
from coord._telemetry.calls import call_attributes, rpc_span
from coord._telemetry.providers import telemetry
from coord._telemetry.spans import api, carried, fail, place
from coord.rpc.status import RpcError, StatusCode

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from opentelemetry.trace import Link, Span

    from coord._telemetry.providers import Telemetry
    from coord.rpc.metadata import Metadata
    from coord.runtime import Address

    class Stream(Protocol):
        """A stream of a transport (its protocol is above this room)."""

        @property
        def endpoint(self) -> str: ...
        def send(self, message: bytes) -> None: ...
        def half_close(self) -> None: ...
        async def receive(self) -> bytes | None: ...
        def cancel(self) -> None: ...
        def distrust(self) -> None: ...


def observed_stream(
    path: str, metadata: Metadata, address: Address, open_stream: Callable[[Metadata], Stream]
) -> Stream:
    """Open a stream of ``path`` at ``address`` by ``open_stream``, which gets the metadata to send.

    It serves many and outlives them, so its span is nobody's child; it is linked to the span in which it was opened.
    """
    seen = telemetry()
    if seen is None:
        return open_stream(metadata)
    if seen.tracer is None:
        return ObservedStream(open_stream(metadata), seen, path, None)
    trace = api()
    context = trace.get_current_span().get_span_context()
    links: list[Link] = [trace.Link(context)] if context.is_valid else []
    root = trace.set_span_in_context(trace.INVALID_SPAN)
    span = rpc_span(seen.tracer, path, context=root, links=links)
    span.set_attributes(place(address))
    return ObservedStream(open_stream((*metadata, *carried(span))), seen, path, span)


class ObservedStream:
    """A stream whose end is told, once."""

    def __init__(self, inner: Stream, seen: Telemetry, path: str, span: Span | None) -> None:
        self._inner = inner
        self._seen = seen
        self._path = path
        self._span = span
        self._over = False
        self.endpoint = inner.endpoint
        self.send = inner.send
        self.half_close = inner.half_close
        self.distrust = inner.distrust

    async def receive(self) -> bytes | None:
        """See :class:`coord.transport.MessageStream`."""
        try:
            message = await self._inner.receive()
        except RpcError as error:
            self._end(error.code, error)
            raise
        if message is None:
            self._end(StatusCode.OK, None)
        return message

    def cancel(self) -> None:
        """See :class:`coord.transport.MessageStream`."""
        # Most streams end this way, when nobody needs them any more: no error.
        self._end(StatusCode.CANCELLED, None)
        self._inner.cancel()

    def _end(self, code: StatusCode, error: RpcError | None) -> None:
        if self._over:
            return
        self._over = True
        span, instruments = self._span, self._seen.instruments
        if span is not None:
            span.set_attribute(names.RPC_STATUS, int(code))
            if error is not None:
                fail(span, error)
            span.end()
        if instruments is not None:
            attributes = {**call_attributes(self._path), names.RPC_STATUS: int(code)}
            instruments.streams.add(1, attributes)
