"""The twins of typed views."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from coord.sync._portal import Portal, Twin
from coord.sync.cache import Cache, NodeCache, twin_of
from coord.sync.watch import Watch
from coord.typed import TypedRangeResult, TypedWatchBatch, TypedWatchEvent, typed_batch, typed_event

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator
    from types import TracebackType

    from coord import typed
    from coord.codec.protocol import Codec
    from coord.codec.values import TypedKeyValue
    from coord.store.values import DeleteResult, PutResult, WatchFilter

T = TypeVar("T")


class TypedWatch(Twin["typed.TypedWatch[T]"]):
    """As :class:`coord.sync.Watch`, with decoded values; see :class:`coord.TypedWatch`."""

    __slots__ = ("_watch",)

    def __init__(self, portal: Portal, wrapped: typed.TypedWatch[T]) -> None:
        super().__init__(portal, wrapped)
        self._watch = Watch(portal, wrapped.untyped)

    @property
    def untyped(self) -> Watch:
        """The watch itself."""
        return self._watch

    @property
    def codec(self) -> Codec[T]:
        """What decodes the values."""
        return self._async.codec

    @property
    def revision(self) -> int:
        """The revision up to which everything has been read."""
        return self._watch.revision

    @property
    def lag(self) -> int:
        """How many revisions the store is known to be ahead of what was read."""
        return self._watch.lag

    def __enter__(self) -> Self:
        """Open the watch."""
        self._watch.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the watch."""
        self.close()

    def close(self) -> None:
        """End the watch, without waiting. Safe to call twice, from any thread."""
        self._watch.close()

    def __iter__(self) -> Self:
        """Iterate over single events."""
        return self

    def __next__(self) -> TypedWatchEvent[T]:
        """Wait for the next event."""
        return self.read()

    def read(self, *, timeout: float | None = None) -> TypedWatchEvent[T]:
        """Return the next event. Raises :class:`coord.CoordTimeout` after ``timeout`` seconds without one."""
        return typed_event(self.codec, self._watch.read(timeout=timeout))

    def batches(self) -> Generator[TypedWatchBatch[T], None, None]:
        """Iterate over batches; see :meth:`coord.sync.Watch.batches`."""
        for batch in self._watch.batches():
            yield typed_batch(self.codec, batch)


class Typed(Twin["typed.Typed[T]"]):
    """Keys of a client whose values are objects of one type; see :class:`coord.Typed`."""

    __slots__ = ()

    @property
    def codec(self) -> Codec[T]:
        """What encodes and decodes the values."""
        return self._async.codec

    def get(
        self,
        key: str | bytes,
        *,
        revision: int | None = None,
        serializable: bool = False,
        timeout: float | None = None,
    ) -> TypedKeyValue[T] | None:
        """Return the pair at ``key``, None if there is none."""
        return self._portal.call(
            self._async.get(key, revision=revision, serializable=serializable, timeout=timeout)
        )

    def get_prefix(
        self,
        prefix: str | bytes,
        *,
        limit: int = 0,
        revision: int | None = None,
        serializable: bool = False,
        timeout: float | None = None,
    ) -> TypedRangeResult[T]:
        """Read all keys that start with ``prefix``; an empty one means all keys."""
        return self._portal.call(
            self._async.get_prefix(
                prefix, limit=limit, revision=revision, serializable=serializable, timeout=timeout
            )
        )

    def put(
        self,
        key: str | bytes,
        value: T,
        *,
        lease: int | None = None,
        timeout: float | None = None,
    ) -> PutResult:
        """Write one value, attached to the lease with this id if given."""
        return self._portal.call(self._async.put(key, value, lease=lease, timeout=timeout))

    def delete(self, key: str | bytes, *, timeout: float | None = None) -> DeleteResult:
        """Delete one key; a missing one is no error."""
        return self._portal.call(self._async.delete(key, timeout=timeout))

    def update(
        self, key: str | bytes, fn: Callable[[T | None], T], *, timeout: float | None = None
    ) -> TypedKeyValue[T]:
        """Replace the value by ``fn(value)``; see :meth:`coord.Typed.update`. ``fn`` runs on this thread."""
        updating = self._async.updating(key, timeout=timeout)
        value = self._portal.call(updating.read())
        while True:
            done, value = self._portal.call(updating.write(fn(value)))
            if done is not None:
                return done

    def watch(
        self,
        key: str | bytes,
        *,
        end: str | bytes | None = None,
        prefix: bool = False,
        start_revision: int | None = None,
        prev_kv: bool = False,
        filters: Collection[WatchFilter] = (),
        progress_notify: bool = False,
        resync: bool = False,
    ) -> TypedWatch[T]:
        """Watch ``key``, ``[key, end)`` or a prefix; see :meth:`coord.Client.watch`."""
        watch = self._async.watch(
            key,
            end=end,
            prefix=prefix,
            start_revision=start_revision,
            prev_kv=prev_kv,
            filters=filters,
            progress_notify=progress_notify,
            resync=resync,
        )
        return TypedWatch(self._portal, watch)

    @overload
    def cache(
        self,
        *,
        prefix: str | bytes,
        max_keys: int = ...,
        max_bytes: int = ...,
        timeout: float | None = None,
    ) -> Cache[T]: ...

    @overload
    def cache(
        self, *, key: str | bytes, max_bytes: int = ..., timeout: float | None = None
    ) -> NodeCache[T]: ...

    def cache(
        self,
        *,
        prefix: str | bytes | None = None,
        key: str | bytes | None = None,
        max_keys: int | None = None,
        max_bytes: int | None = None,
        timeout: float | None = None,
    ) -> Cache[T]:
        """Return a local copy of a prefix or of one key; see :meth:`coord.Client.cache`."""
        options: dict[str, Any] = {
            "prefix": prefix,
            "key": key,
            "max_keys": max_keys,
            "max_bytes": max_bytes,
            "timeout": timeout,
        }
        return twin_of(self._portal, self._async.cache(**options))
