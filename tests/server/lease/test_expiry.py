"""From deadlines to proposals (etcd API: Lease, "Expiry")."""

from __future__ import annotations

from dataclasses import dataclass, field

from coord.rpc.service import Responder
from coord.rpc.status import StatusCode
from coord.wire import rpc_pb2
from coord_server import errors
from coord_server.expiry import PASS_LIMIT, RETRY_AFTER_S, Expirer
from coord_server.lease import Lessor
from coord_server.ops import OpKind, decode_in_term


@dataclass
class Clock:
    now: float = 0.0

    def mono(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now


@dataclass
class Log:
    """A replica that only remembers what was proposed."""

    proposed: list[tuple[int, Responder]] = field(default_factory=list[tuple[int, Responder]])
    term: int = 5

    def propose(self, kind: int, payload: bytes, responder: Responder, stream_id: int) -> None:
        assert kind == OpKind.IN_TERM
        term, inner, request = decode_in_term(payload)
        assert (term, inner) == (self.term, OpKind.LEASE_EXPIRE)
        assert stream_id == rpc_pb2.LeaseRevokeRequest.FromString(request).ID
        self.proposed.append((stream_id, responder))

    def take(self) -> list[int]:
        taken, self.proposed = self.proposed, []
        return [lease_id for lease_id, _ in taken]


class Bench:
    def __init__(self, count: int) -> None:
        self.clock = Clock()
        self.log = Log()
        self.lessor = Lessor(2)
        self.lessor.promote(0.0, 0.0)
        for lease_id in range(1, count + 1):
            self.lessor.grant(lease_id, 10)
        self.expirer = Expirer(self.lessor, self.log, self.clock)
        self.tick(0.0)

    def tick(self, now: float) -> list[int]:
        self.clock.now = now
        self.expirer.tick(now)
        return self.log.take()


def test_a_tick_settles_grants_and_a_pass_comes_twice_a_second() -> None:
    bench = Bench(1)
    assert bench.lessor.remaining(1, 0.0) == 10.0
    assert bench.tick(9.9) == []
    assert bench.tick(10.1) == []  # less than half a second after the last pass
    assert bench.tick(10.4) == [1]
    assert bench.tick(11.0) == []


def test_a_pass_takes_a_bounded_number() -> None:
    bench = Bench(PASS_LIMIT + 7)
    assert len(bench.tick(20.0)) == PASS_LIMIT
    assert len(bench.tick(20.5)) == 7
    assert bench.tick(21.0) == []


def test_a_failed_revocation_is_proposed_again_later() -> None:
    bench = Bench(2)
    assert bench.tick(20.0) == [1, 2]
    bench.expirer.fail(1, StatusCode.UNAVAILABLE, errors.TIMEOUT.message)
    bench.expirer.respond(2, b"")
    bench.lessor.revoke(2)
    assert bench.tick(20.0 + RETRY_AFTER_S - 0.1) == []
    assert bench.tick(20.5 + RETRY_AFTER_S) == [1]


def test_a_lease_that_its_owner_revoked_first_is_done() -> None:
    bench = Bench(1)
    assert bench.tick(20.0) == [1]
    bench.lessor.revoke(1)
    bench.expirer.fail(1, errors.LEASE_NOT_FOUND.code, errors.LEASE_NOT_FOUND.message)
    assert bench.tick(40.0) == []
    bench.lessor.grant(1, 10)
    assert bench.tick(41.0) == []
    assert bench.tick(49.0) == []
    assert bench.tick(51.0) == [1]


def test_a_follower_proposes_nothing() -> None:
    bench = Bench(1)
    bench.lessor.demote()
    assert bench.tick(100.0) == []
