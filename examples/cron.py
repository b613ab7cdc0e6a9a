"""Scheduled jobs: each tick begins once in the whole fleet, here in one of two schedulers."""

import asyncio

import coord


async def main() -> None:
    async with coord.connect() as client:
        ran: list[tuple[str, int]] = []
        enough = asyncio.Event()

        async def sweep(tick: coord.Tick) -> None:
            ran.append((tick.at.isoformat(), tick.token))
            if len(ran) == 2:
                enough.set()

        crons = [client.cron("examples/cron") for _ in range(2)]
        for cron in crons:  # in a fleet each of them is another process
            cron.job("sweep", schedule="@every 1s")(sweep)
        async with asyncio.TaskGroup() as group:
            schedulers = [group.create_task(cron.run()) for cron in crons]
            await enough.wait()
            for scheduler in schedulers:
                scheduler.cancel()

        ticks, tokens = zip(*ran, strict=True)
        print("each tick once:", len(set(ticks)) == len(ticks))
        print("tokens rise:", list(tokens) == sorted(tokens))
        print("outcome:", (await client.cron("examples/cron").history("sweep"))[-1].outcome)


if __name__ == "__main__":
    asyncio.run(main())
