"""An election: one leader at a time, who says where it is; observers follow."""

import asyncio

import coord


async def main() -> None:
    async with coord.connect() as client:
        election = client.election("examples/election")
        term = await election.campaign("host-a:8080", timeout=30)
        leader = await election.leader()
        print("leader:", leader.value.decode(), leader.token == term.token)

        await term.proclaim("host-a:9090")
        print("leader:", (await election.leader()).value.decode())

        await term.resign()
        try:
            await election.leader()
        except coord.NoLeader:
            print("leader: none")


if __name__ == "__main__":
    asyncio.run(main())
