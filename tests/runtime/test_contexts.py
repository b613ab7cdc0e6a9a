"""Whose context variables a coroutine sees on the runtime's loop: those of its caller, and of nobody else."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextvars import ContextVar

import pytest

from coord.runtime import Runtime, real_env

WHO: ContextVar[str] = ContextVar("who", default="nobody")


@pytest.fixture
def runtime() -> Iterator[Runtime]:
    r = Runtime.threaded(real_env())
    yield r
    r.close()


async def who() -> str:
    before = WHO.get()
    await asyncio.sleep(0)
    assert WHO.get() == before
    return before


async def test_each_of_many_callers_that_share_a_wake_up_has_his_own(runtime: Runtime) -> None:
    async def caller(name: str) -> str:
        WHO.set(name)
        return await runtime.run(who())

    names = [f"task {number}" for number in range(300)]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(caller(name)) for name in names]
    assert [task.result() for task in tasks] == names


def test_a_blocking_caller_has_his_own(runtime: Runtime) -> None:
    seen: dict[str, set[str]] = {}

    def caller(name: str) -> None:
        WHO.set(name)
        seen[name] = {runtime.call_blocking(who()) for _ in range(50)}

    threads = [threading.Thread(target=caller, args=(f"thread {n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {f"thread {n}": {f"thread {n}"} for n in range(8)}


async def test_what_the_coroutine_sets_stays_with_it(runtime: Runtime) -> None:
    async def change() -> None:
        WHO.set("runtime")

    WHO.set("caller")
    await runtime.run(change())
    assert WHO.get() == "caller"
    assert await runtime.run(who()) == "caller"


async def test_what_is_posted_sees_nobody_s(runtime: Runtime) -> None:
    WHO.set("poster")
    seen: list[str] = []
    for _ in range(100):
        runtime.post(lambda: seen.append(WHO.get()))
    await runtime.run(who())
    assert seen == ["nobody"] * 100


async def test_a_caller_s_loop_is_woken_in_nobody_s_context(runtime: Runtime) -> None:
    """What crosses back belongs to many, too."""
    seen: list[str] = []
    told = asyncio.Event()
    back = runtime.returns(asyncio.get_running_loop())

    async def tell() -> None:
        back.post(lambda: seen.append(WHO.get()))
        back.post(told.set)

    WHO.set("caller")
    await runtime.run(tell())
    await told.wait()
    assert seen == ["nobody"]
