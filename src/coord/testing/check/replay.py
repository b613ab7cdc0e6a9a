"""The writes of a history, done again by the model: the reference that everything else is held against."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coord.testing.history import Call, Record, Return
from coord.testing.model import Model
from coord.wire import rpc_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from google.protobuf.message import Message


class IncompleteHistory(ValueError):
    """Revisions are missing, taken twice, or not what the model makes of the writes."""


def replay(records: Iterable[Record]) -> Model:
    """Return the model after all successful writes of a history, in the order of their revisions.

    Every write of the run must be recorded with a known outcome. Raises IncompleteHistory if a revision
    is missing or twice there, and what the model raises for a write that it refuses.
    """
    calls: dict[int, Call] = {}
    grants: list[Call] = []
    writes: list[tuple[int, Call]] = []
    for record in records:
        if isinstance(record, Call):
            calls[record.id] = record
        elif isinstance(record, Return):
            call = calls[record.id]
            if record.status == "info" and call.op != "Compact":
                raise IncompleteHistory(f"nobody knows what became of call {call.id}, a {call.op}")
            if record.status == "ok" and call.op == "LeaseGrant":
                grants.append(call)
            elif record.status == "ok" and record.changed:
                writes.append((record.revision, call))
    model = Model()
    for call in grants:
        # A lease is there before it is used, and no revision tells when it came.
        model.grant(rpc_pb2.LeaseGrantRequest.FromString(call.request))
    for revision, call in sorted(writes, key=lambda write: write[0]):
        if revision != model.revision + 1:
            raise IncompleteHistory(f"revision {revision} follows {model.revision}")
        _write(model, call)
        if revision != model.revision:
            raise IncompleteHistory(f"{call.op} changed nothing, and is said to be {revision}")
    return model


def _write(model: Model, call: Call) -> None:
    doers: dict[str, tuple[Callable[[bytes], Message], Callable[..., object]]] = {
        "Put": (rpc_pb2.PutRequest.FromString, model.put),
        "DeleteRange": (rpc_pb2.DeleteRangeRequest.FromString, model.delete_range),
        "Txn": (rpc_pb2.TxnRequest.FromString, model.txn),
        "LeaseRevoke": (rpc_pb2.LeaseRevokeRequest.FromString, model.revoke),
    }
    decode, do = doers[call.op]
    do(decode(call.request))
