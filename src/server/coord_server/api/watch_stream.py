"""One Watch call: requests in, and the responses that are not events.

Events reach the stream through its *sink*, in the order in which the hub hands them over; what is
answered here takes the same way out, so created, events, progress and cancelled stay in order.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from coord.rpc.status import RpcError
from coord.wire import rpc_pb2
from coord.wire.fast import varint
from coord_server import errors
from coord_server.api.context import parse_streamed
from coord_server.mvcc.hub import (
    COMPACTED,
    WITH_PREVIOUS,
    WITHOUT_DELETES,
    WITHOUT_PUTS,
    Sink,
    Watcher,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from coord.rpc.server_stream import ServerStream
    from coord_server.api.context import ApiContext

# A stream with this much unsent is full: its events wait in the hub, and its requests wait too. Above
# the transport's low-water mark, below which the stream is called writable again.
FULL_BYTES: Final = 128 << 10
# Periods are at least this long, and differ between streams by up to a tenth (etcd API: Watch,
# "Progress").
MIN_PROGRESS_INTERVAL_S: Final = 0.1
PROGRESS_JITTER: Final = 0.1
# Beyond the largest request, so that a response with one event is seldom split.
FRAGMENT_SLACK_BYTES: Final = 512 << 10

EMPTY_RANGE: Final = "mvcc: watcher range is empty"
DUPLICATE_ID: Final = "mvcc: duplicate watch ID provided on the WatchStream"
# The id of nobody, and of all watchers of the stream.
NO_ID: Final = -1

_CREATED: Final = b"\x18\x01"
_CANCELED: Final = b"\x20\x01"
_REASON_TAG: Final = b"\x32"


def _id_field(watch_id: int) -> bytes:
    return b"\x10" + varint(watch_id) if watch_id else b""


class WatchStream:
    """The server's side of one Watch call. ``later`` is called when the stream has room again."""

    def __init__(
        self, context: ApiContext, stream: ServerStream, *, later: Callable[[WatchStream], None]
    ) -> None:
        self._context = context
        self._hub = context.hub
        self._stream = stream
        self._later = later
        self._full_bytes = max(FULL_BYTES, 2 * stream.conn.limits.low_water_bytes)
        self._sink = Sink(self._deliver)
        self._watchers: dict[int, Watcher] = {}
        self._wants_progress: dict[int, None] = {}
        self._next_id = 0
        self._timer: asyncio.TimerHandle | None = None
        jitter = 1 + context.env.rand.uniform(0, PROGRESS_JITTER)
        interval = max(MIN_PROGRESS_INTERVAL_S, context.config.progress_interval_s)
        self._progress_interval_s = interval * jitter
        stream.on_message = self._receive
        stream.on_writable = self._writable

    def close(self) -> None:
        """End all watchers. The call has ended."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        watchers, self._watchers = self._watchers, {}
        for watcher in watchers.values():
            self._hub.remove(watcher)

    def go_on(self) -> None:
        """Send what had to wait and read what was left unread. Not to be called by the transport."""
        self._hub.resume(self._sink)
        if not self._is_full():
            self._stream.resume_reading()

    def _writable(self) -> None:
        # The transport may be in the midst of taking messages of this very stream: sending now would
        # put later ones before them.
        self._later(self)

    def _deliver(self, messages: list[bytes]) -> bool:
        stream = self._stream
        if len(messages) == 1:
            stream.send(messages[0])
        else:
            stream.send_many(messages)
        return stream.unsent_bytes < self._full_bytes

    def _is_full(self) -> bool:
        return self._stream.unsent_bytes >= self._full_bytes

    def _send(self, message: bytes) -> None:
        self._stream.send(message)
        if self._is_full():
            # Whoever asks without reading the answers is not heard for a while.
            self._sink.blocked = True
            self._stream.pause_reading()

    def _receive(self, message: bytes) -> None:
        try:
            request = parse_streamed(rpc_pb2.WatchRequest, message)
        except RpcError as error:
            self._stream.finish(error.code, error.message)
            return
        match request.WhichOneof("request_union"):
            case "create_request":
                self._create(request.create_request)
            case "cancel_request":
                self._cancel(request.cancel_request.watch_id)
            case "progress_request":
                self._progress_now()
            case _:
                pass  # an empty request, or one of a newer API, is no error

    def _create(self, request: rpc_pb2.WatchCreateRequest) -> None:
        key = request.key or b"\x00"
        end = request.range_end
        if request.start_revision < 0:
            self._refuse(errors.COMPACTED.message)
            return
        if end and end != b"\x00" and key >= end:
            self._refuse(EMPTY_RANGE)
            return
        watch_id = request.watch_id
        if not watch_id:
            while self._next_id in self._watchers:
                self._next_id += 1
            watch_id = self._next_id
            self._next_id += 1
        elif watch_id in self._watchers:
            self._refuse(DUPLICATE_ID)
            return
        watcher = Watcher(
            self._sink,
            watch_id,
            key,
            end,
            variant=_variant(request),
            fragment_bytes=self._fragment_bytes() if request.fragment else 0,
        )
        self._watchers[watch_id] = watcher
        # Whatever is filed for others belongs before this watcher's time.
        self._hub.flush()
        self._send(self._context.header() + _id_field(watch_id) + _CREATED)
        self._hub.add(watcher, request.start_revision)
        if request.progress_notify:
            self._wants_progress[watch_id] = None
            if self._timer is None:
                self._set_timer()

    def _fragment_bytes(self) -> int:
        return self._context.config.max_request_bytes + FRAGMENT_SLACK_BYTES

    def _refuse(self, reason: str) -> None:
        text = reason.encode()
        self._send(
            b"".join(
                (
                    self._context.header(),
                    _id_field(NO_ID),
                    _CREATED,
                    _CANCELED,
                    _REASON_TAG,
                    varint(len(text)),
                    text,
                )
            )
        )

    def _cancel(self, watch_id: int) -> None:
        watcher = self._watchers.get(watch_id)
        if watcher is None:
            return
        self._hub.remove(watcher)
        del self._watchers[watch_id]
        self._wants_progress.pop(watch_id, None)
        self._send(self._context.header() + _id_field(watch_id) + _CANCELED)

    # Progress: a promise that everything up to the header's revision was delivered before.

    def _progress_now(self) -> None:
        self._hub.flush()
        watchers = [w for w in self._watchers.values() if w.state != COMPACTED]
        revision = self._context.store.revision
        if watchers and not self._sink.blocked and all(w.has_seen(revision) for w in watchers):
            self._send(self._context.header() + _id_field(NO_ID))

    def _set_timer(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._progress_interval_s, self._tick)

    def _tick(self) -> None:
        self._set_timer()
        self._hub.flush()
        revision = self._context.store.revision
        for watch_id in self._wants_progress:
            watcher = self._watchers[watch_id]
            if watcher.served:
                watcher.served = False
            elif not self._sink.blocked and watcher.has_seen(revision):
                self._send(self._context.header() + _id_field(watch_id))


def _variant(request: rpc_pb2.WatchCreateRequest) -> int:
    variant = WITH_PREVIOUS if request.prev_kv else 0
    if rpc_pb2.WatchCreateRequest.NOPUT in request.filters:
        variant |= WITHOUT_PUTS
    if rpc_pb2.WatchCreateRequest.NODELETE in request.filters:
        variant |= WITHOUT_DELETES
    return variant
