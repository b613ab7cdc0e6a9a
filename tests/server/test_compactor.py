"""Auto-compaction: what is proposed, and when."""

from __future__ import annotations

import pytest

from coord.rpc.service import Responder
from coord.wire import rpc_pb2
from coord_server import errors
from coord_server.compactor import Compactor
from coord_server.config import Config
from coord_server.log import silent
from coord_server.ops import OpKind


class FixedClock:
    def wall(self) -> float:
        return 0.0


class FakeReplica:
    """Notes proposals; a test answers them."""

    def __init__(self) -> None:
        self.is_leader = True
        self.proposed: list[int] = []
        self.responder: Responder | None = None

    def propose(self, kind: int, payload: bytes, responder: Responder, stream_id: int) -> None:
        assert kind == OpKind.COMPACT
        assert rpc_pb2.CompactionRequest.FromString(payload).revision == stream_id
        self.proposed.append(stream_id)
        self.responder = responder

    def succeed(self) -> None:
        assert self.responder is not None
        self.responder.respond(self.proposed[-1], b"")

    def fail(self, spec: errors.ErrorSpec) -> None:
        assert self.responder is not None
        self.responder.fail(self.proposed[-1], spec.code, spec.message)


class FakeStore:
    def __init__(self) -> None:
        self.revision = 1


class Rig:
    def __init__(self, **settings: str) -> None:
        self.replica = FakeReplica()
        self.store = FakeStore()
        made = Compactor.from_config(
            Config(
                auto_compaction_mode=settings.get("mode", "periodic"),
                auto_compaction_retention=settings["retention"],
            ),
            self.replica,
            self.store,
            silent(FixedClock()),
        )
        assert made is not None
        self.compactor = made


def test_off_by_default() -> None:
    replica, store = FakeReplica(), FakeStore()
    assert Compactor.from_config(Config(), replica, store, silent(FixedClock())) is None


def test_periodic_compacts_to_one_retention_ago() -> None:
    rig = Rig(retention="100s")
    for second in range(0, 231, 5):
        rig.store.revision = 1000 + second
        rig.compactor.tick(float(second))
        if rig.replica.proposed and rig.replica.responder is not None:
            rig.replica.succeed()
            rig.replica.responder = None
    # Samples every 10 s; the first after a whole retention, then one each period.
    assert rig.replica.proposed == [1000, 1100]


def test_long_retentions_compact_hourly() -> None:
    rig = Rig(retention="10")
    for minute in range(0, 14 * 60 + 1, 2):
        rig.store.revision = 10_000 + minute
        before = len(rig.replica.proposed)
        rig.compactor.tick(minute * 60.0)
        if len(rig.replica.proposed) > before:
            rig.replica.succeed()
    hours = [10_000 + 60 * hour for hour in range(5)]
    assert rig.replica.proposed == hours


def test_a_quiet_store_is_not_compacted_twice_to_one_revision() -> None:
    rig = Rig(retention="10s")
    for second in range(60):
        rig.compactor.tick(float(second))
        if rig.replica.responder is not None:
            rig.replica.succeed()
    assert rig.replica.proposed == [1]


def test_failures_are_tried_again_and_compacted_counts_as_success() -> None:
    rig = Rig(retention="10s")
    for second in range(12):
        rig.compactor.tick(float(second))
        if rig.replica.responder is not None:
            rig.replica.fail(errors.TIMEOUT)
            rig.replica.responder = None
    assert rig.replica.proposed == [1, 1]
    rig.compactor.tick(12.0)
    rig.replica.fail(errors.COMPACTED)
    for second in range(13, 20):
        rig.compactor.tick(float(second))
    assert rig.replica.proposed == [1, 1, 1]


def test_revision_mode_keeps_so_many() -> None:
    rig = Rig(mode="revision", retention="100")
    rig.store.revision = 250
    rig.compactor.tick(0.0)
    rig.compactor.tick(299.0)
    assert rig.replica.proposed == []
    rig.compactor.tick(300.0)
    assert rig.replica.proposed == [150]
    rig.replica.succeed()
    rig.compactor.tick(600.0)
    assert rig.replica.proposed == [150]
    rig.store.revision = 90
    rig.compactor.tick(900.0)
    assert rig.replica.proposed == [150]


@pytest.mark.parametrize("mode", ["periodic", "revision"])
def test_only_the_leader_compacts(mode: str) -> None:
    rig = Rig(mode=mode, retention="1")
    rig.replica.is_leader = False
    rig.store.revision = 50
    for second in range(0, 10_000, 100):
        rig.compactor.tick(float(second))
    assert rig.replica.proposed == []
