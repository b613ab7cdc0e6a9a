"""What a codec is."""

from __future__ import annotations

from typing import Protocol, TypeVar

from coord.errors import DecodeError

T = TypeVar("T")


class Codec(Protocol[T]):
    """Turns values of one type into bytes and back. Keeps no state, and may be used from any thread."""

    def encode(self, value: T, /) -> bytes:
        """Return ``value`` as bytes."""
        ...

    def decode(self, data: bytes, /) -> T:
        """Return the value that ``data`` stands for. Raises :class:`coord.DecodeError`, or anything else, if none."""
        ...


def decode_at(codec: Codec[T], key: bytes, data: bytes) -> T:
    """Return the value at ``key``. Raises :class:`coord.DecodeError`, which names the key, and nothing else."""
    try:
        return codec.decode(data)
    except DecodeError as error:
        raise error.at(key) from error
    except Exception as error:
        # A codec is the application's: whatever it raises, the value cannot be read.
        kind = getattr(codec, "type_name", type(codec).__name__)
        reason = f"{type(error).__name__}: {error}"
        raise DecodeError(str(kind), reason, key=key) from error
