"""What the header blocks of an answer mean (gRPC over HTTP/2, "Responses").

An answer begins with one block and ends with another; both are read by the same rules, as an
answer without messages has them in one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from coord.rpc.metadata import from_headers
from coord.rpc.requests import Headers, is_grpc
from coord.rpc.status import (
    RpcError,
    StatusCode,
    decode_message,
    http_status_to_grpc,
    parse_status,
)

if TYPE_CHECKING:
    from coord.rpc.metadata import Metadata


class ResponseBlock(NamedTuple):
    """A header block of an answer. ``error`` is set if it is not one of gRPC's."""

    http_status: int | None
    code: StatusCode | None
    message: str
    metadata: Metadata
    error: RpcError | None

    @property
    def is_informational(self) -> bool:
        """Whether it only announces an answer (HTTP status 1xx)."""
        return self.http_status is not None and 100 <= self.http_status < 200


# The blocks of nearly all answers, which are compared by identity.
PLAIN_HEAD: Final = ResponseBlock(200, None, "", (), None)
OK_TRAILERS: Final = ResponseBlock(None, StatusCode.OK, "", (), None)


def read_block(headers: Headers) -> ResponseBlock:
    """Return the meaning of a decoded block."""
    http_status: int | None = None
    code: StatusCode | None = None
    message = ""
    content_type: bytes | None = None
    for name, value in headers:
        if name == b":status":
            http_status = int(value) if value.isdigit() and len(value) == 3 else 0
        elif name == b"grpc-status":
            code = parse_status(value)
        elif name == b"grpc-message":
            message = decode_message(value)
        elif name == b"content-type":
            content_type = value
    error: RpcError | None = None
    metadata: Metadata = ()
    try:
        metadata = from_headers(headers)
    except ValueError as problem:
        error = RpcError(StatusCode.INTERNAL, f"malformed header: {problem}")
    if http_status is not None and not 100 <= http_status < 200:
        grpc = content_type is not None and is_grpc(content_type)
        if http_status != 200 and not (grpc and code is not None):
            text = f"unexpected HTTP status {http_status} from the server"
            error = RpcError(http_status_to_grpc(http_status), text)
        elif not grpc:
            shown = "none" if content_type is None else repr(content_type.decode("latin-1"))
            error = RpcError(StatusCode.UNKNOWN, f"unexpected content-type {shown} from the server")
    if error is None and not metadata and not message:
        if http_status == 200 and code is None:
            return PLAIN_HEAD
        if http_status is None and code is StatusCode.OK:
            return OK_TRAILERS
    return ResponseBlock(http_status, code, message, metadata, error)


def final_status(block: ResponseBlock) -> RpcError | None:
    """Return how the call ended by its last block; None for OK."""
    if block.error is not None:
        return block.error
    if block.code is None:
        text = "server closed the stream without sending trailers"
        return RpcError(StatusCode.INTERNAL, text, trailers=block.metadata)
    if block.code is StatusCode.OK:
        return None
    return RpcError(block.code, block.message, trailers=block.metadata)
