"""Records as bytes: a pair with the tag and the length that it has inside a RangeResponse.

Field 2 holds the pair in a RangeResponse, in an Event, in a PutResponse (``prev_kv``) and in a
LeaderResponse, so the same bytes stand in all four.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from coord.wire import fast

if TYPE_CHECKING:
    from coord.wire.fast import KeyValueFields

_KEY_TAG: Final = 0x0A
_PAIR_TAG: Final = 0x12
_VARINT_MORE: Final = 0x80
# Bodies below these sizes have lengths of one and two bytes.
_ONE_BYTE: Final = 1 << 7
_TWO_BYTES: Final = 1 << 14


class KeyValue(NamedTuple):
    """One pair with its counters (etcd API: mvccpb.KeyValue)."""

    key: bytes
    create_revision: int
    mod_revision: int
    version: int
    value: bytes
    lease: int


def encode_field(
    key: bytes, create: int, mod: int, version: int, value: bytes, lease: int
) -> bytes:
    """Encode a pair as field 2 of whatever holds it."""
    return fast.delimited(_PAIR_TAG, fast.encode_key_value(key, create, mod, version, value, lease))


def make_field(body: bytes) -> bytes:
    """Put tag and length before the encoded pair."""
    return fast.delimited(_PAIR_TAG, body)


def strip(field: bytes) -> bytes:
    """Return the encoded pair without tag and length."""
    size = len(field)
    if size < _ONE_BYTE + 2:
        return field[2:]
    if size < _TWO_BYTES + 3:
        return field[3:]
    return field[fast.read_varint(field, 1)[1] :]


def decode_field(field: bytes) -> KeyValue:
    """Decode what ``encode_field`` made."""
    return KeyValue._make(fast.decode_key_value(strip(field)))


def decode_body(body: bytes) -> KeyValueFields:
    """Decode an encoded pair. Raises ValueError when it is none."""
    return fast.decode_key_value(body)


def key_of(body: bytes) -> bytes:
    """Return the key of an encoded pair without decoding the rest."""
    if len(body) > 1 and body[0] == _KEY_TAG:
        size = body[1]
        if size < _VARINT_MORE:
            return body[2 : 2 + size]
        size, at = fast.read_varint(body, 1)
        return body[at : at + size]
    return fast.decode_key_value(body)[0]
