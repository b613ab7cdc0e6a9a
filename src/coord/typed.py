"""Keys whose values are objects of one type. Made by ``client.typed()``."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, overload

from coord.codec.values import TypedKeyValue, decoded
from coord.errors import CoordTimeout, DecodeError, InvalidArgument, UpdateConflict
from coord.store import comparing as compare
from coord.store import operations as op
from coord.store.keys import to_key
from coord.store.values import EventType, PutResult

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection
    from types import TracebackType

    from coord.cache import Cache, NodeCache
    from coord.client import Client
    from coord.codec.protocol import Codec
    from coord.core import Core
    from coord.store.values import DeleteResult, KeyValue, WatchBatch, WatchEvent, WatchFilter
    from coord.watching import Watch

T = TypeVar("T")

# Between attempts of an update, so that those who lost do not meet again; and how many there are.
_PAUSE_S = 0.02
_ATTEMPTS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class TypedRangeResult(Generic[T]):
    """As :class:`coord.RangeResult`, with decoded values."""

    items: tuple[TypedKeyValue[T], ...]
    count: int
    more: bool
    revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TypedWatchEvent(Generic[T]):
    """As :class:`coord.WatchEvent`, with the decoded value.

    ``pair`` is None for a delete, and for a value that cannot be read: ``error`` says why then.
    ``previous`` is None too when it cannot be read.
    """

    type: EventType
    key: bytes
    revision: int
    pair: TypedKeyValue[T] | None
    previous: TypedKeyValue[T] | None = None
    error: DecodeError | None = None

    @property
    def value(self) -> T | None:
        """The value that was put; None for a delete. Raises :class:`coord.DecodeError` if it cannot be read."""
        if self.error is not None:
            raise self.error
        return None if self.pair is None else self.pair.value

    @property
    def is_create(self) -> bool:
        """Whether the put created the key."""
        return self.pair is not None and self.pair.create_revision == self.revision


@dataclass(frozen=True, slots=True, kw_only=True)
class TypedWatchBatch(Generic[T]):
    """As :class:`coord.WatchBatch`, with decoded values."""

    events: tuple[TypedWatchEvent[T], ...]
    revision: int
    resync: bool = False


def typed_event(codec: Codec[T], event: WatchEvent) -> TypedWatchEvent[T]:
    """Decode an event. A value that cannot be read does not end a watch: the event says so."""
    pair: TypedKeyValue[T] | None = None
    previous: TypedKeyValue[T] | None = None
    wrong: DecodeError | None = None
    if event.type is EventType.PUT:
        try:
            pair = decoded(codec, event.kv)
        except DecodeError as error:
            wrong = error
    if event.previous is not None:
        try:
            previous = decoded(codec, event.previous)
        except DecodeError:
            previous = None
    return TypedWatchEvent(
        type=event.type,
        key=event.key,
        revision=event.revision,
        pair=pair,
        previous=previous,
        error=wrong,
    )


def typed_batch(codec: Codec[T], batch: WatchBatch) -> TypedWatchBatch[T]:
    """Decode a batch."""
    events = tuple([typed_event(codec, event) for event in batch.events])
    return TypedWatchBatch(events=events, revision=batch.revision, resync=batch.resync)


class TypedWatch(Generic[T]):
    """As :class:`coord.Watch`, with decoded values. Made by ``typed.watch()``."""

    def __init__(self, watch: Watch, codec: Codec[T]) -> None:
        self._watch = watch
        self._codec = codec

    @property
    def untyped(self) -> Watch:
        """The watch itself."""
        return self._watch

    @property
    def codec(self) -> Codec[T]:
        """What decodes the values."""
        return self._codec

    @property
    def revision(self) -> int:
        """The revision up to which everything has been read; see :attr:`coord.Watch.revision`."""
        return self._watch.revision

    @property
    def lag(self) -> int:
        """How many revisions the store is known to be ahead of what was read."""
        return self._watch.lag

    async def __aenter__(self) -> Self:
        """Open the watch."""
        await self._watch.__aenter__()
        return self

    async def __aexit__(
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

    def __aiter__(self) -> Self:
        """Iterate over single events."""
        return self

    async def __anext__(self) -> TypedWatchEvent[T]:
        """Return the next event."""
        return typed_event(self._codec, await anext(self._watch))

    async def batches(self) -> AsyncIterator[TypedWatchBatch[T]]:
        """Iterate over batches; see :meth:`coord.Watch.batches`."""
        async for batch in self._watch.batches():
            yield typed_batch(self._codec, batch)


class Updating(Generic[T]):
    """One update under way: read, then write until nobody else came first. For :class:`Typed` and its twin."""

    def __init__(
        self, client: Client, core: Core, codec: Codec[T], key: bytes, timeout: float | None
    ) -> None:
        self._client = client
        self._env = core.env
        self._codec = codec
        self._key = key
        self._timeout = timeout
        self._deadline = None if timeout is None else self._env.clock.mono() + timeout
        self._seen: KeyValue | None = None
        self._attempts = 0

    def _left(self) -> float | None:
        if self._deadline is None:
            return None
        left = self._deadline - self._env.clock.mono()
        if left <= 0:
            raise CoordTimeout(
                "update", self._timeout, explain=f"{self._attempts} attempts met other writers"
            )
        return left

    async def read(self) -> T | None:
        """Return the value to start from."""
        self._seen = await self._client.get(self._key, timeout=self._left())
        return self._value()

    def _value(self) -> T | None:
        return None if self._seen is None else decoded(self._codec, self._seen).value

    async def write(self, value: T) -> tuple[TypedKeyValue[T] | None, T | None]:
        """Write ``value`` if nothing has changed; return the new pair, or None and the value to start from again."""
        seen, key = self._seen, self._key
        lease = 0 if seen is None else seen.lease  # a put without it would detach the key
        result = (
            await self._client.txn()
            .when(compare.mod_revision(key) == (0 if seen is None else seen.mod_revision))
            .then(op.put(key, self._codec.encode(value), lease=lease))
            .otherwise(op.get(key))
            .commit(timeout=self._left())
        )
        if result.succeeded:
            pair: TypedKeyValue[T] = TypedKeyValue(
                key=key,
                value=value,
                create_revision=result.revision if seen is None else seen.create_revision,
                mod_revision=result.revision,
                version=1 if seen is None else seen.version + 1,
                lease=lease,
            )
            return pair, None
        self._attempts += 1
        if self._attempts >= _ATTEMPTS:
            raise UpdateConflict(key, self._attempts)
        self._left()
        await asyncio.sleep(self._env.rand.uniform(0, _PAUSE_S))
        found = result.range(0).items
        self._seen = found[0] if found else None
        return None, self._value()


class Typed(Generic[T]):
    """Keys of a client whose values are objects of one type. Errors and options as of the client's own methods.

    Reading raises :class:`coord.DecodeError`, which names the key, for a value that is something else.
    """

    def __init__(self, client: Client, core: Core, codec: Codec[T]) -> None:
        self._client = client
        self._core = core
        self._codec = codec

    @property
    def codec(self) -> Codec[T]:
        """What encodes and decodes the values."""
        return self._codec

    async def get(
        self,
        key: str | bytes,
        *,
        revision: int | None = None,
        serializable: bool = False,
        timeout: float | None = None,
    ) -> TypedKeyValue[T] | None:
        """Return the pair at ``key``, None if there is none."""
        kv = await self._client.get(
            key, revision=revision, serializable=serializable, timeout=timeout
        )
        return None if kv is None else decoded(self._codec, kv)

    async def get_prefix(
        self,
        prefix: str | bytes,
        *,
        limit: int = 0,
        revision: int | None = None,
        serializable: bool = False,
        timeout: float | None = None,
    ) -> TypedRangeResult[T]:
        """Read all keys that start with ``prefix``; an empty one means all keys."""
        result = await self._client.get_prefix(
            prefix, limit=limit, revision=revision, serializable=serializable, timeout=timeout
        )
        items = tuple([decoded(self._codec, kv) for kv in result.items])
        return TypedRangeResult(
            items=items, count=result.count, more=result.more, revision=result.revision
        )

    async def put(
        self,
        key: str | bytes,
        value: T,
        *,
        lease: int | None = None,
        timeout: float | None = None,
    ) -> PutResult:
        """Write one value, attached to the lease with this id if given."""
        return await self._client.put(key, self._codec.encode(value), lease=lease, timeout=timeout)

    async def delete(self, key: str | bytes, *, timeout: float | None = None) -> DeleteResult:
        """Delete one key; a missing one is no error."""
        return await self._client.delete(key, timeout=timeout)

    async def update(
        self, key: str | bytes, fn: Callable[[T | None], T], *, timeout: float | None = None
    ) -> TypedKeyValue[T]:
        """Replace the value by ``fn(value)``, or create it from ``fn(None)``; again, when others came in between.

        ``fn`` may be called several times and runs on the caller's loop. The key keeps its lease.
        Raises :class:`coord.UpdateConflict` after 100 attempts, :class:`coord.CoordTimeout` when ``timeout`` seconds
        were not enough for one, :class:`coord.AmbiguousResult` when the answer to a write did not arrive.
        Cancelled, the write may have been applied or not.
        """
        updating = self.updating(key, timeout=timeout)
        value = await updating.read()
        while True:
            done, value = await updating.write(fn(value))
            if done is not None:
                return done

    def updating(self, key: str | bytes, *, timeout: float | None) -> Updating[T]:
        """Begin an update, step by step."""
        return Updating(self._client, self._core, self._codec, to_key(key), timeout)

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
        watch = self._client.watch(
            key,
            end=end,
            prefix=prefix,
            start_revision=start_revision,
            prev_kv=prev_kv,
            filters=filters,
            progress_notify=progress_notify,
            resync=resync,
        )
        return TypedWatch(watch, self._codec)

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
        options: dict[str, Any] = {"max_keys": max_keys, "max_bytes": max_bytes}
        options = {name: given for name, given in options.items() if given is not None}
        if prefix is not None and key is None:
            return self._client.cache(prefix=prefix, codec=self._codec, timeout=timeout, **options)
        if key is not None and prefix is None:
            options.pop("max_keys", None)
            return self._client.cache(key=key, codec=self._codec, timeout=timeout, **options)
        raise InvalidArgument("give either prefix or key")
