"""A countdown latch: wait until so many have arrived, each counted once."""

import asyncio

import coord


async def main() -> None:
    async with coord.connect() as client:
        latch = client.latch("examples/latch", 3)
        waiting = asyncio.create_task(latch.wait(timeout=30))
        for who in ("reader", "parser", "parser", "writer"):
            print(f"{who} has arrived, missing: {await latch.count_down(who)}")
        await waiting
        print("all are here")
        await latch.reset(3)
        print("missing again:", await latch.remaining())
        await client.delete_prefix("examples/latch")


if __name__ == "__main__":
    asyncio.run(main())
