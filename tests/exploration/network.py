"""What is between the processes and the store: every message takes its time, and faults happen to it.

Latencies are whole milliseconds, so that a reply, a timer and somebody else's request often come at the same moment.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from contextvars import Context

from coord.rpc.metadata import Metadata
from coord.rpc.status import RpcError, StatusCode
from coord.runtime import Address, Clock, start_task
from coord.transport import Cancellable
from coord.transport.health import HealthBoard
from coord.wire import fast, methods, rpc_pb2
from coord_server.mvcc.events import Event
from tests.exploration.clockwork import Clockwork
from tests.exploration.faults import Fault, Plan
from tests.exploration.store import ServerWatch, Store

_ENDPOINT = "store"
_LATENCIES_S = (0.0, 0.001, 0.001, 0.002, 0.003, 0.005)
LATE_MOST_S = 4.0
"""How long a request or a copy of it may be under way."""
_SLOW_MOST_S = 2.5
_CONNECT_EVERY_S = 0.2
_DOUBLED_AT_ONCE = 0.4


class Network:
    """One network of one schedule."""

    def __init__(self, loop: Clockwork, store: Store, plan: Plan, rand: random.Random) -> None:
        self.loop = loop
        self.store = store
        self.plan = plan
        self.requests = 0
        self.quiet_from = 0.0
        """When the last of what is under way now has arrived."""
        self.arrived = 0
        self.context = Context()
        """Where the network's own timers run: in no process."""
        self.trace: list[tuple[float, object, str, object]] = []
        self._rand = rand
        self.cut_off: dict[int, float] = {}
        """Until when a process reaches nobody."""
        self.streams: dict[Stream, None] = {}

    def note(self, process: object, what: str, about: object = "") -> None:
        """Add a line to the trace."""
        self.trace.append((self.loop.now, process, what, about))

    def latency(self) -> float:
        """Draw how long a message takes."""
        return self._rand.choice(_LATENCIES_S)

    def later(self, delay: float, fn: Callable[..., object], *args: object) -> None:
        """Do something in so many seconds, in nobody's process."""
        at = round(self.loop.now + delay, 3)
        self.quiet_from = max(self.quiet_from, at)
        self.loop.call_at(at, fn, *args, context=self.context)

    def is_cut_off(self, process: int) -> bool:
        """Say whether a process reaches nobody now."""
        return self.cut_off.get(process, 0.0) > self.loop.now

    def ask(self, process: int, path: str, request: bytes) -> asyncio.Future[bytes]:
        """Send a request; what becomes of it is the seed's business."""
        self.requests += 1
        answer: asyncio.Future[bytes] = self.loop.create_future()
        there, back = self.latency(), self.latency()
        if self.is_cut_off(process):
            self.note(process, "unheard", path)
            return answer
        fault = self.plan.of_request()
        extra = self._rand.random()
        if fault is None or not self.plan.take(fault, self.loop.now, f"{process} {path}"):
            self.later(there, self._arrive, process, path, request, answer, back)
            return answer
        self.note(process, fault.value, path)
        match fault:
            case Fault.REFUSED:
                self.later(there, _fail, answer, _unavailable("not sent", sent=False))
            case Fault.LOST_REQUEST:
                self.later(there, _fail, answer, _unavailable("lost", sent=True))
            case Fault.LOST_REPLY:
                self.later(there, self._arrive, process, path, request, None, back)
                self.later(there + back, _fail, answer, _unavailable("lost", sent=True))
            case Fault.LATE:
                late = round(LATE_MOST_S * extra**3, 3)
                self.later(there, _fail, answer, _unavailable("late", sent=True))
                self.later(late, self._arrive, process, path, request, None, back)
            case Fault.TWICE:
                self._double((process, path, request), answer, there, back, extra)
            case Fault.SLOW:
                slow = round(_SLOW_MOST_S * extra**2, 3)
                self.later(there, self._arrive, process, path, request, answer, slow)
            case Fault.SILENT_REPLY_LOSS:
                self.later(there, self._arrive, process, path, request, None, back)
            case _:
                pass
        return answer

    def _double(
        self,
        message: tuple[int, str, bytes],
        answer: asyncio.Future[bytes],
        there: float,
        back: float,
        extra: float,
    ) -> None:
        """Let a request arrive twice: only the second time with an answer, or never with one.

        A copy of an answered request does not come later, and its answer is not that of an earlier copy: no carrier sends
        again what was answered.
        """
        self.later(there, self._arrive, *message, None, back)
        if extra < _DOUBLED_AT_ONCE:
            self.later(there + back, self._arrive, *message, answer, back)
        else:
            copy = there + round(LATE_MOST_S * extra**3, 3)
            self.later(copy, self._arrive, *message, None, back)
            self.later(there + back, _fail, answer, _unavailable("doubled", sent=True))

    def _arrive(
        self,
        process: int,
        path: str,
        request: bytes,
        answer: asyncio.Future[bytes] | None,
        back: float,
    ) -> None:
        self.arrived += 1
        self.note(process, path)
        outcome: bytes | RpcError
        try:
            outcome = self.store.unary(path, request)
        except RpcError as error:
            outcome = error
        if answer is not None:
            self.later(back, _settle, answer, outcome)

    def cut_streams(self, process: int) -> None:
        """End the streams of a process."""
        for stream in list(self.streams):
            if stream.process == process:
                stream.end(_unavailable("cut", sent=True))


def _unavailable(text: str, *, sent: bool) -> RpcError:
    return RpcError(StatusCode.UNAVAILABLE, text, sent=sent)


def _fail(answer: asyncio.Future[bytes], error: RpcError) -> None:
    if not answer.done():
        answer.set_exception(error)


def _settle(answer: asyncio.Future[bytes], outcome: bytes | RpcError) -> None:
    if isinstance(outcome, RpcError):
        _fail(answer, outcome)
    elif not answer.done():
        answer.set_result(outcome)


class Stream:
    """Both ends of one stream: watches, or renewals. See :class:`coord.transport.MessageStream`."""

    def __init__(self, network: Network, process: int, path: str) -> None:
        self.process = process
        self.endpoint: str = _ENDPOINT
        self._network = network
        self._take = self._watch if path == methods.WATCH_WATCH.path else self._renew
        self._watches: dict[int, ServerWatch] = {}
        self._up: deque[bytes] = deque()
        self._down: deque[bytes] = deque()
        self._up_at = self._down_at = 0.0
        self._inbox: deque[bytes] = deque()
        self._error: RpcError | None = None
        self._wake: asyncio.Future[None] | None = None
        network.streams[self] = None

    # -- the client's end ------------------------------------------------------------------------------------------

    def send(self, message: bytes) -> None:
        """See MessageStream."""
        if self._error is None:
            self._up.append(message)
            self._up_at = self._later(self._up_at, self._arrive)

    def half_close(self) -> None:
        """See MessageStream."""

    def distrust(self) -> None:
        """See MessageStream."""

    async def receive(self) -> bytes | None:
        """See MessageStream."""
        while not self._inbox:
            if self._error is not None:
                raise self._error
            self._wake = self._network.loop.create_future()
            await self._wake
        return self._inbox.popleft()

    def cancel(self) -> None:
        """See MessageStream."""
        self.end(RpcError(StatusCode.CANCELLED, "cancelled"))

    def end(self, error: RpcError) -> None:
        """End both ends at once; what is under way is lost."""
        if self._error is None:
            self._error = error
            self._network.streams.pop(self)
            for watch in self._watches.values():
                self._network.store.unwatch(watch)
            self._rouse()

    def _rouse(self) -> None:
        wake, self._wake = self._wake, None
        if wake is not None and not wake.done():
            wake.set_result(None)

    # -- the way ---------------------------------------------------------------------------------------------------

    def _later(self, before: float, act: Callable[[], None]) -> float:
        network = self._network
        at = network.loop.now + network.latency()
        at = round(max(before, at, network.cut_off.get(self.process, 0.0)), 3)
        network.loop.call_at(at, act, context=network.context)
        return at

    def _arrive(self) -> None:
        message = self._up.popleft()
        if self._error is None:
            self._take(message)

    def _answer(self, message: bytes) -> None:
        self._down.append(message)
        self._down_at = self._later(self._down_at, self._deliver)

    def _deliver(self) -> None:
        message = self._down.popleft()
        if self._error is None:
            self._inbox.append(message)
            self._rouse()

    # -- the store's end -------------------------------------------------------------------------------------------

    def _renew(self, message: bytes) -> None:
        self._answer(self._network.store.keep_alive(message))

    def _watch(self, message: bytes) -> None:
        request = rpc_pb2.WatchRequest.FromString(message)
        store = self._network.store
        store.expire()
        if request.HasField("create_request"):
            watch = ServerWatch(request.create_request, self._tell)
            head = fast.encode_watch_head(store.header, watch.watch_id)
            self._answer(head + b"\x18\x01")  # created
            if store.watch(watch):
                self._watches[watch.watch_id] = watch
            else:  # cancelled, with the compaction's revision
                self._answer(head + b"\x20\x01\x28" + fast.varint(store.compact_revision))
        elif request.HasField("cancel_request"):
            gone = self._watches.pop(request.cancel_request.watch_id, None)
            if gone is not None:
                store.unwatch(gone)
                self._answer(fast.encode_watch_head(store.header, gone.watch_id) + b"\x20\x01")
        elif request.HasField("progress_request"):
            response = rpc_pb2.WatchResponse(watch_id=-1)
            self._answer(store.header + response.SerializeToString())

    def _tell(self, watch: ServerWatch, events: list[Event]) -> None:
        store = self._network.store
        bodies = [fast.watch_event_field(store.event_body(watch, event)) for event in events]
        self._answer(fast.encode_watch_head(store.header, watch.watch_id) + b"".join(bodies))


class Carrier:
    """The carrier of one process. See :class:`coord.transport.base.ClientTransport`."""

    def __init__(self, network: Network, process: int, clock: Clock) -> None:
        self._network = network
        self._process = process
        self._open: dict[asyncio.Future[bytes], None] = {}
        self.closed = False
        self.endpoints: tuple[str, ...] = (_ENDPOINT,)
        self.current: Address | None = None
        self.health: HealthBoard = HealthBoard(clock, self.endpoints)

    @property
    def open_calls(self) -> int:
        """See ClientTransport."""
        return len(self._open)

    def set_endpoints(self, endpoints: object) -> None:
        """See ClientTransport."""

    def suspect(self, endpoint: str | None = None) -> None:
        """See Transport."""

    async def unary(
        self,
        path: str,
        request: bytes,
        *,
        timeout: float,
        metadata: Metadata = (),
        avoid: str | None = None,
    ) -> bytes:
        """See Transport."""
        del metadata, avoid
        if self.closed:
            raise RpcError(StatusCode.UNAVAILABLE, "closed", sent=False)
        answer = self._network.ask(self._process, path, request)
        late = RpcError(StatusCode.DEADLINE_EXCEEDED, "no answer in time", sent=True)
        timer = self._network.loop.call_later(timeout, _fail, answer, late)
        self._open[answer] = None
        try:
            return await answer
        finally:
            timer.cancel()
            del self._open[answer]

    def start_unary(
        self,
        path: str,
        request: bytes,
        done: Callable[[bytes | RpcError], None],
        *,
        timeout: float,
        metadata: Metadata = (),
    ) -> Cancellable:
        """See Transport."""

        async def run() -> None:
            try:
                outcome: bytes | RpcError = await self.unary(
                    path, request, timeout=timeout, metadata=metadata
                )
            except RpcError as error:
                outcome = error
            done(outcome)

        return start_task(run())

    async def open_stream(
        self, path: str, *, timeout: float, metadata: Metadata = (), avoid: str | None = None
    ) -> Stream:
        """See Transport."""
        del metadata, avoid
        network = self._network
        if self.closed:
            raise RpcError(StatusCode.UNAVAILABLE, "closed", sent=False)
        until = network.loop.now + timeout
        while network.is_cut_off(self._process):
            if network.loop.now >= until:
                raise RpcError(StatusCode.UNAVAILABLE, "no connection", sent=False)
            await asyncio.sleep(_CONNECT_EVERY_S)
        network.note(self._process, "stream", path)
        return Stream(network, self._process, path)

    async def close(self) -> None:
        """See Transport."""
        self.closed = True
        for answer in list(self._open):
            _fail(answer, RpcError(StatusCode.CANCELLED, "closed", sent=True))
        for stream in list(self._network.streams):
            if stream.process == self._process:
                stream.cancel()
