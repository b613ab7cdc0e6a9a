"""A countdown latch: wait until so many have arrived, each counted once."""

import asyncio

import coord


async def starter(client: coord.Client) -> None:
    await client.latch("examples/latch", 3).wait(timeout=30)
    print("all are here")


async def main() -> None:
    async with coord.connect() as client:
        latch = client.latch("examples/latch", 3)
        async with asyncio.TaskGroup() as group:
            group.create_task(starter(client))
            for who in ("reader", "parser", "parser", "writer"):
                print(f"{who} has arrived, missing: {await latch.count_down(who)}")
        await latch.reset(3)
        print("missing again:", await latch.remaining())
        await client.delete_prefix("examples/latch")


if __name__ == "__main__":
    asyncio.run(main())
