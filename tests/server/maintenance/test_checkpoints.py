"""What a lease has left survives a restart, if that is asked for; and a renewal is never forgotten."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from coord.wire import methods as rpcs
from coord.wire import rpc_pb2 as pb
from coord_server.checkpoints import PASS_LIMIT, Checkpointer
from coord_server.lease import Lessor
from coord_server.ops import OpKind, decode_in_term
from tests.server.endpoint import Endpoint
from tests.server.maintenance.place import Place


class Log:
    """Takes proposals, and applies them when told."""

    def __init__(self, lessor: Lessor) -> None:
        self.lessor = lessor
        self.term = 3
        self.proposed: list[pb.LeaseCheckpointRequest] = []

    def propose(self, kind: int, payload: bytes, responder: object, stream_id: int) -> None:
        assert kind == OpKind.IN_TERM
        term, inner, request = decode_in_term(payload)
        assert (term, inner) == (self.term, OpKind.LEASE_CHECKPOINT)
        self.proposed.append(pb.LeaseCheckpointRequest.FromString(request))

    def apply(self) -> dict[int, int]:
        applied: dict[int, int] = {}
        for request in self.proposed:
            for checkpoint in request.checkpoints:
                self.lessor.checkpoint(checkpoint.ID, checkpoint.remaining_TTL)
                applied[checkpoint.ID] = checkpoint.remaining_TTL
        self.proposed.clear()
        return applied


def primary(*ttls: int) -> Lessor:
    lessor = Lessor()
    for number, ttl in enumerate(ttls, start=1):
        lessor.grant(number, ttl)
    lessor.promote(0.0, 0.0)
    return lessor


def test_long_leases_are_written_down_every_five_minutes() -> None:
    lessor = primary(1000, 300, 301, 10**9)
    log = Log(lessor)
    pointer = Checkpointer(lessor, log)
    for now in range(300):
        pointer.tick(float(now))
    assert log.proposed == []
    pointer.tick(300.25)
    # 699.75 rounds up; those with five minutes or less are left alone.
    assert log.apply() == {1: 700, 4: 10**9 - 300}
    pointer.tick(500.0)
    assert log.proposed == []
    pointer.tick(601.0)
    assert log.apply() == {1: 399, 4: 10**9 - 601}
    pointer.tick(902.0)
    assert list(log.apply()) == [4]


def test_a_thousand_at_a_time() -> None:
    lessor = primary(*[1000] * (PASS_LIMIT + 5))
    log = Log(lessor)
    pointer = Checkpointer(lessor, log)
    pointer.tick(0.0)
    for now in (300.0, 300.1, 300.2, 300.5, 301.0):
        pointer.tick(now)
    assert [len(request.checkpoints) for request in log.proposed] == [PASS_LIMIT, 5]


def test_only_the_primary_proposes_and_starts_anew() -> None:
    lessor = primary(1000)
    log = Log(lessor)
    pointer = Checkpointer(lessor, log)
    pointer.tick(0.0)
    lessor.demote()
    pointer.tick(300.0)
    assert log.proposed == []
    lessor.promote(301.0, 0.0)
    pointer.tick(301.0)
    pointer.tick(600.0)
    assert log.proposed == []
    pointer.tick(601.0)
    assert log.apply() == {1: 700}


def test_a_renewal_waits_until_the_checkpoint_is_gone() -> None:
    lessor = primary(1000)
    assert lessor.renew(1, 10.0) == 1000
    assert lessor.begin_checkpoint(1, 310.0) == 700
    # On its way already: a renewal now would be undone by it.
    assert lessor.renew(1, 320.0) is None
    assert lessor.must_clear(1, 320.0)
    lessor.checkpoint(1, 700)
    assert lessor.renew(1, 330.0) is None
    assert lessor.must_clear(1, 330.0)
    lessor.checkpoint(1, 0)
    assert not lessor.must_clear(1, 330.0)
    assert lessor.renew(1, 330.0) == 1000
    # Too late is too late, with or without a checkpoint.
    lessor.checkpoint(1, 50)
    assert not lessor.must_clear(1, 1330.0)
    assert lessor.is_expired(1, 1330.0)
    assert lessor.begin_checkpoint(1, 1330.0) is None
    assert lessor.begin_checkpoint(2, 0.0) is None
    lessor.demote()
    assert not lessor.must_clear(1, 400.0)
    lessor.promote(2000.0, 1.0)
    assert lessor.remaining(1, 2000.0) == 51.0


def test_no_checkpoint_begins_while_a_renewal_waits() -> None:
    lessor = primary(1000)
    assert lessor.begin_checkpoint(1, 300.0) == 700
    lessor.checkpoint(1, 700)
    # Two streams renew, and each takes the checkpoint back through the log.
    lessor.begin_clear(1)
    lessor.begin_clear(1)
    assert lessor.begin_checkpoint(1, 600.0) is None
    lessor.checkpoint(1, 0)
    lessor.end_clear(1)
    assert lessor.renew(1, 601.0) == 1000
    # This one would stand behind the second 0 in the log, or before it: nobody knows yet.
    assert lessor.begin_checkpoint(1, 602.0) is None
    lessor.checkpoint(1, 0)
    lessor.end_clear(1)
    assert lessor.begin_checkpoint(1, 603.0) == 998
    lessor.begin_clear(9)
    lessor.end_clear(9)
    lessor.end_clear(1)
    assert lessor.begin_checkpoint(1, 604.0) == 997


async def remaining(site: Endpoint, lease: int) -> int:
    request = pb.LeaseTimeToLiveRequest(ID=lease)
    answer = await site.call(rpcs.LEASE_TIME_TO_LIVE, request)
    assert answer.grantedTTL == 3600
    return answer.TTL


async def ticked(site: Endpoint) -> None:
    """Return after a tick of the server, all of whose tickers have run."""
    tick = asyncio.Event()

    def on_tick(now: float) -> None:
        tick.set()

    site.server.context.replica.add_ticker(on_tick)
    await tick.wait()


async def checkpointed(site: Endpoint) -> None:
    """Let the server make a checkpoint, and wait until it is applied."""
    replica = site.server.context.replica
    await ticked(site)
    before = replica.applied_index
    site.clock.jumped += 400
    while replica.applied_index == before:
        await ticked(site)


@pytest.mark.parametrize("enabled", [False, True])
async def test_the_time_left_survives_a_restart_if_asked_for(
    tmp_path: Path, *, enabled: bool
) -> None:
    place = Place(tmp_path, lease_checkpoint=enabled)
    site = await place.start()
    await site.grant(3600, 7)
    await site.put(b"k", lease=7)
    if enabled:
        await checkpointed(site)
    else:
        place.clock.jumped += 400
    assert 3100 < await remaining(site, 7) <= 3200
    await place.stop(site)
    site = await place.start()
    # A leader gives each lease an election timeout on top, and the full time without a checkpoint.
    left = await remaining(site, 7)
    assert (3100 < left <= 3201) if enabled else (3590 < left <= 3601)
    assert (
        await site.call(rpcs.LEASE_TIME_TO_LIVE, pb.LeaseTimeToLiveRequest(ID=7, keys=True))
    ).keys == [b"k"]
    await place.stop(site)


async def test_a_renewal_after_a_checkpoint_counts_after_a_restart(tmp_path: Path) -> None:
    place = Place(tmp_path, lease_checkpoint=True)
    site = await place.start()
    await site.grant(3600, 7)
    await checkpointed(site)
    index = site.server.context.replica.applied_index
    call = site.stream(rpcs.LEASE_KEEP_ALIVE)
    for _ in range(3):
        await call.send(pb.LeaseKeepAliveRequest(ID=7))
    assert [(await call.receive()).TTL for _ in range(3)] == [3600] * 3
    # The first took the checkpoint back through the log, the others had nothing to take back.
    assert site.server.context.replica.applied_index == index + 1
    await call.half_close()
    assert await call.ended()
    await place.stop(site)
    site = await place.start()
    assert 3590 < await remaining(site, 7) <= 3601
    await place.stop(site)
