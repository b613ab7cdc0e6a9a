"""A fleet restarts itself, a few instances at a time, and stops at the first one that does not come back.

Problem: a new version has come to all machines, and the agent on each one restarts its instance by itself. Not all at
once, for somebody must serve; and if the new version does not start, the rest of the fleet must stay as it is.

Guarantee: never more than ``AT_ONCE`` agents restart at the same time, as long as clocks run at rates within 1 % of
each other. Each waits first until the fleet is seen whole but for those, so an instance that is down for another
reason holds the others up. An instance that does not come back sets the limit of the semaphore to 0: nobody else
begins, until somebody has looked and sets it again (``resume``).

On loss: an agent that is cut off from the store loses its permit, and its restart is cancelled where it is; an
instance that it had stopped is started all the same, for which it needs nobody. An agent that dies gives its permit
back when its lease ends; if it left its instance stopped, the next one waits for that.

Run it: ``python -m recipes.rolling_restart``. The agents of six machines run in one process there.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field

import coord

FLEET = "recipes/rolling-restart/service"
PERMITS = "recipes/rolling-restart/permits"
SIZE = 6
AT_ONCE = 2


class DidNotStart(RuntimeError):
    """The instance was stopped, and does not serve again."""


@dataclass
class Instance:
    """What an agent looks after: here a listing in the registry, really a process that lists itself."""

    name: str
    version: str = "none"
    listing: coord.Registration | None = field(default=None, repr=False)

    async def start(self, client: coord.Client, version: str) -> None:
        """Start if it is stopped. Raises DidNotStart."""
        if version == "v3":
            raise DidNotStart(f"{self.name} with {version}")
        if self.listing is None:
            registry = client.registry(FLEET)
            self.listing = await registry.register(self.name, version=version, timeout=30)
            self.version = version

    async def stop(self) -> None:
        """Stop after callers have been told."""
        if self.listing is not None:
            await self.listing.drain(0.02)  # really some seconds
            self.listing = None


def permits(client: coord.Client) -> coord.Semaphore:
    return client.semaphore(PERMITS, initial_limit=AT_ONCE)


async def restart(
    client: coord.Client, instance: Instance, version: str, *, timeout: float
) -> None:
    """Restart in turn. Raises SemaphoreTimeout or ServiceTimeout if that does not come, DidNotStart, PermitLost."""
    turn = permits(client)
    async with turn.hold(timeout=timeout), client.registry(FLEET).discover() as view:
        # The permit says that few restart on purpose; this, that the others really serve.
        await view.wait_for(SIZE - AT_ONCE + 1, timeout=timeout)
        try:
            await instance.stop()
            await instance.start(client, version)
        except DidNotStart:
            await turn.set_limit(0)
            raise
        except asyncio.CancelledError:
            with contextlib.suppress(DidNotStart, coord.CoordError):
                await instance.start(client, version)
            raise
        async for instances in view.watch():
            if any((each.addr, each.version) == (instance.name, version) for each in instances):
                return


async def resume(client: coord.Client) -> None:
    """Let a rollout that has stopped go on, after somebody has looked."""
    await permits(client).set_limit(AT_ONCE)


async def roll_out(
    client: coord.Client, fleet: list[Instance], version: str, *, timeout: float
) -> None:
    """Have all agents restart their instances, and tell what came of it."""

    async def agent(instance: Instance) -> str:
        try:
            await restart(client, instance, version, timeout=timeout)
        except DidNotStart:
            return "down"
        except coord.SemaphoreTimeout:
            return "not begun"
        return "restarted"

    async with asyncio.TaskGroup() as group:
        agents = [group.create_task(agent(instance)) for instance in fleet]
    outcomes = [task.result() for task in agents]
    print(f"{version}: {outcomes.count('restarted')} of {SIZE} restarted")
    if "down" in outcomes:
        print("stopped, at most", AT_ONCE, "are down:", outcomes.count("down") <= AT_ONCE)
        print("nobody else was touched:", outcomes.count("not begun") >= SIZE - AT_ONCE)


async def count(view: coord.ServiceView, fewest: list[int]) -> None:
    """Keep in mind how few have served."""
    async for instances in view.watch():
        serving = sum(each.health == "serving" for each in instances)
        fewest[0] = min(fewest[0], serving)


async def main() -> None:
    fleet = [Instance(f"host-{number}:80") for number in range(SIZE)]
    fewest = [SIZE]
    async with coord.connect() as client, client.registry(FLEET).discover() as view:
        for instance in fleet:
            await instance.start(client, "v1")
        await view.wait_for(SIZE, timeout=30)
        await resume(client)
        async with asyncio.TaskGroup() as group:
            counting = group.create_task(count(view, fewest))
            await roll_out(client, fleet, "v2", timeout=60)
            print("enough have served:", fewest[0] >= SIZE - AT_ONCE)
            await roll_out(client, fleet, "v3", timeout=1)
            counting.cancel()
        await client.delete(f"{PERMITS}/limit")


if __name__ == "__main__":
    asyncio.run(main())
