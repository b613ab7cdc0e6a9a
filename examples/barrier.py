"""A barrier: a gate that many wait at, until one opens it."""

import asyncio

import coord


async def worker(client: coord.Client, number: int) -> None:
    await client.barrier("examples/barrier").wait(timeout=30)
    print(f"worker {number} is through")


async def main() -> None:
    async with coord.connect() as client:
        gate = await client.barrier("examples/barrier").hold()
        async with asyncio.TaskGroup() as group:
            workers = [group.create_task(worker(client, n)) for n in range(3)]
            await asyncio.sleep(0.1)
            print("through before it opens:", sum(task.done() for task in workers))
            await gate.release()


if __name__ == "__main__":
    asyncio.run(main())
