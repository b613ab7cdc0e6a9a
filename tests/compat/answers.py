"""A request to both servers, and their answers in a form that can be compared.

Both start empty and see the same requests in the same order, so revisions agree and are compared as
they are. What cannot agree is replaced: cluster and member ids, the Raft term, lease ids that a server
chose itself, the seconds that a lease has left, and what a status tells of a process and its files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from google.protobuf.message import Message
from typing_extensions import override

from coord.wire import election_pb2, kv_pb2, rpc_pb2
from coord.wire import methods as rpcs

# Stands for the n-th lease id that the server chose, counted from the start of a script.
FIRST_SLOT = 1 << 40
# Stands for the number of the last candidacy of this name that was answered with leadership.
LED = (1 << 62) + 4711
# How long after a grant the remaining time of a lease is still told apart from nonsense.
_SLACK_S = 30

AnyRpc: TypeAlias = "rpcs.Rpc[Any, Any]"


@dataclass(frozen=True, slots=True)
class Step:
    """One request of a script. ``unknown`` are bytes of a field that no server knows.

    A call that has to wait for others names its key in line, and what is asked while it waits.
    """

    rpc: AnyRpc
    request: Message
    unknown: bytes = b""
    waits_as: bytes = b""
    meanwhile: tuple[Step, ...] = ()

    @override
    def __str__(self) -> str:
        name = self.rpc.path.rpartition("/")[2]
        text = f"{name} {' '.join(str(self.request).split())}"
        return " | meanwhile ".join([text, *map(str, self.meanwhile)])


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: status code, its text, and the message if the call succeeded."""

    code: int
    text: str = ""
    message: Message | None = None
    meanwhile: tuple[Answer, ...] = ()

    @override
    def __str__(self) -> str:
        if self.code:
            text = f"error {self.code}: {self.text}"
        else:
            text = f"ok {' '.join(str(self.message).split())}"
        return " | meanwhile ".join([text, *map(str, self.meanwhile)])


@dataclass(slots=True)
class View:
    """What a script needs to know of one server: the lease ids it chose, and who leads.

    ``earlier`` of the ids were chosen before this script.
    """

    name: str
    chosen: list[int] = field(default_factory=list[int])
    earlier: int = 0
    led: dict[bytes, int] = field(default_factory=dict[bytes, int])

    def turn_over(self) -> None:
        """Begin another script."""
        self.earlier = len(self.chosen)
        self.led.clear()

    def encode(self, step: Step) -> bytes:
        """The bytes of a request as this server gets it."""
        request = step.request
        if any(lease_id >= FIRST_SLOT for lease_id in lease_ids(request)):
            request = type(request).FromString(request.SerializeToString())
            replace_lease_ids(request, self._actual)
        if isinstance(request, (election_pb2.ProclaimRequest, election_pb2.ResignRequest)):
            request = type(request).FromString(request.SerializeToString())
            if request.leader.rev == LED:
                request.leader.rev = self.led.get(request.leader.name, 0)
        return request.SerializeToString() + step.unknown

    def decode(self, step: Step, raw: bytes, meanwhile: tuple[Answer, ...] = ()) -> Answer:
        """The answer, made comparable."""
        message = step.rpc.response.FromString(raw)
        if isinstance(message, rpc_pb2.LeaseGrantResponse) and not _asked_id(step.request):
            self.chosen.append(message.ID)
        if isinstance(message, election_pb2.CampaignResponse):
            self.led[message.leader.name] = message.leader.rev
        self._normalise(step.request, message)
        return Answer(0, message=message, meanwhile=meanwhile)

    def _normalise(self, request: Message, message: Message) -> None:
        replace_lease_ids(message, self._slot)
        for name in ("cluster_id", "member_id", "raft_term"):
            _blur(getattr(message, "header"), name)  # noqa: B009
        match message:
            case rpc_pb2.LeaseTimeToLiveResponse():
                if message.grantedTTL and 0 <= message.grantedTTL - message.TTL < _SLACK_S:
                    message.TTL = message.grantedTTL
                keys = sorted(message.keys)
                del message.keys[:]
                message.keys.extend(keys)
            case rpc_pb2.LeaseLeasesResponse():
                listed = sorted(status.ID for status in message.leases)
                del message.leases[:]
                message.leases.extend(rpc_pb2.LeaseStatus(ID=lease_id) for lease_id in listed)
            case rpc_pb2.RangeResponse():
                assert isinstance(request, rpc_pb2.RangeRequest)
                _settle_ties(request, message)
            case rpc_pb2.TxnResponse():
                assert isinstance(request, rpc_pb2.TxnRequest)
                _settle_ties_of_txn(request, message)
            case rpc_pb2.StatusResponse():
                for name in _OF_A_PROCESS:
                    _blur(message, name)
                texts = sorted(message.errors)
                del message.errors[:]
                message.errors.extend(texts)
            case rpc_pb2.AlarmResponse():
                alarms = sorted(message.alarms, key=lambda alarm: (alarm.memberID, alarm.alarm))
                del message.alarms[:]
                message.alarms.extend(alarms)
            case rpc_pb2.MemberListResponse():
                for member in message.members:
                    for name in ("ID", "peerURLs", "clientURLs"):
                        _blur(member, name)
            case _:
                pass

    def _actual(self, lease_id: int) -> int:
        slot = lease_id - FIRST_SLOT + self.earlier
        if lease_id < FIRST_SLOT:
            return lease_id
        return self.chosen[slot] if slot < len(self.chosen) else lease_id

    def _slot(self, lease_id: int) -> int:
        if lease_id in self.chosen:
            return FIRST_SLOT + self.chosen.index(lease_id)
        return lease_id


def _blur(message: Message, name: str) -> None:
    """Keep of a field only that it is there."""
    value = getattr(message, name)
    if isinstance(value, int):
        setattr(message, name, int(bool(value)))
    elif isinstance(value, str):
        setattr(message, name, "..." if value else "")
    elif value:
        del value[:]
        value.append("...")


_OF_A_PROCESS = (
    *("version", "dbSize", "dbSizeInUse", "leader"),
    *("raftIndex", "raftTerm", "raftAppliedIndex"),
)


# Lease ids, wherever they stand in a message.


def _asked_id(request: Message) -> int:
    return int(getattr(request, "ID", 0))


def _lease_holders(message: Message) -> Iterator[tuple[Message, str]]:
    """Each message that names a lease, with the field that does."""
    if isinstance(message, (rpc_pb2.Compare, rpc_pb2.Member)):
        return
    for name in ("lease", "ID"):
        if name in message.DESCRIPTOR.fields_by_name:
            yield message, name
    for descriptor, value in message.ListFields():
        if descriptor.message_type is None:
            continue
        for part in [value] if isinstance(value, Message) else value:
            yield from _lease_holders(part)


def lease_ids(message: Message) -> list[int]:
    """The lease ids that a message names."""
    return [getattr(holder, name) for holder, name in _lease_holders(message)]


def replace_lease_ids(message: Message, new: Callable[[int], int]) -> None:
    """Put ``new(lease_id)`` in the place of each lease id."""
    for holder, name in list(_lease_holders(message)):
        old = getattr(holder, name)
        if old:
            setattr(holder, name, new(old))


# Pairs that are equal in what a range is sorted by come in any order.

_TARGETS = {
    rpc_pb2.RangeRequest.VERSION: "version",
    rpc_pb2.RangeRequest.CREATE: "create_revision",
    rpc_pb2.RangeRequest.MOD: "mod_revision",
    rpc_pb2.RangeRequest.VALUE: "value",
}


def _settle_ties(request: rpc_pb2.RangeRequest, response: rpc_pb2.RangeResponse) -> None:
    target = _TARGETS.get(request.sort_target)
    if target is None or not response.kvs:
        return
    if target == "value" and request.keys_only:
        # What they were sorted by is not in the answer.
        kvs = sorted(response.kvs, key=lambda kv: kv.key)
        if response.more:
            kvs = [kv_pb2.KeyValue() for _ in kvs]
        del response.kvs[:]
        response.kvs.extend(kvs)
        return
    groups: list[list[kv_pb2.KeyValue]] = []
    for kv in response.kvs:
        if groups and getattr(groups[-1][0], target) == getattr(kv, target):
            groups[-1].append(kv)
        else:
            groups.append([kv])
    for group in groups:
        group.sort(key=lambda kv: kv.key)
    if response.more:
        # Which of the equal ones were cut off is as open as their order.
        groups[-1] = [kv_pb2.KeyValue(**{target: getattr(kv, target)}) for kv in groups[-1]]
    kvs = [kv for group in groups for kv in group]
    del response.kvs[:]
    response.kvs.extend(kvs)


def _settle_ties_of_txn(request: rpc_pb2.TxnRequest, response: rpc_pb2.TxnResponse) -> None:
    branch = request.success if response.succeeded else request.failure
    for op, answer in zip(branch, response.responses, strict=True):
        if op.HasField("request_range"):
            _settle_ties(op.request_range, answer.response_range)
        elif op.HasField("request_txn"):
            _settle_ties_of_txn(op.request_txn, answer.response_txn)
