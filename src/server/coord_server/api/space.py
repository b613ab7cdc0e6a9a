"""The space quota: which requests still find room, and the alarm when one does not.

A request has an estimated cost; it is let through if it costs nothing, or if the file of the backend and
the cost stay below the quota (etcd ops: "Storage quota"). The first that is refused raises the NOSPACE
alarm through the log, and is answered when the alarm is applied: whoever reads the refusal finds the
alarm too. From then on the alarm refuses, whatever the quota says, until it is disarmed.

Measured is the file, as in etcd: it shrinks by a defragmentation alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol, final

from coord.wire import rpc_pb2
from coord_server import errors
from coord_server.errors import Refused
from coord_server.ops import OpKind

if TYPE_CHECKING:
    from coord.rpc.metadata import Metadata
    from coord.rpc.service import Responder
    from coord_server.log import Log
    from coord_server.storage.backend import Backend

PUT_COST: Final = 256
"""Bytes that a put costs beside its key and value."""
GRANT_COST: Final = 64
_UNLIMITED: Final = 1 << 62
# A put takes at least 4 bytes in a transaction and costs 256 and its content: never more than this
# many times its length.
_TXN_COST_PER_BYTE: Final = 128


class Proposer(Protocol):
    """What raising an alarm needs of the replica."""

    def propose(self, kind: int, payload: bytes, responder: Responder, stream_id: int) -> None:
        """Propose an operation; the responder hears of the outcome once."""
        ...


@final
class Room:
    """How much a request may cost: anything below ``left`` bytes. ``look`` measures again."""

    def __init__(
        self,
        backend: Backend,
        quota_bytes: int | None,
        *,
        member_id: int,
        replica: Proposer,
        log: Log,
    ) -> None:
        self._backend = backend
        self._quota_bytes = quota_bytes
        self._member_id = member_id
        self._replica = replica
        self._log = log
        self._refused: list[tuple[Responder | None, int]] = []
        self.left: int = _UNLIMITED
        self.look()

    def look(self) -> None:
        """Measure the backend."""
        if self._quota_bytes is not None:
            self.left = self._quota_bytes - self._backend.size_bytes()

    def has_for_txn(self, request: rpc_pb2.TxnRequest, size: int) -> bool:
        """Tell whether a transaction of ``size`` bytes may be done."""
        if _TXN_COST_PER_BYTE * size < self.left:
            return True
        cost = _txn_cost(request)
        return not cost or cost < self.left

    def refuse(self, responder: Responder | None, stream_id: int) -> None:
        """Fail a call for lack of space once the alarm is raised; None: nobody waits."""
        self._refused.append((responder, stream_id))
        if len(self._refused) == 1:
            self._log.warning("space quota exceeded", quota_bytes=self._quota_bytes)
            request = rpc_pb2.AlarmRequest(
                action=rpc_pb2.AlarmRequest.ACTIVATE,
                memberID=self._member_id,
                alarm=rpc_pb2.NOSPACE,
            )
            self._replica.propose(OpKind.ALARM, request.SerializeToString(), self, 0)

    def check(self, cost: int) -> None:
        """Raise `Refused` NO_SPACE if there is no room; the alarm follows."""
        if cost >= self.left:
            self.refuse(None, 0)
            raise Refused(errors.NO_SPACE)

    # The answer to the alarm.

    def respond(self, stream_id: int, message: bytes) -> None:
        """Fail those that waited for the alarm."""
        del stream_id, message
        self._fail_refused()

    def fail(self, stream_id: int, code: int, message: str, trailers: Metadata = ()) -> None:
        """Fail them also without an alarm: there is no space in any case."""
        del stream_id, code, message, trailers
        self._fail_refused()

    def _fail_refused(self) -> None:
        refused, self._refused = self._refused, []
        spec = errors.NO_SPACE
        for responder, stream_id in refused:
            if responder is not None:
                responder.fail(stream_id, spec.code, spec.message)


def _txn_cost(request: rpc_pb2.TxnRequest) -> int:
    """Return what the dearer branch puts, nested transactions included."""
    return max(
        sum(_op_cost(op) for op in request.success), sum(_op_cost(op) for op in request.failure)
    )


def _op_cost(op: rpc_pb2.RequestOp) -> int:
    if op.HasField("request_put"):
        return PUT_COST + len(op.request_put.key) + len(op.request_put.value)
    return _txn_cost(op.request_txn) if op.HasField("request_txn") else 0
