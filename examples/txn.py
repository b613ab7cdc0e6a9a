"""Transactions: change several keys together, and only if nobody was faster."""

import asyncio

import coord
from coord import compare, op


async def transfer(client: coord.Client, amount: int) -> bool:
    a = await client.get("examples/txn/a")
    b = await client.get("examples/txn/b")
    if a is None or b is None:
        return False
    result = await (
        client.txn()
        .when(
            compare.mod_revision("examples/txn/a") == a.mod_revision,
            compare.mod_revision("examples/txn/b") == b.mod_revision,
        )
        .then(
            op.put("examples/txn/a", str(int(a.value) - amount)),
            op.put("examples/txn/b", str(int(b.value) + amount)),
        )
        .commit()
    )
    return result.succeeded


async def main() -> None:
    async with coord.connect() as client:
        await client.put("examples/txn/a", "100")
        await client.put("examples/txn/b", "0")
        print("transferred:", await transfer(client, 30))
        for item in (await client.get_prefix("examples/txn/")).items:
            print(item.key.decode(), item.value.decode())
        await client.delete_prefix("examples/txn/")


if __name__ == "__main__":
    asyncio.run(main())
