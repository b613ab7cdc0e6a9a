"""Keys of records in the backend: a revision and a sub revision that sort as they happened.

The layout is etcd's: main revision (8 bytes, big endian), ``_``, sub revision (8 bytes, big endian),
and ``t`` behind that for a tombstone.
"""

from __future__ import annotations

from typing import Final

_PLAIN_SIZE: Final = 17
_TOMBSTONE_SIZE: Final = 18
_FIRST_SUB: Final = b"_" + bytes(8)


def encode_revision(main: int, sub: int) -> bytes:
    """Return the key of the record that a put made at ``(main, sub)``."""
    if not sub:
        return main.to_bytes(8, "big") + _FIRST_SUB
    return main.to_bytes(8, "big") + b"_" + sub.to_bytes(8, "big")


def encode_tombstone(main: int, sub: int) -> bytes:
    """Return the key of the record that a delete made at ``(main, sub)``."""
    return encode_revision(main, sub) + b"t"


def decode_revision(key: bytes) -> tuple[int, int, bool]:
    """Return main revision, sub revision and whether it is a tombstone.

    Raises ValueError for any other key: the backend is damaged or not ours.
    """
    size = len(key)
    tombstone = size == _TOMBSTONE_SIZE and key[17] == ord("t")
    if not (size == _PLAIN_SIZE or tombstone) or key[8] != ord("_"):
        raise ValueError(f"not the key of a record: {key.hex()}")
    return int.from_bytes(key[:8], "big"), int.from_bytes(key[9:17], "big"), tombstone
