"""A topic: everybody gets every message, in the same order."""

import asyncio

import coord


async def listen(subscription: coord.Subscription) -> list[str]:
    messages = [await anext(subscription) for _ in range(3)]
    return [m.value.decode() for m in messages if isinstance(m, coord.Message)]


async def main() -> None:
    async with coord.connect() as client:
        topic = client.topic("examples/topic")
        async with topic.subscribe() as one, topic.subscribe() as two:
            for text in ("reload", "drain", "stop"):
                await topic.publish(text)
            seen = await listen(one), await listen(two)
            print("seen:", *seen[0])
            print("the same for all:", seen[0] == seen[1])


if __name__ == "__main__":
    asyncio.run(main())
