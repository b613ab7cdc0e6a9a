"""A job that runs in exactly one of many identical processes, and moves on when that one goes.

Problem: a fleet of identical processes has one thing to do that must not be done twice at a time, such as
sending reminders or driving a schedule.

Guarantee: ``lead`` runs while this process leads and nowhere else at the same time, as long as clocks run at
rates within 1 % of each other. What it writes under ``term.guard()`` fails once the term is over, whatever the
clocks do.

On loss: the running ``lead`` is cancelled, its end is awaited, and only then does the process stand again.

Run it: ``python -m recipes.leader_only_worker``, in as many terminals as you like.
"""

from __future__ import annotations

import asyncio
from functools import partial

import coord

ROUNDS = 3


async def lead(client: coord.Client, term: coord.Term) -> None:
    """Do the leader's work, one step per round, each guarded by the term."""
    for number in range(1, ROUNDS + 1):
        write = coord.op.put("recipes/leader-only-worker/done", str(number))
        step = await client.txn().when(term.guard()).then(write).commit()
        if not step.succeeded:
            return
        print("round", number)


async def main() -> None:
    async with coord.connect() as client:
        election = client.election("recipes/leader-only-worker/leader")
        # rejoin=False: a real service leaves it out and stands again for as long as it lives.
        await election.run(partial(lead, client), value="this process", rejoin=False)
        done = await client.get("recipes/leader-only-worker/done")
        print("done:", done.value.decode() if done else "nothing")


if __name__ == "__main__":
    asyncio.run(main())
