"""What is seen of others: services, groups, configurations, topics and caches."""

from __future__ import annotations

import asyncio

import coord
from tests.faultruns.lines import Notes, now
from tests.faultruns.scene import SLACK_S, WORKERS, Scene

_TTL_S = 8
_CALL_S = 10.0
_AT_END_S = 60.0
_LOOK_S = 0.4
CACHED = 6


async def registry(scene: Scene) -> None:
    """Be an instance, and look at all of them."""
    service = scene.client.registry("fr/service", ttl=_TTL_S)
    asked = now()
    async with (
        service.register(f"w{scene.worker}:1", timeout=_CALL_S),
        service.discover(timeout=_CALL_S) as view,
    ):
        await scene.step("registry", "wait_for", view.wait_for(WORKERS, timeout=30), within=30)
        while not scene.stop.is_set():
            asked = now()
            ids = sorted(instance.id for instance in view.instances())
            scene.notes.note("registry", "view", ids=ids, stale=view.stale_for)
            if len(ids) == WORKERS and view.stale_for == 0:
                scene.ok("registry", asked)
            await scene.pause(_LOOK_S)
        await scene.settle.wait()
        waiting = view.wait_for(WORKERS, timeout=_AT_END_S)
        found = await scene.step("registry", "wait_for", waiting, within=_AT_END_S)
        scene.notes.note("registry", "listed", ids=sorted(i.id for i in found or ()))
        await _together(scene, "registry")


async def membership(scene: Scene) -> None:
    """Be a member, and look at all of them."""
    group = scene.client.membership("fr/group", ttl=_TTL_S)
    async with group.join(f"w{scene.worker}:1", timeout=_CALL_S):
        await scene.step("membership", "wait_for", group.wait_for(WORKERS, timeout=30), within=30)
        while not scene.stop.is_set():
            asked = now()
            members = await scene.step("membership", "members", group.members(timeout=5), within=5)
            if members is not None:
                ids = sorted(member.id for member in members)
                scene.notes.note("membership", "view", ids=ids, stale=group.stale_for)
                if len(ids) == WORKERS and group.stale_for == 0:
                    scene.ok("membership", asked)
            await scene.pause(_LOOK_S)
        await scene.settle.wait()
        waiting = group.wait_for(WORKERS, timeout=_AT_END_S)
        found = await scene.step("membership", "wait_for", waiting, within=_AT_END_S)
        scene.notes.note("membership", "listed", ids=sorted(m.id for m in found or ()))
        await _together(scene, "membership")


async def _together(scene: Scene, recipe: str) -> None:
    """Stay until everybody has seen everybody."""
    latch = scene.client.latch(f"fr/end-{recipe}", WORKERS)
    who = f"w{scene.worker}"
    if await scene.did(recipe, "count_down", latch.count_down(who, timeout=30), within=30):
        await scene.did(recipe, "wait", latch.wait(timeout=_AT_END_S), within=_AT_END_S)


async def config(scene: Scene) -> None:
    """Publish documents, and look at what is in force."""
    opening = scene.client.config("fr/config", str, default="none", timeout=30)
    opened = await scene.step("config", "open", opening, within=30)
    if opened is None:
        return
    looking = asyncio.create_task(_look(scene, opened))
    with scene.producing():
        while not scene.stop.is_set():
            value, asked = scene.unique("config"), now()
            revision = await scene.step(
                "config", "publish", opened.publish(value, timeout=_CALL_S), within=_CALL_S
            )
            scene.notes.note("config", "published", value=value, asked=asked, revision=revision)
            if revision is not None:
                reached = opened.wait_revision(revision, timeout=_CALL_S)
                if await scene.did("config", "wait_revision", reached, within=_CALL_S):
                    scene.ok("config", asked)
            await scene.pause(1.0)
    await scene.settle.wait()
    await looking
    await scene.did("config", "close", opened.close(), within=10)


async def _look(scene: Scene, config: coord.Config[str]) -> None:
    while not scene.settle.is_set():
        state = config.state
        scene.notes.note("config", "saw", value=state.value, revision=state.revision)
        await scene.moment(_LOOK_S)


async def config_end(client: coord.Client, notes: Notes) -> None:
    """Read the document in force."""
    async with await client.config("fr/config", str, default="none") as config:
        notes.note("config", "final", value=config.value, revision=config.revision)


async def topic(scene: Scene) -> None:
    """Publish, and read everything that anybody has published."""
    made = scene.client.topic("fr/topic", retention=3600)
    reading = asyncio.create_task(_read(scene, made))
    with scene.producing():
        while not scene.stop.is_set():
            value, asked = scene.unique("topic"), now()
            revision = await scene.step(
                "topic", "publish", made.publish(value, timeout=_CALL_S), within=_CALL_S
            )
            scene.notes.note("topic", "published", value=value, asked=asked, revision=revision)
            if revision is not None:
                scene.ok("topic", asked)
            await scene.pause(0.8)
    await scene.settle.wait()
    began = now()
    # Everybody has stopped before: what is not there within this time does not come any more.
    await asyncio.sleep(3.0)
    reading.cancel()
    await asyncio.wait({reading}, timeout=SLACK_S)
    if not reading.done():
        scene.notes.note("topic", "hang", what="end of a subscription", asked=began, within=0)
    elif not reading.cancelled() and (error := reading.exception()) is not None:
        scene.error("topic", "subscribe", began, error)


async def _read(scene: Scene, made: coord.Topic) -> None:
    """Read, and begin again from the cursor when reading has failed, or now and then all the same."""
    life = 0
    while True:
        life += 1
        await scene.did("topic", "read", _read_some(scene, made, life), within=3600)


async def _read_some(scene: Scene, made: coord.Topic, life: int) -> None:
    left = scene.rng.randint(20, 60)
    subscriber = f"w{scene.worker}"
    async with made.subscribe(durable=subscriber, from_="earliest", save_every=5) as messages:
        async for item in messages:
            if isinstance(item, coord.Gap):
                scene.notes.note("topic", "gap", life=life, start=item.start, end=item.end)
                continue
            scene.notes.note(
                "topic", "read", life=life, value=item.value.decode(), revision=item.revision
            )
            left -= 1
            if left == 0:
                return


async def cache(scene: Scene) -> None:
    """Write a few keys, and keep a copy of all of them."""
    opened = scene.client.cache(prefix="fr-cached/")
    if not await scene.did("cache", "open", opened.open(timeout=30), within=30):
        return
    with scene.producing():
        while not scene.stop.is_set():
            asked = now()
            key = f"fr-cached/{scene.rng.randrange(CACHED)}"
            put = scene.client.put(key, scene.unique("cache"), timeout=_CALL_S)
            done = await scene.step("cache", "put", put, within=_CALL_S)
            if done is not None:
                reached = opened.wait_revision(done.revision, timeout=_CALL_S)
                if await scene.did("cache", "wait_revision", reached, within=_CALL_S):
                    entry = opened.entry(key)
                    seen = 0 if entry is None else entry.mod_revision
                    scene.notes.note("cache", "own", key=key, put=done.revision, seen=seen)
                    scene.ok("cache", asked)
            snapshot = opened.snapshot()
            scene.notes.note("cache", "view", revision=snapshot.revision, as_of=snapshot.as_of)
            await scene.pause()
    await scene.settle.wait()
    await asyncio.sleep(1.0)
    if await scene.did("cache", "sync", opened.sync(timeout=30), within=30):
        there = {
            entry.key.decode(): [entry.value.decode(), entry.mod_revision]
            for entry in opened.entries()
        }
        scene.notes.note("cache", "copy", there=there)
    opened.close()


async def cache_end(client: coord.Client, notes: Notes) -> None:
    """Read what the store has."""
    found = await client.get_prefix("fr-cached/")
    there = {kv.key.decode(): [kv.value.decode(), kv.mod_revision] for kv in found.items}
    notes.note("cache", "final", there=there)
