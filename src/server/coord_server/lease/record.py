"""A lease on disk: the key and value that etcd's own lease bucket has.

The value is the message ``leasepb.Lease`` (1 ID, 2 TTL, 3 RemainingTTL; all int64, zero left out).
"""

from __future__ import annotations

_INT64_MASK = (1 << 64) - 1
# Varints: seven bits to the byte, the lowest first, and a mark on every byte but the last.
_SEVEN_BITS = 0x7F
_MORE = 0x80


def record_key(lease_id: int) -> bytes:
    """Return the bucket key: the id's 64 bits, big end first."""
    return (lease_id & _INT64_MASK).to_bytes(8, "big")


def encode_record(lease_id: int, ttl_s: int, checkpoint_s: int) -> bytes:
    """Return the stored form of a lease; times in seconds."""
    out = bytearray()
    for field, number in enumerate((lease_id, ttl_s, checkpoint_s), start=1):
        if number:
            out.append(field << 3)
            rest = number & _INT64_MASK
            while rest > _SEVEN_BITS:
                out.append(rest & _SEVEN_BITS | _MORE)
                rest >>= 7
            out.append(rest)
    return bytes(out)


def decode_record(value: bytes) -> tuple[int, int, int]:
    """Return (lease id, TTL, checkpoint). Raises ValueError if it is not such a record."""
    fields = [0, 0, 0]
    pos = 0
    try:
        while pos < len(value):
            field = value[pos] >> 3
            if value[pos] & 7 or not 1 <= field <= len(fields):
                raise ValueError("not a lease record")
            pos += 1
            number = shift = 0
            while True:
                byte = value[pos]
                pos += 1
                number |= (byte & _SEVEN_BITS) << shift
                shift += 7
                if byte < _MORE:
                    break
            number &= _INT64_MASK
            fields[field - 1] = number - (1 << 64) if number >> 63 else number
    except IndexError:
        raise ValueError("truncated lease record") from None
    return fields[0], fields[1], fields[2]
