"""A counter that is exact, ids that are unique, and a value that only those change who know it."""

import asyncio

import coord


async def main() -> None:
    async with coord.connect() as client:
        counter = client.counter("examples/counter/visits")
        await counter.reset()
        async with asyncio.TaskGroup() as group:
            for _ in range(10):
                group.create_task(counter.add())
        print("visits:", await counter.value())

        # One request for every thousand ids.
        ids = client.id_allocator("examples/counter/ids")
        first, second = await ids.next(), await ids.next()
        print("ids rise:", first < second)

        owner = client.atomic("examples/counter/owner", str)
        seen = await owner.get()
        mine = await owner.compare_and_set(seen.revision, "host-a")
        try:
            await owner.compare_and_set(seen.revision, "host-b")
        except coord.Conflict as conflict:
            print("somebody else was first:", conflict.actual == mine.revision)


if __name__ == "__main__":
    asyncio.run(main())
