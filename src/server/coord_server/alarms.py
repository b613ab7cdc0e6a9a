"""The alarms of a cluster: a replicated set of (member, type), and what it forbids.

NOSPACE stands for a store over its quota, CORRUPT for members whose contents differ. An alarm that was
raised stays, over restarts too, until somebody disarms it (etcd ops: "Alarm").
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from coord.wire import rpc_pb2
from coord.wire.deep import decode_txn
from coord_server import errors
from coord_server.mvcc.txn import has_put
from coord_server.ops import OpKind
from coord_server.storage.backend import Bucket

if TYPE_CHECKING:
    from collections.abc import Iterable

    from coord_server.errors import ErrorSpec
    from coord_server.storage.backend import Batch

_NONE: Final = int(rpc_pb2.NONE)
_NOSPACE: Final = int(rpc_pb2.NOSPACE)
_CORRUPT: Final = int(rpc_pb2.CORRUPT)
_ACTIVATE: Final = int(rpc_pb2.AlarmRequest.ACTIVATE)
_DEACTIVATE: Final = int(rpc_pb2.AlarmRequest.DEACTIVATE)

_CHANGES: Final = frozenset(
    int(kind)
    for kind in (
        OpKind.PUT,
        OpKind.DELETE_RANGE,
        OpKind.TXN,
        OpKind.COMPACT,
        OpKind.LEASE_GRANT,
        OpKind.LEASE_REVOKE,
        OpKind.LEASE_EXPIRE,
    )
)
_GROWTH: Final = frozenset((int(OpKind.PUT), int(OpKind.LEASE_GRANT)))
_TXN: Final = int(OpKind.TXN)


@final
class Alarms:
    """The active alarms, changed by applied entries only. ``any`` is False on almost every day."""

    def __init__(self, records: Iterable[tuple[bytes, bytes]] = ()) -> None:
        self._active: dict[tuple[int, int], None] = {}
        self._stale: dict[tuple[int, int], None] = {}
        self.any: bool = False
        self.load(records)

    def load(self, records: Iterable[tuple[bytes, bytes]]) -> None:
        """Replace everything by the alarms of a bucket."""
        self._active, self._stale = {}, {}
        for key, _ in records:
            alarm = rpc_pb2.AlarmMember.FromString(key)
            self._active[alarm.memberID, alarm.alarm] = None
        self.any = bool(self._active)

    def apply(self, request: rpc_pb2.AlarmRequest) -> rpc_pb2.AlarmResponse:
        """Raise, disarm or list; the answer, without header, holds the alarms that this was about."""
        kind = int(request.alarm)
        name = (request.memberID, kind)
        if request.action == _ACTIVATE:
            if kind == _NONE:
                return rpc_pb2.AlarmResponse()
            self._change(name, active=True)
        elif request.action == _DEACTIVATE:
            if name not in self._active:
                return rpc_pb2.AlarmResponse()
            self._change(name, active=False)
        else:
            return self.listed(kind)
        return rpc_pb2.AlarmResponse(alarms=[_member(name)])

    def _change(self, name: tuple[int, int], *, active: bool) -> None:
        if active:
            self._active[name] = None
        else:
            del self._active[name]
        self._stale[name] = None
        self.any = bool(self._active)

    def listed(self, kind: int = _NONE) -> rpc_pb2.AlarmResponse:
        """Return the alarms of one type, or all."""
        return rpc_pb2.AlarmResponse(
            alarms=[_member(name) for name in self._active if kind in {_NONE, name[1]}]
        )

    def names(self) -> list[str]:
        """Return the types that are active, each once, by their number."""
        known = rpc_pb2.AlarmType.values()
        kinds = sorted({kind for _, kind in self._active})
        return [
            rpc_pb2.AlarmType.Name(_type(kind)) if kind in known else "UNKNOWN" for kind in kinds
        ]

    def is_active(self, member_id: int, kind: int) -> bool:
        """Tell whether a member has an alarm of this type."""
        return (member_id, kind) in self._active

    def refusal(self, kind: int, payload: bytes) -> ErrorSpec | None:
        """Return why an operation may not be done while these alarms are active; None if it may."""
        active = {alarm for _, alarm in self._active}
        if _CORRUPT in active and kind in _CHANGES:
            return errors.CORRUPT
        if _NOSPACE in active:
            request = decode_txn(payload) if kind == _TXN else None
            if kind in _GROWTH or (request is not None and has_put(request)):
                return errors.NO_SPACE
        return None

    def take(self, batch: Batch) -> None:
        """Move what the backend lacks into ``batch``."""
        for name in self._stale:
            key = _member(name).SerializeToString()
            if name in self._active:
                batch.put(Bucket.ALARM, key, b"")
            else:
                batch.delete(Bucket.ALARM, key)
        self._stale = {}


def _type(kind: int) -> rpc_pb2.AlarmType.ValueType:
    # The set is open on the wire: what a newer member raised is kept and listed.
    return rpc_pb2.AlarmType.ValueType(kind)


def _member(name: tuple[int, int]) -> rpc_pb2.AlarmMember:
    return rpc_pb2.AlarmMember(memberID=name[0], alarm=_type(name[1]))
