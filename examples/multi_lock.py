"""A multi-lock: several mutexes at once, in any order of names, without waiting in circles."""

import asyncio

import coord


async def transfer(client: coord.Client, source: str, target: str) -> int:
    names = [f"examples/account/{source}", f"examples/account/{target}"]
    async with (
        client.session() as session,
        client.multi_lock(names, session=session).hold(timeout=30) as grant,
    ):
        note = coord.op.put("examples/last-transfer", f"{source} to {target}")
        done = await grant.txn().then(note).commit()  # only while both are still ours
        return grant.token if done.succeeded else 0


async def main() -> None:
    async with coord.connect() as client, asyncio.TaskGroup() as group:
        # Each needs what the other has: with one lock after the other they could wait for ever.
        both = [
            group.create_task(transfer(client, "alice", "bob")),
            group.create_task(transfer(client, "bob", "alice")),
        ]
        tokens = [await each for each in both]
    print("both done:", all(tokens), "one after the other:", tokens[0] != tokens[1])


if __name__ == "__main__":
    asyncio.run(main())
