"""From a type to its codec."""

from __future__ import annotations

import typing
from typing import TYPE_CHECKING, Any, TypeVar, cast

from coord.codec.libraries import msgspec, owner, pydantic
from coord.codec.plain import BYTES, TEXT
from coord.codec.structured import JSON, structured
from coord.errors import InvalidArgument

if TYPE_CHECKING:
    from coord.codec.protocol import Codec

T = TypeVar("T")


def for_type(kind: type[T]) -> Codec[T]:
    """Return the codec that fits ``kind``.

    ``bytes`` as they are; ``str`` as UTF-8; a class of msgspec or pydantic by its library, as JSON; a dataclass, and
    ``int``, ``float``, ``bool``, ``list``, ``dict``, ``tuple``, ``set``, unions, literals and enumerations of such, as
    JSON.
    Raises :class:`coord.InvalidArgument` when none fits.
    """
    wanted: Any = kind
    found: Codec[Any]
    if wanted is bytes:
        found = BYTES
    elif wanted is str:
        found = TEXT
    elif wanted is Any:
        found = JSON
    else:
        match owner(kind):
            case "msgspec":
                found = msgspec(kind)
            case "pydantic":
                found = pydantic(kind)
            case None:
                found = structured(kind)
    return cast("Codec[T]", found)


def as_codec(given: type[T] | Codec[T]) -> Codec[T]:
    """Return ``given`` if it is a codec, else the one of that type. Raises :class:`coord.InvalidArgument`."""
    kind = cast("object", given)
    if isinstance(kind, type) or typing.get_origin(kind) is not None or kind is Any:
        return for_type(cast("type[T]", kind))
    for method in ("encode", "decode"):
        if not callable(getattr(given, method, None)):
            raise InvalidArgument(f"{given!r} is neither a type nor a codec: it has no {method}()")
    return cast("Codec[T]", given)
