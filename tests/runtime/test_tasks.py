"""finish() and Supervisor under cancellation."""

from __future__ import annotations

import asyncio
import inspect

import pytest

from coord.runtime import Supervisor, finish


async def test_finish_survives_two_cancellations() -> None:
    gate, done = asyncio.Event(), asyncio.Event()

    async def release() -> None:
        await gate.wait()
        done.set()

    task = asyncio.ensure_future(finish(release(), within=10))
    for _ in range(2):
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
    assert not task.done()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done.is_set()


async def test_finish_returns_the_result_and_bounds_the_time() -> None:
    async def value() -> int:
        return 3

    assert await finish(value(), within=10) == 3
    with pytest.raises(TimeoutError):
        await finish(asyncio.Event().wait(), within=0.01)


async def test_finish_keeps_the_release_error_as_cause() -> None:
    gate = asyncio.Event()

    async def release() -> None:
        await gate.wait()
        raise LookupError("gone")

    task = asyncio.ensure_future(finish(release(), within=10))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    gate.set()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert isinstance(caught.value.__cause__, LookupError)


async def test_finish_that_never_began_leaves_no_coroutine() -> None:
    async def release() -> None:
        pytest.fail("its task was cancelled before its first step")

    before = asyncio.all_tasks()
    coro = release()
    task = asyncio.ensure_future(finish(coro, within=10))
    await asyncio.sleep(0)
    for each in asyncio.all_tasks() - before:  # as a loop does at its end
        each.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    # That it was "never awaited" would fail this test, too.
    assert inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED


async def test_supervisor_reports_failures_and_ends_all() -> None:
    seen: list[tuple[str, str]] = []
    owner = Supervisor(lambda name, error: seen.append((name, str(error))))

    async def fail() -> None:
        raise LookupError("gone")

    async def forever() -> None:
        await asyncio.Event().wait()

    await asyncio.wait([owner.spawn(fail(), name="fails")])
    task = owner.spawn(forever(), name="forever")
    await asyncio.sleep(0)
    await owner.close()
    assert task.cancelled()
    assert len(owner) == 0
    assert seen == [("fails", "gone")]
    with pytest.raises(RuntimeError, match="closed"):
        owner.spawn(forever(), name="late")
