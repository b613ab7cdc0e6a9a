"""A double barrier: so many start together and end together, round after round."""

import asyncio

import coord

PARTIES = 3


async def worker(client: coord.Client, steps: list[str]) -> None:
    barrier = client.double_barrier("examples/double_barrier", PARTIES)
    for number in (1, 2):
        async with barrier.joined(timeout=30):
            steps.append(f"step {number}")


async def main() -> None:
    steps: list[str] = []
    async with coord.connect() as client, asyncio.TaskGroup() as group:
        workers = [group.create_task(worker(client, steps)) for _ in range(PARTIES)]
        await asyncio.wait(workers)
    # Nobody began the second step before all had ended the first.
    print(", ".join(steps))


if __name__ == "__main__":
    asyncio.run(main())
