"""Watches: what changed, in order, without a gap, from any revision on."""

import asyncio

import coord


async def main() -> None:
    async with coord.connect() as client:
        start = await client.put("examples/watch/a", "1")
        await client.put("examples/watch/b", "2")
        await client.delete("examples/watch/a")

        # The watch starts in the past: nothing between the read and the watch can be missed.
        async with client.watch(
            "examples/watch/", prefix=True, start_revision=start.revision
        ) as watch:
            seen = 0
            async for event in watch:
                print(event.type.name.lower(), event.kv.key.decode(), event.kv.value.decode())
                seen += 1
                if seen == 3:
                    break
        await client.delete_prefix("examples/watch/")


if __name__ == "__main__":
    asyncio.run(main())
