"""Hand-over between loops: order, results, errors, cancellation, and no lost result."""

from __future__ import annotations

import asyncio
import inspect
import os
import threading
from collections.abc import Callable, Iterator

import pytest

from coord.runtime import ForkedRuntime, Runtime, real_env


@pytest.fixture
def runtime() -> Iterator[Runtime]:
    r = Runtime.threaded(real_env())
    yield r
    r.close()


async def test_result_and_error_come_back(runtime: Runtime) -> None:
    async def where() -> str:
        return threading.current_thread().name

    async def boom() -> None:
        raise LookupError("gone")

    assert await runtime.run(where()) == "coord-runtime"
    with pytest.raises(LookupError, match="gone"):
        await runtime.run(boom())


async def test_many_calls_share_wake_ups(runtime: Runtime) -> None:
    async def echo(n: int) -> int:
        return n

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(runtime.run(echo(i))) for i in range(500)]
    assert [t.result() for t in tasks] == list(range(500))


async def test_cancelled_caller_cancels_the_call_and_returns_at_once(runtime: Runtime) -> None:
    started, cleaned, release = threading.Event(), threading.Event(), threading.Event()

    async def work() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.to_thread(release.wait, 10)
            cleaned.set()

    task = asyncio.ensure_future(runtime.run(work()))
    await asyncio.to_thread(started.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not cleaned.is_set()  # the caller did not wait for the clean-up
    release.set()
    assert await asyncio.to_thread(cleaned.wait, 10)


async def test_late_result_of_a_cancelled_caller_is_discarded_not_lost(runtime: Runtime) -> None:
    entered, go, dropped = threading.Event(), threading.Event(), threading.Event()
    got: list[str] = []

    async def stubborn() -> str:
        entered.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.to_thread(go.wait, 10)
        return "grant"

    def discard(value: str) -> None:
        got.append(value)
        dropped.set()

    task = asyncio.ensure_future(runtime.run(stubborn(), discard=discard))
    await asyncio.to_thread(entered.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go.set()
    assert await asyncio.to_thread(dropped.wait, 10)
    assert got == ["grant"]


async def test_result_that_races_with_cancellation_is_discarded(runtime: Runtime) -> None:
    dropped = threading.Event()
    got: list[int] = []

    async def quick() -> int:
        return 7

    def discard(value: int) -> None:
        got.append(value)
        dropped.set()

    for delay in range(1, 40):
        task = asyncio.ensure_future(runtime.run(quick(), discard=discard))
        for _ in range(delay):
            await asyncio.sleep(0)
        before = len(got)
        task.cancel()
        try:
            assert await task == 7
        except asyncio.CancelledError:
            pass
        else:
            assert len(got) == before


def test_blocking_call(runtime: Runtime) -> None:
    async def answer() -> int:
        await asyncio.sleep(0)
        return 42

    assert runtime.call_blocking(answer()) == 42


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_blocking_call_interrupted_at_its_begin_leaves_nothing(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    ends: list[str] = []

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ends.append("cancelled")

    post = runtime.post

    def interrupted(run: Callable[[], None]) -> None:
        monkeypatch.undo()
        if when == "after":
            post(run)
        raise KeyboardInterrupt

    monkeypatch.setattr(runtime, "post", interrupted)
    coro = forever()
    with pytest.raises(KeyboardInterrupt):
        runtime.call_blocking(coro)
    # Ended by the time that the interrupt is told; that it was "never awaited" would fail this test.
    assert inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED
    assert len(ends) <= (when == "after")


def test_blocking_call_from_its_own_loop_is_refused(runtime: Runtime) -> None:
    async def inner() -> str:
        with pytest.raises(RuntimeError, match="own loop"):
            runtime.call_blocking(asyncio.sleep(0))
        return "refused"

    assert runtime.call_blocking(inner()) == "refused"


async def test_inline_runs_on_the_callers_loop() -> None:
    runtime = Runtime.inline(real_env())

    async def where() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    assert await runtime.run(where()) is asyncio.get_running_loop()
    assert not runtime.is_threaded


def test_forked_child_is_told(runtime: Runtime) -> None:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:  # the child reports through the pipe and leaves without running anything else
        try:
            runtime.call_blocking(asyncio.sleep(0))
            os.write(write, b"ran")
        except ForkedRuntime:
            os.write(write, b"refused")
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(read, 16) == b"refused"
    os.close(read)
    os.close(write)


def test_close_twice_and_tasks_end(runtime: Runtime) -> None:
    ended = threading.Event()

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    runtime.post(lambda: asyncio.ensure_future(forever()))
    runtime.call_blocking(asyncio.sleep(0))
    runtime.close()
    runtime.close()
    assert ended.is_set()
