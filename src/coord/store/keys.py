"""Keys as bytes, and the ranges that etcd's API derives from them (spec core 0.1)."""

from __future__ import annotations

from coord.errors import InvalidArgument

FROM_KEY = b"\0"
"""As a range end: every key from the start on."""


def to_bytes(value: str | bytes, what: str) -> bytes:
    """Return ``value`` as bytes, text as UTF-8. Raises :class:`InvalidArgument` naming ``what`` for other types."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):  # pyright: ignore[reportUnnecessaryIsInstance] - callers without a type checker
        return value.encode()
    raise InvalidArgument(f"{what} must be str or bytes, not {type(value).__name__}")


def to_key(value: str | bytes) -> bytes:
    """Return ``value`` as the bytes of one key. Raises :class:`InvalidArgument` when it is empty."""
    key = to_bytes(value, "key")
    if not key:
        raise InvalidArgument("key must not be empty")
    return key


def prefix_end(prefix: bytes) -> bytes:
    """Return the end of the half-open range of all keys that start with ``prefix``."""
    stripped = prefix.rstrip(b"\xff")
    if not stripped:
        return FROM_KEY
    return stripped[:-1] + bytes((stripped[-1] + 1,))


def prefix_range(prefix: str | bytes) -> tuple[bytes, bytes]:
    """Return ``(start, end)`` of the keys that start with ``prefix``; an empty prefix means all keys."""
    start = to_bytes(prefix, "prefix")
    return (start, prefix_end(start)) if start else (b"\0", FROM_KEY)
