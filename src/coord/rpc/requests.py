"""From a request's header list to its method, with the checks of RFC 9113 section 8 and of gRPC.

The result is kept per list of headers without the timeout, which Go clients change at every
call: what is derived from the rest is derived once.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from coord.rpc.metadata import from_headers
from coord.rpc.service import Method, Registry, RequestHead, UnaryHandler
from coord.rpc.status import RpcError, StatusCode
from coord.rpc.timeout import parse_timeout

if TYPE_CHECKING:
    from coord.rpc.metadata import Metadata

Headers = list[tuple[bytes, bytes]]

# Distinct header lists of one connection whose meaning is kept.
_MAX_SHAPES: Final = 256
_PSEUDO: Final = frozenset((b":method", b":scheme", b":path", b":authority"))
_CONNECTION_SPECIFIC: Final = frozenset(
    (b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade")
)


# RFC 9113 section 8.2.1: what a name consists of, and what no value may hold.
_NAME: Final = re.compile(rb"[!-9;-@\[-~]+")
_BAD_IN_VALUES: Final = re.compile(rb"[\r\n\0]")


class MalformedRequest(Exception):
    """Headers that are not a request of HTTP/2: the stream is reset with PROTOCOL_ERROR."""


class Refusal(NamedTuple):
    """A request that is answered at once, without a method."""

    http_status: int
    error: RpcError
    extra: tuple[tuple[bytes, bytes], ...] = ()


class Opening(NamedTuple):
    """What a request's header block means. ``unary`` is the method's, at hand for the hot path."""

    unary: UnaryHandler | None
    head: RequestHead
    method: Method
    refusal: Refusal | None


class _Shape(NamedTuple):
    path: str
    authority: str
    metadata: Metadata
    method: Method
    refusal: Refusal | None
    memo: dict[object, object]


_NO_METHOD: Final = Method("")


class RequestReader:
    """Turns header lists into openings, for one connection."""

    __slots__ = ("_registry", "_shapes")

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._shapes: dict[tuple[tuple[bytes, bytes], ...], _Shape] = {}

    def read(self, headers: Headers) -> Opening:
        """Return what the headers ask for; takes the list over. Raises MalformedRequest."""
        timeout: bytes | None = None
        for index, field in enumerate(headers):
            if field[0] == b"grpc-timeout":
                timeout = field[1]
                del headers[index]
                break
        key = tuple(headers)
        shape = self._shapes.get(key)
        if shape is None:
            shape = self._shape(headers)
            if len(self._shapes) >= _MAX_SHAPES:
                self._shapes.clear()
            self._shapes[key] = shape
        path, authority, metadata, method, refusal, memo = shape
        seconds: float | None = None
        if timeout is not None and refusal is None:
            try:
                seconds = parse_timeout(timeout)
            except ValueError:
                error = RpcError(StatusCode.INTERNAL, f"malformed grpc-timeout: {timeout!r}")
                refusal = Refusal(400, error)
                method = _NO_METHOD
        head = RequestHead(path, authority, metadata, seconds, memo)
        return Opening(method.unary, head, method, refusal)

    def _shape(self, headers: Headers) -> _Shape:
        pseudo, regular = _split(headers)
        path = pseudo[b":path"].decode("latin-1")
        authority = pseudo.get(b":authority") or regular.get(b"host", b"")
        metadata: Metadata = ()
        method = _NO_METHOD
        refusal = _refusal(pseudo, regular)
        if refusal is None:
            try:
                metadata = from_headers(headers)
                method = self._registry.find(path)
            except ValueError as error:
                refusal = Refusal(400, RpcError(StatusCode.INTERNAL, f"malformed header: {error}"))
            except RpcError as error:
                refusal = Refusal(200, error)
        return _Shape(path, authority.decode("latin-1"), metadata, method, refusal, {})


def _split(headers: Headers) -> tuple[dict[bytes, bytes], dict[bytes, bytes]]:
    """Check the list by RFC 9113 sections 8.2 and 8.3; return pseudo headers and the others."""
    pseudo: dict[bytes, bytes] = {}
    regular: dict[bytes, bytes] = {}
    for name, value in headers:
        if _BAD_IN_VALUES.search(value):
            raise MalformedRequest("header value not allowed in HTTP/2")
        if name[:1] == b":":
            if regular or name in pseudo or name not in _PSEUDO:
                raise MalformedRequest("pseudo header late, twice or unknown")
            pseudo[name] = value
            continue
        if not _NAME.fullmatch(name) or name in _CONNECTION_SPECIFIC:
            raise MalformedRequest("header name not allowed in HTTP/2")
        if name == b"te" and value != b"trailers":
            raise MalformedRequest("te other than trailers")
        regular.setdefault(name, value)
    if not pseudo.get(b":path") or b":method" not in pseudo or b":scheme" not in pseudo:
        raise MalformedRequest("pseudo header missing")
    return pseudo, regular


def _refusal(pseudo: dict[bytes, bytes], regular: dict[bytes, bytes]) -> Refusal | None:
    """Return how grpc-go answers a request that is HTTP but not gRPC, None if it is."""
    method = pseudo[b":method"]
    if method != b"POST":
        text = f"Received a HEADERS frame with :method {method.decode('latin-1')!r} which should be POST"
        return Refusal(405, RpcError(StatusCode.INTERNAL, text))
    content_type = regular.get(b"content-type", b"")
    if not is_grpc(content_type):
        text = f"invalid gRPC request content-type {content_type.decode('latin-1')!r}"
        return Refusal(415, RpcError(StatusCode.INVALID_ARGUMENT, text))
    encoding = regular.get(b"grpc-encoding", b"identity")
    if encoding != b"identity":
        name = encoding.decode("latin-1")
        text = f'grpc: Decompressor is not installed for grpc-encoding "{name}"'
        accepted = ((b"grpc-accept-encoding", b"identity"),)
        return Refusal(200, RpcError(StatusCode.UNIMPLEMENTED, text), accepted)
    return None


def is_grpc(content_type: bytes) -> bool:
    """Tell whether a content-type is gRPC's, with or without a suffix."""
    value = content_type.lower()
    return value.startswith(b"application/grpc") and value[16:17] in {b"", b"+", b";"}
