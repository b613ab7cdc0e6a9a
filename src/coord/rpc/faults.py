"""What a peer did wrong, by how much of the connection it costs (RFC 9113 section 5.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coord.rpc.frames import ErrorCode


class ConnectionFault(Exception):
    """The connection ends with GOAWAY."""

    def __init__(self, code: ErrorCode, text: str) -> None:
        super().__init__(code, text)
        self.code = code
        self.text = text


class StreamFault(Exception):
    """One stream ends with RST_STREAM."""

    def __init__(self, stream_id: int, code: ErrorCode) -> None:
        super().__init__(stream_id, code)
        self.stream_id = stream_id
        self.code = code
