"""A program that watches, on one member after the other, and records all that it is told.

It goes on where it was when a connection ends, and gives one up that says nothing although it was asked
for progress. Each stretch on one connection is a watcher of its own in the history.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from typing_extensions import override

from coord.rpc.status import RpcError
from coord.testing.history import Pair, SeenEvent, WatchEnded, WatchOpened, WatchResponded
from coord.testing.lines import key_text, value_text
from coord.testing.sim.chance import Chance
from coord.testing.sim.client_node import ClientNode
from coord.wire import kv_pb2, rpc_pb2
from coord.wire import methods as rpcs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from coord.testing.sim.journal import Journal
    from coord.testing.sim.machine import Stage
    from coord.transport import MessageStream

_NS: Final = 1_000_000_000
_ASK_EVERY_S: Final = 1.0
_SILENCE_S: Final = 5.0
_OPEN_S: Final = 3.0
_PAUSE_S: Final = 0.2
_EVERYTHING: Final = (b"\0", b"\0")
_SCRIPTED: Final = (b"k", b"l")


class Watcher(ClientNode):
    """Watches everything, or the keys of the scripts together with what they were before."""

    def __init__(
        self,
        stage: Stage,
        name: str,
        endpoints: Sequence[str],
        journal: Journal,
        *,
        depth: str,
        able: Callable[[], list[str]],
    ) -> None:
        super().__init__(stage, name, endpoints, (), journal, depth=depth, lease_ttl_s=1)
        self.reached: int = 0
        """Everything up to this revision has come, or would have."""
        self._able = able
        self._log = journal.recorder
        self._place = Chance(stage.seed, "watcher", name)
        self._sees_all = self._place.below(0.5)
        # From the beginning, or from whatever is now.
        self._next = 1 if self._place.below(0.5) else 0
        self._heard = 0.0
        self._id = ""

    @override
    def start(self) -> None:
        """Begin to watch."""
        self.boot(self._watch)

    def finish(self) -> None:
        """Note that the watch that is open was left in good order."""
        if self._id:
            self._end(reached=self.reached)

    def _ts(self) -> int:
        return int(self.stage.scheduler.moment() * _NS)

    async def _watch(self) -> None:
        while True:
            carrier = self.carrier([self._place.choice(self._able())])
            try:
                stream = await carrier.open_stream(rpcs.WATCH_WATCH.path, timeout=_OPEN_S)
                await self._follow(stream)
            except RpcError:
                if self._id:
                    self._end()
            await carrier.close()
            await asyncio.sleep(_PAUSE_S)

    async def _follow(self, stream: MessageStream) -> None:
        """Take what comes until the stream ends or the server ends the watch."""
        key, end = _EVERYTHING if self._sees_all else _SCRIPTED
        self._id = self._log.new_watcher(self.name)
        self._log.add(
            WatchOpened(
                watcher=self._id, ts=self._ts(), key=key, end=end,
                start=self._next, prev_kv=not self._sees_all,
            )
        )  # fmt: skip
        create = rpc_pb2.WatchCreateRequest(
            key=key, range_end=end, start_revision=self._next, prev_kv=not self._sees_all
        )
        self._heard = self.stage.scheduler.moment()
        stream.send(rpc_pb2.WatchRequest(create_request=create).SerializeToString())
        self._ask_progress(stream, self._id)
        while (raw := await stream.receive()) is not None:
            self._heard = self.stage.scheduler.moment()
            response = rpc_pb2.WatchResponse.FromString(raw)
            if response.canceled:
                self._end(compact_revision=response.compact_revision)
                self._next = response.compact_revision or self._next
                stream.cancel()
                return
            self._take(response)
        self._end()

    def _ask_progress(self, stream: MessageStream, watcher: str) -> None:
        """Ask for progress now and then; give a stream up that has nothing to say."""
        loop = self.loop
        if loop is None or self._id != watcher:
            return
        if self.stage.scheduler.moment() - self._heard > _SILENCE_S:
            stream.cancel()
            return
        request = rpc_pb2.WatchRequest(progress_request=rpc_pb2.WatchProgressRequest())
        stream.send(request.SerializeToString())
        loop.call_later(_ASK_EVERY_S, self._ask_progress, stream, watcher)

    def _take(self, response: rpc_pb2.WatchResponse) -> None:
        revision = response.header.revision
        is_progress = not response.created and not response.events
        self._log.add(
            WatchResponded(
                watcher=self._id, ts=self._ts(), revision=revision,
                created=response.created, progress=is_progress,
                events=tuple(_seen(event) for event in response.events),
            )
        )  # fmt: skip
        if response.created:
            self._next = self._next or revision + 1
            return
        last = revision if is_progress else response.events[-1].kv.mod_revision
        self.reached = max(self.reached, last)
        self._next = max(self._next, last + 1)

    def _end(self, *, compact_revision: int = 0, reached: int = 0) -> None:
        self._log.add(
            WatchEnded(
                watcher=self._id, ts=self._ts(),
                compact_revision=compact_revision, reached=reached,
            )
        )  # fmt: skip
        self._id = ""


def _pair(kv: kv_pb2.KeyValue) -> Pair:
    return Pair(
        key=key_text(kv.key),
        value=value_text(kv.value),
        create_revision=kv.create_revision,
        mod_revision=kv.mod_revision,
        version=kv.version,
        lease=kv.lease,
    )


def _seen(event: kv_pb2.Event) -> SeenEvent:
    return SeenEvent(
        is_delete=event.type == kv_pb2.Event.DELETE,
        pair=_pair(event.kv),
        previous=_pair(event.prev_kv) if event.HasField("prev_kv") else None,
    )
