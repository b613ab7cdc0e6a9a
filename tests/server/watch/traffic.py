"""One run: writers, compactions and all kinds of watchers on a live server, everything recorded.

A seed decides what is asked for. When the writers are done every watcher that is still there is read
to the last revision; then the writes are replayed by the model, and the watches are judged by it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import Message

from coord.testing.check import check_watches, replay
from coord.testing.history import (
    Call,
    Pair,
    Recorder,
    Return,
    SeenEvent,
    WatchEnded,
    WatchOpened,
    WatchResponded,
    key_text,
    value_text,
)
from coord.testing.model import pair_of
from coord.wire import kv_pb2, rpc_pb2
from coord.wire import methods as rpcs

KEYS = [b"k%02d" % n for n in range(30)]
WRITERS = 3
# Small windows: what a reader leaves unread soon stops the server.
CHANNEL_OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.use_local_subchannel_pool", 1),
]


@dataclass
class Traffic:
    """The state of a run that its clients share."""

    seed: int
    channel: Any
    writes: int = 200
    recorder: Recorder = field(default_factory=Recorder)
    counts: Counter[str] = field(default_factory=Counter[str])
    revision: int = 1

    def __post_init__(self) -> None:
        self.rand = random.Random(self.seed)
        self.wrote = asyncio.Event()
        self.finished = False
        self._calls = 0
        self._values = 0
        self._watchers = 0

    def value(self) -> bytes:
        """Return a value that nobody else has, now and then a large one."""
        self._values += 1
        size = self.rand.choice((0, 0, 0, 10, 500, 40_000))
        return b"%d-%d" % (self.seed, self._values) + b"x" * size

    def is_over(self) -> bool:
        """Tell whether the writers are done."""
        return self.finished

    def watcher_name(self) -> str:
        self._watchers += 1
        return f"w{self._watchers}"

    async def ask(
        self, client: str, rpc: rpcs.Rpc[Any, Any], request: Message, changed: str
    ) -> Any:  # noqa: ANN401
        """Send a recorded request. ``changed`` names what of the answer tells whether it wrote."""
        self._calls += 1
        number = self._calls
        op = rpc.path.rpartition("/")[2]
        data = request.SerializeToString()
        self.recorder.add(
            Call(id=number, client=client, ts=time.monotonic_ns(), op=op, request=data)
        )
        try:
            answer = rpc.response.FromString(await self.channel.unary_unary(rpc.path)(data))
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.OUT_OF_RANGE:
                raise
            ts = time.monotonic_ns()
            text = error.details() or ""
            self.recorder.add(Return(id=number, ts=ts, status="fail", error=text))
            return None
        revision = answer.header.revision
        did = changed == "yes" or (changed == "deleted" and answer.deleted > 0)
        self.recorder.add(
            Return(id=number, ts=time.monotonic_ns(), status="ok", revision=revision, changed=did)
        )
        self.revision = max(self.revision, revision)
        wrote, self.wrote = self.wrote, asyncio.Event()
        wrote.set()
        return answer

    # Writers.

    async def write(self, name: str) -> None:
        """Do one writer's part of the writes."""
        for _ in range(self.writes):
            await self._write_once(name)

    async def _write_once(self, name: str) -> None:
        rand = self.rand
        dice = rand.random()
        if dice < 0.5:
            request: Message = rpc_pb2.PutRequest(key=rand.choice(KEYS), value=self.value())
            await self.ask(name, rpcs.KV_PUT, request, "yes")
        elif dice < 0.6:
            request = rpc_pb2.DeleteRangeRequest(key=rand.choice(KEYS))
            await self.ask(name, rpcs.KV_DELETE_RANGE, request, "deleted")
        elif dice < 0.65:
            first, last = sorted(rand.sample(KEYS, 2))
            request = rpc_pb2.DeleteRangeRequest(key=first, range_end=last)
            await self.ask(name, rpcs.KV_DELETE_RANGE, request, "deleted")
        elif dice < 0.9:
            await self.ask(name, rpcs.KV_TXN, self._txn(), "yes")
        else:
            await self._lease(name)

    def _txn(self) -> rpc_pb2.TxnRequest:
        request = rpc_pb2.TxnRequest()
        for number, key in enumerate(self.rand.sample(KEYS, self.rand.randint(1, 6))):
            if number and self.rand.random() < 0.3:
                request.success.add().request_delete_range.key = key
            else:
                request.success.add().request_put.MergeFrom(
                    rpc_pb2.PutRequest(key=key, value=self.value())
                )
        return request

    async def _lease(self, name: str) -> None:
        lease = self.rand.getrandbits(40) + 1
        grant = rpc_pb2.LeaseGrantRequest(ID=lease, TTL=600)
        await self.ask(name, rpcs.LEASE_GRANT, grant, "no")
        keys = [*self.rand.sample(KEYS, 2), b"lease/%d" % lease]
        for key in keys:
            request = rpc_pb2.PutRequest(key=key, value=self.value(), lease=lease)
            await self.ask(name, rpcs.KV_PUT, request, "yes")
        revoke = rpc_pb2.LeaseRevokeRequest(ID=lease)
        # Its own key is nobody else's, so there is always something to delete.
        await self.ask(name, rpcs.LEASE_REVOKE, revoke, "yes")

    async def compact(self) -> None:
        """Compact again and again, sometimes close behind the writers."""
        while not self.is_over():
            for _ in range(self.rand.randint(1, 60)):
                await self.wrote.wait()
            revision = max(1, self.revision - self.rand.choice((0, 5, 20, 60, 100)))
            request = rpc_pb2.CompactionRequest(revision=revision)
            if await self.ask("compactor", rpcs.KV_COMPACT, request, "no") is not None:
                self.counts["compactions"] += 1


@dataclass
class Watching:
    """A watcher as its client knows it."""

    opened: WatchOpened
    request: rpc_pb2.WatchCreateRequest
    id: int = 0
    following: int = 0  # where to go on after a lost connection; 0 if nothing came yet


class Reader:
    """A client with one Watch stream after the other, and some watchers on each."""

    def __init__(self, traffic: Traffic, number: int) -> None:
        self._traffic = traffic
        self._rand = random.Random(traffic.seed * 1000 + number)
        self._creating: deque[Watching] = deque()
        self._live: dict[int, Watching] = {}
        self._cancelled: set[int] = set()
        self._call: Any = None
        self._sending = asyncio.Lock()

    async def run(self) -> None:
        """Read until everything is seen."""
        watchers: list[Watching] = []
        while True:
            lives = self._rand.randint(3, 60)
            self._open()
            for watcher in watchers:
                await self._create(watcher.request, watcher.following)
            for _ in range(self._rand.randint(1, 3) if not watchers else 0):
                await self._create(self._new_request(), 0)
            is_cut = await self._read(lives)
            watchers = [*self._live.values(), *self._creating]
            self._leave(reached=0)
            if is_cut:
                self._traffic.counts["reconnects"] += 1
            elif self._traffic.finished:
                return

    def _open(self) -> None:
        path = rpcs.WATCH_WATCH.path
        self._call = self._traffic.channel.stream_stream(path)()
        self._creating, self._live, self._cancelled = deque(), {}, set()

    def _new_request(self) -> rpc_pb2.WatchCreateRequest:
        rand, now = self._rand, self._traffic.revision
        start = rand.choice((0, max(1, now + rand.randint(-100, 100)), max(1, now - 3), now + 1))
        key, end = rand.choice(
            ((b"\x00", b"\x00"), (b"", b"\x00"), (b"k", b"l"), (rand.choice(KEYS), b""),
             tuple(sorted(rand.sample(KEYS, 2))), (KEYS[15], b"\x00"), (b"quiet", b""))
        )  # fmt: skip
        request = rpc_pb2.WatchCreateRequest(
            key=key,
            range_end=end,
            start_revision=start,
            prev_kv=rand.random() < 0.5,
            fragment=rand.random() < 0.5,
            progress_notify=rand.random() < 0.5,
        )
        if rand.random() < 0.3:
            kinds = rpc_pb2.WatchCreateRequest
            request.filters.append(rand.choice((kinds.NOPUT, kinds.NODELETE)))
        return request

    async def _create(self, like: rpc_pb2.WatchCreateRequest, following: int) -> None:
        request = rpc_pb2.WatchCreateRequest()
        request.CopyFrom(like)
        if following:
            request.start_revision = following
        kinds = rpc_pb2.WatchCreateRequest
        opened = WatchOpened(
            watcher=self._traffic.watcher_name(),
            ts=time.monotonic_ns(),
            key=request.key,
            end=request.range_end,
            start=request.start_revision,
            prev_kv=request.prev_kv,
            no_puts=kinds.NOPUT in request.filters,
            no_deletes=kinds.NODELETE in request.filters,
        )
        self._traffic.recorder.add(opened)
        self._creating.append(Watching(opened, request, following=request.start_revision))
        await self._send(rpc_pb2.WatchRequest(create_request=request))

    async def _send(self, request: rpc_pb2.WatchRequest) -> None:
        # grpcio takes one message at a time.
        async with self._sending:
            await self._call.write(request.SerializeToString())

    async def _read(self, lives: int) -> bool:
        """Take responses while there are watchers; return whether the connection is to be lost."""
        traffic, rand = self._traffic, self._rand
        asking = asyncio.create_task(self._ask_for_the_end())
        try:
            while self._creating or self._live:
                response = rpc_pb2.WatchResponse.FromString(await self._call.read())
                self._take(response)
                lives -= 1
                if traffic.finished:
                    continue
                if lives <= 0:
                    return True
                if rand.random() < 0.1:
                    await self._pause(rand.randint(5, 60))
                elif rand.random() < 0.05:
                    await self._send(
                        rpc_pb2.WatchRequest(progress_request=rpc_pb2.WatchProgressRequest())
                    )
                elif rand.random() < 0.02:
                    await self._create(self._new_request(), 0)
                elif rand.random() < 0.03 and self._live:
                    await self._cancel(rand.choice(list(self._live)))
        finally:
            asking.cancel()
        return False

    async def _pause(self, writes: int) -> None:
        """Read nothing while so many writes happen."""
        self._traffic.counts["pauses"] += 1
        for _ in range(writes):
            if self._traffic.finished:
                return
            await self._traffic.wrote.wait()

    async def _cancel(self, watch_id: int) -> None:
        self._cancelled.add(watch_id)
        request = rpc_pb2.WatchCancelRequest(watch_id=watch_id)
        await self._send(rpc_pb2.WatchRequest(cancel_request=request))

    async def _ask_for_the_end(self) -> None:
        """Once nothing is written any more, ask until progress tells that all was delivered."""
        while not self._traffic.finished:
            await self._traffic.wrote.wait()
        future: set[int] = set()
        while True:
            for watch_id, watcher in self._live.items():
                # It would wait for revisions that never come, and hold up the others.
                if watcher.request.start_revision > self._traffic.revision:
                    future.add(watch_id)
            for watch_id in future - self._cancelled:
                await self._cancel(watch_id)
            if not self._creating:
                ask = rpc_pb2.WatchProgressRequest()
                await self._send(rpc_pb2.WatchRequest(progress_request=ask))
            # Nobody answers while one of them lags, so there is nothing to wait for but time.
            await asyncio.sleep(0.05)

    def _leave(self, *, reached: int) -> None:
        """The connection is gone, or everything was seen."""
        self._call.cancel()
        for watcher in (*self._live.values(), *self._creating):
            self._end(watcher, reached=reached)

    def _end(self, watcher: Watching, *, reached: int = 0, compacted: int = 0) -> None:
        self._traffic.recorder.add(
            WatchEnded(
                watcher=watcher.opened.watcher,
                ts=time.monotonic_ns(),
                compact_revision=compacted,
                reached=reached,
            )
        )

    def _take(self, response: rpc_pb2.WatchResponse) -> None:
        counts = self._traffic.counts
        if response.created:
            watcher = self._creating.popleft()
            assert not response.canceled, response.cancel_reason
            watcher.id = response.watch_id
            self._live[watcher.id] = watcher
            self._record(watcher, response)
        elif response.watch_id == -1:
            counts["progress"] += 1
            for watcher in self._live.values():
                self._record(watcher, response)
            reached = self._traffic.finished and not self._creating
            if reached and response.header.revision >= self._traffic.revision:
                self._leave(reached=response.header.revision)
                self._live.clear()
        elif response.canceled:
            gone = self._live.pop(response.watch_id, None)
            if gone is None:
                # Its history was compacted while its cancellation was on the way: both are told.
                assert response.watch_id in self._cancelled
                return
            if response.compact_revision:
                counts["compacted"] += 1
            self._end(gone, compacted=response.compact_revision)
        else:
            counts["events" if response.events else "periodic"] += 1
            counts["fragments"] += response.fragment
            # A watcher that has ended has no business here: the lookup fails.
            self._record(self._live[response.watch_id], response)

    def _record(self, watcher: Watching, response: rpc_pb2.WatchResponse) -> None:
        events = tuple(_seen(event) for event in response.events)
        if events and not response.fragment:
            watcher.following = events[-1].pair.mod_revision + 1
        elif not events and not response.created:
            watcher.following = max(watcher.following, response.header.revision + 1)
        elif response.created and not watcher.following:
            watcher.following = response.header.revision + 1
        self._traffic.recorder.add(
            WatchResponded(
                watcher=watcher.opened.watcher,
                ts=time.monotonic_ns(),
                revision=response.header.revision,
                created=response.created,
                progress=not events and not response.created,
                fragment=response.fragment,
                events=events,
            )
        )


def _pair(pair: kv_pb2.KeyValue) -> Pair:
    return Pair(
        key=key_text(pair.key),
        value=value_text(pair.value),
        create_revision=pair.create_revision,
        mod_revision=pair.mod_revision,
        version=pair.version,
        lease=pair.lease,
    )


def _seen(event: kv_pb2.Event) -> SeenEvent:
    return SeenEvent(
        is_delete=event.type == kv_pb2.Event.DELETE,
        pair=_pair(event.kv),
        previous=_pair(event.prev_kv) if event.HasField("prev_kv") else None,
    )


async def checked_run(channels: Sequence[Any], seed: int, *, readers: int = 8) -> Traffic:
    """Run, judge, and return what was counted. The first channel writes, the others watch."""
    traffic = Traffic(seed, channels[0])

    async def finish(writers: list[asyncio.Task[None]]) -> None:
        for writer in writers:
            await writer
        traffic.finished = True
        traffic.wrote.set()

    async with asyncio.TaskGroup() as group:
        writers = [group.create_task(traffic.write(f"c{n}")) for n in range(WRITERS)]
        group.create_task(traffic.compact())
        group.create_task(finish(writers))
        for number in range(readers):
            group.create_task(Reader(traffic, number).run())
    records = traffic.recorder.records
    model = replay(records)
    assert model.revision == traffic.revision
    whole = rpc_pb2.RangeRequest(key=b"\x00", range_end=b"\x00").SerializeToString()
    raw = await channels[0].unary_unary(rpcs.KV_RANGE.path)(whole)
    expected = [pair_of(key, version) for key, version in sorted(model.kv.items())]
    assert list(rpc_pb2.RangeResponse.FromString(raw).kvs) == expected
    verdict = check_watches(model.changes, records)
    assert verdict.ok, f"seed {seed}:\n{verdict}"
    return traffic
