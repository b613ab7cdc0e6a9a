# ruff: noqa: ANN401 - options are those of Config, and methods those of any service
"""The services of one member over a replica without a network.

The state is real: changes are encoded, applied and answered by the `Applier`. Who leads, who is in touch
with whom and how far a learner is are what a test says.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, cast

from google.protobuf.message import Message

from coord.rpc.status import RpcError, StatusCode
from coord.wire import fast
from coord.wire import rpc_pb2 as pb
from coord_server.api.cluster import PROMOTE_KIND, Cluster
from coord_server.api.maintenance import LeaderMoves
from coord_server.apply import Applier
from coord_server.config import Config
from coord_server.errors import Refused
from coord_server.member_records import member_records
from coord_server.raft import ConfigChange, encode_change
from coord_server.storage.backend import Batch, Bucket
from coord_server.storage.memory_backend import MemoryBackend

if TYPE_CHECKING:
    from coord.rpc.async_calls import AsyncCall
    from coord_server.api.context import ApiContext

R = TypeVar("R", bound=Message)

NOW_S = 100.0


@dataclass
class Clock:
    wall_s: float = 1_700_000_000.0

    def mono(self) -> float:
        return NOW_S

    def wall(self) -> float:
        self.wall_s += 1
        return self.wall_s


@dataclass
class Env:
    clock: Clock = field(default_factory=Clock)


@dataclass
class Replica:
    """One member of a cluster whose other members are only told of."""

    applier: Applier
    member_id: int
    leader_id: int
    last_index: int = 100
    since: dict[int, float] = field(default_factory=dict[int, float])
    matches: dict[int, int] = field(default_factory=dict[int, int])
    leader: Site | None = None
    readable: bool = True
    obeys: bool = True
    asked: list[str] = field(default_factory=list[str])
    troubles: list[RpcError] = field(default_factory=list[RpcError])

    @property
    def is_leader(self) -> bool:
        return self.leader_id == self.member_id

    def active_since(self, member_id: int) -> float | None:
        return self.since.get(member_id)

    def match(self, member_id: int) -> int | None:
        if member_id == self.member_id:
            return self.last_index
        # One that has never started has nothing; one that is no member gets nothing.
        known = self.applier.members.get(member_id)
        return self.matches.get(member_id, None if known is None else 0)

    async def propose_config(self, change: ConfigChange, context: bytes) -> None:
        applier = self.applier
        data = encode_change(change, context)
        refusal = applier.apply_config(applier.applied_index + 1, 1, data).refusal
        if refusal is not None:
            raise Refused(refusal)

    async def ask_leader(self, kind: str, request: bytes) -> bytes:
        self.asked.append(kind)
        if self.troubles:
            raise self.troubles.pop(0)
        if self.leader is None:
            raise RpcError(StatusCode.UNAVAILABLE, "connection refused")
        assert kind == PROMOTE_KIND
        return await self.leader.cluster.promote_here(request)

    def transfer_leadership(self, target: int) -> None:
        if self.obeys:
            self.leader_id = target

    def read_ready(self) -> bool:
        return self.readable


@dataclass
class Call:
    head: object = None


class Site:
    """A member with its services."""

    def __init__(self, *founders: pb.Member, own: int = 1, leader: int = 1, **config: Any) -> None:
        backend = MemoryBackend()
        batch = Batch()
        for key, value in member_records(founders):
            batch.put(Bucket.MEMBERS, key, value)
        backend.write(batch)
        stamp = fast.HeaderStamp(77, own)
        self.applier = Applier(backend, stamp)
        self.replica = Replica(self.applier, own, leader)
        self.config = Config(**config)
        self.context = cast("ApiContext", _Context(self, stamp))
        self.cluster = Cluster(self.context, self.replica)
        self.moves = LeaderMoves(self.context, self.replica)

    async def add(self, *urls: str, learner: bool = False) -> pb.MemberAddResponse:
        request = pb.MemberAddRequest(peerURLs=urls, isLearner=learner)
        return await self._call(self.cluster.member_add, request, pb.MemberAddResponse)

    async def remove(self, number: int) -> pb.MemberRemoveResponse:
        request = pb.MemberRemoveRequest(ID=number)
        return await self._call(self.cluster.member_remove, request, pb.MemberRemoveResponse)

    async def update(self, number: int, *urls: str) -> pb.MemberUpdateResponse:
        request = pb.MemberUpdateRequest(ID=number, peerURLs=urls)
        return await self._call(self.cluster.member_update, request, pb.MemberUpdateResponse)

    async def promote(self, number: int) -> pb.MemberPromoteResponse:
        request = pb.MemberPromoteRequest(ID=number)
        return await self._call(self.cluster.member_promote, request, pb.MemberPromoteResponse)

    async def move_leader(self, number: int) -> pb.MoveLeaderResponse:
        request = pb.MoveLeaderRequest(targetID=number)
        return await self._call(self.moves.move_leader, request, pb.MoveLeaderResponse)

    async def _call(self, method: Any, request: Message, kind: type[R]) -> R:
        call = cast("AsyncCall", Call())
        return kind.FromString(await method(call, request.SerializeToString()))


class _Context:
    """What the services use of an ApiContext."""

    def __init__(self, site: Site, stamp: fast.HeaderStamp) -> None:
        self._site = site
        self._stamp = stamp
        self.config = site.config
        self.replica = site.replica
        self.env = Env()

    @property
    def members(self) -> list[pb.Member]:
        return self._site.applier.members.members()

    def header(self, revision: int) -> bytes:
        return self._stamp.field(revision, 5)

    def check_head(self, head: object) -> None:
        pass
