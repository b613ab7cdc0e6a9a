"""A queue: items handed over in order, each to one taker; and the same by urgency, and by time."""

import asyncio

import coord


async def main() -> None:
    async with coord.connect() as client:
        async with client.queue("examples/queue") as queue:
            await queue.put("first")
            await queue.put_many(["second", "third"])
            print("waiting:", await queue.size())
            for _ in range(3):
                item = await queue.get(timeout=5)
                print("got", item.value.decode())
            print("left:", await queue.try_get())

        async with client.priority_queue("examples/priority") as queue:
            await queue.put("sweep the floor", priority=200)
            await queue.put("put out the fire", priority=0)
            print("most urgent:", (await queue.get()).value.decode())

        async with client.delay_queue("examples/delay") as queue:
            await queue.put("tea is ready", delay=0.2)
            print("yet:", await queue.try_get())
            print("later:", (await queue.get()).value.decode())


if __name__ == "__main__":
    asyncio.run(main())
