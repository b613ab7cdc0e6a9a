"""Keys and values: put, get, list a prefix, read the past, delete."""

import asyncio

import coord


async def main() -> None:
    async with coord.connect() as client:
        first = await client.put("examples/kv/colour", "green")
        await client.put("examples/kv/colour", "blue")
        await client.put("examples/kv/size", "12")

        now = await client.get("examples/kv/colour")
        then = await client.get("examples/kv/colour", revision=first.revision)
        if now and then:
            print(f"was {then.value.decode()}, is {now.value.decode()}")

        listed = await client.get_prefix("examples/kv/")
        print("keys:", ", ".join(item.key.decode() for item in listed.items))

        deleted = await client.delete_prefix("examples/kv/")
        print("deleted:", deleted.deleted)


if __name__ == "__main__":
    asyncio.run(main())
