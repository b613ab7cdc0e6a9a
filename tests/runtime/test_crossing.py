"""Callback-style calls between loops, and what becomes of calls when the runtime ends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator

import pytest

from coord.runtime import Batcher, Runtime, RuntimeStopped, real_env

Done = Callable[[str | Exception], None]


@pytest.fixture
def runtime() -> Iterator[Runtime]:
    r = Runtime.threaded(real_env())
    yield r
    r.close()


class Handle:
    def __init__(self) -> None:
        self.cancelled = threading.Event()

    def cancel(self) -> None:
        self.cancelled.set()


async def test_exchange_brings_results_and_errors_back(runtime: Runtime) -> None:
    def answer(done: Done) -> Handle:
        done(threading.current_thread().name)
        return Handle()

    def fail(done: Done) -> Handle:
        done(LookupError("gone"))
        return Handle()

    def broken(done: Done) -> Handle:
        raise ValueError("never begun")

    assert await runtime.exchange(answer) == "coord-runtime"
    with pytest.raises(LookupError, match="gone"):
        await runtime.exchange(fail)
    with pytest.raises(ValueError, match="never begun"):
        await runtime.exchange(broken)


async def test_a_cancelled_exchange_is_cancelled_over_there(runtime: Runtime) -> None:
    handle, begun = Handle(), threading.Event()
    kept: list[Done] = []

    def begin(done: Done) -> Handle:
        kept.append(done)
        begun.set()
        return handle

    task = asyncio.ensure_future(runtime.exchange(begin))
    await asyncio.to_thread(begun.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(handle.cancelled.wait, 10)
    runtime.post(lambda: kept[0]("late"))  # nobody minds
    await runtime.run(asyncio.sleep(0))


async def test_an_exchange_cancelled_before_it_began_never_begins(runtime: Runtime) -> None:
    gate, begun = threading.Event(), threading.Event()
    runtime.post(lambda: gate.wait(10))

    def begin(done: Done) -> Handle:
        begun.set()
        return Handle()

    task = asyncio.ensure_future(runtime.exchange(begin))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    gate.set()
    await runtime.run(asyncio.sleep(0))
    assert not begun.is_set()


async def test_calls_that_run_at_the_end_hear_that_it_ended(runtime: Runtime) -> None:
    started = threading.Event()

    async def forever() -> None:
        started.set()
        await asyncio.Event().wait()

    task = asyncio.ensure_future(runtime.run(forever()))
    await asyncio.to_thread(started.wait, 10)
    await runtime.aclose()
    # Not a CancelledError, which the caller would take for its own.
    with pytest.raises(RuntimeStopped):
        await task


async def test_calls_after_the_end_hear_it_too(runtime: Runtime) -> None:
    await runtime.aclose()
    await runtime.aclose()
    with pytest.raises(RuntimeStopped):
        await runtime.run(asyncio.sleep(0))
    with pytest.raises(RuntimeStopped):
        await runtime.exchange(lambda done: Handle())
    with pytest.raises(RuntimeStopped):
        await asyncio.to_thread(runtime.call_blocking, asyncio.sleep(0))


async def test_calls_that_race_with_the_end_all_return() -> None:
    for _ in range(20):
        runtime = Runtime.threaded(real_env())
        ended: list[str] = []

        async def call(runtime: Runtime, ended: list[str]) -> None:
            try:
                while True:
                    await runtime.run(asyncio.sleep(0))
            except RuntimeStopped:
                ended.append("stopped")

        threads = [threading.Thread(target=asyncio.run, args=(call(runtime, ended),)) for _ in range(3)]  # fmt: skip
        for thread in threads:
            thread.start()
        await runtime.run(asyncio.sleep(0))
        await runtime.aclose()
        for thread in threads:
            await asyncio.to_thread(thread.join, 30)
        assert ended == ["stopped"] * 3


def test_errors_of_ones_own() -> None:
    class Gone(Exception):
        pass

    runtime = Runtime.threaded(real_env(), stopped=Gone)
    runtime.close()
    with pytest.raises(Gone):
        runtime.call_blocking(asyncio.sleep(0))


def test_a_batcher_of_a_dead_loop() -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    told: list[str] = []

    class Entry:
        def __call__(self) -> None:
            told.append("called")

        def lost(self) -> None:
            told.append("lost")

    with pytest.raises(RuntimeError):
        Batcher(loop).post(Entry())
    owned = Batcher(loop, owned=True)
    owned.post(Entry())
    assert told == []
    owned.shut()
    owned.post(Entry())
    owned.post(lambda: told.append("never"))
    assert told == ["lost", "lost"]


async def test_one_failing_entry_does_not_lose_the_others() -> None:
    loop = asyncio.get_running_loop()
    seen: list[str] = []
    loop.set_exception_handler(lambda _, context: seen.append(repr(context["exception"])))
    batcher, done = Batcher(loop), asyncio.Event()
    batcher.post(lambda: 1 // 0)
    batcher.post(done.set)
    await done.wait()
    loop.set_exception_handler(None)
    assert len(seen) == 1
    assert seen[0].startswith("ZeroDivisionError")
