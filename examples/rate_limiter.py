"""A rate limiter: so many permits per second for all processes together."""

import asyncio

import coord


async def main() -> None:
    async with coord.connect() as client:
        limiter = client.rate_limiter("examples/rate_limiter", rate=50, burst=2)
        granted = [await limiter.try_acquire() for _ in range(2)]
        print("at once:", granted.count(True))
        for _ in range(3):
            await limiter.acquire(timeout=30)
        print("and three more, in their time")
        try:
            await limiter.acquire(2, timeout=0.001)
        except coord.RateLimitTimeout:
            print("not within a millisecond")


if __name__ == "__main__":
    asyncio.run(main())
