"""Configuration with a type: it changes while the program runs, and a mistake changes nothing."""

import asyncio
from dataclasses import dataclass

import coord


@dataclass(frozen=True)
class Limits:
    """What an instance may do."""

    requests_per_second: int


async def main() -> None:
    async with coord.connect() as client:
        name, default = "examples/config/limits", Limits(100)
        async with await client.config(name, Limits, default=default) as config:
            changes = config.changes()
            revision = await config.publish(Limits(250))
            print("limit:", (await anext(changes)).value.requests_per_second)

            await client.put(name, '{"requests_per_second": "many"}')
            state = await anext(changes)
            print("a mistake was noticed:", state.invalid is not None)
            print("limit:", config.value.requests_per_second)

            await config.rollback(revision)
            print("repaired:", (await anext(changes)).invalid is None)


if __name__ == "__main__":
    asyncio.run(main())
