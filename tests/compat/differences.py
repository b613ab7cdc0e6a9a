"""Where coord-server answers otherwise than a release of etcd, on purpose (docs/compatibility.md)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from google.protobuf.message import Message

from coord.wire import rpc_pb2
from tests.compat.answers import Answer, Step
from tests.compat.generator import ops_of
from tests.support.peers import RELEASES


@dataclass(frozen=True, slots=True)
class Difference:
    """One of them: why, and whether it explains two different answers to a step."""

    reason: str
    explains: Callable[[Step, Answer, Answer], bool]
    releases: tuple[str, ...] = RELEASES


def _unknown_order(step: Step, ours: Answer, theirs: Answer) -> bool:
    requests: list[rpc_pb2.RangeRequest] = []
    if isinstance(step.request, rpc_pb2.RangeRequest):
        requests = [step.request]
    elif isinstance(step.request, rpc_pb2.TxnRequest):
        requests = [op.request_range for op in ops_of(step.request)]
    is_odd = any(
        not (0 <= request.sort_order <= 2 and 0 <= request.sort_target <= 4) for request in requests
    )
    return is_odd and (ours.code, ours.text) == (3, "etcdserver: invalid sort option")


def _other_refusal_first(step: Step, ours: Answer, theirs: Answer) -> bool:
    if not isinstance(step.request, rpc_pb2.TxnRequest):
        return False
    ops = ops_of(step.request)
    puts = [op.request_put for op in ops if op.HasField("request_put")]
    possible: set[str] = set()
    if any(put.lease for put in puts):
        possible.add("etcdserver: requested lease not found")
    if any(put.ignore_value or put.ignore_lease for put in puts):
        possible.add("etcdserver: key not found")
    if any(op.request_range.revision for op in ops if op.HasField("request_range")):
        possible.add("etcdserver: mvcc: required revision is a future revision")
        possible.add("etcdserver: mvcc: required revision has been compacted")
    return {ours.text, theirs.text} <= possible


def _lost_place(step: Step, ours: Answer, theirs: Answer, text: str) -> bool:
    lost = rpc_pb2.LeaseRevokeRequest(ID=getattr(step.request, "lease", 0))
    return (
        any(other.request == lost for other in step.meanwhile)
        and (ours.code, ours.text, theirs.code) == (2, text, 0)
        and ours.meanwhile == theirs.meanwhile
    )


def _lost_candidate(step: Step, ours: Answer, theirs: Answer) -> bool:
    return _lost_place(step, ours, theirs, "election: session is expired")


def _lost_lock(step: Step, ours: Answer, theirs: Answer) -> bool:
    return _lost_place(step, ours, theirs, "mutex: session is expired")


def _hash_revision(step: Step, ours: Answer, theirs: Answer) -> bool:
    if not isinstance(ours.message, rpc_pb2.HashKVResponse):
        return False
    return ours.message.hash_revision != 0 and theirs.message == _without(ours, "hash_revision")


def _hash_at_the_compaction(step: Step, ours: Answer, theirs: Answer) -> bool:
    if not isinstance(ours.message, rpc_pb2.HashKVResponse):
        return False
    return (
        ours.message.hash_revision == ours.message.compact_revision
        and theirs.text == "etcdserver: mvcc: required revision has been compacted"
    )


def _no_header(step: Step, ours: Answer, theirs: Answer) -> bool:
    if not isinstance(theirs.message, rpc_pb2.AlarmResponse):
        return False
    return theirs.message.header == rpc_pb2.ResponseHeader() and (
        _without(theirs, "header") == _without(ours, "header")
    )


def _without(answer: Answer, name: str) -> Message | None:
    if answer.message is None:
        return None
    rest = type(answer.message)()
    rest.CopyFrom(answer.message)
    rest.ClearField(name)
    return rest


KNOWN_DIFFERENCES = (
    Difference(
        "a sort order or target outside its enum is refused; 3.5 ignores it", _unknown_order
    ),
    Difference(
        "of several refusals a transaction tells the first in the order of its operations, and of "
        "one put the missing lease; 3.5 looks at all puts before the ranges, and at the key first",
        _other_refusal_first,
    ),
    Difference(
        "a candidate whose lease ended while it waited is not told that it leads", _lost_candidate
    ),
    Difference("a hash says of which revision it is; a field of 3.6", _hash_revision),
    Difference(
        "the hash at the compact revision is answered as from 3.5.16 on", _hash_at_the_compaction
    ),
    Difference(
        "3.4 says that a lock is held whose lease ended while the call waited",
        _lost_lock,
        ("3.4.23",),
    ),
    Difference("3.4 leaves the header of an answer about alarms empty", _no_header, ("3.4.23",)),
)


def is_explained(step: Step, ours: Answer, theirs: Answer, *, release: str) -> bool:
    """Whether the answers are the same, or differ as they may."""
    return ours == theirs or any(
        release in known.releases and known.explains(step, ours, theirs)
        for known in KNOWN_DIFFERENCES
    )
