"""Values as objects: how they become bytes, and how bytes become them again.

    rule = coord.codec.for_type(Rule)        # a dataclass, a msgspec.Struct, a pydantic model, str, dict[str, int] ...

A codec is anything with ``encode(value) -> bytes`` and ``decode(data) -> value``.
:func:`for_type` finds the one that fits a type; the others are for those who want a certain one.
What decoding raises becomes a :class:`coord.DecodeError` that names the key.

Codecs are used in the caller's thread, or, by a cache, in a worker thread: they keep no state.
"""

from coord.codec.choice import as_codec, for_type
from coord.codec.libraries import msgspec, pydantic
from coord.codec.plain import BYTES, TEXT
from coord.codec.protocol import Codec, decode_at
from coord.codec.structured import JSON, structured
from coord.codec.values import Entry, TypedKeyValue

__all__ = [
    "BYTES",
    "JSON",
    "TEXT",
    "Codec",
    "Entry",
    "TypedKeyValue",
    "as_codec",
    "decode_at",
    "for_type",
    "msgspec",
    "pydantic",
    "structured",
]
