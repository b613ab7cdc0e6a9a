"""Types of msgspec and pydantic, which are imported only by those who use them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from coord.errors import DecodeError, MissingExtra

if TYPE_CHECKING:
    from collections.abc import Callable

    from coord.codec.protocol import Codec

T = TypeVar("T")


class _Pair(Generic[T]):
    """The two functions of a library."""

    def __init__(
        self,
        type_name: str,
        encode: Callable[[T], bytes],
        decode: Callable[[bytes], T],
        refusal: type[Exception],
    ) -> None:
        self.type_name = type_name
        self._encode = encode
        self._decode = decode
        self._refusal = refusal

    def encode(self, value: T, /) -> bytes:
        """Return ``value`` as bytes; raises what the library raises."""
        return self._encode(value)

    def decode(self, data: bytes, /) -> T:
        """Return the value. Raises :class:`coord.DecodeError`."""
        try:
            return self._decode(data)
        except (self._refusal, ValueError) as error:
            raise DecodeError(self.type_name, str(error)) from error


def msgspec(kind: type[T], *, form: Literal["json", "msgpack"] = "json") -> Codec[T]:
    """Return a codec that leaves ``kind`` to msgspec. Raises :class:`coord.MissingExtra` without it."""
    try:
        import msgspec as library
    except ImportError as error:
        raise MissingExtra("coord.codec.msgspec", "msgspec") from error
    room = library.json if form == "json" else library.msgpack
    decoder: Any = room.Decoder(kind)
    return _Pair(_name(kind), room.encode, decoder.decode, library.MsgspecError)


def pydantic(kind: type[T]) -> Codec[T]:
    """Return a codec that leaves ``kind`` to pydantic 2, as JSON. Raises :class:`coord.MissingExtra` without it."""
    try:
        from pydantic import TypeAdapter, ValidationError
    except ImportError as error:
        raise MissingExtra("coord.codec.pydantic", "pydantic") from error
    adapter: TypeAdapter[T] = TypeAdapter(kind)
    return _Pair(_name(kind), adapter.dump_json, adapter.validate_json, ValidationError)


def owner(kind: object) -> Literal["msgspec", "pydantic"] | None:
    """Say which library ``kind`` is a class of. Looks only at those that are loaded: others have no classes."""
    if not isinstance(kind, type):
        return None
    library: Any = sys.modules.get("msgspec")
    if library is not None and issubclass(kind, library.Struct):
        return "msgspec"
    library = sys.modules.get("pydantic")
    if library is not None and (
        issubclass(kind, library.BaseModel) or hasattr(kind, "__pydantic_validator__")
    ):
        return "pydantic"
    return None


def _name(kind: object) -> str:
    return kind.__name__ if isinstance(kind, type) else str(kind)
