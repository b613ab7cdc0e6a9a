"""Pairs whose value is an object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from coord.codec.protocol import decode_at

if TYPE_CHECKING:
    from coord.codec.protocol import Codec

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Entry(Protocol[T_co]):
    """What :class:`coord.KeyValue` and :class:`coord.TypedKeyValue` have in common: a pair as of some revision."""

    @property
    def key(self) -> bytes:
        """The key."""
        ...

    @property
    def value(self) -> T_co:
        """The value: bytes, or what they stand for."""
        ...

    @property
    def create_revision(self) -> int:
        """The revision at which the key was created."""
        ...

    @property
    def mod_revision(self) -> int:
        """The revision of its last change."""
        ...

    @property
    def version(self) -> int:
        """How many puts there were since its creation, this one included."""
        ...

    @property
    def lease(self) -> int:
        """The lease that it is attached to, 0 for none."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TypedKeyValue(Generic[T_co]):
    """As :class:`coord.KeyValue`, with the decoded value."""

    key: bytes
    value: T_co
    create_revision: int
    mod_revision: int
    version: int
    lease: int = 0


def decoded(codec: Codec[T], kv: Entry[bytes]) -> TypedKeyValue[T]:
    """Decode a pair. Raises :class:`coord.DecodeError`."""
    return TypedKeyValue(
        key=kv.key,
        value=decode_at(codec, kv.key, kv.value),
        create_revision=kv.create_revision,
        mod_revision=kv.mod_revision,
        version=kv.version,
        lease=kv.lease,
    )
