"""Values that are bytes or text."""

from __future__ import annotations

from coord.errors import DecodeError


class _Bytes:
    """Bytes as they are."""

    type_name = "bytes"

    def encode(self, value: bytes, /) -> bytes:
        """Return ``value``."""
        return value

    def decode(self, data: bytes, /) -> bytes:
        """Return ``data``."""
        return data


class _Text:
    """Text as UTF-8."""

    type_name = "str"

    def encode(self, value: str, /) -> bytes:
        """Return ``value`` as UTF-8."""
        return value.encode()

    def decode(self, data: bytes, /) -> str:
        """Return the text. Raises :class:`coord.DecodeError` for what is not UTF-8."""
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise DecodeError("str", str(error)) from error


BYTES = _Bytes()
"""Bytes as they are."""
TEXT = _Text()
"""Text as UTF-8."""
