"""The verdict on a run: functions over what was recorded, each returning what is wrong.

The log that the members committed is the order of everything. Replayed by the sequential model it gives
the only right answer to each write; a read is right if it is the model's at the revision that it names, and
if that revision is not older than what had been answered before it was asked.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from coord.testing.check import check_linearizable as linearizable_alone
from coord.testing.check import check_order as order_alone
from coord.testing.check import check_watches as watches
from coord.testing.history import Call, Record, Return
from coord.testing.model import Model, Refusal
from coord.wire import rpc_pb2
from coord_server.errors import COMPACTED
from coord_server.initial_cluster import FOUNDED_INDEX
from coord_server.ops import OpKind, decode_batch, decode_in_term

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from google.protobuf.message import Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a run leaves: records, answers by call, and the committed entries, (term, data) by index.

    The data of a change of membership is empty here: it is no operation on keys.
    """

    records: Sequence[Record]
    answers: Mapping[int, bytes]
    log: Mapping[int, tuple[int, bytes]]
    unrecorded: bytes = b"probe"
    """What the requests of programs that are not recorded contain."""

    def is_recorded(self, request: bytes) -> bool:
        """Tell whether a request can only be of a program that is recorded."""
        return self.unrecorded not in request


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that contradicts a promise; ``rule`` names it."""

    rule: str
    text: str


_COMPACTED: Final = COMPACTED.message
# Of the one search that can take long; what it has not decided by then it lets pass.
_SEARCH_S: Final = 1.0

_OPS: Final[dict[str, tuple[OpKind, Any, str]]] = {
    "Put": (OpKind.PUT, rpc_pb2.PutRequest, "put"),
    "DeleteRange": (OpKind.DELETE_RANGE, rpc_pb2.DeleteRangeRequest, "delete_range"),
    "Txn": (OpKind.TXN, rpc_pb2.TxnRequest, "txn"),
    "Compact": (OpKind.COMPACT, rpc_pb2.CompactionRequest, "compact"),
    "LeaseGrant": (OpKind.LEASE_GRANT, rpc_pb2.LeaseGrantRequest, "grant"),
    "LeaseRevoke": (OpKind.LEASE_REVOKE, rpc_pb2.LeaseRevokeRequest, "revoke"),
}
_BY_KIND: Final = {int(kind): (request, name) for kind, request, name in _OPS.values()} | {
    int(OpKind.LEASE_EXPIRE): (rpc_pb2.LeaseRevokeRequest, "revoke")
}
_RESPONSES: Final[dict[str, Any]] = {
    "Put": rpc_pb2.PutResponse,
    "DeleteRange": rpc_pb2.DeleteRangeResponse,
    "Txn": rpc_pb2.TxnResponse,
    "Range": rpc_pb2.RangeResponse,
}


class Replay:
    """The committed log, done again: the model, and what each operation of the log was answered."""

    def __init__(self, log: Mapping[int, tuple[int, bytes]]) -> None:
        self.model: Model = Model()
        self.outcomes: dict[tuple[int, bytes], list[Message | str]] = {}
        """By kind and payload, in the order of the log: the answer, or the symbol of the refusal."""
        # The founding is the state at its index, and no entry.
        first = FOUNDED_INDEX + 1
        self.holes: list[int] = [
            index for index in range(first, max(log, default=0)) if index not in log
        ]
        for index in sorted(log):
            term, data = log[index]
            for kind, payload in decode_batch(data):
                self._do(term, kind, payload)

    def _do(self, term: int, kind: int, payload: bytes) -> None:
        if kind == OpKind.IN_TERM:
            meant, kind, payload = decode_in_term(payload)
            if meant != term:
                return
        known = _BY_KIND.get(kind)
        if known is None:
            # Marks of forwarded operations, checkpoints, alarms and what members publish of themselves
            # change nothing that is judged here.
            return
        request, name = known
        outcome: Message | str
        try:
            outcome = getattr(self.model, name)(request.FromString(payload))
        except Refusal as refusal:
            outcome = refusal.symbol
        self.outcomes.setdefault((kind, payload), []).append(outcome)


def check_ledger(evidence: Evidence, replay: Replay) -> list[Finding]:
    """Every answered write is in the log, with this answer; what certainly failed is not there."""
    found: list[Finding] = []
    if replay.holes:
        found.append(
            Finding(rule="ledger", text=f"entries {replay.holes[:5]} were applied nowhere")
        )
    left = {asked: list(outcomes) for asked, outcomes in replay.outcomes.items()}
    calls = {r.id: r for r in evidence.records if isinstance(r, Call)}
    returns = [r for r in evidence.records if isinstance(r, Return)]
    for ret in returns:
        call = calls[ret.id]
        if call.op not in _OPS or ret.status != "ok":
            continue
        asked = (int(_OPS[call.op][0]), call.request)
        outcomes = left.get(asked, [])
        answer = evidence.answers[ret.id]
        place = next((n for n, o in enumerate(outcomes) if _same(call.op, o, answer)), None)
        if place is not None:
            del outcomes[place]
        elif not _is_read(call):
            said = [str(o).replace("\n", " ") for o in replay.outcomes.get(asked, [])]
            text = f"call {ret.id} of {call.client}, {call.op}, was answered at revision {ret.revision}"
            found.append(
                Finding(rule="ledger", text=f"{text}; the log has {said or 'no such write'}")
            )
    for ret in returns:
        call = calls[ret.id]
        if ret.status == "fail" and call.op in {"Put", "Txn"}:
            outcomes = left.get((int(_OPS[call.op][0]), call.request), [])
            if any(not isinstance(outcome, str) for outcome in outcomes):
                text = f"call {ret.id}, {call.op}, failed with {ret.error!r} and is in the log"
                found.append(Finding(rule="ledger", text=text))
    return found


def check_once(evidence: Evidence, replay: Replay) -> list[Finding]:
    """Nothing is in the log more often than it was asked for."""
    calls = [record for record in evidence.records if isinstance(record, Call)]
    asked = Counter((int(_OPS[call.op][0]), call.request) for call in calls if call.op in _OPS)
    names = {int(kind): name for name, (kind, _, _) in _OPS.items()}
    return [
        Finding(rule="once", text=f"{names[kind]} {payload!r} is in the log {len(outcomes)} times")
        for (kind, payload), outcomes in replay.outcomes.items()
        if kind in names and evidence.is_recorded(payload) and len(outcomes) > asked[kind, payload]
    ]


def _is_read(call: Call) -> bool:
    if call.op != "Txn":
        return False
    request = rpc_pb2.TxnRequest.FromString(call.request)
    return all(op.HasField("request_range") for op in [*request.success, *request.failure])


def _same(op: str, outcome: Message | str, answer: bytes) -> bool:
    """Tell whether the model's outcome is what the client was answered; headers by revision only."""
    if isinstance(outcome, str):
        return False
    response = _RESPONSES.get(op)
    if response is None:  # etcd's header of the others names a revision that means little
        return True
    return bool(_bare(outcome) == _bare(response.FromString(answer)))


def _bare(message: Any) -> bytes:  # noqa: ANN401 - any response
    """Return a response without what differs between members."""
    made = type(message)()
    made.CopyFrom(message)
    revision = made.header.revision
    made.ClearField("header")
    made.header.revision = revision
    if isinstance(made, rpc_pb2.TxnResponse):
        for part in made.responses:
            name = part.WhichOneof("response")
            if name is not None:
                inner = getattr(part, name)
                inner_revision = inner.header.revision
                inner.ClearField("header")
                inner.header.revision = inner_revision
    text: bytes = made.SerializeToString(deterministic=True)
    return text


def check_order(evidence: Evidence, replay: Replay) -> list[Finding]:
    """Revisions follow real time: what is answered before another call begins is not newer than its answer."""
    found: list[Finding] = []
    newest = 0
    floor: dict[int, int] = {}
    calls: dict[int, Call] = {}
    for record in evidence.records:
        if isinstance(record, Call):
            calls[record.id] = record
            floor[record.id] = newest
        elif isinstance(record, Return) and record.status == "ok":
            call = calls[record.id]
            if call.op not in _RESPONSES:
                continue
            least = floor[record.id] + (1 if record.changed else 0)
            if record.revision < least:
                text = (
                    f"call {record.id} of {call.client}, {call.op}, was answered at revision"
                    f" {record.revision}, and {floor[record.id]} had been answered before it began"
                )
                found.append(Finding(rule="order", text=text))
            newest = max(newest, record.revision)
    del replay
    return found


def check_reads(evidence: Evidence, replay: Replay) -> list[Finding]:
    """Every answered read shows the model's pairs at the revision that it names, or that it asked for."""
    found: list[Finding] = []
    states: dict[int, dict[bytes, Any]] = {}
    calls = {r.id: r for r in evidence.records if isinstance(r, Call)}
    for ret in evidence.records:
        if not isinstance(ret, Return) or ret.status != "ok" or calls[ret.id].op != "Range":
            continue
        call = calls[ret.id]
        request = rpc_pb2.RangeRequest.FromString(call.request)
        answer = rpc_pb2.RangeResponse.FromString(evidence.answers[ret.id])
        revision = request.revision or ret.revision
        then = states.get(revision)
        if then is None:
            then = states[revision] = replay.model.at(revision)
        seen = {
            pair.key: (
                pair.value,
                pair.create_revision,
                pair.mod_revision,
                pair.version,
                pair.lease,
            )
            for pair in answer.kvs
        }
        right = {key: tuple(version) for key, version in then.items() if _covers(request, key)}
        if seen != right:
            text = f"call {ret.id} of {call.client} read {seen} at revision {revision}, which has {right}"
            found.append(Finding(rule="reads", text=text))
    return found


def check_compactions(evidence: Evidence, replay: Replay) -> list[Finding]:
    """Nothing is refused as compacted that nobody had asked to compact."""
    del replay
    found: list[Finding] = []
    calls = {r.id: r for r in evidence.records if isinstance(r, Call)}
    reached = 0
    for record in evidence.records:
        if isinstance(record, Call):
            if record.op == "Compact":
                asked = rpc_pb2.CompactionRequest.FromString(record.request).revision
                reached = max(reached, asked)
        elif isinstance(record, Return) and _COMPACTED in record.error:
            call = calls[record.id]
            if call.op != "Range":
                continue
            revision = rpc_pb2.RangeRequest.FromString(call.request).revision
            if revision >= reached:
                text = f"call {call.id} of {call.client} read at revision {revision}, which is said to be compacted"
                found.append(Finding(rule="compaction", text=text))
    return found


def _covers(request: rpc_pb2.RangeRequest, key: bytes) -> bool:
    if not request.range_end:
        return key == request.key
    return request.key <= key < request.range_end


def check_watches(evidence: Evidence, replay: Replay) -> list[Finding]:
    """Every watch was told all that happened, once, in order, and as it was (W1)."""
    verdict = watches(replay.model.changes, evidence.records)
    return [Finding(rule="W1", text=str(violation)) for violation in verdict.violations]


def check_without_log(evidence: Evidence, replay: Replay) -> list[Finding]:
    """Let two checkers that know nothing of the log say whether what clients saw is linearizable."""
    del replay
    verdicts = (
        order_alone(evidence.records),
        linearizable_alone(evidence.records, budget_s=_SEARCH_S),
    )
    return [
        Finding(rule=verdict.checker, text=str(violation))
        for verdict in verdicts
        for violation in verdict.violations
    ]


CHECKS: tuple[Callable[[Evidence, Replay], list[Finding]], ...] = (
    check_ledger,
    check_once,
    check_order,
    check_reads,
    check_compactions,
    check_watches,
    check_without_log,
)


def judge(evidence: Evidence) -> list[Finding]:
    """Return everything that is wrong with a run."""
    replay = Replay(evidence.log)
    return [finding for check in CHECKS for finding in check(evidence, replay)]
