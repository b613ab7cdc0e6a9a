"""The part of a script that is not about keys: Lock and Election services, Maintenance, Cluster.

No call may wait for ever, so each name is for one lease only, and nobody else has keys under it; those
who stand in line for each other are written as one step that says how the line moves.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Literal, TypeAlias

from google.protobuf.message import Message

from coord.wire import election_pb2, lock_pb2, rpc_pb2
from coord.wire import methods as rpcs
from tests.compat.answers import LED, AnyRpc, Step

# A lease of clients' choice for each name; "a" and "" are also what other keys begin with.
_NAMES = {b"a": 1, b"": 2, b"lock": 7, b"\xff": (1 << 63) - 1, b"m/n": -1, b"\x00": -(1 << 63)}
_LINE = b"line"
_FIRST, _SECOND = 11, 12
_VALUES = [b"", b"one", b"two", b"\xff\x00"]
_ALARM_IDS = [0, 1, (1 << 64) - 1]

Kind: TypeAlias = Literal["lock", "campaign"]


class Services:
    """Makes steps; ``near`` returns a revision that the store has, had or may have soon."""

    def __init__(self, rng: random.Random, near: Callable[[], int]) -> None:
        self._random = rng
        self._near = near

    def _chance(self, probability: float) -> bool:
        return self._random.random() < probability

    def _name(self) -> bytes:
        return self._random.choice(list(_NAMES))

    def _grant(self, lease_id: int) -> list[Step]:
        if self._chance(0.3):
            return []
        return [Step(rpcs.LEASE_GRANT, rpc_pb2.LeaseGrantRequest(ID=lease_id, TTL=600))]

    # One participant

    def lock(self) -> list[Step]:
        """Lock, lock again, unlock: in any order."""
        name = self._name()
        if self._chance(0.3):
            return [Step(rpcs.LOCK_UNLOCK, lock_pb2.UnlockRequest(key=self._locked_key(name)))]
        request = lock_pb2.LockRequest(name=name, lease=_NAMES[name])
        return [*self._grant(_NAMES[name]), Step(rpcs.LOCK_LOCK, request)]

    def _locked_key(self, name: bytes) -> bytes:
        if self._chance(0.1):
            return self._random.choice([b"", b"a", b"nobody"])
        return _key(name, _NAMES[name])

    def election(self) -> list[Step]:
        """Campaign, proclaim, ask, resign: in any order, with all that can be wrong in a leader key."""
        name = self._name()
        kind = self._random.choice(["campaign", "campaign", "proclaim", "resign", "leader"])
        match kind:
            case "campaign":
                return [*self._grant(_NAMES[name]), self._campaign(name)]
            case "leader":
                return [Step(rpcs.ELECTION_LEADER, election_pb2.LeaderRequest(name=name))]
            case "proclaim":
                proclaim = election_pb2.ProclaimRequest(value=self._random.choice(_VALUES))
                self._lead(proclaim, name)
                return [Step(rpcs.ELECTION_PROCLAIM, proclaim)]
            case _:
                resign = election_pb2.ResignRequest()
                self._lead(resign, name)
                return [Step(rpcs.ELECTION_RESIGN, resign)]

    def observe(self) -> list[Step]:
        """The first thing that an observer hears, where there is a leader."""
        name = self._name()
        grant = Step(rpcs.LEASE_GRANT, rpc_pb2.LeaseGrantRequest(ID=_NAMES[name], TTL=600))
        observed = election_pb2.LeaderRequest(name=name)
        return [grant, self._campaign(name), Step(rpcs.ELECTION_OBSERVE, observed)]

    def _campaign(self, name: bytes) -> Step:
        value = self._random.choice(_VALUES)
        request = election_pb2.CampaignRequest(name=name, lease=_NAMES[name], value=value)
        return Step(rpcs.ELECTION_CAMPAIGN, request)

    def _lead(
        self, request: election_pb2.ProclaimRequest | election_pb2.ResignRequest, name: bytes
    ) -> None:
        if self._chance(0.05):
            return
        leader = request.leader
        leader.name = name
        leader.key = self._locked_key(name)
        leader.rev = LED if self._chance(0.7) else self._random.choice([0, -1, self._near()])
        # Not 0: etcd grants a lease then, and nobody hears its id.
        leader.lease = self._random.choice([-5, 4711]) if self._chance(0.15) else _NAMES[name]

    # Two in a line

    def line(self) -> list[Step]:
        """The second waits until the first is gone, or does not live to see it."""
        kind: Kind = self._random.choice(["lock", "campaign"])
        leases = [
            Step(rpcs.LEASE_GRANT, rpc_pb2.LeaseGrantRequest(ID=lease_id, TTL=600))
            for lease_id in (_FIRST, _SECOND)
        ]
        rpc, first = _enter(kind, _FIRST)
        _, second = _enter(kind, _SECOND)
        ends: list[list[Step]] = [
            [Step(rpcs.LOCK_UNLOCK, lock_pb2.UnlockRequest(key=_key(_LINE, _FIRST)))],
            [_revoke(_FIRST)],
            [Step(rpcs.KV_DELETE_RANGE, rpc_pb2.DeleteRangeRequest(key=_key(_LINE, _FIRST)))],
            [_revoke(_SECOND), _revoke(_FIRST)],
        ]
        meanwhile = self._random.choice(ends)
        waiting = Step(
            rpc, second, waits_as=_key(_LINE, _SECOND), meanwhile=(*self._asked(), *meanwhile)
        )
        return [
            *leases,
            Step(rpc, first),
            waiting,
            *self._asked(),
            _revoke(_FIRST),
            _revoke(_SECOND),
        ]

    def _asked(self) -> list[Step]:
        name = election_pb2.LeaderRequest(name=_LINE)
        line = rpc_pb2.RangeRequest(key=_LINE + b"/", range_end=_LINE + b"0")
        asked = [Step(rpcs.ELECTION_LEADER, name), Step(rpcs.KV_RANGE, line)]
        return [step for step in asked if self._chance(0.5)]

    # Maintenance and Cluster

    def hash_kv(self) -> list[Step]:
        """The hash of all that is kept up to a revision."""
        revision = self._near() if self._chance(0.6) else self._random.choice([0, 0, -1, 1 << 62])
        return [Step(rpcs.MAINTENANCE_HASH_KV, rpc_pb2.HashKVRequest(revision=revision))]

    def ask_member(self) -> list[Step]:
        """What a member says of itself and the others."""
        members = rpc_pb2.MemberListRequest(linearizable=self._chance(0.5))
        return [
            self._random.choice(
                [
                    Step(rpcs.MAINTENANCE_STATUS, rpc_pb2.StatusRequest()),
                    Step(rpcs.CLUSTER_MEMBER_LIST, members),
                    self._alarm(rpc_pb2.AlarmRequest.GET),
                ]
            )
        ]

    def alarm(self, others: Callable[[], list[Step]]) -> list[Step]:
        """Raise one, see what is refused, and disarm it."""
        member_id = self._random.choice(_ALARM_IDS)
        kind = self._random.choice([rpc_pb2.NOSPACE, rpc_pb2.CORRUPT])
        request = rpc_pb2.AlarmRequest(memberID=member_id, alarm=kind)
        steps = [_alarm(request, rpc_pb2.AlarmRequest.ACTIVATE)]
        for _ in range(self._random.randint(1, 5)):
            steps += others()
        if self._chance(0.5):
            # Not the one that was raised, or one of no kind.
            steps.append(self._alarm(rpc_pb2.AlarmRequest.DEACTIVATE))
        steps += [
            Step(rpcs.MAINTENANCE_STATUS, rpc_pb2.StatusRequest()),
            self._alarm(rpc_pb2.AlarmRequest.GET),
        ]
        return [*steps, *(_alarm(request, rpc_pb2.AlarmRequest.DEACTIVATE) for _ in range(2))]

    def _alarm(self, action: rpc_pb2.AlarmRequest.AlarmAction.ValueType) -> Step:
        kinds = [rpc_pb2.NONE, rpc_pb2.NOSPACE, rpc_pb2.CORRUPT]
        request = rpc_pb2.AlarmRequest(
            memberID=self._random.choice(_ALARM_IDS), alarm=self._random.choice(kinds)
        )
        return _alarm(request, action)


def _key(name: bytes, lease: int) -> bytes:
    return name + b"/" + format(lease, "x").encode()


def _enter(kind: Kind, lease: int) -> tuple[AnyRpc, Message]:
    if kind == "lock":
        return rpcs.LOCK_LOCK, lock_pb2.LockRequest(name=_LINE, lease=lease)
    request = election_pb2.CampaignRequest(name=_LINE, lease=lease, value=b"%d" % lease)
    return rpcs.ELECTION_CAMPAIGN, request


def _revoke(lease_id: int) -> Step:
    return Step(rpcs.LEASE_REVOKE, rpc_pb2.LeaseRevokeRequest(ID=lease_id))


def _alarm(
    request: rpc_pb2.AlarmRequest, action: rpc_pb2.AlarmRequest.AlarmAction.ValueType
) -> Step:
    sent = rpc_pb2.AlarmRequest(action=action, memberID=request.memberID, alarm=request.alarm)
    return Step(rpcs.MAINTENANCE_ALARM, sent)
