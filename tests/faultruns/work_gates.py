"""Barriers and latches, round after round: nobody may pass before it is time."""

from __future__ import annotations

import asyncio

import coord
from tests.faultruns.lines import now
from tests.faultruns.scene import WORKERS, Scene

_WAIT_S = 10.0
_FIRST = 0


async def barrier(scene: Scene) -> None:
    """One worker closes and opens a gate, the others go through."""
    if scene.worker != _FIRST:
        await _go_through(scene)
        return
    while not scene.stop.is_set():
        if (session := await scene.session("barrier")) is not None:
            gate = scene.client.barrier("fr/barrier", session=session)
            await _close_and_open(scene, gate, leased=scene.rng.random() < 0.5)
        await scene.pause()


async def _close_and_open(scene: Scene, barrier: coord.Barrier, *, leased: bool) -> None:
    asked = now()
    gate = await scene.step(
        "barrier", "hold", barrier.hold(leased=leased, timeout=_WAIT_S), within=_WAIT_S
    )
    if gate is None:
        # It may be closed, by what this or an earlier call did: begin anew.
        await scene.did("barrier", "release", barrier.release(force=True), within=10)
        return
    start = now()
    await scene.moment(0.5)
    until = now()
    try:
        gate.check()
    except coord.LostError:
        until = start  # it may have been open for most of the time
    scene.notes.note("barrier", "closed", token=gate.token, start=start, until=until, leased=leased)
    released = await scene.did("barrier", "release", gate.release(), within=30)
    while not released:
        await asyncio.sleep(0.2)
        released = await scene.did("barrier", "release", barrier.release(force=True), within=10)
    scene.ok("barrier", asked)


async def _go_through(scene: Scene) -> None:
    barrier = scene.client.barrier("fr/barrier")
    while not scene.stop.is_set():
        asked = now()
        if await scene.did("barrier", "wait", barrier.wait(timeout=_WAIT_S), within=_WAIT_S):
            scene.notes.note("barrier", "passed", asked=asked)
            scene.ok("barrier", asked)
        await scene.pause(0.2)


async def double_barrier(scene: Scene) -> None:
    """All workers begin together and end together."""
    while not scene.stop.is_set():
        if (session := await scene.session("double_barrier")) is not None:
            barrier = scene.client.double_barrier("fr/double", WORKERS, session=session)
            await _round(scene, barrier, session)
        await scene.pause(0.3)


async def _round(scene: Scene, barrier: coord.DoubleBarrier, session: coord.Session) -> None:
    asked = now()
    name = await scene.step(
        "double_barrier", "enter", barrier.enter(timeout=_WAIT_S), within=_WAIT_S
    )
    entered = now()
    scene.notes.note("double_barrier", "entered", asked=asked, round=name or 0)
    if name is None:
        return
    await scene.moment(0.1)
    sure = session.valid_for() > 0
    leaving = now()
    left = await scene.did(
        "double_barrier", "leave", barrier.leave(timeout=_WAIT_S), within=_WAIT_S
    )
    scene.notes.note(
        "double_barrier",
        "left",
        round=name,
        entered=entered,
        leaving=leaving,
        sure=sure,
        done=left,
    )
    if left:
        scene.ok("double_barrier", asked)


async def latch(scene: Scene) -> None:
    """All workers arrive, each after a while of its own; all pass; the first one resets."""
    latch = scene.client.latch("fr/latch", WORKERS)
    who = f"w{scene.worker}"
    while not scene.stop.is_set():
        remaining = await scene.step("latch", "remaining", latch.remaining(timeout=5), within=5)
        if not remaining:
            if remaining == 0 and scene.worker == _FIRST:
                await _reset(scene, latch)
            else:
                await scene.pause(0.1)
            continue
        await scene.moment(0.3)
        asked = now()
        left = await scene.step("latch", "count_down", latch.count_down(who, timeout=5), within=5)
        scene.notes.note("latch", "arrived", asked=asked, known=left is not None)
        asked = now()
        if left is not None and await scene.did(
            "latch", "wait", latch.wait(timeout=_WAIT_S), within=_WAIT_S
        ):
            scene.notes.note("latch", "passed", asked=asked)
            scene.ok("latch", asked)


async def _reset(scene: Scene, latch: coord.CountdownLatch) -> None:
    await scene.moment(0.1)
    asked = now()
    done = await scene.did("latch", "reset", latch.reset(WORKERS, timeout=5), within=5)
    scene.notes.note("latch", "reset", asked=asked, done=done)
