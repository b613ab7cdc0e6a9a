"""A mutex: one holder at a time, first come first served, with a token that only rises."""

import asyncio

import coord


async def work(client: coord.Client, number: int, tokens: list[int]) -> None:
    async with client.mutex("examples/mutex").hold(timeout=30) as grant:
        # Hand the token to whatever you write to: it can refuse a smaller one than it has seen.
        tokens.append(grant.token)
        print(f"worker {number} is alone")


async def main() -> None:
    tokens: list[int] = []
    async with coord.connect() as client, asyncio.TaskGroup() as group:
        workers = [group.create_task(work(client, n, tokens)) for n in range(3)]
        await asyncio.wait(workers)
    print("tokens rise:", tokens == sorted(set(tokens)))


if __name__ == "__main__":
    asyncio.run(main())
