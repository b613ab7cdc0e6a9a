"""A work queue: jobs that survive their workers, with effects that happen once."""

import asyncio

import coord
from coord import op


async def main() -> None:
    async with coord.connect() as client, client.work_queue("examples/work") as queue:
        await queue.put("invoice 7", dedup_id="invoice-7")
        again = await queue.put("invoice 7", dedup_id="invoice-7")
        print("put twice, there once:", again.duplicate)

        # A worker that dies, or gives up: the job comes again.
        (item,) = await queue.receive(timeout=5)
        await item.nack(delay=0, reason="the printer is out of paper")

        async for item in queue.consume():
            async with item:  # done at the end of the block, given back if it raises
                print(f"attempt {item.attempt} after {item.last_error!r}")
                # In the store together with the end of the job, or not at all.
                item.also(op.put("examples/work-done", item.value))
            break

        done = await client.get("examples/work-done")
        print("done:", done.value.decode() if done else "nothing")
        print("left:", (await queue.stats()).items)


if __name__ == "__main__":
    asyncio.run(main())
