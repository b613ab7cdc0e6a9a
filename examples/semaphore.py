"""A semaphore: at most so many at once, first come first served, over all processes."""

import asyncio

import coord


async def download(semaphore: coord.Semaphore, running: list[int], most: list[int]) -> None:
    async with semaphore.hold(timeout=30) as permit:
        running.append(permit.token)
        most.append(len(running))
        await asyncio.sleep(0.01)
        running.remove(permit.token)


async def main() -> None:
    running: list[int] = []
    most: list[int] = []
    async with coord.connect() as client:
        semaphore = client.semaphore("examples/semaphore", limit=3)
        async with asyncio.TaskGroup() as group:
            for _ in range(10):
                group.create_task(download(semaphore, running, most))
        print(f"{len(most)} done, at most {max(most)} at once")
        await semaphore.set_limit(5)  # for everybody, while it is in use
        print("free now:", await semaphore.available())
        await client.delete("examples/semaphore/limit")


if __name__ == "__main__":
    asyncio.run(main())
