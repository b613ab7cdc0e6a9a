"""Hand-written codecs for the few messages that dominate a profile.

Encoders answer exactly the bytes that protobuf writes: fields by ascending number, defaults left
out. Decoders answer exactly the values that protobuf reads, and None where protobuf would refuse the
bytes; only ``decode_point_range`` answers None for more, and says for what. Property tests hold all
of them to protobuf, in both directions and on damaged bytes.

Only what measured faster is written by hand. protobuf's C parser reads a header, a lease or a long
number in less time than Python needs for its bytes, so several decoders here are no more than a call
of it that leaves out the objects in between.

Bodies and fields are told apart by name: a *body* is a message's own bytes, a *field* has the tag and
length with which it stands inside another message. Tags are written as their byte, for example 0x0A:
field 1, length-delimited.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias, final

from google.protobuf.message import DecodeError

from coord.wire import kv_pb2, rpc_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable

KeyValueFields: TypeAlias = tuple[bytes, int, int, int, bytes, int]
"""key, create revision, mod revision, version, value, lease: the fields of a KeyValue in order."""

_SMALL_END = 1 << 14
# Every varint of one or two bytes, by its number. Tags and lengths nearly always fall in here.
_SMALL = [bytes((n,)) for n in range(128)] + [
    bytes((low, high)) for high in range(1, 128) for low in range(128, 256)
]
# The same 14 bits in two bytes that say that more follow: how a longer varint begins and goes on.
_PAIR = [bytes((low, high)) for high in range(128, 256) for low in range(128, 256)]
_PAIR_MASK = _SMALL_END - 1
# With a tag and a length of one byte each before it, a body up to this size still has a length of one.
_TWICE_SMALL = 127 - 2
_UINT64_END = 1 << 64
_INT64_END = 1 << 63
# A varint of 64 bits has at most ten bytes, and the tenth carries one bit.
_LAST_SHIFT = 63


def varint(n: int) -> bytes:
    """Encode a number; a negative one as int64, in ten bytes. Between -2**63 and 2**64 - 1."""
    if n < 0:
        n += _UINT64_END
    if n < _SMALL_END:
        return _SMALL[n]
    if n < 1 << 28:
        return _PAIR[n & _PAIR_MASK] + _SMALL[n >> 14]
    if n < 1 << 42:
        return _PAIR[n & _PAIR_MASK] + _PAIR[n >> 14 & _PAIR_MASK] + _SMALL[n >> 28]
    head = _PAIR[n & _PAIR_MASK] + _PAIR[n >> 14 & _PAIR_MASK] + _PAIR[n >> 28 & _PAIR_MASK]
    if n < 1 << 56:
        return head + _SMALL[n >> 42]
    return head + _PAIR[n >> 42 & _PAIR_MASK] + _SMALL[n >> 56]


def read_varint(data: bytes, pos: int) -> tuple[int, int]:
    """Return the unsigned number at ``pos`` and the position after it.

    Raises ValueError when the data ends inside the number or the number has more than 64 bits.
    """
    result = shift = 0
    for at in range(pos, min(pos + 10, len(data))):
        byte = data[at]
        if byte < 0x80:
            if shift == _LAST_SHIFT and byte > 1:
                break
            return result | byte << shift, at + 1
        result |= (byte & 0x7F) << shift
        shift += 7
    raise ValueError("no varint of at most 64 bits here")


def _read_size(data: bytes, pos: int) -> tuple[int, int]:
    """Read a length as protobuf does, which takes at most five bytes for one; ValueError otherwise."""
    size, after = read_varint(data, pos)
    if after - pos > 5:
        raise ValueError("a length of more than five bytes")
    return size, after


def to_int64(u: int) -> int:
    """Read an unsigned 64-bit number as the int64 with the same bits."""
    return u if u < _INT64_END else u - _UINT64_END


def delimited(tag: int, body: bytes) -> bytes:
    """Make a field of a message's bytes. ``tag`` is the whole tag, for field numbers to 2047."""
    size = len(body)
    return _SMALL[tag] + (_SMALL[size] if size < _SMALL_END else varint(size)) + body


def delimited_twice(outer: int, inner: int, body: bytes) -> bytes:
    """Make a field that holds one field, of a message's bytes."""
    size = len(body)
    if size > _TWICE_SMALL:
        return delimited(outer, delimited(inner, body))
    return b"".join((_SMALL[outer], _SMALL[size + 2], _SMALL[inner], _SMALL[size], body))


def _number(tag: bytes, n: int) -> bytes:
    return tag + varint(n) if n else b""


# PutRequest


@final
class Put:
    """A decoded PutRequest, its fields under the API's names (etcd API: Put)."""

    __slots__ = ("ignore_lease", "ignore_value", "key", "lease", "prev_kv", "value")

    def __init__(self, key: bytes, value: bytes) -> None:
        self.key: bytes = key
        self.value: bytes = value
        self.lease: int = 0
        self.prev_kv: bool = False
        self.ignore_value: bool = False
        self.ignore_lease: bool = False


def encode_put(key: bytes, value: bytes, lease: int = 0, prev_kv: bool = False) -> bytes:  # noqa: FBT001, FBT002 - fields of the message
    """Encode a PutRequest."""
    body = delimited(0x0A, key) if key else b""
    if value:
        body += delimited(0x12, value)
    if lease:
        body += b"\x18" + varint(lease)
    return body + b"\x20\x01" if prev_kv else body


def decode_put(data: bytes) -> Put | None:
    """Decode a PutRequest; None for bytes that protobuf refuses.

    A key, perhaps a value, and nothing else is read by hand; protobuf reads the rest.
    """
    try:
        if data[0] == 0x0A:
            size = data[1]
            pos = 2
            if size > 0x7F:
                size, pos = _read_size(data, 1)
            stop = pos + size
            key = data[pos:stop]
            if stop == len(data):
                return Put(key, b"")
            if data[stop] == 0x12:
                size = data[stop + 1]
                pos = stop + 2
                if size > 0x7F:
                    size, pos = _read_size(data, stop + 1)
                if pos + size == len(data):
                    return Put(key, data[pos:])
    except (IndexError, ValueError):
        pass
    return _decode_any_put(data)


def _decode_any_put(data: bytes) -> Put | None:
    try:
        request = rpc_pb2.PutRequest.FromString(data)
    except DecodeError:
        return None
    put = Put(request.key, request.value)
    put.lease = request.lease
    put.prev_kv = request.prev_kv
    put.ignore_value = request.ignore_value
    put.ignore_lease = request.ignore_lease
    return put


def decode_put_response(data: bytes) -> int | None:
    """Return the revision of a PutResponse; None when it has a previous pair or is damaged."""
    try:
        response = rpc_pb2.PutResponse.FromString(data)
    except DecodeError:
        return None
    return None if response.HasField("prev_kv") else response.header.revision


# RangeRequest for one key


def encode_point_range(key: bytes, serializable: bool = False) -> bytes:  # noqa: FBT001, FBT002 - a field of the message
    """Encode a RangeRequest for one key, linearizable unless ``serializable``."""
    body = delimited(0x0A, key) if key else b""
    return body + b"\x38\x01" if serializable else body


def decode_point_range(data: bytes) -> tuple[bytes, bool] | None:
    """Return key and serializable flag of a RangeRequest that has a key and nothing else.

    None in every other case, damage and an empty key included: those go the ordinary way.
    """
    try:
        if data[0] != 0x0A:
            return None
        size = data[1]
        pos = 2
        if size > 0x7F:
            size, pos = _read_size(data, 1)
    except (IndexError, ValueError):
        return None
    stop = pos + size
    if not size or stop > len(data):
        return None
    if stop == len(data):
        return data[pos:], False
    return (data[pos:stop], True) if data[stop:] == b"\x38\x01" else None


# Txn, and what it consists of


def _int64(tag: bytes, n: int) -> bytes:
    """Make a field of an int64, none for 0. Raises ValueError beyond its bounds, as protobuf does."""
    if not n:
        return b""
    if not -_INT64_END <= n < _INT64_END:
        raise ValueError(f"Value out of range: {n}")
    return tag + varint(n)


# The fields of a RangeRequest for the lowest and the highest mod revision, and the same of the create revision.
_BOUNDS = (b"\x50", b"\x58", b"\x60", b"\x68")


def encode_range(
    key: bytes,
    end: bytes,
    *,
    limit: int = 0,
    revision: int = 0,
    sort_order: int = 0,
    sort_target: int = 0,
    serializable: bool = False,
    keys_only: bool = False,
    count_only: bool = False,
    revisions: tuple[int, int, int, int] = (0, 0, 0, 0),
) -> bytes:
    """Encode a RangeRequest; ``revisions`` are the bounds of mod and create revisions, each low and high."""
    body = delimited(0x0A, key) if key else b""
    if end:
        body += delimited(0x12, end)
    if limit or revision:
        body += _int64(b"\x18", limit) + _int64(b"\x20", revision)
    if sort_order:
        body += b"\x28" + varint(sort_order)
    if sort_target:
        body += b"\x30" + varint(sort_target)
    if serializable:
        body += b"\x38\x01"
    if keys_only:
        body += b"\x40\x01"
    if count_only:
        body += b"\x48\x01"
    return body + b"".join(map(_int64, _BOUNDS, revisions)) if any(revisions) else body


def encode_delete_range(key: bytes, end: bytes = b"", prev_kv: bool = False) -> bytes:  # noqa: FBT001, FBT002 - a field of the message
    """Encode a DeleteRangeRequest."""
    body = delimited(0x0A, key) if key else b""
    if end:
        body += delimited(0x12, end)
    return body + b"\x18\x01" if prev_kv else body


# Compare's field for the right side, by target: version, create, mod, value, lease.
_OPERANDS = (0x20, 0x28, 0x30, 0x3A, 0x40)


def encode_compare(result: int, target: int, key: bytes, operand: int | bytes, end: bytes) -> bytes:
    """Encode a Compare, whose right side is written even if it is 0 or empty: it is one of several."""
    body = (b"\x08" + _SMALL[result] if result else b"") + (
        b"\x10" + _SMALL[target] if target else b""
    )
    if key:
        body += delimited(0x1A, key)
    tag = _OPERANDS[target]
    if isinstance(operand, bytes):
        body += delimited(tag, operand)
    else:
        body += _int64(_SMALL[tag], operand) or _SMALL[tag] + b"\0"
    return body + b"\x82\x04" + varint(len(end)) + end if end else body


def encode_txn(
    compares: Iterable[bytes], success: Iterable[bytes], failure: Iterable[bytes]
) -> bytes:
    """Encode a TxnRequest of the bodies of its comparisons and operations."""
    parts = [delimited(0x0A, body) for body in compares]
    parts += [delimited(0x12, body) for body in success]
    parts += [delimited(0x1A, body) for body in failure]
    return b"".join(parts)


# ResponseHeader


@final
class HeaderStamp:
    """Makes the header field of one member's responses.

    The identifiers are encoded once, the term when it changes, and the whole field is kept while the
    revision stays the same, as it does for the reads of one turn.
    """

    __slots__ = (
        "_field",
        "_heads",
        "_ids",
        "_revision",
        "_suffix",
        "_term",
        "cluster_id",
        "member_id",
    )

    def __init__(self, cluster_id: int, member_id: int) -> None:
        self.cluster_id: int = cluster_id
        self.member_id: int = member_id
        self._ids = _number(b"\x08", cluster_id) + _number(b"\x10", member_id)
        self._enter_term(0)
        self._encode(0)

    def field(self, revision: int, term: int) -> bytes:
        """Return the ResponseHeader as field 1, ready to stand first in any response."""
        if term != self._term:
            self._enter_term(term)
        elif revision == self._revision:
            return self._field
        self._encode(revision)
        return self._field

    def _enter_term(self, term: int) -> None:
        """Prepare what stands after the revision and, by the size of the revision, before it."""
        self._term = term
        self._suffix = _number(b"\x20", term)
        # A header has at most 44 bytes, so its length is one byte.
        fixed = len(self._ids) + len(self._suffix)
        self._heads = [b"\x0a" + _SMALL[fixed] + self._ids]
        for size in range(1, 11):
            self._heads.append(b"\x0a" + _SMALL[fixed + 1 + size] + self._ids + b"\x18")

    def _encode(self, revision: int) -> None:
        number = varint(revision) if revision else b""
        self._revision = revision
        self._field = self._heads[len(number)] + number + self._suffix


# KeyValue


def encode_key_value(
    key: bytes, create: int, mod: int, version: int, value: bytes, lease: int
) -> bytes:
    """Encode the body of a KeyValue."""
    key_size = len(key)
    value_size = len(value)
    if not (key_size and create and mod and version and value_size):
        return (
            (delimited(0x0A, key) if key else b"")
            + _number(b"\x10", create)
            + _number(b"\x18", mod)
            + _number(b"\x20", version)
            + (delimited(0x2A, value) if value else b"")
            + _number(b"\x30", lease)
        )
    made = varint(create)
    return b"".join(
        (
            b"\x0a",
            _SMALL[key_size] if key_size < _SMALL_END else varint(key_size),
            key,
            b"\x10",
            made,
            b"\x18",
            made if mod == create else varint(mod),
            b"\x20",
            varint(version),
            b"\x2a",
            _SMALL[value_size] if value_size < _SMALL_END else varint(value_size),
            value,
            b"\x30" + varint(lease) if lease else b"",
        )
    )


def decode_key_value(data: bytes) -> KeyValueFields:
    """Decode the body of a KeyValue. Raises ValueError for bytes that protobuf refuses."""
    try:
        kv = kv_pb2.KeyValue.FromString(data)
    except DecodeError as exc:
        raise ValueError("not a KeyValue") from exc
    return kv.key, kv.create_revision, kv.mod_revision, kv.version, kv.value, kv.lease


# Event and WatchResponse


def encode_put_event(kv_body: bytes, prev: bytes | None) -> bytes:
    """Encode the body of a PUT event from the bodies of its new and, if known, previous pair."""
    body = delimited(0x12, kv_body)
    return body if prev is None else body + delimited(0x1A, prev)


def encode_delete_event(key: bytes, mod: int, prev: bytes | None) -> bytes:
    """Encode the body of a DELETE event: its pair has the key and the revision of the delete."""
    pair = (delimited(0x0A, key) if key else b"") + _number(b"\x18", mod)
    body = b"\x08\x01" + delimited(0x12, pair)
    return body if prev is None else body + delimited(0x1A, prev)


def watch_event_field(event_body: bytes) -> bytes:
    """Make an event the field of a WatchResponse; a response has any number of them at its end."""
    return delimited(0x5A, event_body)


def encode_watch_head(header_field: bytes, watch_id: int) -> bytes:
    """Encode what stands before the events of a WatchResponse."""
    return header_field + b"\x10" + varint(watch_id) if watch_id else header_field


# LeaseKeepAlive


def encode_keep_alive(lease_id: int) -> bytes:
    """Encode a LeaseKeepAliveRequest."""
    return b"\x08" + varint(lease_id) if lease_id else b""


def decode_keep_alive(data: bytes) -> int | None:
    """Return the lease of a LeaseKeepAliveRequest; None for bytes that protobuf refuses."""
    try:
        return rpc_pb2.LeaseKeepAliveRequest.FromString(data).ID
    except DecodeError:
        return None


def encode_keep_alive_response(header_field: bytes, lease_id: int, ttl: int) -> bytes:
    """Encode a LeaseKeepAliveResponse. ``ttl`` is in seconds, 0 for a lease that is gone."""
    body = header_field + b"\x10" + varint(lease_id) if lease_id else header_field
    return body + b"\x18" + varint(ttl) if ttl else body


def decode_keep_alive_response(data: bytes) -> tuple[int, int, int] | None:
    """Return lease, TTL in seconds and revision of a LeaseKeepAliveResponse; None if damaged."""
    try:
        response = rpc_pb2.LeaseKeepAliveResponse.FromString(data)
    except DecodeError:
        return None
    return response.ID, response.TTL, response.header.revision
