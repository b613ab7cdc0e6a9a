"""A rollout whose agents are cut off or die."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from typing_extensions import override

import coord
from recipes.rolling_restart import (
    AT_ONCE,
    FLEET,
    PERMITS,
    SIZE,
    DidNotStart,
    Instance,
    permits,
    restart,
    resume,
)


@pytest.fixture
async def client() -> AsyncIterator[coord.Client]:
    async with coord.connect("memory:") as made:
        yield made


@dataclass
class Slow(Instance):
    """Hangs when it has stopped."""

    stopped: asyncio.Event = field(default_factory=asyncio.Event)

    @override
    async def stop(self) -> None:
        await super().stop()
        self.stopped.set()
        await asyncio.Event().wait()


async def started(client: coord.Client, number: int = SIZE) -> list[Instance]:
    fleet = [Instance(f"host-{n}:80") for n in range(number)]
    for instance in fleet:
        await instance.start(client, "v1")
    return fleet


async def versions(client: coord.Client) -> dict[str, str]:
    found = (await client.services(FLEET))[FLEET]
    return {each.addr: each.version for each in found}


async def test_nobody_begins_while_another_instance_is_missing(client: coord.Client) -> None:
    fleet = await started(client)
    for instance in fleet[:AT_ONCE]:
        await instance.stop()
    with pytest.raises(coord.ServiceTimeout):
        await restart(client, fleet[-1], "v2", timeout=0.2)
    assert fleet[-1].version == "v1"
    # The turn was given back, and one that is missing may be.
    await fleet[0].start(client, "v1")
    await restart(client, fleet[-1], "v2", timeout=30)
    assert (await versions(client))[fleet[-1].name] == "v2"


async def test_one_that_does_not_come_back_stops_the_others_until_somebody_has_looked(
    client: coord.Client,
) -> None:
    fleet = await started(client)
    with pytest.raises(DidNotStart):
        await restart(client, fleet[0], "v3", timeout=30)
    assert await permits(client).available() == 0
    with pytest.raises(coord.SemaphoreTimeout):
        await restart(client, fleet[1], "v2", timeout=0.2)
    await fleet[0].start(client, "v1")
    await resume(client)
    await restart(client, fleet[1], "v2", timeout=30)
    assert (await versions(client))[fleet[1].name] == "v2"


async def test_an_agent_that_loses_its_permit_brings_its_instance_back(
    client: coord.Client,
) -> None:
    fleet = await started(client)
    slow = Slow(fleet[0].name, "v1", fleet[0].listing)
    restarting = asyncio.ensure_future(restart(client, slow, "v2", timeout=30))
    await slow.stopped.wait()
    assert slow.name not in await versions(client)
    await client.delete_prefix(f"{PERMITS}/holders/")
    with pytest.raises(coord.PermitLost):
        await restarting
    assert (await versions(client))[slow.name] == "v2"


async def test_an_agent_that_is_cancelled_brings_its_instance_back(client: coord.Client) -> None:
    fleet = await started(client)
    slow = Slow(fleet[0].name, "v1", fleet[0].listing)
    restarting = asyncio.ensure_future(restart(client, slow, "v2", timeout=30))
    await slow.stopped.wait()
    restarting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await restarting
    assert (await versions(client))[slow.name] == "v2"
    assert await permits(client).available() == AT_ONCE
