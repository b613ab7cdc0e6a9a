"""Leases: keys that go away by themselves when nobody renews them."""

import asyncio

import coord


async def main() -> None:
    async with coord.connect() as client:
        lease = await client.lease_grant(60)
        await client.put("examples/lease/host", "alive", lease=lease.lease_id)
        print("present:", await client.get("examples/lease/host") is not None)

        # Expiry does the same, 60 seconds after the last renewal.
        await client.lease_revoke(lease.lease_id)
        print("present:", await client.get("examples/lease/host") is not None)


if __name__ == "__main__":
    asyncio.run(main())
