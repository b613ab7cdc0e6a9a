"""Operations on their way into the log: the queue that a turn empties, and the batch it makes.

Per operation there is one tuple with its payload and one with where its answer goes; no object lives
longer than its batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from coord.rpc.status import RpcError, StatusCode
from coord_server.errors import ErrorSpec
from coord_server.ops import encode_batch

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from coord.rpc.metadata import Metadata
    from coord.rpc.service import Responder
    from coord_server.mvcc.prepared import Prepared

    # Where the answer goes: the responder, its number of the call, and the tick of the proposal.
    Asker = tuple[Responder, int, int]


# Operations of a long queue are read again when they are applied: what a proposer has read of them takes
# more memory than the queue's bound in bytes speaks of.
_MAX_PREPARED = 4096


class ProposedBatch:
    """The askers of one log entry, in the order of its operations. ``tick`` is the oldest one's.

    ``prepared`` is what the proposers have read of the first operations.
    """

    __slots__ = ("_askers", "data", "prepared", "term", "tick")

    def __init__(self, data: bytes, askers: list[Asker], prepared: Sequence[Prepared]) -> None:
        self.data = data
        self.prepared = prepared
        self.term = 0
        self.tick = askers[0][2]
        self._askers = askers

    @property
    def awaited(self) -> bool:
        """Whether anybody still waits for answers."""
        return bool(self._askers)

    def answer(self, results: Sequence[bytes | ErrorSpec]) -> None:
        """Give each asker its result."""
        askers, self._askers = self._askers, []
        for (responder, stream_id, _), result in zip(askers, results, strict=True):
            if isinstance(result, ErrorSpec):
                responder.fail(stream_id, result.code, result.message)
            else:
                responder.respond(stream_id, result)

    def fail(self, spec: ErrorSpec) -> None:
        """Tell those who still wait that the outcome is unknown; the entry may be applied later."""
        askers, self._askers = self._askers, []
        for responder, stream_id, _ in askers:
            responder.fail(stream_id, spec.code, spec.message)


class Proposals:
    """Operations that wait for their turn, oldest first. Bounded by ``max_ops`` and ``max_bytes``."""

    __slots__ = ("_askers", "_max_bytes", "_max_ops", "_ops", "_prepared", "_size_bytes")

    def __init__(self, *, max_ops: int, max_bytes: int) -> None:
        self._max_ops = max_ops
        self._max_bytes = max_bytes
        self._ops: list[tuple[int, bytes]] = []
        self._askers: list[Asker] = []
        # Of the first operations.
        self._prepared: list[Prepared] = []
        self._size_bytes = 0

    def __len__(self) -> int:
        return len(self._ops)

    def add(
        self,
        kind: int,
        payload: bytes,
        responder: Responder,
        stream_id: int,
        tick: int,
        prepared: Prepared = None,
    ) -> bool:
        """Queue an operation; return whether there was room."""
        if len(self._ops) >= self._max_ops or self._size_bytes >= self._max_bytes:
            return False
        if len(self._prepared) == len(self._ops) < _MAX_PREPARED:
            self._prepared.append(prepared)
        self._ops.append((kind, payload))
        self._askers.append((responder, stream_id, tick))
        self._size_bytes += len(payload)
        return True

    def take(self, *, max_ops: int, max_bytes: int) -> ProposedBatch | None:
        """Return the oldest operations as one entry: at least one, and what fits; None if none wait."""
        ops = self._ops
        if not ops:
            return None
        if len(ops) <= max_ops and self._size_bytes <= max_bytes:
            askers, prepared = self._askers, self._prepared
            self._ops, self._askers, self._prepared, self._size_bytes = [], [], [], 0
            return ProposedBatch(encode_batch(ops), askers, prepared)
        size = len(ops[0][1])
        count = 1
        while count < min(len(ops), max_ops):
            more = len(ops[count][1])
            if size + more > max_bytes:
                break
            size += more
            count += 1
        batch = ProposedBatch(
            encode_batch(ops[:count]), self._askers[:count], self._prepared[:count]
        )
        self._drop(count)
        return batch

    def fail_before(self, tick: int, spec: ErrorSpec) -> None:
        """Refuse the operations that were queued at or before ``tick``; they are certainly not applied."""
        count = 0
        while count < len(self._askers) and self._askers[count][2] <= tick:
            count += 1
        if count:
            askers = self._askers[:count]
            self._drop(count)
            for responder, stream_id, _ in askers:
                responder.fail(stream_id, spec.code, spec.message)

    def _drop(self, count: int) -> None:
        self._size_bytes -= sum(len(payload) for _, payload in self._ops[:count])
        del self._ops[:count]
        del self._askers[:count]
        del self._prepared[:count]

    def forget(self) -> None:
        """Drop everything without an answer: the node is broken and must not speak."""
        self._drop(len(self._ops))


class Awaited:
    """The responder of a coroutine: ``future`` gets the response, or RpcError."""

    __slots__ = ("future",)

    def __init__(self, future: asyncio.Future[bytes]) -> None:
        self.future = future

    def respond(self, stream_id: int, message: bytes) -> None:
        """Hand the response over, unless the coroutine is gone."""
        del stream_id
        if not self.future.done():
            self.future.set_result(message)

    def fail(self, stream_id: int, code: int, message: str, trailers: Metadata = ()) -> None:
        """Raise in the coroutine, unless it is gone."""
        del stream_id, trailers
        if not self.future.done():
            self.future.set_exception(RpcError(StatusCode(code), message))
