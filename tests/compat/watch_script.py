"""Scripts for one watch stream, and the story that a server tells when it is played one.

The story holds what clients may rely on: the order of answers to requests on the stream, and for each
watcher everything that happened to it, in order. How events are packed into responses is left out.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

import grpc

from coord.wire import kv_pb2, rpc_pb2
from coord.wire import methods as rpcs
from tests.compat.answers import Step
from tests.compat.pair import Side, Stream

_PATIENCE_S = 20.0


@dataclass(frozen=True, slots=True)
class Ask:
    """Send a watch request, and wait until one more response is an answer of this kind, if any."""

    request: rpc_pb2.WatchRequest
    answered: bool = True


@dataclass(frozen=True, slots=True)
class Do:
    """Change the store with a unary call."""

    step: Step


@dataclass(frozen=True, slots=True)
class See:
    """Wait until a watcher has had this many events."""

    watch_id: int
    events: int


@dataclass(frozen=True, slots=True)
class SeeEnd:
    """Wait until the server has ended a watcher by itself."""

    watch_id: int


@dataclass(frozen=True, slots=True)
class HalfClose:
    """Send no more requests."""


Act: TypeAlias = Ask | Do | See | SeeEnd | HalfClose


# Short forms. Revisions are absolute; the scripts count them from where they start.


def create(
    key: bytes,
    end: bytes = b"",
    *,
    at: int = 0,
    watch_id: int = 0,
    prev_kv: bool = False,
    fragment: bool = False,
    filters: Iterable[rpc_pb2.WatchCreateRequest.FilterType.ValueType] = (),
) -> Ask:
    """Ask for a watcher."""
    return Ask(
        rpc_pb2.WatchRequest(
            create_request=rpc_pb2.WatchCreateRequest(
                key=key,
                range_end=end,
                start_revision=at,
                watch_id=watch_id,
                prev_kv=prev_kv,
                fragment=fragment,
                filters=filters,
            )
        )
    )


def cancel(watch_id: int, *, answered: bool = True) -> Ask:
    """Ask for the end of a watcher."""
    request = rpc_pb2.WatchCancelRequest(watch_id=watch_id)
    return Ask(rpc_pb2.WatchRequest(cancel_request=request), answered)


def progress(*, answered: bool = True) -> Ask:
    """Ask how far the stream is."""
    return Ask(rpc_pb2.WatchRequest(progress_request=rpc_pb2.WatchProgressRequest()), answered)


def put(key: bytes, value: bytes = b"v", *, lease: int = 0) -> Do:
    """Put a key."""
    return Do(Step(rpcs.KV_PUT, rpc_pb2.PutRequest(key=key, value=value, lease=lease)))


def delete(key: bytes, end: bytes = b"") -> Do:
    """Delete keys."""
    return Do(Step(rpcs.KV_DELETE_RANGE, rpc_pb2.DeleteRangeRequest(key=key, range_end=end)))


def compact(revision: int) -> Do:
    """Compact, and wait until it is done."""
    request = rpc_pb2.CompactionRequest(revision=revision, physical=True)
    return Do(Step(rpcs.KV_COMPACT, request))


def txn(*acts: Do) -> Do:
    """Put and delete in one transaction."""
    request = rpc_pb2.TxnRequest()
    for act in acts:
        match act.step.request:
            case rpc_pb2.PutRequest() as op:
                request.success.add(request_put=op)
            case rpc_pb2.DeleteRangeRequest() as op:
                request.success.add(request_delete_range=op)
            case other:
                raise TypeError(other)
    return Do(Step(rpcs.KV_TXN, request))


@dataclass(slots=True)
class Story:
    """What one server told."""

    answers: list[str] = field(default_factory=list[str])
    watchers: dict[int, list[str]] = field(default_factory=dict[int, list[str]])

    def lines(self) -> list[str]:
        """The story as text."""
        lines = [*self.answers]
        for watch_id, told in sorted(self.watchers.items()):
            lines += [f"watcher {watch_id}", *(f"  {line}" for line in told)]
        return lines


class Player:
    """Plays a script on a stream of its own."""

    def __init__(self, side: Side) -> None:
        self._side = side
        self._requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._arrived = threading.Condition()
        self._story = Story()
        self._events: dict[int, int] = {}
        self._ended: set[int] = set()
        self._in_parts: set[int] = set()
        self._failure = ""

    def play(self, acts: Iterable[Act]) -> Story:
        """Play all of it, then end the stream."""
        method: Stream = self._side.channel.stream_stream(rpcs.WATCH_WATCH.path)
        call = method(iter(self._requests.get, None))
        reader = threading.Thread(target=self._read, args=(call,), daemon=True)
        reader.start()
        try:
            for act in acts:
                self._play(act)
        finally:
            self._requests.put(None)
            call.cancel()
            reader.join(_PATIENCE_S)
        return self._story

    def _play(self, act: Act) -> None:
        match act:
            case Ask():
                with self._arrived:
                    before = len(self._story.answers)
                self._requests.put(act.request.SerializeToString())
                if act.answered:
                    self._wait(lambda: len(self._story.answers) > before, act)
            case Do():
                answer = self._side.ask(act.step)
                assert not answer.code, f"{act.step}: {answer}"
            case See():
                self._wait(lambda: self._events.get(act.watch_id, 0) >= act.events, act)
            case SeeEnd():
                self._wait(lambda: act.watch_id in self._ended, act)
            case HalfClose():
                self._requests.put(None)

    def _wait(self, is_so: object, act: Act) -> None:
        assert callable(is_so)
        with self._arrived:
            if not self._arrived.wait_for(lambda: is_so() or self._failure, _PATIENCE_S):
                self._failure = "nothing came"
            if not is_so():
                told = "\n".join(self._story.lines())
                raise AssertionError(f"{self._side.name}: {self._failure} after {act}\n{told}")

    def _read(self, call: Iterator[bytes]) -> None:
        try:
            for raw in call:
                with self._arrived:
                    self._take(rpc_pb2.WatchResponse.FromString(raw))
                    self._arrived.notify_all()
        except grpc.RpcError as error:
            with self._arrived:
                self._failure = f"the stream ended with {error}"
                self._arrived.notify_all()

    def _take(self, response: rpc_pb2.WatchResponse) -> None:
        told = self._story.watchers.setdefault(response.watch_id, [])
        if response.created or response.canceled or response.watch_id == -1:
            kinds = [name for name in ("created", "canceled") if getattr(response, name)]
            line = f"{' '.join(kinds) or 'progress'} at {response.header.revision}"
            if response.compact_revision:
                line += f", compacted {response.compact_revision}"
            if response.cancel_reason:
                line += f": {response.cancel_reason}"
            told.append(line)
            by_itself = response.canceled and response.compact_revision
            if by_itself:
                self._ended.add(response.watch_id)
            else:
                self._story.answers.append(f"{response.watch_id} {line}")
        if response.fragment and response.watch_id not in self._in_parts:
            self._in_parts.add(response.watch_id)
            told.append("in parts")
        told += [_tell(event) for event in response.events]
        count = self._events.get(response.watch_id, 0)
        self._events[response.watch_id] = count + len(response.events)


def _tell(event: kv_pb2.Event) -> str:
    kind = "DELETE" if event.type == kv_pb2.Event.DELETE else "PUT"
    text = f"{kind} {_tell_pair(event.kv)}"
    return f"{text} before {_tell_pair(event.prev_kv)}" if event.HasField("prev_kv") else text


def _tell_pair(kv: kv_pb2.KeyValue) -> str:
    value = kv.value if len(kv.value) < 40 else len(kv.value)
    numbers = (kv.create_revision, kv.mod_revision, kv.version, kv.lease)
    return f"{kv.key!r} {value!r} {numbers}"
