"""A group: who is alive, with what data, and who comes and goes."""

import asyncio

import coord


async def main() -> None:
    async with coord.connect() as client:
        group = client.membership("examples/membership")
        async with group.join("a", data={"cores": 8}) as me:
            events = group.watch()
            print((await anext(events)).kind.value, me.id)
            async with group.join("b", data={"cores": 2}):
                print("members:", {each.id: each.data for each in await group.members()})
            async for event in events:
                print(event.kind.value, event.member.id)
                if event.kind is coord.GroupEventKind.LEFT:
                    break


if __name__ == "__main__":
    asyncio.run(main())
