"""The part of a client that keeps copies, and reads and writes values as objects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from coord.cache import Cache, Mirrors, NodeCache
from coord.cache.mirror import Limits
from coord.codec import Codec, as_codec
from coord.errors import InvalidArgument
from coord.store.keys import prefix_range, to_key
from coord.typed import Typed

if TYPE_CHECKING:
    from coord.client.client import Client
    from coord.core import Core

T = TypeVar("T")

DEFAULT_MAX_KEYS = 1_000_000
DEFAULT_MAX_BYTES = 1 << 30


class ViewCalls:
    """Caches and typed views of a :class:`coord.Client`."""

    _core: Core
    _mirrors: Mirrors

    @overload
    def cache(
        self,
        *,
        prefix: str | bytes,
        codec: None = None,
        max_keys: int = ...,
        max_bytes: int = ...,
        timeout: float | None = None,
    ) -> Cache[bytes]: ...

    @overload
    def cache(
        self,
        *,
        key: str | bytes,
        codec: None = None,
        max_bytes: int = ...,
        timeout: float | None = None,
    ) -> NodeCache[bytes]: ...

    @overload
    def cache(
        self,
        *,
        prefix: str | bytes,
        codec: type[T] | Codec[T],
        max_keys: int = ...,
        max_bytes: int = ...,
        timeout: float | None = None,
    ) -> Cache[T]: ...

    @overload
    def cache(
        self,
        *,
        key: str | bytes,
        codec: type[T] | Codec[T],
        max_bytes: int = ...,
        timeout: float | None = None,
    ) -> NodeCache[T]: ...

    def cache(
        self,
        *,
        prefix: str | bytes | None = None,
        key: str | bytes | None = None,
        codec: type[Any] | Codec[Any] | None = None,
        max_keys: int = DEFAULT_MAX_KEYS,
        max_bytes: int = DEFAULT_MAX_BYTES,
        timeout: float | None = None,
    ) -> Cache[Any]:
        """Return a local copy of all keys that start with ``prefix`` (empty: all keys), or of one ``key``.

        To be opened with ``async with``, within ``timeout`` seconds, or with ``open()``; see :class:`coord.Cache`.
        ``codec``, or the type of the values (:func:`coord.codec.for_type`), decodes them; without, they are bytes.
        ``max_keys`` and ``max_bytes`` (of keys and values as they are in the store) bound it.
        """
        if (prefix is None) == (key is None):
            raise InvalidArgument("give either prefix or key")
        if max_keys < 1 or max_bytes < 1:
            raise InvalidArgument("max_keys and max_bytes must be at least 1")
        chosen: Codec[Any] | None = None if codec is None else as_codec(codec)
        limits = Limits(max_keys=max_keys, max_bytes=max_bytes)
        if key is not None:
            one = to_key(key)
            return NodeCache(self._mirrors, one, b"", codec=chosen, limits=limits, timeout=timeout)
        start, end = prefix_range(prefix or b"")
        return Cache(self._mirrors, start, end, codec=chosen, limits=limits, timeout=timeout)

    def typed(self, codec: type[T] | Codec[T]) -> Typed[T]:
        """Return a view of this client in which values are objects: of a type, or what a codec makes of them.

        ``rules = client.typed(Rule)``, then ``await rules.put("rules/7", Rule(...))``; see :class:`coord.Typed`.
        Raises :class:`coord.InvalidArgument` for a type without a codec, see :func:`coord.codec.for_type`.
        """
        whole = cast("Client", self)  # of which this is a part
        return Typed(whole, self._core, as_codec(codec))
