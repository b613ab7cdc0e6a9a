"""Watches: every change of a key or range, in order, each once, over lost connections (etcd API: Watch).

All watches of a client share one stream (:class:`WatchMux`).
Each :class:`WatchFeed` remembers ``next_revision``, the lowest revision that it has not delivered; after a lost stream
it is created again from there, so nothing is missed, and whatever arrives below it is dropped, so nothing comes twice.

A feed whose consumer is slow keeps at most ``_FEED_EVENTS`` events: beyond, its server-side watch is cancelled, and
created again from ``next_revision`` once the consumer has caught up.
The other feeds of the stream do not notice.

A stream that is open but silent is asked for a sign of life now and then, and replaced by one on another endpoint when
it gives none (:mod:`coord.store.heartbeat`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from contextvars import Context
from dataclasses import dataclass
from typing import TYPE_CHECKING

from coord._telemetry import note_events
from coord.errors import (
    ClientClosed,
    Compacted,
    CoordError,
    PermissionDenied,
    ProtocolError,
    RequestRefused,
    from_status,
)
from coord.rpc.status import RpcError, StatusCode
from coord.store.caller import decode
from coord.store.heartbeat import Heartbeat, Pulse
from coord.store.keyspace import EVERYTHING, Keyspace
from coord.store.values import WatchBatch, events_from_wire
from coord.store.watch_rights import REFUSALS_MAX, denial, is_about_the_user
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

    def __init__(
        self, mux: WatchMux, spec: WatchSpec, watch_id: int, keyspace: Keyspace = EVERYTHING
    ) -> None:
        self._mux = mux
        self._keyspace = keyspace
        self.spec = spec
        self.watch_id = watch_id
        self.next_revision: int = spec.start_revision
        self.created: asyncio.Event = asyncio.Event()
        self._batches: deque[WatchBatch] = deque()
        self._taken = 0  # batches taken from the front, over all time
        self._fragments: list[kv_pb2.Event] = []
        self._buffered = 0
        self._wake: asyncio.Event = asyncio.Event()
        self._error: CoordError | None = None
        self.parked = False
        self.closed: bool = False
        self.store_revision: int = 0
        """The newest revision that the store has told on this watch; may be ahead of what it has delivered."""
        self.live: bool = False
        """Whether the server watches for us now."""
        self.lost_at: float = 0.0
        """When it last stopped to, in seconds of the clock: the moment of the last message before."""
        self._created_revision = 0
        self._is_covered = False
        self.refusals: int = 0  # in a row, although the store would let us read

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

    def reached(self, position: int) -> int | None:
        """Return the revision up to which all has been delivered to the reader who is at ``position``.

        None while something waits for that reader. From any thread.
        """
        # In this order, as the runtime's loop may add a batch meanwhile, and counts it last.
        revision = self.next_revision - 1
        return revision if self._taken + len(self._batches) <= position else None

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
            key=self._keyspace.prefix + spec.key,
            range_end=self._keyspace.end(spec.end),
            start_revision=self.next_revision,
            progress_notify=spec.progress_notify,
            filters=filters,
            prev_kv=spec.prev_kv,
            watch_id=self.watch_id,
            fragment=True,
        )
        return rpc_pb2.WatchRequest(create_request=create)

    def on_created(self, revision: int, *, covered: bool) -> None:
        """Note the position of a watch "from now": the revision at which the server saw it first.

        Inclusive, since events up to the revision in that header may still be under way (spec core 3.5).
        ``covered``: no answer of the stream that is still to come can be older than this watch.
        """
        self._fragments = []
        self.live = True
        self._created_revision = revision
        self._is_covered = covered
        self.store_revision = max(self.store_revision, revision)
        self.refusals = 0
        if self.next_revision == 0:
            self.next_revision = revision
        self.created.set()

    def on_lost(self, when: float) -> None:
        """Note that nobody watches for us since ``when``."""
        if self.live:
            self.live = False
            self.lost_at = when

    def on_response(self, response: rpc_pb2.WatchResponse) -> None:
        """Take events or progress of this watch."""
        self.store_revision = max(self.store_revision, response.header.revision)
        if response.fragment:
            self._fragments.extend(response.events)
            return
        wire = [*self._fragments, *response.events] if self._fragments else response.events[:]
        self._fragments = []
        events = events_from_wire(
            wire, self.next_revision, with_previous=self.spec.prev_kv, skip=self._keyspace.size
        )
        if not wire:
            self.on_progress(response.header.revision)
            return
        if events:
            last = events[-1].revision
            note_events(len(events), response.header.revision - last)
            self._deliver(WatchBatch(events=tuple(events), revision=last))
            self.next_revision = last + 1
            if self._buffered > _FEED_EVENTS:
                self._mux.park(self)

    def on_progress(self, revision: int) -> None:
        """Everything up to ``revision`` has been delivered."""
        if self.created.is_set() and revision + 1 > self.next_revision:
            if self.spec.progress_notify:
                self._deliver(WatchBatch(events=(), revision=revision))
            self.next_revision = revision + 1

    def on_stream_progress(self, revision: int) -> None:
        """As :meth:`on_progress`, told for all watches that the stream had when the server was asked.

        An answer that is older than this watch says nothing about it, and may still come after its confirmation:
        they take different ways out of an etcd. It is younger if it was asked for later, or knows more.
        """
        if self.live and (self._is_covered or revision > self._created_revision):
            self.on_progress(revision)

    def _deliver(self, batch: WatchBatch) -> None:
        self._batches.append(batch)
        self._buffered += len(batch.events)
        self._wake.set()


class WatchMux:
    """All watches of a client on one stream, which is reopened for as long as there are watches."""

    def __init__(
        self,
        transport: Transport,
        env: Env,
        supervisor: Supervisor,
        *,
        metadata: Metadata = (),
        keyspace: Keyspace = EVERYTHING,
    ) -> None:
        self._transport = transport
        self._keyspace = keyspace
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
        self.pulse: Pulse = Pulse()
        """How patient the heartbeat of the next stream is."""
        self.stream_number: int = 0
        """Counts the streams that were opened."""
        self.member_id: int = 0
        """The member that answers on the present stream; 0 until it has said something."""
        self._heard_at = 0.0
        self._progress_asked = 0
        self._progress_answered = 0

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
        feed = WatchFeed(self, spec, self._last_id, self._keyspace)
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
        feed.on_lost(self._env.clock.mono())
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

    def ask_progress(self) -> None:
        """Ask how far the store is, for all watches together (etcd API: WatchProgressRequest).

        Without an answer as long as one of them is behind. Only for a server that keeps its answer behind the events
        that come before it, as etcd does from 3.4.25 and 3.5.8 on: elsewhere it may overtake them, and they would be
        taken for repeated ones.
        """
        if self._stream is not None:
            self._progress_asked += 1
            request = rpc_pb2.WatchRequest(progress_request=rpc_pb2.WatchProgressRequest())
            self._stream.send(request.SerializeToString())

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

    def _probe(self) -> None:
        """Ask the stream for a sign of life: begin a watch of nothing, and end it.

        Its creation is always answered, also by a refusal. A request for progress is not, while one watch is behind.
        """
        feed = next(iter(self._feeds.values()), None)
        if feed is None or self._stream is None:
            return
        self._last_id += 1
        self._creating.append(self._last_id)
        create = rpc_pb2.WatchCreateRequest(
            key=feed.spec.key,
            watch_id=self._last_id,
            filters=[rpc_pb2.WatchCreateRequest.NOPUT, rpc_pb2.WatchCreateRequest.NODELETE],
        )
        self._stream.send(rpc_pb2.WatchRequest(create_request=create).SerializeToString())
        self._cancel(self._last_id)

    def _start(self, pause: float) -> None:
        nobody_s = Context()  # it serves many
        self._task = self._supervisor.spawn(self._run(pause), name="watch-stream", context=nobody_s)
        self._task.add_done_callback(self._ended, context=nobody_s)

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
        self._begin(stream)
        silent = False

        def give_up() -> None:
            nonlocal silent
            silent = True
            self._transport.suspect()  # it answers pings, so nobody else will find out
            stream.cancel()

        heartbeat = Heartbeat(self.pulse, ask=self._probe, give_up=give_up)
        heartbeat.start()
        try:
            for feed in list(self._feeds.values()):
                if not feed.parked:
                    self._create(feed)
            while self._feeds:
                message = await stream.receive()
                if message is None:
                    break
                self._useful = True
                heartbeat.heard()
                self._heard_at = self._env.clock.mono()
                self._take(decode(rpc_pb2.WatchResponse, message))
        except RpcError as error:
            if self._is_final(error):
                raise
            if error.message == _NO_LEADER_TEXT:
                self._transport.suspect(stream.endpoint)  # other calls had better not wait there
        except ProtocolError as error:
            self._fail_all(error)
        finally:
            heartbeat.stop()
            self._stream = None
            for feed in self._feeds.values():
                feed.on_lost(self._heard_at)
            stream.cancel()
        if silent:
            self._useful = False
        return stream.endpoint

    def _begin(self, stream: MessageStream) -> None:
        self._stream = stream
        self._creating.clear()
        self.stream_number += 1
        self.member_id = 0
        self._heard_at = self._env.clock.mono()
        self._progress_asked = self._progress_answered = 0

    def _take(self, response: rpc_pb2.WatchResponse) -> None:
        self.member_id = response.header.member_id or self.member_id
        if response.created:
            asked = self._creating.popleft() if self._creating else response.watch_id
            feed = self._feeds.get(asked)
            if response.canceled:
                if feed is not None:
                    self._refused(feed, response)
            elif feed is not None:
                feed.on_created(
                    response.header.revision,
                    covered=self._progress_asked == self._progress_answered,
                )
            return
        if response.watch_id == -1:
            self._progress_answered += 1
            for each in self._feeds.values():
                each.on_stream_progress(response.header.revision)
            return
        feed = self._feeds.get(response.watch_id)
        if feed is None or feed.parked:
            return
        if response.canceled:
            self._end(feed, _refusal(response))
        else:
            feed.on_response(response)

    def _refused(self, feed: WatchFeed, response: rpc_pb2.WatchResponse) -> None:
        """Take the refusal of a creation: at its word, or if it is about the user, after a second question."""
        stream, error = self._stream, _refusal(response)
        if stream is None or not is_about_the_user(response.cancel_reason):
            self._end(feed, error)
            return
        with contextlib.suppress(RuntimeError):  # the client has closed
            self._supervisor.spawn(self._ask_again(feed, stream, error), name="watch-rights")

    async def _ask_again(self, feed: WatchFeed, stream: MessageStream, error: CoordError) -> None:
        """End a feed that was refused on ``stream`` for good reason, or replace the stream."""
        create = feed.create_request().create_request
        denied = await denial(self._transport, create, self._metadata)
        if denied is None:
            feed.refusals += 1
        elif not isinstance(denied, PermissionDenied):
            await asyncio.sleep(self._env.rand.uniform(_RETRY_MIN_S, _RETRY_MAX_S))
        if self._stream is not stream or self._feeds.get(feed.watch_id) is not feed:
            return  # it was created again meanwhile, or nobody wants it any more
        if isinstance(denied, PermissionDenied):
            self._end(feed, denied)
        elif feed.refusals > REFUSALS_MAX:
            self._end(feed, error)
        else:
            stream.distrust()
            stream.cancel()

    def _end(self, feed: WatchFeed, error: CoordError) -> None:
        if error.__class__ is Compacted:
            self._cancel(feed.watch_id)  # the server keeps the id until then (spec core 3.4)
        self._feeds.pop(feed.watch_id, None)
        feed.on_lost(self._env.clock.mono())
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
