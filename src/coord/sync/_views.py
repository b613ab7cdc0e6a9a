"""The twin of the part of a client that keeps copies, and reads and writes values as objects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, overload

from coord import client
from coord.client.views import DEFAULT_MAX_BYTES, DEFAULT_MAX_KEYS
from coord.sync._portal import Twin
from coord.sync.cache import Cache, NodeCache, twin_of
from coord.sync.typed import Typed

if TYPE_CHECKING:
    from coord.codec import Codec

T = TypeVar("T")


class ViewCalls(Twin[client.Client]):
    """Caches and typed views of a :class:`coord.sync.Client`."""

    __slots__ = ()

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
        """Return a local copy of a prefix or of one key, to be opened with ``with``; see :meth:`coord.Client.cache`."""
        options: dict[str, Any] = {
            "prefix": prefix,
            "key": key,
            "codec": codec,
            "max_keys": max_keys,
            "max_bytes": max_bytes,
            "timeout": timeout,
        }
        return twin_of(self._portal, self._async.cache(**options))

    def typed(self, codec: type[T] | Codec[T]) -> Typed[T]:
        """Return a view of this client in which values are objects; see :meth:`coord.Client.typed`."""
        return Typed(self._portal, self._async.typed(codec))
