"""Watches: every change of a key or range, in order, each once, over lost connections (etcd API: Watch).

All watches of a client share one stream (:class:`WatchMux`).
Each :class:`WatchFeed` remembers ``next_revision``, the lowest revision that it has not delivered; after a lost stream
it is created again from there, so nothing is missed, and whatever arrives below it is dropped, so nothing comes twice.

A feed whose consumer is slow keeps at most ``_FEED_EVENTS`` events: beyond, its server-side watch is cancelled, and
created again from ``next_revision`` once the consumer has caught up.
The other feeds of the stream do not notice.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from coord.errors import (
    ClientClosed,
    Compacted,
    CoordError,
    ProtocolError,
    RequestRefused,
    from_status,
)
from coord.rpc.status import RpcError, StatusCode
from coord.store.caller import decode
from coord.store.values import EventType, KeyValue, WatchBatch, WatchEvent
from coord.wire import methods, rpc_pb2

if TYPE_CHECKING:
    from coord.rpc.metadata import Metadata
    from coord.runtime import Env, Supervisor
    from coord.transport import MessageStream, Transport
    from coord.wire import kv_pb2

_FEED_EVENTS = 4096  # per feed; a few MB at usual sizes
_RETRY_MIN_S = 0.02
_RETRY_MAX_S = 1.0
_NO_LEADER_TEXT = "etcdserver: no leader"
_COMPACTED_TEXT = "etcdserver: mvcc: required revision has been compacted"


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchSpec:
    """What to watch: ``key``, or ``[key, end)``; from ``start_revision`` on, or from now (0)."""

    key: bytes
    end: bytes = b""
    start_revision: int = 0
    prev_kv: bool = False
    no_put: bool = False
    no_delete: bool = False
    progress_notify: bool = False


class WatchFeed:
    """One watch, as a queue of batches. Made by :meth:`WatchMux.open`; lives on the runtime's loop."""

    def __init__(self, mux: WatchMux, spec: WatchSpec, watch_id: int) -> None:
        self._mux = mux
        self.spec = spec
        self.watch_id = watch_id
        self.next_revision = spec.start_revision
        self.created = asyncio.Event()
        self._batches: deque[WatchBatch] = deque()
        self._taken = 0  # batches taken from the front, over all time
        self._fragments: list[kv_pb2.Event] = []
        self._buffered = 0
        self._wake: asyncio.Event = asyncio.Event()
        self._error: CoordError | None = None
        self.parked = False
        self.closed = False

    async def next(self) -> WatchBatch:
        """Return the next batch: whole revisions in order, or no events for a progress notification.

        Raises :class:`Compacted` when history that is still needed is gone, :class:`RequestRefused` when the server
        refuses the watch, :class:`ClientClosed`.
        A cancelled call loses nothing.
        """
        await self._wait()
        batch = self._batches[0]
        self._take(1)
        return batch

    async def read(self, position: int) -> tuple[tuple[WatchBatch, ...], int]:
        """Return all batches that are there behind ``position``, at least one, and the position behind them.

        Giving a position back says that everything before it has arrived, so that only then it is forgotten: a call
        whose result got lost with its cancelled reader is repeated from the old position.
        ``0`` is the start. Raises as :meth:`next`.
        """
        self._take(position - self._taken)
        await self._wait()
        batches = tuple(self._batches)
        return batches, self._taken + len(batches)

    async def _wait(self) -> None:
        while not self._batches:
            self.check()
            self._wake.clear()
            await self._wake.wait()

    def _take(self, count: int) -> None:
        for _ in range(count):
            self._buffered -= len(self._batches.popleft().events)
        self._taken += count
        if self.parked and not self._batches:
            self._mux.resume(self)

    def close(self) -> None:
        """End the watch. Safe to call twice."""
        if not self.closed:
            self.closed = True
            self._mux.drop(self)
            self.fail(ClientClosed("the watch"))

    def fail(self, error: CoordError) -> None:
        """End with ``error`` after what is buffered."""
        if self._error is None:
            self._error = error
        self.created.set()
        self._wake.set()

    def check(self) -> None:
        """Raise what it has ended with, if it has."""
        if self._error is not None:
            raise self._error

    @property
    def buffered(self) -> int:
        """How many events wait for the reader."""
        return self._buffered

    @property
    def ended(self) -> bool:
        """Whether no more will come."""
        return self._error is not None

    def create_request(self) -> rpc_pb2.WatchRequest:
        """Build the request that starts or restarts this watch."""
        spec = self.spec
        filters: list[rpc_pb2.WatchCreateRequest.FilterType.ValueType] = []
        if spec.no_put:
            filters.append(rpc_pb2.WatchCreateRequest.NOPUT)
        if spec.no_delete:
            filters.append(rpc_pb2.WatchCreateRequest.NODELETE)
        create = rpc_pb2.WatchCreateRequest(
            key=spec.key,
            range_end=spec.end,
            start_revision=self.next_revision,
            progress_notify=spec.progress_notify,
            filters=filters,
            prev_kv=spec.prev_kv,
            watch_id=self.watch_id,
            fragment=True,
        )
        return rpc_pb2.WatchRequest(create_request=create)

    def on_created(self, revision: int) -> None:
        """Note the position of a watch "from now": the revision at which the server saw it first.

        Inclusive, since events up to the revision in that header may still be under way (spec core 3.5).
        """
        self._fragments = []
        if self.next_revision == 0:
            self.next_revision = revision
        self.created.set()

    def on_response(self, response: rpc_pb2.WatchResponse) -> None:
        """Take events or progress of this watch."""
        if response.fragment:
            self._fragments.extend(response.events)
            return
        wire = [*self._fragments, *response.events] if self._fragments else response.events
        self._fragments = []
        events = [_event(e) for e in wire if e.kv.mod_revision >= self.next_revision]
        if not wire:
            self.on_progress(response.header.revision)
            return
        if events:
            last = events[-1].revision
            self.next_revision = last + 1
            self._deliver(WatchBatch(events=tuple(events), revision=last))
            if self._buffered > _FEED_EVENTS:
                self._mux.park(self)

    def on_progress(self, revision: int) -> None:
        """Everything up to ``revision`` has been delivered."""
        if self.created.is_set() and revision + 1 > self.next_revision:
            self.next_revision = revision + 1
            if self.spec.progress_notify:
                self._deliver(WatchBatch(events=(), revision=revision))

    def _deliver(self, batch: WatchBatch) -> None:
        self._batches.append(batch)
        self._buffered += len(batch.events)
        self._wake.set()


def _event(event: kv_pb2.Event) -> WatchEvent:
    return WatchEvent(
        type=EventType.DELETE if event.type else EventType.PUT,
        kv=KeyValue.from_wire(event.kv),
        previous=KeyValue.from_wire(event.prev_kv) if event.HasField("prev_kv") else None,
    )


class WatchMux:
    """All watches of a client on one stream, which is reopened for as long as there are watches."""

    def __init__(
        self, transport: Transport, env: Env, supervisor: Supervisor, *, metadata: Metadata = ()
    ) -> None:
        self._transport = transport
        self._env = env
        self._supervisor = supervisor
        self._metadata = metadata
        self._feeds: dict[int, WatchFeed] = {}
        # Creations are answered in order; a refused one carries no usable id (spec core 3.3).
        self._creating: deque[int] = deque()
        self._stream: MessageStream | None = None
        self._task: asyncio.Task[None] | None = None
        self._useful = False
        self._last_id = 0
        self._closed = False

    def __len__(self) -> int:
        """Return the number of open watches."""
        return len(self._feeds)

    def feeds(self) -> tuple[WatchFeed, ...]:
        """Return the open watches."""
        return tuple(self._feeds.values())

    def open(self, spec: WatchSpec) -> WatchFeed:
        """Start a watch. It becomes active in the background; await ``feed.created`` to know when."""
        if self._closed:
            raise ClientClosed
        # Ids are ours and never reused, so a late message cannot reach the wrong feed.
        self._last_id += 1
        feed = WatchFeed(self, spec, self._last_id)
        self._feeds[feed.watch_id] = feed
        if self._stream is not None:
            self._create(feed)
        elif self._task is None or self._task.done():
            self._start(0.0)
        return feed

    def drop(self, feed: WatchFeed) -> None:
        """Forget a feed, and tell the server."""
        if self._feeds.pop(feed.watch_id, None) is not None and not feed.parked:
            self._cancel(feed.watch_id)

    def park(self, feed: WatchFeed) -> None:
        """Stop the server-side watch of a slow consumer; it is created again when the consumer has caught up."""
        feed.parked = True
        self._cancel(feed.watch_id)

    def resume(self, feed: WatchFeed) -> None:
        """Go on with a parked feed, under a new id: events of the old one may still be on their way."""
        if self._feeds.pop(feed.watch_id, None) is None:
            return
        feed.parked = False
        self._last_id += 1
        feed.watch_id = self._last_id
        self._feeds[feed.watch_id] = feed
        if self._stream is not None:
            self._create(feed)

    async def close(self) -> None:
        """End all watches with :class:`ClientClosed`."""
        self._closed = True
        feeds, self._feeds = list(self._feeds.values()), {}
        for feed in feeds:
            feed.fail(ClientClosed())
        if self._stream is not None:
            self._stream.cancel()

    def _create(self, feed: WatchFeed) -> None:
        if self._stream is not None:
            self._creating.append(feed.watch_id)
            self._stream.send(feed.create_request().SerializeToString())

    def _cancel(self, watch_id: int) -> None:
        if self._stream is not None:
            request = rpc_pb2.WatchRequest(
                cancel_request=rpc_pb2.WatchCancelRequest(watch_id=watch_id)
            )
            self._stream.send(request.SerializeToString())

    def _start(self, pause: float) -> None:
        self._task = self._supervisor.spawn(self._run(pause), name="watch-stream")
        self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Start again if somebody still watches: whatever ended the task, silence is not an answer."""
        if self._task is not task:
            return
        # An ended task keeps, through its exception, the stream and with it the connection.
        self._task = None
        if self._feeds and not self._closed:
            with contextlib.suppress(RuntimeError):  # the client has closed
                self._start(_RETRY_MAX_S)

    async def _run(self, pause: float) -> None:
        """Keep a stream open while there are feeds."""
        delay = pause
        avoid: str | None = None
        while self._feeds and not self._closed:
            if delay:
                await asyncio.sleep(self._env.rand.uniform(delay / 2, delay))
            self._useful = False
            try:
                avoid = await self._one_stream(avoid)
            except RpcError as error:
                if self._is_final(error):
                    self._fail_all(from_status(error, operation="Watch", writes=False))
                    return
                avoid = None
            # A stream that worked is replaced at once, one that did not after growing pauses.
            delay = 0.0 if self._useful else min(_RETRY_MAX_S, max(_RETRY_MIN_S, delay * 2))

    @staticmethod
    def _is_final(error: RpcError) -> bool:
        return error.code in (
            StatusCode.PERMISSION_DENIED,
            StatusCode.UNAUTHENTICATED,
            StatusCode.UNIMPLEMENTED,
        )

    def _fail_all(self, error: CoordError) -> None:
        feeds, self._feeds = list(self._feeds.values()), {}
        for feed in feeds:
            feed.fail(error)

    async def _one_stream(self, avoid: str | None) -> str:
        """Run one stream to its end and return its endpoint, which another stream better avoids.

        Raises ``RpcError`` when none could be opened, or when the server refuses watches as such.
        """
        stream = await self._transport.open_stream(
            methods.WATCH_WATCH.path, timeout=10.0, metadata=self._metadata, avoid=avoid
        )
        self._stream = stream
        self._creating.clear()
        try:
            for feed in list(self._feeds.values()):
                if not feed.parked:
                    self._create(feed)
            while self._feeds:
                message = await stream.receive()
                if message is None:
                    break
                self._useful = True
                self._take(decode(rpc_pb2.WatchResponse, message))
        except RpcError as error:
            if self._is_final(error):
                raise
            if error.message == _NO_LEADER_TEXT:
                self._transport.suspect(stream.endpoint)  # other calls had better not wait there
        except ProtocolError as error:
            self._fail_all(error)
        finally:
            self._stream = None
            stream.cancel()
        return stream.endpoint

    def _take(self, response: rpc_pb2.WatchResponse) -> None:
        if response.created:
            asked = self._creating.popleft() if self._creating else response.watch_id
            feed = self._feeds.get(asked)
            if response.canceled:
                if feed is not None:
                    self._end(feed, _refusal(response))
            elif feed is not None:
                feed.on_created(response.header.revision)
            return
        if response.watch_id == -1:
            # Progress of the whole stream, which we never ask for: before etcd 3.5.8 it may overtake events.
            return
        feed = self._feeds.get(response.watch_id)
        if feed is None or feed.parked:
            return
        if response.canceled:
            self._end(feed, _refusal(response))
        else:
            feed.on_response(response)

    def _end(self, feed: WatchFeed, error: CoordError) -> None:
        if error.__class__ is Compacted:
            self._cancel(feed.watch_id)  # the server keeps the id until then (spec core 3.4)
        self._feeds.pop(feed.watch_id, None)
        feed.fail(error)


def _refusal(response: rpc_pb2.WatchResponse) -> CoordError:
    if response.compact_revision:
        return Compacted(_COMPACTED_TEXT, compact_revision=response.compact_revision)
    reason = response.cancel_reason
    if reason == _COMPACTED_TEXT:
        return Compacted(reason)
    if not reason:
        return ProtocolError("the server cancelled the watch without a reason")
    code = (
        StatusCode.PERMISSION_DENIED
        if "permission denied" in reason
        else StatusCode.INVALID_ARGUMENT
    )
    if code is StatusCode.PERMISSION_DENIED:
        return from_status(RpcError(code, reason), operation="Watch", writes=False)
    return RequestRefused(code, reason)
