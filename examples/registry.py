"""A registry: instances list themselves, clients follow the list and pick one for each call."""

import asyncio

import coord


async def main() -> None:
    async with coord.connect() as client:
        registry = client.registry("examples/registry")
        async with registry.discover(strategy="weighted") as view:
            async with (
                registry.register("10.0.0.1:80", weight=4),
                registry.register("10.0.0.2:80") as small,
            ):
                await view.wait_for(2, timeout=10)
                picked = [view.pick().addr for _ in range(400)]
                print("share of the large one:", round(picked.count("10.0.0.1:80") / 40), "of 10")
                await small.drain(0.1)
                print("after draining:", {view.pick().addr for _ in range(5)})
            async for instances in view.watch():
                if not instances:
                    break
            try:
                view.pick()
            except coord.NoInstance as error:
                print(error)


if __name__ == "__main__":
    asyncio.run(main())
