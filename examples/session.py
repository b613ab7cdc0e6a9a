"""Sessions: a lease that is kept alive for as long as the process is, and tells when it is lost."""

import asyncio

import coord


async def main() -> None:
    async with coord.connect() as client:
        async with client.session(ttl=10) as session:
            await client.put("examples/session/worker", "here", lease=session.lease_id)
            print("valid:", session.valid_for() > 0)
            print("present:", await client.get("examples/session/worker") is not None)
        # Closing a session revokes its lease, and the keys go with it.
        print("present:", await client.get("examples/session/worker") is not None)


if __name__ == "__main__":
    asyncio.run(main())
