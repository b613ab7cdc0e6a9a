"""A read-write lock: readers share it, a writer has it alone, and may go on as a reader without a gap."""

import asyncio

import coord


async def main() -> None:
    async with coord.connect() as client:
        rw = client.rwlock("examples/rwlock")

        async with rw.read().hold(timeout=30), rw.read().hold(timeout=30):
            print("two read at once")

        async with rw.write(downgradable=True).hold(timeout=30) as grant:
            print("others read:", await rw.read().try_acquire() is not None)
            await grant.downgrade()  # what was written can be read on: no writer came in between
            async with rw.read().hold(timeout=30):
                print("after the downgrade others read, too")


if __name__ == "__main__":
    asyncio.run(main())
