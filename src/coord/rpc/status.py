"""How a gRPC call ends: its status, as a code, as an exception and as header text.

The mappings are those of the gRPC over HTTP/2 protocol text (sections "Responses" and "Errors")
and of its "HTTP to gRPC status code mapping".
"""

from __future__ import annotations

import re
from enum import IntEnum
from typing import Final

from typing_extensions import override

from coord.rpc.frames import ErrorCode


class StatusCode(IntEnum):
    """The seventeen statuses of gRPC."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class RpcError(Exception):
    """A call that ended with another status than OK.

    ``trailers`` is the metadata that came with the status. ``sent`` is False only if the peer has
    certainly never processed the call (it was refused, or never left), so that repeating it is
    safe; True means that it may have been processed.
    """

    def __init__(
        self,
        code: StatusCode,
        message: str = "",
        *,
        trailers: tuple[tuple[str, bytes | str], ...] = (),
        sent: bool = True,
    ) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.trailers = trailers
        self.sent = sent

    @override
    def __str__(self) -> str:
        return f"{self.code.name}: {self.message}" if self.message else self.code.name

    @override
    def __repr__(self) -> str:
        return f"RpcError({self.code.name}, {self.message!r}, sent={self.sent})"

    @override
    def __reduce__(self) -> tuple[object, ...]:
        state = {"trailers": self.trailers, "sent": self.sent}
        return type(self), (self.code, self.message), state


def parse_status(value: bytes) -> StatusCode:
    """Return the status of a ``grpc-status`` value; UNKNOWN for numbers and text gRPC lacks."""
    # int() alone would take signs, underscores and blanks too.
    if value.isdigit() and len(value) <= 2 and int(value) <= StatusCode.UNAUTHENTICATED:
        return StatusCode(int(value))
    return StatusCode.UNKNOWN


# Everything but printable ASCII, the escape sign itself, and blanks at the ends, which HTTP strips.
_ESCAPED: Final = re.compile(rb"[^ -~]|%|\A +| +\Z")
_ESCAPE: Final = re.compile(rb"%([0-9A-Fa-f]{2})")


def _escape(match: re.Match[bytes]) -> bytes:
    return b"".join([b"%%%02X" % byte for byte in match[0]])


def encode_message(text: str) -> bytes:
    """Return ``text`` as a ``grpc-message`` value: UTF-8, percent-encoded."""
    return _ESCAPED.sub(_escape, text.encode("utf-8", "replace"))


def decode_message(value: bytes) -> str:
    """Return the text of a ``grpc-message`` value.

    Never fails, as the protocol asks: wrong escapes stay as they are, invalid UTF-8 becomes the
    replacement character.
    """
    raw = _ESCAPE.sub(lambda match: bytes((int(match[1], 16),)), value)
    return raw.decode("utf-8", "replace")


_FROM_HTTP: Final = {
    400: StatusCode.INTERNAL,
    401: StatusCode.UNAUTHENTICATED,
    403: StatusCode.PERMISSION_DENIED,
    404: StatusCode.UNIMPLEMENTED,
    429: StatusCode.UNAVAILABLE,
    502: StatusCode.UNAVAILABLE,
    503: StatusCode.UNAVAILABLE,
    504: StatusCode.UNAVAILABLE,
}


def http_status_to_grpc(status: int) -> StatusCode:
    """Return what an answer without ``grpc-status`` means, by its HTTP status (not 200)."""
    return _FROM_HTTP.get(status, StatusCode.UNKNOWN)


_FROM_RESET: Final[dict[int, StatusCode]] = {
    ErrorCode.NO_ERROR: StatusCode.INTERNAL,
    ErrorCode.PROTOCOL_ERROR: StatusCode.INTERNAL,
    ErrorCode.INTERNAL_ERROR: StatusCode.INTERNAL,
    ErrorCode.FLOW_CONTROL_ERROR: StatusCode.INTERNAL,
    ErrorCode.SETTINGS_TIMEOUT: StatusCode.INTERNAL,
    ErrorCode.FRAME_SIZE_ERROR: StatusCode.INTERNAL,
    ErrorCode.REFUSED_STREAM: StatusCode.UNAVAILABLE,
    ErrorCode.CANCEL: StatusCode.CANCELLED,
    ErrorCode.COMPRESSION_ERROR: StatusCode.INTERNAL,
    ErrorCode.CONNECT_ERROR: StatusCode.INTERNAL,
    ErrorCode.ENHANCE_YOUR_CALM: StatusCode.RESOURCE_EXHAUSTED,
    ErrorCode.INADEQUATE_SECURITY: StatusCode.PERMISSION_DENIED,
}


def reset_to_grpc(h2_error_code: int) -> StatusCode:
    """Return what a RST_STREAM with this error code means; UNKNOWN where the text names none."""
    return _FROM_RESET.get(h2_error_code, StatusCode.UNKNOWN)
