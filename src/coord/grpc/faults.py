"""What the end of a gRPC call says of the instance, and of whether the call may be sent again."""

from __future__ import annotations

import grpc

# What speaks against the instance, and not against the request.
_ITS_FAULT = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
    }
)
# What gRPC says when a call never had a connection.
_NEVER_SENT = ("failed to connect", "connection refused", "dns resolution failed", "no such file")


def is_its_fault(code: grpc.StatusCode | None) -> bool:
    """Say whether a call that ended with ``code`` speaks against its instance."""
    return code in _ITS_FAULT


def may_repeat(
    code: grpc.StatusCode | None,
    details: str | None,
    *,
    left: float | None,
    idempotent: bool,
) -> bool:
    """Say whether a unary call may go to another instance, with ``left`` seconds of its timeout."""
    if code is not grpc.StatusCode.UNAVAILABLE or (left is not None and left <= 0):
        return False
    text = (details or "").lower()
    return idempotent or any(words in text for words in _NEVER_SENT)
