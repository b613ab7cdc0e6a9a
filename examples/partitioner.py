"""Partitions: work divided among those who are there, each part with one of them."""

import asyncio
from collections.abc import Callable

import coord


async def work(own: coord.Ownership) -> None:
    """Work on one partition until it is lost or given back; what is written goes through ``own.txn()``."""
    await own.lost.wait()


async def until(partitioner: coord.Partitioner, enough: Callable[[int], object]) -> None:
    async for owned in partitioner.watch():
        if enough(len(owned)):
            return


async def main() -> None:
    async with coord.connect() as client:
        first, second = [client.partitioner("examples/parts", 8, settle=0.2) for _ in range(2)]
        async with first.run(work):
            await until(first, lambda n: n == 8)
            print("alone it has:", len(first.owned()))
            async with second.run(work):
                await until(second, lambda n: n and n == 8 - len(first.owned()))
                print("both have all:", len(first.owned() | second.owned()))
                print("one owner each:", not first.owned().keys() & second.owned().keys())
            await until(first, lambda n: n == 8)
            print("alone again:", len(first.owned()))


if __name__ == "__main__":
    asyncio.run(main())
