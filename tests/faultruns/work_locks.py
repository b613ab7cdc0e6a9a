"""Locks of all kinds, used gently: acquired, written under, released."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

import coord
from tests.faultruns.lines import now
from tests.faultruns.scene import Scene

G = TypeVar("G", bound=coord.Grant)

WAIT_S = 15.0
_RELEASE_S = 30.0
_HOLD_S = 0.25
PERMITS = 4
"""Of the semaphore; each worker asks for one to three of them."""


async def _use(
    scene: Scene,
    recipe: str,
    acquire: Awaitable[coord.Grant],
    names: list[str],
    *,
    mode: str = "w",
    permits: int = 1,
    fenced: bool = True,
) -> None:
    asked = now()
    grant = await scene.step(recipe, "acquire", acquire, within=WAIT_S)
    if grant is None:
        return
    holding = scene.holding(recipe, grant, asked)
    if fenced:
        await holding.write(names[0])
    await scene.moment(_HOLD_S)
    valid = holding.end(names, mode=mode, permits=permits)
    released = await scene.did(recipe, "release", grant.release(), within=_RELEASE_S)
    if valid and released:
        scene.ok(recipe, asked)


async def mutex(scene: Scene) -> None:
    """A mutex in the layout of a line."""
    while not scene.stop.is_set():
        if (session := await scene.session("mutex")) is not None:
            lock = scene.client.mutex("fr/mutex", session=session)
            await _use(scene, "mutex", lock.acquire(timeout=WAIT_S), ["mutex"])
        await scene.pause()


async def single_key(scene: Scene) -> None:
    """A mutex that is one key."""
    while not scene.stop.is_set():
        if (session := await scene.session("single_key")) is not None:
            lock = scene.client.mutex("fr/single", session=session, layout="single-key")
            await _use(scene, "single_key", lock.acquire(timeout=WAIT_S), ["single"])
        await scene.pause()


async def multi_lock(scene: Scene) -> None:
    """Two of three names at once, in any order."""
    while not scene.stop.is_set():
        if (session := await scene.session("multi_lock")) is not None:
            names = scene.rng.sample(["a", "b", "c"], 2)
            lock = scene.client.multi_lock([f"fr/multi-{name}" for name in names], session=session)
            await _use(scene, "multi_lock", lock.acquire(timeout=WAIT_S), names)
        await scene.pause()


async def semaphore(scene: Scene) -> None:
    """One to three of four permits."""
    while not scene.stop.is_set():
        if (session := await scene.session("semaphore")) is not None:
            count = scene.rng.randint(1, 3)
            permits = scene.client.semaphore("fr/semaphore", limit=PERMITS, session=session)
            acquire = permits.acquire(count, timeout=WAIT_S)
            await _use(scene, "semaphore", acquire, ["semaphore"], permits=count, fenced=False)
        await scene.pause()


async def rwlock(scene: Scene) -> None:
    """Readers, writers, and writers who go on as readers."""
    while not scene.stop.is_set():
        if (session := await scene.session("rwlock")) is not None:
            lock = scene.client.rwlock("fr/rwlock", session=session)
            dice = scene.rng.random()
            if dice < 0.5:
                acquire = lock.read().acquire(timeout=WAIT_S)
                await _use(scene, "rwlock", acquire, ["rwlock"], mode="r", fenced=False)
            elif dice < 0.75:
                await _use(scene, "rwlock", lock.write().acquire(timeout=WAIT_S), ["rwlock"])
            else:
                await _write_then_read(scene, lock)
        await scene.pause()


async def _write_then_read(scene: Scene, lock: coord.RWLock) -> None:
    asked = now()
    acquire = lock.write(downgradable=True).acquire(timeout=WAIT_S)
    grant = await scene.step("rwlock", "acquire", acquire, within=WAIT_S)
    if grant is None:
        return
    holding = scene.holding("rwlock", grant, asked)
    await holding.write("rwlock")
    await scene.moment(_HOLD_S)
    holding.end(["rwlock"])
    changed = await scene.did("rwlock", "downgrade", grant.downgrade(timeout=10), within=10)
    await scene.moment(_HOLD_S)
    valid = holding.end(["rwlock"], mode="r")
    released = await scene.did("rwlock", "release", grant.release(), within=_RELEASE_S)
    if changed and valid and released:
        scene.ok("rwlock", asked)
