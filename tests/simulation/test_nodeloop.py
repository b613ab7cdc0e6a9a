# ruff: noqa: ANN401 - options of any kind
"""The loop of a simulated node: asyncio's own order inside, the seed's between nodes, silence after death."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from coord.runtime import start_task
from coord.testing.sim.env import NodeClock, NodeOffload
from coord.testing.sim.nodeloop import NodeDead, NodeLoop
from coord.testing.sim.scheduler import CPU_S, LimitExceeded, Limits, Scheduler


class Place:
    """Loops with one scheduler, and what they report."""

    def __init__(self, seed: int = 1, **limits: Any) -> None:
        self.scheduler = Scheduler(seed, limits=Limits(**limits))
        self.problems: list[dict[str, Any]] = []

    def loop(self, name: str = "n1", *, offset: float = 0.0, rate: float = 1.0) -> NodeLoop:
        loop = NodeLoop(name, offset=offset, rate=rate, on_problem=self.problems.append)
        self.scheduler.add(loop)
        return loop


def test_time_is_offset_and_rate_of_virtual_time() -> None:
    place = Place()
    loop = place.loop(offset=100.0, rate=1.1)
    woken: list[tuple[float, float]] = []

    async def sleep() -> None:
        begin = loop.time()
        await asyncio.sleep(11.0)
        woken.append((loop.time() - begin, place.scheduler.now))

    loop.call_soon(lambda: start_task(sleep()))
    place.scheduler.run(20.0)
    ((slept, at),) = woken
    assert slept == pytest.approx(11.0, abs=0.001)
    assert at == pytest.approx(10.0, abs=0.001)
    assert place.scheduler.now == 20.0
    assert loop.time() >= 100.0


def test_handles_of_a_node_run_in_their_order() -> None:
    place = Place()
    loop = place.loop()
    ran: list[int] = []
    for number in range(50):
        loop.call_soon(ran.append, number)
    place.scheduler.run(1.0)
    assert ran == list(range(50))


def test_timers_of_a_node_run_when_due_and_cancelled_ones_never() -> None:
    place = Place()
    loop = place.loop()
    ran: list[str] = []
    loop.call_later(2.0, ran.append, "late")
    loop.call_later(1.0, ran.append, "early")
    loop.call_later(1.5, ran.append, "never").cancel()
    place.scheduler.run(1.9)
    assert ran == ["early"]
    place.scheduler.run(3.0)
    assert ran == ["early", "late"]


def test_many_cancelled_timers_are_swept_out() -> None:
    place = Place()
    loop = place.loop()
    for _ in range(1000):
        loop.call_later(1000.0, print).cancel()
    loop.call_soon(lambda: None)
    place.scheduler.run(1.0)
    assert len(loop._scheduled) < 200


def test_nodes_interleave_by_seed_and_the_same_seed_alike() -> None:
    def order(seed: int) -> list[str]:
        place = Place(seed)
        ran: list[str] = []
        for name in ("a", "b", "c"):
            loop = place.loop(name)
            for _ in range(30):
                loop.call_soon(ran.append, name)
        place.scheduler.run(1.0)
        return ran

    assert order(1) == order(1)
    assert len({tuple(order(seed)) for seed in range(10)}) > 5


def test_work_takes_time_on_its_own_node_only() -> None:
    place = Place()
    busy, idle = place.loop("busy"), place.loop("idle")
    seen: dict[str, float] = {}

    def work() -> None:
        place.scheduler.charge(5.0)
        seen["during"] = busy.time()
        busy.call_soon(lambda: seen.setdefault("after", place.scheduler.now))

    busy.call_soon(work)
    idle.call_later(1.0, lambda: seen.setdefault("idle", place.scheduler.now))
    place.scheduler.run(10.0)
    assert seen["during"] >= 5.0
    assert seen["after"] >= 5.0
    assert seen["idle"] == pytest.approx(1.0)


def test_a_slow_node_takes_longer_for_everything() -> None:
    place = Place()
    loop = place.loop()
    loop.slowness = 1000.0
    done: list[float] = []

    async def step() -> None:
        for _ in range(10):
            await asyncio.sleep(0)
        done.append(place.scheduler.now)

    loop.call_soon(lambda: start_task(step()))
    place.scheduler.run(10.0)
    assert done[0] > 5 * 1000.0 * CPU_S / 2


def test_a_paused_node_is_not_picked_and_its_clock_goes_on() -> None:
    place = Place()
    loop = place.loop()
    loop.stopped_until = 5.0
    ran: list[float] = []
    loop.call_later(1.0, lambda: ran.append(loop.time()))
    place.scheduler.run(10.0)
    assert ran == [pytest.approx(5.0, abs=0.001)]


def test_a_dead_node_does_nothing_more_not_even_its_finally_blocks() -> None:
    place = Place()
    loop = place.loop()
    clock = NodeClock(loop)
    done: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(100.0)
        finally:
            done.append("finally")
            loop.check_alive()
            done.append("acted after death")

    loop.call_soon(lambda: start_task(work()))
    loop.call_later(1.0, done.append, "timer")
    place.scheduler.run(0.5)
    place.scheduler.remove(loop)
    loop.call_soon(done.append, "handle")
    place.scheduler.run(200.0)
    assert done == []
    with pytest.raises(NodeDead):
        loop.check_alive()
    assert clock.mono() < 1.0
    place.scheduler.close()
    assert done == ["finally"]
    assert place.problems == []


def test_a_node_may_die_in_the_middle_of_a_burst() -> None:
    place = Place()
    loop = place.loop()
    ran: list[str] = []

    def die() -> None:
        place.scheduler.remove(loop)
        raise NodeDead("n1")

    loop.call_soon(die)
    loop.call_soon(ran.append, "next")
    place.scheduler.run(1.0)
    place.scheduler.close()
    assert ran == []
    assert place.problems == []


def test_unhandled_errors_are_reported() -> None:
    place = Place()
    loop = place.loop()

    def broken() -> None:
        raise ValueError("oops")

    loop.call_soon(broken)
    place.scheduler.run(1.0)
    assert [str(problem["exception"]) for problem in place.problems] == ["oops"]


def test_timeouts_task_groups_and_queues_work_unmodified() -> None:
    place = Place()
    loop = place.loop()
    got: list[object] = []

    async def main() -> None:
        queue: asyncio.Queue[int] = asyncio.Queue(1)

        async def feed() -> None:
            for number in range(5):
                await queue.put(number)

        async with asyncio.TaskGroup() as group:
            group.create_task(feed())
            got.extend([await queue.get() for _ in range(5)])
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3.0):
                await queue.get()
        got.append(asyncio.get_running_loop() is loop)

    loop.call_soon(lambda: start_task(main()))
    place.scheduler.run(10.0)
    assert got == [0, 1, 2, 3, 4, True]


def test_offloaded_work_leaves_the_loop_free() -> None:
    place = Place()
    loop = place.loop()
    offload = NodeOffload(place.scheduler, loop, 1)
    events: list[str] = []

    async def main() -> None:
        loop.call_soon(events.append, "loop")
        events.append(await offload.run(lambda: "result"))

    loop.call_soon(lambda: start_task(main()))
    place.scheduler.run(1.0)
    assert events == ["loop", "result"]


def test_threads_and_sockets_are_refused() -> None:
    place = Place()
    loop = place.loop()
    with pytest.raises(RuntimeError, match="Offload"):
        loop.run_in_executor(None, print)
    with pytest.raises(RuntimeError, match="scheduler"):
        loop.run_forever()


@pytest.mark.parametrize(
    ("limits", "kind"),
    [({"max_steps": 100}, "steps"), ({"max_idle_steps": 100}, "progress")],
)
def test_limits_end_a_run(limits: dict[str, int], kind: str) -> None:
    place = Place(**limits)
    loop = place.loop()
    # Free of charge, so that time stands still.
    loop.slowness = 0.0 if kind == "progress" else 1.0

    def again() -> None:
        loop.call_soon(again)

    again()
    with pytest.raises(LimitExceeded) as raised:
        place.scheduler.run(100.0)
    assert raised.value.kind == kind


def test_events_happen_in_order_of_time_and_then_of_planning() -> None:
    place = Place()
    ran: list[str] = []
    place.scheduler.at(2.0, ran.append, "c")
    place.scheduler.at(1.0, ran.append, "a")
    place.scheduler.at(1.0, ran.append, "b")
    assert place.scheduler.run(10.0, stop=lambda: len(ran) == 2)
    assert ran == ["a", "b"]
    assert place.scheduler.now == 1.0
