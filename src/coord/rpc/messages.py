"""Length-prefixed messages out of DATA frames (gRPC over HTTP/2, "Length-Prefixed-Message")."""

from __future__ import annotations

import struct
from typing import Final

from coord.rpc.status import RpcError, StatusCode

PREFIX_BYTES: Final = 5
_read_prefix = struct.Struct(">BI").unpack_from
_pack_prefix = struct.Struct(">BI").pack


def frame_message(message: bytes) -> bytes:
    """Return ``message`` behind its prefix, uncompressed."""
    return _pack_prefix(0, len(message)) + message


def too_large(size: int, limit: int) -> RpcError:
    """Return the error for a received message beyond the limit, in grpc-go's words."""
    return RpcError(
        StatusCode.RESOURCE_EXHAUSTED,
        f"grpc: received message larger than max ({size} vs. {limit})",
    )


def compressed() -> RpcError:
    """Return the error for a compressed message; nobody may send one, as we accept no encoding."""
    return RpcError(
        StatusCode.INTERNAL, "grpc: compressed flag set with identity or empty encoding"
    )


class MessageReader:
    """Cuts one stream's payload into messages.

    ``pending_bytes`` is what it holds of a message that is not whole yet, at most ``limit`` and a
    prefix: the size is judged by the prefix, before the message arrives.
    """

    __slots__ = ("_limit", "_need", "_parts", "pending_bytes")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._need = PREFIX_BYTES
        self.pending_bytes: int = 0

    def feed(self, payload: bytes) -> list[bytes]:
        """Return the messages that are whole now. Raises RpcError for one that is not acceptable."""
        if self.pending_bytes:
            self._parts.append(payload)
            self.pending_bytes += len(payload)
            if self.pending_bytes < self._need:
                return []
            payload = b"".join(self._parts)
            self._parts.clear()
        messages: list[bytes] = []
        size = len(payload)
        pos = 0
        need = PREFIX_BYTES
        while size - pos >= PREFIX_BYTES:
            flag, length = _read_prefix(payload, pos)
            if flag:
                raise compressed()
            if length > self._limit:
                raise too_large(length, self._limit)
            end = pos + PREFIX_BYTES + length
            if end > size:
                need = PREFIX_BYTES + length
                break
            messages.append(payload[pos + PREFIX_BYTES : end])
            pos = end
        self._need = need
        self.pending_bytes = size - pos
        if pos < size:
            self._parts.append(payload[pos:])
        return messages
