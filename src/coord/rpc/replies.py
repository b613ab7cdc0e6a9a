"""Header blocks of answers, as short as the peer's table allows.

Two entries go into the peer's dynamic table and nothing else ever does: ``content-type:
application/grpc`` and ``grpc-status: 0``. From then on the headers of an answer are two bytes,
and the trailers of a success are one. If the peer's table is too small, both stay literals.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from coord.rpc.hpack import ENTRY_OVERHEAD, static_block
from coord.rpc.metadata import to_headers
from coord.rpc.status import encode_message

if TYPE_CHECKING:
    from collections.abc import Iterable

    from coord.rpc.metadata import Metadata

Fields = tuple[tuple[bytes, bytes], ...]

_CONTENT_TYPE: Final = (b"content-type", b"application/grpc")
_STATUS_OK: Final = (b"grpc-status", b"0")
_HTTP_OK: Final = b"\x88"  # :status 200 of the static table
# Indexes of the newest and the second newest entry of the dynamic table.
_NEWEST: Final = b"\xbe"
_SECOND: Final = b"\xbf"
STEADY_HEADERS: Final = _HTTP_OK + _SECOND
STEADY_TRAILERS: Final = _NEWEST
_TABLE_BYTES: Final = sum(len(n) + len(v) + ENTRY_OVERHEAD for n, v in (_CONTENT_TYPE, _STATUS_OK))
_INITIAL_TABLE: Final = 4096


def _inserted(field: tuple[bytes, bytes]) -> bytes:
    """Return a literal that enters the table (RFC 7541 section 6.2.1); both parts are short."""
    name, value = field
    return b"\x40" + bytes((len(name),)) + name + bytes((len(value),)) + value


_INSERT_CONTENT_TYPE: Final = _inserted(_CONTENT_TYPE)
_INSERT_STATUS_OK: Final = _inserted(_STATUS_OK)
_LITERAL_CONTENT_TYPE: Final = static_block((_CONTENT_TYPE,))
_LITERAL_STATUS_OK: Final = static_block((_STATUS_OK,))


def _size_update(size: int) -> bytes:
    """Return a dynamic table size update (RFC 7541 section 6.3)."""
    if size < 31:
        return bytes((0x20 | size,))
    out = bytearray((0x3F,))
    size -= 31
    while size >= 0x80:
        out.append(size & 0x7F | 0x80)
        size >>= 7
    out.append(size)
    return bytes(out)


class ReplyBlocks:
    """The header blocks that one connection sends, in the order in which they are asked for.

    While ``steady``, STEADY_HEADERS and STEADY_TRAILERS may be sent without asking.
    """

    __slots__ = ("_capacity", "_entries", "_owed", "steady")

    def __init__(self) -> None:
        self._capacity = _INITIAL_TABLE
        self._entries = 0  # 0: none; 1: content-type; 2: content-type, then grpc-status
        self._owed = b""
        self.steady: bool = False

    def set_limit(self, header_table_size: int) -> None:
        """Obey the peer's SETTINGS_HEADER_TABLE_SIZE; the next block announces it (section 4.2)."""
        capacity = min(header_table_size, _INITIAL_TABLE)
        if capacity == self._capacity:
            return
        # Emptying it first costs one byte, and spares asking what survives.
        self._owed = b"\x20" + (_size_update(capacity) if capacity else b"")
        self._capacity = capacity
        self._entries = 0
        self.steady = False

    def headers(self, extra: Iterable[tuple[bytes, bytes]] = ()) -> bytes:
        """Return the block of an answer's initial headers."""
        return self._take_owed() + _HTTP_OK + self._content_type() + static_block(extra)

    def trailers_ok(self) -> bytes:
        """Return the trailers of a success that carries no metadata."""
        owed = self._take_owed()
        if self._entries == 2:
            return owed + _NEWEST
        if self._entries == 1:
            self._entries = 2
            self.steady = True
            return owed + _INSERT_STATUS_OK
        return owed + _LITERAL_STATUS_OK

    def trailers(self, code: int, message: str, metadata: Metadata) -> bytes:
        """Return the trailers of an answer. Raises ValueError for metadata that cannot be sent."""
        if not code and not metadata:
            return self.trailers_ok()
        block = static_block(_status_fields(code, message, metadata))
        return self._take_owed() + block

    def only_trailers(
        self,
        code: int,
        message: str,
        metadata: Metadata = (),
        *,
        http: int = 200,
        extra: Fields = (),
    ) -> bytes:
        """Return the one block of an answer without messages. Raises ValueError as above."""
        block = static_block((*extra, *_status_fields(code, message, metadata)))
        status = _HTTP_OK if http == 200 else static_block(((b":status", b"%d" % http),))
        return self._take_owed() + status + self._content_type() + block

    def _take_owed(self) -> bytes:
        owed = self._owed
        self._owed = b""
        return owed

    def _content_type(self) -> bytes:
        if self._entries == 2:
            return _SECOND
        if self._entries == 1:
            return _NEWEST
        if self._capacity < _TABLE_BYTES:
            return _LITERAL_CONTENT_TYPE
        self._entries = 1
        return _INSERT_CONTENT_TYPE


def _status_fields(code: int, message: str, metadata: Metadata) -> list[tuple[bytes, bytes]]:
    fields = [(b"grpc-status", b"%d" % code)]
    if message:
        fields.append((b"grpc-message", encode_message(message)))
    fields.extend(to_headers(metadata))
    return fields
