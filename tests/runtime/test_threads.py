"""Who the calling task is: a name that is never given twice."""

from __future__ import annotations

import asyncio
import gc

from coord.runtime.threads import task_identity


async def test_a_task_never_gets_the_name_of_one_that_has_ended() -> None:
    async def name() -> str:
        assert task_identity() == task_identity()
        return task_identity()

    names: set[str] = set()
    for _ in range(200):
        names.add(await asyncio.ensure_future(name()))
        gc.collect(0)
    assert len(names) == 200
