"""Waits at barriers and latches, and holds of leased gates, are spans."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

import coord
from tests.support.telemetry import Listener, attributes_of, listening


@pytest.fixture
def listener() -> Iterator[Listener]:
    with listening() as made:
        yield made


async def test_waits_and_holds(listener: Listener) -> None:
    async with coord.connect("memory:", runtime="inline") as client:
        barrier = client.barrier("gate")
        gate = await barrier.hold(leased=True)
        with pytest.raises(coord.BarrierTimeout):
            await barrier.wait(timeout=0.05)
        failed = listener.one("coord.barrier.wait")
        assert attributes_of(failed) == {
            "coord.name": "gate",
            "coord.outcome": "timeout",
            "error.type": "BarrierTimeout",
        }
        listener.clear()
        await gate.release()
        await barrier.wait()
        held = attributes_of(listener.one("coord.barrier.hold"))
        assert (held["coord.name"], held["coord.token"]) == ("gate", gate.token)
        assert attributes_of(listener.one("coord.barrier.wait"))["coord.outcome"] == "granted"

        async with client.double_barrier("rounds", 1).joined():
            entered = listener.one("coord.double_barrier.enter")
            assert attributes_of(entered) == {"coord.name": "rounds", "coord.outcome": "granted"}

        latch = client.latch("latch", 1)
        waiting = asyncio.ensure_future(latch.wait())
        await latch.count_down()
        await waiting
        opened = listener.one("coord.latch.wait")
        assert attributes_of(opened) == {"coord.name": "latch", "coord.outcome": "granted"}
    recipes = ("barrier", "double_barrier", "latch")
    counted = [
        listener.count("coord.client.wait.duration", coord__recipe=recipe) for recipe in recipes
    ]
    assert counted == [2, 1, 1]
    assert listener.count("coord.client.hold.duration", coord__recipe="barrier") == 1
