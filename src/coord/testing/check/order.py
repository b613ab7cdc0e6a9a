"""Whether answers fit one order of revisions, and that order fits the real time (etcd API: KV, "strict serializability").

- *twice*, *gap*: each revision is made by one write, and none is missing;
- *client*: what a client is told never goes back; of serializable reads that holds for each member by itself;
- *real time*: if a was over before b began, b's revision is not lower, and is higher if b writes;
- *answer*: replayed in the order of revisions, every answer is the sequential model's, in full: a read's is that of
  the revision in its header, and a write's change is what the store itself told of that revision;
- *compacted*: no read of the past is answered after a compaction has taken that past.

Not compared: headers but for the revision, and the order of a range sorted by long values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from coord.testing.check.reference import Reference, execute, fresh_model
from coord.testing.check.timeline import NEVER, Operation, Timeline, changes_of
from coord.testing.check.verdict import Verdict, Violation, verdict_of
from coord.testing.model import Model, Refusal
from coord.wire import kv_pb2, rpc_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable

    from coord.testing.records import Record

_JUDGED = frozenset({"Range", "Put", "DeleteRange", "Txn", "LeaseRevoke"})
_SHOWN = 300
"""Characters of an answer in an explanation."""


def check_order(records: Iterable[Record]) -> Verdict:
    """Judge all answers of a history. Undecided where a revision is missing and something may have made it."""
    return order_of(Reference(Timeline(records)))


def order_of(reference: Reference) -> Verdict:
    """As :func:`check_order`, of a history that was read already."""
    operations = [
        o for o in reference.timeline.operations if o.is_ok and o.revision and o.request is not None
    ]
    found = [_twice(first, second) for first, second in reference.twice]
    found += _clients(operations)
    found += _real_time(operations)
    found += _compacted(reference.timeline)
    replay = _Replay(reference, [o for o in operations if o.op in _JUDGED])
    found += replay.run()
    return verdict_of("order", len(operations), found, replay.undecided)


def _violation(rule: str, text: str, *operations: Operation) -> Violation:
    told = [text, *(operation.describe() for operation in operations)]
    return Violation(rule=rule, operations=tuple(o.name for o in operations), text="\n".join(told))


def _twice(first: Operation, second: Operation) -> Violation:
    return _violation("twice", f"two writes were told revision {first.revision}", first, second)


def _clients(operations: list[Operation]) -> list[Violation]:
    found: list[Violation] = []
    last: dict[tuple[str, str], Operation] = {}
    for operation in operations:
        # Members may be behind each other; a linearizable answer never is, whoever gives it.
        member = operation.call.endpoint if operation.is_serializable else ""
        before = last.get((operation.call.client, member))
        if before is not None and before.ended < operation.begun:
            if operation.revision < before.revision:
                text = f"revision {operation.revision} after {before.revision}"
                found.append(_violation("client", text, before, operation))
                continue
        elif before is not None:
            continue  # a client with two calls open: only real time judges these
        last[operation.call.client, member] = operation
    return found


def _real_time(operations: list[Operation]) -> list[Violation]:
    """Sweep through begins and ends; remember the highest revision that is over."""
    found: list[Violation] = []
    marks = [(o.begun, 0, o) for o in operations] + [
        (o.ended, 1, o) for o in operations if o.ended != NEVER
    ]
    highest: Operation | None = None
    least: dict[int, Operation | None] = {}
    for _, is_end, operation in sorted(marks, key=lambda mark: mark[:2]):
        if not is_end:
            least[operation.call.id] = highest
            continue
        before = least[operation.call.id]
        if before is not None and not operation.is_serializable:
            too_low = operation.revision < before.revision
            if too_low or (operation.changed and operation.revision == before.revision):
                text = (
                    f"revision {before.revision} was over before one of {operation.revision} began"
                )
                found.append(_violation("real time", text, before, operation))
        if highest is None or operation.revision > highest.revision:
            highest = operation
    return found


def _compacted(timeline: Timeline) -> list[Violation]:
    done = sorted(
        (o for o in timeline.operations if o.op == "Compact" and o.is_ok), key=lambda o: o.ended
    )
    found: list[Violation] = []
    for operation in timeline.operations:
        if operation.op != "Range" or not operation.is_ok or operation.request.revision <= 0:
            continue
        if operation.is_serializable:
            continue  # a member that is behind has not compacted yet
        for compaction in done:
            late = compaction.ended < operation.begun
            if late and operation.request.revision < compaction.request.revision:
                text = f"a read at {operation.request.revision}, which was compacted before"
                found.append(_violation("compacted", text, compaction, operation))
                break
    return found


class _Replay:
    """All operations by revision, on the model."""

    def __init__(self, reference: Reference, operations: list[Operation]) -> None:
        self._reference = reference
        self._at: dict[int, list[Operation]] = {}
        for operation in operations:
            self._at.setdefault(operation.revision, []).append(operation)
        self._model = fresh_model(reference.timeline)
        self._found: list[Violation] = []
        self.undecided: list[str] = []

    def run(self) -> list[Violation]:
        """Return what does not fit."""
        while True:
            self._judge_reads()
            if self._model.revision >= self._reference.highest:
                break
            writer = self._reference.writer_of(self._model)
            if writer is not None and writer.is_ok:
                if self._write(writer):
                    continue
            elif self._reference.advance(self._model):
                continue
            else:
                self._gap()
            break
        return self._found

    def _judge_reads(self) -> None:
        """Judge what changed nothing at the model's revision."""
        revision = self._model.revision
        for operation in self._at.get(revision, ()):
            if operation.changed:
                continue
            if operation.op == "LeaseRevoke":
                if keys := self._model.lease_keys(operation.request.ID):
                    text = f"revoked, and {len(keys)} keys are still there at revision {revision}"
                    self._found.append(_violation("answer", text, operation))
                continue
            if operation.op == "DeleteRange" or operation.writes:
                # It must change nothing, and doing it would: so see what it would do first.
                self._compare(operation, _copy(self._model, operation))
            else:
                self._compare(operation, self._model)

    def _compare(self, operation: Operation, model: Model) -> None:
        if operation.response is None or _sorts_by_value(operation.request):
            return
        revision = model.revision
        try:
            expected = execute(model, operation.op, operation.request)
        except Refusal as refusal:
            text = f"answered, and the model refuses it at revision {revision}: {refusal.symbol}"
            self._found.append(_violation("answer", text, operation))
            return
        given, right = _bare(operation.response), _bare(expected)
        if given != right or model.revision != operation.revision:
            text = (
                f"at revision {revision} the answer is {_short(right)}\n"
                f"told was {_short(given)} at revision {operation.revision}"
            )
            self._found.append(_violation("answer", text, operation))

    def _write(self, writer: Operation) -> bool:
        """Do an answered write; if the model disagrees, take what the store told instead, if it did."""
        revision = self._model.revision + 1
        tried = _copy(self._model, writer)
        self._compare(writer, tried)
        told = self._reference.events.get(revision)
        done = {change.key: change.now for change in tried.changes if change.revision == revision}
        if told is not None and done != dict(changes_of(told)):
            text = f"the store tells of another change at revision {revision}: {told[0]}"
            self._found.append(_violation("answer", text, writer))
        if self._reference.advance(self._model):
            return True
        text = f"it is said to have made revision {revision}, and changes nothing"
        self._found.append(_violation("answer", text, writer))
        return False

    def _gap(self) -> None:
        revision = self._model.revision + 1
        reference = self._reference
        doubted = [operation.name for operation in reference.doubted]
        if doubted or fresh_model(reference.timeline).leases or reference.timeline.tenures:
            shown = ", ".join(doubted[:5]) or "an expired lease, or a client that was not recorded"
            self.undecided.append(
                f"nobody tells what made revision {revision}; it may have been {shown}"
            )
        else:
            text = f"revision {revision} is missing: {reference.highest} was told"
            self._found.append(Violation(rule="gap", operations=(), text=text))


def _copy(model: Model, operation: Operation) -> Model:
    """Return a model to try an operation on; it has a past only if that is read."""
    copied = Model(min_ttl=1, max_txn_ops=1 << 30)
    copied.kv = dict(model.kv)
    copied.leases = dict(model.leases)
    if operation.reads_past:
        copied.changes = list(model.changes)
    copied.adopt(model.revision, ())
    return copied


def _short(message: Any) -> str:  # noqa: ANN401 - any message of the API
    text = " ".join(str(message).split()) or "empty"
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def _sorts_by_value(request: Any) -> bool:  # noqa: ANN401 - any message of the API
    return (
        isinstance(request, rpc_pb2.RangeRequest)
        and request.sort_target == rpc_pb2.RangeRequest.VALUE
    )


def _bare(message: Any) -> Any:  # noqa: ANN401 - any message of the API
    """Return an answer without its headers, which say more than the model knows."""
    bare = type(message)()
    bare.CopyFrom(message)
    _strip(bare)
    return bare


def _strip(message: Any) -> None:  # noqa: ANN401 - any message of the API
    if isinstance(message, kv_pb2.KeyValue):
        return
    message.ClearField("header")
    if isinstance(message, rpc_pb2.TxnResponse):
        for part in message.responses:
            field = part.WhichOneof("response")
            if field is not None:
                _strip(getattr(part, field))
