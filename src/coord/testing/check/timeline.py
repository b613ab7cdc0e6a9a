"""A history, read: calls joined with their outcomes, in the order of time, values as texts.

Values are texts (``value_text``) from here on, everywhere: watches record no more of a long value, and equal
values have equal texts, so requests and answers are made textual, too.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from coord.testing.lines import HistoryError, key_bytes, value_text
from coord.testing.model import Version
from coord.testing.records import (
    Call,
    Fault,
    LogEntry,
    Pair,
    Record,
    Return,
    SeenEvent,
    SessionEvent,
    Status,
    Tenure,
    WatchEnded,
    WatchOpened,
    WatchResponded,
)
from coord.wire import kv_pb2, rpc_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from google.protobuf.message import Message

NEVER = sys.maxsize
"""The place of an end that did not come."""

MESSAGES: dict[str, tuple[type[Any], type[Any]]] = {
    "Range": (rpc_pb2.RangeRequest, rpc_pb2.RangeResponse),
    "Put": (rpc_pb2.PutRequest, rpc_pb2.PutResponse),
    "DeleteRange": (rpc_pb2.DeleteRangeRequest, rpc_pb2.DeleteRangeResponse),
    "Txn": (rpc_pb2.TxnRequest, rpc_pb2.TxnResponse),
    "Compact": (rpc_pb2.CompactionRequest, rpc_pb2.CompactionResponse),
    "LeaseGrant": (rpc_pb2.LeaseGrantRequest, rpc_pb2.LeaseGrantResponse),
    "LeaseRevoke": (rpc_pb2.LeaseRevokeRequest, rpc_pb2.LeaseRevokeResponse),
    "LeaseKeepAlive": (rpc_pb2.LeaseKeepAliveRequest, rpc_pb2.LeaseKeepAliveResponse),
    "LeaseTimeToLive": (rpc_pb2.LeaseTimeToLiveRequest, rpc_pb2.LeaseTimeToLiveResponse),
}
"""The calls that judges understand; others are kept with their bytes only."""


@dataclass(slots=True, kw_only=True, eq=False)
class Operation:
    """One call and what became of it.

    ``begun`` and ``ended`` are places in the order of time: if ``a.ended < b.begun``, a was over before b began.
    Of an operation of unknown outcome the effect may come at any time: ``ended`` is ``NEVER``.
    ``sent`` and ``returned`` are nanoseconds, ``returned`` also where the outcome is unknown.
    """

    call: Call
    request: Any
    response: Any = None
    status: Status = "info"
    revision: int = 0
    changed: bool = False
    error: str = ""
    raw_response: bytes = b""
    begun: int
    ended: int = NEVER
    sent: int
    returned: int = NEVER

    @property
    def name(self) -> str:
        """As violations name it."""
        return f"call {self.call.id}"

    @property
    def op(self) -> str:
        """The method's name."""
        return self.call.op

    @property
    def is_ok(self) -> bool:
        """Whether it was answered."""
        return self.status == "ok"

    @property
    def is_serializable(self) -> bool:
        """Whether a member that is behind may answer it: then it says nothing about the present."""
        if isinstance(self.request, rpc_pb2.RangeRequest):
            return self.request.serializable
        if isinstance(self.request, rpc_pb2.TxnRequest):
            return _is_serializable(self.request)
        return False

    @property
    def reads_past(self) -> bool:
        """Whether it reads at an older revision."""
        if isinstance(self.request, rpc_pb2.TxnRequest):
            return any(op.request_range.revision > 0 for op in _all_ops(self.request))
        return isinstance(self.request, rpc_pb2.RangeRequest) and self.request.revision > 0

    @property
    def writes(self) -> bool:
        """Whether it could change keys."""
        if isinstance(self.request, rpc_pb2.TxnRequest):
            return any(not op.HasField("request_range") for op in _all_ops(self.request))
        return self.op in {"Put", "DeleteRange", "LeaseRevoke"}

    def describe(self) -> str:
        """Return one line about it."""
        answer: str = "no answer" if self.status == "info" else self.status
        if self.is_ok:
            answer = f"ok at revision {self.revision}"
        said = " ".join(str(self.request).split())
        short = said if len(said) <= _SAID_CHARACTERS else said[:_SAID_CHARACTERS] + "..."
        return f"{self.name} of {self.call.client}: {self.op}({short}) -> {answer}"


_SAID_CHARACTERS = 120


class Timeline:
    """All operations of a history and its other records, in the order of time.

    ``records`` may come in any order; those of equal times keep theirs. Raises HistoryError for a return
    without a call, or a second one.
    """

    def __init__(self, records: Iterable[Record]) -> None:
        self.records: list[Record] = sorted(records, key=_time)
        self.operations: list[Operation] = []
        self.tenures: list[Tenure] = []
        self.sessions: list[SessionEvent] = []
        self.faults: list[Fault] = []
        self.log: list[LogEntry] = []
        by_id: dict[int, Operation] = {}
        for place, record in enumerate(self.records):
            match record:
                case Call():
                    if record.id in by_id:
                        raise HistoryError(f"two calls have the id {record.id}")
                    by_id[record.id] = self._begin(record, place)
                case Return():
                    _end(by_id.get(record.id), record, place)
                case Tenure():
                    self.tenures.append(record)
                case SessionEvent():
                    self.sessions.append(record)
                case Fault():
                    self.faults.append(record)
                case LogEntry():
                    self.log.append(record)
                case _:
                    pass

    def _begin(self, call: Call, place: int) -> Operation:
        kinds = MESSAGES.get(call.op)
        request = None if kinds is None else textual(kinds[0].FromString(call.request))
        made = Operation(call=call, request=request, begun=place, sent=call.ts)
        self.operations.append(made)
        return made

    @property
    def end(self) -> int:
        """The time of the last record."""
        return _time(self.records[-1])[1] if self.records else 0

    def had_fault(self, *kinds: str) -> bool:
        """Tell whether there was a fault of one of these kinds."""
        return any(fault.kind in kinds for fault in self.faults)

    @property
    def witnesses(self) -> frozenset[str]:
        """The watchers of everything."""
        return frozenset(
            record.watcher
            for record in self.records
            if isinstance(record, WatchOpened)
            and record.key in {b"", b"\0"}
            and record.end == b"\0"
            and not (record.no_puts or record.no_deletes)
        )

    @property
    def reached(self) -> int:
        """The revision up to which everything that happened has been told; no limit if there is a log."""
        if self.log:
            return NEVER
        witnesses = self.witnesses
        ends = [r for r in self.records if isinstance(r, WatchEnded)]
        return max((end.reached for end in ends if end.watcher in witnesses), default=0)

    def witnessed(self) -> dict[int, tuple[SeenEvent, ...]]:
        """Return the events of each revision, from the watchers of everything, joined."""
        everything = self.witnesses
        seen: dict[int, tuple[SeenEvent, ...]] = {}
        parts: dict[str, list[SeenEvent]] = {}
        for record in self.records:
            if not isinstance(record, WatchResponded) or record.watcher not in everything:
                continue
            parts.setdefault(record.watcher, []).extend(record.events)
            if not record.fragment:
                for revision, events in _by_revision(parts.pop(record.watcher)):
                    seen.setdefault(revision, events)
        return seen


def version_of(pair: Pair) -> Version:
    """Return a recorded pair as the model has it, its value as text."""
    return Version(
        pair.value.encode(), pair.create_revision, pair.mod_revision, pair.version, pair.lease
    )


def changes_of(events: Iterable[SeenEvent]) -> list[tuple[bytes, Version | None]]:
    """Return what events of one revision did, as ``Model.adopt`` takes it."""
    return [
        (key_bytes(event.pair.key), None if event.is_delete else version_of(event.pair))
        for event in events
    ]


def lease_ids(request: Message) -> Iterator[int]:
    """Return the leases that a request attaches keys to."""
    if isinstance(request, rpc_pb2.PutRequest):
        if request.lease:
            yield request.lease
    elif isinstance(request, rpc_pb2.TxnRequest):
        for op in _all_ops(request):
            if op.HasField("request_put") and op.request_put.lease:
                yield op.request_put.lease


def puts_of(request: Message) -> Iterator[rpc_pb2.PutRequest]:
    """Return the puts of a request, of both branches of a transaction."""
    if isinstance(request, rpc_pb2.PutRequest):
        yield request
    elif isinstance(request, rpc_pb2.TxnRequest):
        for op in _all_ops(request):
            if op.HasField("request_put"):
                yield op.request_put


def ranges_of(request: Any) -> Iterator[tuple[bytes, bytes]]:  # noqa: ANN401 - any message of the API
    """Return the keys and ranges that a request names, compares too, as start and end on the wire."""
    match request:
        case rpc_pb2.PutRequest():
            yield request.key, b""
        case rpc_pb2.RangeRequest() | rpc_pb2.DeleteRangeRequest():
            yield request.key, request.range_end
        case rpc_pb2.TxnRequest():
            for compare in request.compare:
                yield compare.key, compare.range_end
            for op in (*request.success, *request.failure):
                field = op.WhichOneof("request")
                if field is not None:
                    yield from ranges_of(getattr(op, field))
        case _:
            pass


def pairs_in(response: Message | None) -> Iterator[kv_pb2.KeyValue]:
    """Return all pairs that an answer shows."""
    match response:
        case rpc_pb2.RangeResponse():
            yield from response.kvs
        case rpc_pb2.PutResponse():
            if response.HasField("prev_kv"):
                yield response.prev_kv
        case rpc_pb2.DeleteRangeResponse():
            yield from response.prev_kvs
        case rpc_pb2.TxnResponse():
            for part in response.responses:
                field = part.WhichOneof("response")
                if field is not None:
                    yield from pairs_in(getattr(part, field))
        case _:
            pass


def changed_by(response: Message | None) -> bool:
    """Tell from an answer whether keys were changed; of a revocation no answer tells."""
    match response:
        case rpc_pb2.PutResponse():
            return True
        case rpc_pb2.DeleteRangeResponse():
            return response.deleted > 0
        case rpc_pb2.TxnResponse():
            fields = [(part, part.WhichOneof("response")) for part in response.responses]
            return any(field and changed_by(getattr(part, field)) for part, field in fields)
        case _:
            return False


def _time(record: Record) -> tuple[bool, int]:
    # The log is read after the run, and what describes the run comes before it.
    if isinstance(record, LogEntry):
        return (True, 0)
    return (False, getattr(record, "ts", 0))


def _end(operation: Operation | None, record: Return, place: int) -> None:
    if operation is None or operation.returned != NEVER:
        raise HistoryError(f"a return without an open call: {record.id}")
    operation.status = record.status
    operation.revision = record.revision
    operation.changed = record.changed
    operation.error = record.error
    operation.raw_response = record.response
    operation.returned = record.ts
    if record.status != "info":
        operation.ended = place
    kinds = MESSAGES.get(operation.op)
    if kinds is not None and record.response:
        operation.response = textual(kinds[1].FromString(record.response))
        operation.changed = operation.changed or changed_by(operation.response)


def _by_revision(events: Sequence[SeenEvent]) -> list[tuple[int, tuple[SeenEvent, ...]]]:
    groups: dict[int, list[SeenEvent]] = {}
    for event in events:
        groups.setdefault(event.pair.mod_revision, []).append(event)
    return [(revision, tuple(group)) for revision, group in groups.items()]


def _all_ops(request: rpc_pb2.TxnRequest) -> Iterator[rpc_pb2.RequestOp]:
    for op in (*request.success, *request.failure):
        if op.HasField("request_txn"):
            yield from _all_ops(op.request_txn)
        else:
            yield op


def _is_serializable(request: rpc_pb2.TxnRequest) -> bool:
    ops = list(_all_ops(request))
    return bool(ops) and all(
        op.HasField("request_range") and op.request_range.serializable for op in ops
    )


# Values as texts.


def textual(message: Any) -> Any:  # noqa: ANN401 - any message of the API
    """Return a message with the texts of its values in their places; the message itself is changed."""
    match message:
        case kv_pb2.KeyValue() | rpc_pb2.PutRequest():
            message.value = value_text(message.value).encode()
        case rpc_pb2.RangeResponse():
            for pair in message.kvs:
                textual(pair)
        case rpc_pb2.PutResponse():
            if message.HasField("prev_kv"):
                textual(message.prev_kv)
        case rpc_pb2.DeleteRangeResponse():
            for pair in message.prev_kvs:
                textual(pair)
        case rpc_pb2.TxnRequest():
            for compare in message.compare:
                if compare.target == rpc_pb2.Compare.VALUE:
                    compare.value = value_text(compare.value).encode()
            for op in (*message.success, *message.failure):
                _textual_part(op, "request")
        case rpc_pb2.TxnResponse():
            for part in message.responses:
                _textual_part(part, "response")
        case _:
            pass
    return message


def _textual_part(part: Any, union: str) -> None:  # noqa: ANN401 - one of two messages
    field = part.WhichOneof(union)
    if field is not None:
        textual(getattr(part, field))
