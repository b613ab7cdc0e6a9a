"""Header compression (RFC 7541): an exact decoder, and an encoder that knows gRPC's headers.

Both suit callers who keep whole blocks: while ``generation`` stands still, the dynamic table
stands still, so equal bytes mean equal headers, whether or not they refer to that table.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from typing_extensions import override

from coord.rpc import huffman

if TYPE_CHECKING:
    from collections.abc import Iterable

# What each entry counts beyond its name and value (RFC 7541 section 4.1; RFC 9113 section 6.5.2).
ENTRY_OVERHEAD: Final = 32
# Both sides start from this table size, whatever their settings say (RFC 9113 section 6.5.2).
_INITIAL_TABLE_SIZE: Final = 4096

# Appendix A: index -> entry. A dict, so that index 0, which means nothing, is not found.
_STATIC: Final[dict[int, tuple[bytes, bytes]]] = dict(
    enumerate(
        (
            (b":authority", b""),
            (b":method", b"GET"),
            (b":method", b"POST"),
            (b":path", b"/"),
            (b":path", b"/index.html"),
            (b":scheme", b"http"),
            (b":scheme", b"https"),
            *((b":status", b"%d" % code) for code in (200, 204, 206, 304, 400, 404, 500)),
            (b"accept-charset", b""),
            (b"accept-encoding", b"gzip, deflate"),
            *(
                (name, b"")
                for name in (
                    b"accept-language accept-ranges accept access-control-allow-origin age allow "
                    b"authorization cache-control content-disposition content-encoding "
                    b"content-language content-length content-location content-range content-type "
                    b"cookie date etag expect expires from host if-match if-modified-since "
                    b"if-none-match if-range if-unmodified-since last-modified link location "
                    b"max-forwards proxy-authenticate proxy-authorization range referer refresh "
                    b"retry-after server set-cookie strict-transport-security transfer-encoding "
                    b"user-agent vary via www-authenticate"
                ).split()
            ),
        ),
        start=1,
    )
)
_STATIC_BY_FIELD: Final = {field: index for index, field in _STATIC.items()}
# The first index of each name, as in the appendix.
_STATIC_BY_NAME: Final = {name: index for index, (name, _) in reversed(_STATIC.items())}
_FIRST_DYNAMIC: Final = len(_STATIC) + 1

# The decoder looks at the size of what it has collected once per so many bytes of input.
_CHUNK_BYTES: Final = 1024
# Integers take at most this many continuation bytes; no length or index here needs more.
_MAX_INTEGER_SHIFT: Final = 28


class HpackError(Exception):
    """A block that cannot be decoded; both tables may differ now, so the connection must end."""


class HeaderListTooLarge(HpackError):
    """The decoded list exceeds our limit; the block was processed to its end, tables agree."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(limit_bytes)
        self.limit_bytes = limit_bytes

    @override
    def __str__(self) -> str:
        return f"header list is larger than {self.limit_bytes} bytes"


def _read_integer(data: bytes, pos: int, prefix: int) -> tuple[int, int]:
    """Finish an integer whose prefix was all ones; return it and the position after it."""
    value = prefix
    shift = 0
    while True:
        byte = data[pos]
        pos += 1
        value += (byte & 0x7F) << shift
        if byte < 0x80:
            return value, pos
        shift += 7
        if shift > _MAX_INTEGER_SHIFT:
            raise HpackError("integer is too long")


def _read_string(data: bytes, pos: int) -> tuple[bytes, int]:
    """Return a string literal and the position after it, which is beyond the end if truncated."""
    size = data[pos]
    pos += 1
    is_huffman = size & 0x80
    size &= 0x7F
    if size == 0x7F:
        size, pos = _read_integer(data, pos, 0x7F)
    end = pos + size
    text = data[pos:end]
    return (huffman.decode(text) if is_huffman else text), end


class Decoder:
    """The receiving half of one connection's header compression.

    ``generation`` changes whenever the dynamic table or its size does. A block that was decoded
    without changing it decodes to the same headers as long as it stays the same; this holds for
    blocks that refer to dynamic entries too, since the table they refer to has not moved.

    ``max_table_size`` is what we advertised in SETTINGS_HEADER_TABLE_SIZE, in bytes: the peer may
    not go beyond it. It may use the protocol's initial 4,096 bytes until it has seen a lower one.
    ``max_list_bytes`` bounds one decoded list, counted as in SETTINGS_MAX_HEADER_LIST_SIZE.
    """

    __slots__ = ("_capacity", "_limit", "_max_list", "_size", "_table", "_widest", "generation")

    def __init__(self, max_table_size: int = 4096, max_list_bytes: int = 64 * 1024) -> None:
        self.generation: int = 0
        self._table: deque[tuple[bytes, bytes]] = deque()  # newest first
        self._size = 0
        self._capacity = _INITIAL_TABLE_SIZE
        self._limit = max_table_size
        self._max_list = max_list_bytes
        self._widest = 64  # no entry met so far, static or dynamic, counts more than this

    @property
    def table_bytes(self) -> int:
        """The size of the dynamic table as RFC 7541 section 4.1 counts it."""
        return self._size

    def decode(self, block: bytes) -> list[tuple[bytes, bytes]]:
        """Return the fields of a whole header block, in order.

        Raises HeaderListTooLarge if only the list is too large, and other HpackErrors for
        malformed blocks (COMPRESSION_ERROR), after which this object must not be used again.
        """
        end = len(block)
        pos = 0
        headers: list[tuple[bytes, bytes]] = []
        too_large = False
        try:
            while pos < end and block[pos] & 0xE0 == 0x20:
                pos = self._resize(block, pos)
            while pos < end:
                pos = self._fields(block, pos, min(end, pos + _CHUNK_BYTES), headers)
                # The product is an upper bound that spares summing up the usual small list.
                bound = len(headers) * self._widest + 2 * end
                if bound > self._max_list and self._exceeds(headers):
                    too_large = True
                    headers.clear()  # a bomb must not fill our memory either
        except (IndexError, KeyError):
            raise HpackError("truncated block or unknown index") from None
        except ValueError as error:
            raise HpackError(str(error)) from None
        if pos > end:
            raise HpackError("truncated string")
        if too_large:
            raise HeaderListTooLarge(self._max_list)
        return headers

    def _fields(self, block: bytes, pos: int, stop: int, headers: list[tuple[bytes, bytes]]) -> int:
        """Decode the fields that begin in block[pos:stop]; return where the next one begins."""
        table = self._table
        while pos < stop:
            first = block[pos]
            pos += 1
            if first & 0x80:  # 6.1 indexed field
                index = first & 0x7F
                if index == 0x7F:
                    index, pos = _read_integer(block, pos, 0x7F)
                headers.append(_STATIC[index] if index < 62 else table[index - 62])
                continue
            if first & 0x40:  # 6.2.1 literal with incremental indexing
                index = first & 0x3F
                if index == 0x3F:
                    index, pos = _read_integer(block, pos, 0x3F)
            elif first & 0x20:
                raise HpackError("table size update after the start of a block")
            else:  # 6.2.2 and 6.2.3 literals that stay out of the table
                index = first & 0x0F
                if index == 0x0F:
                    index, pos = _read_integer(block, pos, 0x0F)
            if index:
                name = (_STATIC[index] if index < 62 else table[index - 62])[0]
            else:
                name, pos = _read_string(block, pos)
            # Same as _read_string, without the call: this is the hot half of a Go client's block.
            size = block[pos]
            pos += 1
            value_start = pos
            if size & 0x7F == 0x7F:
                length, value_start = _read_integer(block, pos, 0x7F)
            else:
                length = size & 0x7F
            pos = value_start + length
            value = block[value_start:pos]
            if size & 0x80:
                value = huffman.decode(value)
            field = (name, value)
            headers.append(field)
            if first & 0x40:
                self._insert(field)
        return pos

    def _insert(self, field: tuple[bytes, bytes]) -> None:
        self.generation += 1
        entry = len(field[0]) + len(field[1]) + ENTRY_OVERHEAD
        self._widest = max(self._widest, entry)
        table = self._table
        size = self._size + entry
        capacity = self._capacity
        # An entry larger than the table drives out everything and then itself (section 4.4).
        table.appendleft(field)
        while size > capacity:
            name, value = table.pop()
            size -= len(name) + len(value) + ENTRY_OVERHEAD
        self._size = size

    def _resize(self, block: bytes, pos: int) -> int:
        """Obey one table size update (6.3); return the position after it."""
        capacity = block[pos] & 0x1F
        pos += 1
        if capacity == 0x1F:
            capacity, pos = _read_integer(block, pos, 0x1F)
        if capacity > self._limit:
            raise HpackError(f"table size update to {capacity} is above the limit {self._limit}")
        if capacity != self._capacity:
            self.generation += 1
            self._capacity = capacity
        while self._size > capacity:
            name, value = self._table.pop()
            self._size -= len(name) + len(value) + ENTRY_OVERHEAD
        return pos

    def _exceeds(self, headers: list[tuple[bytes, bytes]]) -> bool:
        total = len(headers) * ENTRY_OVERHEAD
        for name, value in headers:
            total += len(name) + len(value)
        return total > self._max_list


# Secrets: the literal says "never indexed", so that no proxy puts them into a table either (7.1.3).
NEVER_INDEXED: Final = frozenset((b"authorization", b"token", b"proxy-authorization", b"cookie"))
# Values that differ at nearly every call: in the table they would only push out what repeats.
_CHANGING: Final = frozenset(
    (b"grpc-timeout", b"grpc-message", b"content-length", b"date", b"traceparent", b"tracestate")
)


def _integer(first: int, prefix: int, value: int) -> bytes:
    """Encode ``value`` with a prefix mask (section 5.1), under the pattern bits ``first``."""
    if value < prefix:
        return bytes((first | value,))
    out = bytearray((first | prefix,))
    value -= prefix
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _plain(text: bytes) -> bytes:
    return _integer(0, 0x7F, len(text)) + text


def _shortest(text: bytes) -> bytes:
    packed = huffman.encode(text)
    if len(packed) < len(text):
        return _integer(0x80, 0x7F, len(packed)) + packed
    return _plain(text)


def static_block(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Encode a block that neither reads nor changes a dynamic table: good on any connection.

    A connection whose encoder owes a table size update must still send that first.
    """
    out = bytearray()
    for field in headers:
        index = _STATIC_BY_FIELD.get(field)
        if index is not None:
            out.append(0x80 | index)
            continue
        name, value = field
        pattern = 0x10 if name in NEVER_INDEXED else 0
        index = _STATIC_BY_NAME.get(name, 0)
        out += _integer(pattern, 0x0F, index)
        if not index:
            out += _plain(name)
        out += _plain(value)
    return bytes(out)


class Encoder:
    """The sending half of one connection's header compression.

    Fields that repeat enter the table, those that change at each call do not, and secrets are
    marked as never to be indexed. A block that was encoded without changing ``generation`` may
    be sent again as it is, as long as ``generation`` stays the same.

    ``max_table_size`` is the most we are willing to use, in bytes, whatever the peer offers.
    """

    __slots__ = (
        "_by_field", "_by_name", "_capacity", "_inserted", "_max_table", "_size",
        "_smallest_owed", "_table", "generation",
    )  # fmt: skip

    def __init__(self, max_table_size: int = 4096) -> None:
        self.generation: int = 0
        self._max_table = max_table_size
        self._capacity = min(_INITIAL_TABLE_SIZE, max_table_size)
        # The lowest size since the last block, if an update is owed (section 4.2).
        self._smallest_owed: int | None = None
        if self._capacity != _INITIAL_TABLE_SIZE:
            self._smallest_owed = self._capacity
        self._size = 0
        self._inserted = 0  # entries ever inserted: the newest has this number, counted from 1
        self._table: deque[tuple[bytes, bytes]] = deque()  # newest first
        self._by_field: dict[tuple[bytes, bytes], int] = {}
        self._by_name: dict[bytes, int] = {}

    def set_limit(self, peer_header_table_size: int) -> None:
        """Obey the peer's SETTINGS_HEADER_TABLE_SIZE; the next block announces the change."""
        capacity = min(peer_header_table_size, self._max_table)
        if capacity == self._capacity:
            return
        self.generation += 1
        owed = self._smallest_owed
        self._smallest_owed = capacity if owed is None else min(owed, capacity)
        self._capacity = capacity
        self._evict(0)

    def encode(
        self,
        headers: Iterable[tuple[bytes, bytes]],
        *,
        never_index: frozenset[bytes] = NEVER_INDEXED,
    ) -> bytes:
        """Return the block for these fields; names are in lower case, the peer checks order."""
        out = bytearray()
        if self._smallest_owed is not None:
            self.generation += 1  # whoever keeps blocks must not keep one that starts like this
            if self._smallest_owed < self._capacity:
                out += _integer(0x20, 0x1F, self._smallest_owed)
            out += _integer(0x20, 0x1F, self._capacity)
            self._smallest_owed = None
        for field in headers:
            name, value = field
            if name in never_index:
                out += self._literal(0x10, 0x0F, name)
                out += _plain(value)
                continue
            index = _STATIC_BY_FIELD.get(field)
            if index is None:
                number = self._by_field.get(field)
                if number is not None:
                    index = _FIRST_DYNAMIC + self._inserted - number
            if index is not None:
                if index < 0x7F:
                    out.append(0x80 | index)
                else:
                    out += _integer(0x80, 0x7F, index)
            elif self._worth_keeping(field):
                out += self._literal(0x40, 0x3F, name)
                out += _shortest(value)
                self._insert(field)
            else:
                out += self._literal(0, 0x0F, name)
                out += _plain(value)
        return bytes(out)

    def _literal(self, pattern: int, prefix: int, name: bytes) -> bytes:
        """Start a literal: its pattern, and its name as an index where one is known."""
        index = _STATIC_BY_NAME.get(name)
        if index is None:
            number = self._by_name.get(name)
            if number is None:
                return bytes((pattern,)) + _shortest(name)
            index = _FIRST_DYNAMIC + self._inserted - number
        return _integer(pattern, prefix, index)

    def _worth_keeping(self, field: tuple[bytes, bytes]) -> bool:
        name, value = field
        if name in _CHANGING or name.endswith(b"-bin"):
            return False
        # One long value must not push out everything that repeats.
        return len(name) + len(value) + ENTRY_OVERHEAD <= self._capacity // 2

    def _insert(self, field: tuple[bytes, bytes]) -> None:
        self.generation += 1
        entry = len(field[0]) + len(field[1]) + ENTRY_OVERHEAD
        self._evict(entry)
        self._size += entry
        self._inserted += 1
        self._table.appendleft(field)
        self._by_field[field] = self._inserted
        self._by_name[field[0]] = self._inserted

    def _evict(self, room: int) -> None:
        """Drop the oldest entries until ``room`` more bytes fit."""
        while self._table and self._size + room > self._capacity:
            number = self._inserted - len(self._table) + 1
            field = self._table.pop()
            self._size -= len(field[0]) + len(field[1]) + ENTRY_OVERHEAD
            del self._by_field[field]  # a field is in the table once: it is only added if missing
            if self._by_name.get(field[0]) == number:
                del self._by_name[field[0]]
