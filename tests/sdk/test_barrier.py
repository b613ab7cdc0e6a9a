"""Barriers, on every store: who waits gets through, whoever opens, however short, whatever is lost on the way."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

import coord
from tests.support.faulty import TXN, Fault, make_faulty, settle
from tests.support.proxy import Proxy

WITHIN_S = 20.0


@pytest.fixture
async def inline() -> AsyncIterator[coord.Client]:
    async with coord.connect("memory:", runtime="inline") as client:
        yield client


async def keys_of(client: coord.Client, prefix: str) -> list[tuple[bytes, bytes, bool]]:
    """Every key with its value, and whether it is leased."""
    found = (await client.get_prefix(prefix)).items
    return [(kv.key, kv.value, kv.lease != 0) for kv in found]


async def asleep(client: coord.Client, waits: list[asyncio.Task[None]]) -> None:
    """Let waits that have begun reach the store and open their watches, and whatever wakes them do so."""
    async with asyncio.timeout(WITHIN_S):
        while sum(watch.created for watch in (await client.explain()).watches) < len(waits):
            await asyncio.sleep(0.01)
    for _ in range(20):
        await asyncio.sleep(0)
        await client.get("nothing")
    assert not any(wait.done() for wait in waits)


# -- a gate --------------------------------------------------------------------------------------------------------


async def test_a_gate_closes_and_opens(client: coord.Client, prefix: str) -> None:
    barrier = client.barrier(prefix + "b")
    assert await barrier.is_closed() is False
    await barrier.wait(timeout=WITHIN_S)
    gate = await barrier.hold()
    assert await barrier.is_closed() is True
    found = await client.get(prefix + "b")
    assert found is not None
    assert (gate.key, gate.token, gate.leased) == (found.key, found.create_revision, False)
    gate.check()
    assert not gate.lost.is_set()
    with pytest.raises(coord.BarrierTimeout, match=str(gate.token)) as caught:
        await barrier.wait(timeout=0.2)
    assert isinstance(caught.value, TimeoutError)
    assert await barrier.release() is True
    assert await barrier.release() is True
    with pytest.raises(coord.NotHeld):
        gate.check()
    assert await barrier.is_closed() is False
    again = await barrier.hold()
    assert again.token > gate.token
    assert await again.release() is True


async def test_the_layout(client: coord.Client, prefix: str) -> None:
    """The golden dump: exactly one key, which Go's Barrier puts and deletes, too."""
    async with client.session(ttl=20) as session:
        barrier = client.barrier(prefix + "b", session=session)
        for leased in (False, True):
            gate = await barrier.hold(leased=leased)
            ((key, value, has_lease),) = await keys_of(client, prefix)
            assert key == f"{prefix}b".encode()
            assert len(bytes.fromhex(value.decode())) == 8
            assert has_lease is leased
            await gate.release()
            assert await keys_of(client, prefix) == []


async def test_a_closed_gate_is_not_closed_twice(client: coord.Client, prefix: str) -> None:
    async with client.session(ttl=20) as session:
        for first, second in ((False, True), (True, False), (True, True)):
            one, two = (client.barrier(prefix + "b", session=session) for _ in range(2))
            gate = await one.hold(leased=first)
            with pytest.raises(coord.BarrierHeld) as caught:
                await two.hold(leased=second)
            assert caught.value.token == gate.token
            with pytest.raises(coord.NotHeld):
                await two.release()
            assert await one.release() is True


async def test_an_old_gate_does_not_open_the_next_one(client: coord.Client, prefix: str) -> None:
    old = await client.barrier(prefix + "b").hold()
    assert await client.barrier(prefix + "b").release(force=True) is True
    assert await client.barrier(prefix + "b").release(force=True) is False
    new = await client.barrier(prefix + "b").hold()
    assert await old.release() is False
    assert await client.barrier(prefix + "b").is_closed() is True
    held = await client.txn().when(new.guard()).then().commit()
    assert held.succeeded
    stale = await client.txn().when(old.guard()).then().commit()
    assert not stale.succeeded
    assert await new.release() is True


async def test_neighbours_do_not_matter(client: coord.Client, prefix: str) -> None:
    for name in ("b0", "b/x", "a", "b\x01"):
        await client.put(prefix + name, "")
    barrier = client.barrier(prefix + "b")
    assert await barrier.is_closed() is False
    await barrier.wait(timeout=WITHIN_S)
    gate = await barrier.hold()
    waiting = asyncio.ensure_future(barrier.wait(timeout=WITHIN_S))
    await asleep(client, [waiting])
    for name in ("b0", "b/x", "a", "b\x01"):
        await client.delete(prefix + name)
    await asleep(client, [waiting])
    await gate.release()
    await waiting


async def test_a_foreign_peer_in_both_roles(client: coord.Client, prefix: str) -> None:
    """What Go's Barrier does: a put if the key is new, and an unguarded delete."""
    name = prefix + "b"
    barrier = client.barrier(name)
    gate = await barrier.hold()
    missing, put = coord.compare.version(name) == 0, coord.op.put(name, "")
    assert not (await client.txn().when(missing).then(put).commit()).succeeded
    waiting = asyncio.ensure_future(barrier.wait(timeout=WITHIN_S))
    await asleep(client, [waiting])
    await client.delete(name)
    await waiting
    assert await gate.release() is False
    assert (await client.txn().when(missing).then(put).commit()).succeeded
    with pytest.raises(coord.BarrierHeld):
        await barrier.hold()
    waiting = asyncio.ensure_future(barrier.wait(timeout=WITHIN_S))
    await asleep(client, [waiting])
    assert await barrier.release(force=True) is True
    await waiting


# -- flicker -------------------------------------------------------------------------------------------------------


async def test_who_saw_it_closed_gets_through_however_short_it_opens(
    client: coord.Client, prefix: str
) -> None:
    barrier = client.barrier(prefix + "b")
    await barrier.hold()
    waits = [asyncio.ensure_future(barrier.wait()) for _ in range(5)]
    await asleep(client, waits)
    for _ in range(3):
        assert await client.barrier(prefix + "b").release(force=True) is True
        await barrier.hold()
    async with asyncio.timeout(WITHIN_S):
        for wait in waits:
            await wait
    assert await barrier.is_closed() is True
    with pytest.raises(coord.BarrierTimeout):
        await barrier.wait(timeout=0.1)
    await barrier.release()


async def test_an_opening_that_was_compacted_away_shows_in_the_generation(
    endpoint: str, prefix: str
) -> None:
    async with (
        coord.connect(endpoint) as direct,
        Proxy(endpoint) as proxy,
        coord.connect(proxy.endpoint) as client,
    ):
        barrier = direct.barrier(prefix + "b")
        await barrier.hold()
        waiting = asyncio.ensure_future(client.barrier(prefix + "b").wait())
        await asleep(client, [waiting])
        await proxy.refuse()
        proxy.cut()
        await barrier.release()
        await barrier.hold()
        await direct.put(prefix + "x", "1")
        await direct.compact((await direct.put(prefix + "x", "2")).revision)
        await proxy.accept()
        async with asyncio.timeout(WITHIN_S):
            await waiting
        assert await barrier.is_closed() is True
        await barrier.release()


async def test_a_lost_connection_does_not_lose_the_opening(endpoint: str, prefix: str) -> None:
    async with (
        coord.connect(endpoint) as direct,
        Proxy(endpoint) as proxy,
        coord.connect(proxy.endpoint) as client,
    ):
        barrier = direct.barrier(prefix + "b")
        await barrier.hold()
        waiting = asyncio.ensure_future(client.barrier(prefix + "b").wait())
        await asleep(client, [waiting])
        await proxy.refuse()
        proxy.cut()
        await barrier.release()
        await barrier.hold()
        await proxy.accept()
        async with asyncio.timeout(WITHIN_S):
            await waiting
        await barrier.release()


# -- leased --------------------------------------------------------------------------------------------------------


async def test_a_leased_gate_opens_with_its_session(client: coord.Client, prefix: str) -> None:
    session = await client.session(ttl=20).open()
    gate = await client.barrier(prefix + "b", session=session).hold(leased=True)
    waiting = asyncio.ensure_future(client.barrier(prefix + "b").wait(timeout=WITHIN_S))
    await asleep(client, [waiting])
    gate.check()
    await session.close()
    await waiting
    await gate.lost.wait(timeout=WITHIN_S)
    with pytest.raises(coord.BarrierLost):
        gate.check()
    assert await gate.release() is False


async def test_a_leased_gate_that_somebody_opens_is_lost(client: coord.Client, prefix: str) -> None:
    barrier = client.barrier(prefix + "b")
    gate = await barrier.hold(leased=True)
    await barrier.release(force=True)
    assert await gate.lost.wait(timeout=WITHIN_S) == "revoked"
    with pytest.raises(coord.BarrierLost, match="revoked"):
        gate.check()


async def test_a_session_that_has_ended_closes_nothing(client: coord.Client, prefix: str) -> None:
    session = await client.session(ttl=20).open()
    await session.close()
    with pytest.raises(coord.SessionClosed):
        await client.barrier(prefix + "b", session=session).hold(leased=True)
    assert await keys_of(client, prefix) == []


# -- lost, late and doubled requests -------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [Fault.LOSE_REQUEST, Fault.LOSE_REPLY])
@pytest.mark.parametrize("leased", [False, True])
async def test_an_unanswered_hold_closes_once(
    inline: coord.Client, fault: Fault, leased: bool
) -> None:
    barrier = inline.barrier("b")
    await (await barrier.hold(leased=leased)).release()  # sessions and shared leases are there
    faulty = make_faulty(inline, [fault])
    gate = await barrier.hold(leased=leased)
    found = await inline.get("b")
    assert found is not None
    assert (found.create_revision, found.version) == (gate.token, 1)
    faulty.plan.append(fault)
    assert await gate.release() is True
    assert await inline.get("b") is None


@pytest.mark.parametrize("leased", [False, True])
async def test_a_late_copy_of_a_hold_does_not_close_again(
    inline: coord.Client, leased: bool
) -> None:
    barrier = inline.barrier("b")
    await (await barrier.hold(leased=leased)).release()
    faulty = make_faulty(inline, [Fault.LATE])
    gate = await barrier.hold(leased=leased)
    assert await gate.release() is True
    assert await faulty.deliver_late() == 1
    assert await inline.get("b") is None


@pytest.mark.parametrize("force", [False, True])
async def test_a_late_copy_of_a_release_does_not_open_the_next_gate(
    inline: coord.Client, force: bool
) -> None:
    barrier = inline.barrier("b")
    await barrier.hold()
    faulty = make_faulty(inline, [Fault.LATE])
    assert await barrier.release(force=force) is True
    await barrier.hold()
    assert await faulty.deliver_late() == 1
    assert await barrier.is_closed() is True


async def test_a_cancelled_leased_hold_leaves_nothing(inline: coord.Client) -> None:
    barrier = inline.barrier("b")
    await (await barrier.hold(leased=True)).release()
    for turns in range(12):
        for fault in (Fault.NONE, Fault.LATE):
            faulty = make_faulty(inline, [fault])
            holding = asyncio.ensure_future(barrier.hold(leased=True))
            for _ in range(turns):
                await asyncio.sleep(0)
            holding.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await (await holding).release()
            async with asyncio.timeout(WITHIN_S):
                while await barrier.is_closed():
                    await asyncio.sleep(0.005)
            await faulty.deliver_late()
            assert await barrier.is_closed() is False


async def test_a_hold_that_gets_no_answer_ends_in_time(inline: coord.Client) -> None:
    barrier = inline.barrier("b")
    await (await barrier.hold(leased=True)).release()
    await (await barrier.hold()).release()
    faulty = make_faulty(inline)
    faulty.plan.extend([Fault.LATE] * 50)
    with pytest.raises(coord.BarrierTimeout):
        await barrier.hold(leased=True, timeout=0.2)
    faulty.plan.clear()
    await faulty.deliver_late()
    assert await settle(inline, "b") == []  # given up in the background
    faulty.plan.extend([Fault.LATE] * 50)
    with pytest.raises(coord.AmbiguousResult) as caught:
        await barrier.hold(timeout=0.2)
    faulty.plan.clear()
    assert await caught.value.resolve() is None  # not closed, and never will be
    await faulty.deliver_late()
    assert await barrier.is_closed() is False
    with pytest.raises(coord.InvalidArgument):
        await barrier.wait(timeout=-1)


async def test_without_rights_to_the_markers_the_nonce_tells(
    inline: coord.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    barrier = inline.barrier("b")
    monkeypatch.setattr(inline._core.markers, "_denied", True)
    make_faulty(inline, [Fault.LOSE_REPLY])
    gate = await barrier.hold()
    found = await inline.get("b")
    assert found is not None
    assert gate.token == found.create_revision
    assert await gate.release() is True
    make_faulty(inline, [Fault.LOSE_REQUEST])
    with pytest.raises(coord.AmbiguousResult):
        await barrier.hold()
    assert await barrier.is_closed() is False
    await inline.put("b", "somebody else")
    make_faulty(inline, [Fault.LOSE_REQUEST])
    with pytest.raises(coord.AmbiguousResult):
        await barrier.hold()


async def test_a_hold_whose_outcome_nobody_can_look_up_in_time_says_so(
    inline: coord.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed: list[float] = []

    async def unanswered(*_: object, timeout: float) -> None:
        allowed.append(timeout)
        raise coord.CoordTimeout("Range", timeout)

    monkeypatch.setattr(inline._core.markers, "_denied", True)
    monkeypatch.setattr(inline._core.kv, "get", unanswered)
    make_faulty(inline, [Fault.LOSE_REPLY])
    with pytest.raises(coord.AmbiguousResult):
        await inline.barrier("b").hold(timeout=3)
    assert 0 <= allowed[0] <= 3


# -- cost ----------------------------------------------------------------------------------------------------------


async def test_what_it_costs(inline: coord.Client) -> None:
    """hold 1, release 1, wait 1, and nothing after the event, however many wait (spec recipes 21)."""
    barrier = inline.barrier("b")
    await (await barrier.hold()).release()  # the lease that markers share
    faulty = make_faulty(inline)
    gate = await barrier.hold()
    assert faulty.paths == [TXN]
    faulty.paths.clear()
    waits = [asyncio.ensure_future(barrier.wait()) for _ in range(20)]
    while len(faulty.paths) < 20:
        await asyncio.sleep(0)
    await asyncio.sleep(0.05)
    assert faulty.paths == [TXN] * 20
    faulty.paths.clear()
    assert await gate.release() is True
    async with asyncio.timeout(WITHIN_S):
        for wait in waits:
            await wait
    assert faulty.paths == [TXN]
