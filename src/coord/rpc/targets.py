"""Header blocks of requests: built once per target, then a handful of bytes.

Everything but the timeout goes into the server's dynamic table, so a repeated block is a row of
indexes; it is kept as long as the table stands still. The timeout is a literal at the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from coord.rpc.hpack import Encoder
from coord.rpc.metadata import to_headers
from coord.rpc.timeout import format_timeout

if TYPE_CHECKING:
    from coord.rpc.metadata import Metadata

# Distinct targets and timeouts whose bytes are kept.
_MAX_KEPT: Final = 256
# A literal without indexing, with a new name (RFC 7541 section 6.2.2).
_TIMEOUT_NAME: Final = b"\x00\x0cgrpc-timeout"


class RequestBlocks:
    """The request header blocks of one connection, in the order in which they are asked for."""

    __slots__ = ("_after", "_before", "_blocks", "_encoder", "_timeouts")

    def __init__(self, authority: str, scheme: str, user_agent: str) -> None:
        self._before = (
            (b":method", b"POST"),
            (b":scheme", scheme.encode("ascii")),
            (b":authority", authority.encode("utf-8")),
        )
        self._after = (
            (b"content-type", b"application/grpc"),
            (b"user-agent", user_agent.encode("utf-8")),
            (b"te", b"trailers"),
        )
        self._encoder = Encoder()
        self._blocks: dict[tuple[str, Metadata], bytes] = {}
        self._timeouts: dict[float, bytes] = {}

    def set_limit(self, header_table_size: int) -> None:
        """Obey the peer's SETTINGS_HEADER_TABLE_SIZE."""
        self._encoder.set_limit(header_table_size)
        self._blocks.clear()

    def check(self, metadata: Metadata) -> None:
        """Raise ValueError if the metadata cannot be sent."""
        if metadata:
            to_headers(metadata)

    def get(self, path: str, metadata: Metadata, timeout: float | None) -> bytes:
        """Return the block of a request, which must be the next one that is sent.

        ``timeout`` is in seconds. Raises ValueError for metadata that cannot be sent.
        """
        block = self._blocks.get((path, metadata))
        if block is None:
            block = self._encode(path, metadata)
        if timeout is None:
            return block
        literal = self._timeouts.get(timeout)
        if literal is None:
            value = format_timeout(timeout)
            literal = _TIMEOUT_NAME + bytes((len(value),)) + value
            if len(self._timeouts) >= _MAX_KEPT:
                self._timeouts.clear()
            self._timeouts[timeout] = literal
        return block + literal

    def _encode(self, path: str, metadata: Metadata) -> bytes:
        encoder = self._encoder
        own = to_headers(metadata)  # raises before the table has changed
        generation = encoder.generation
        block = encoder.encode(
            (*self._before, (b":path", path.encode("utf-8")), *self._after, *own)
        )
        if encoder.generation != generation:
            self._blocks.clear()
        else:
            if len(self._blocks) >= _MAX_KEPT:
                self._blocks.clear()
            self._blocks[path, metadata] = block
        return block
