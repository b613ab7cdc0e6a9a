"""Elections: one term at a time, term after term, and those who look on."""

from __future__ import annotations

import asyncio

import coord
from tests.faultruns.lines import now
from tests.faultruns.scene import SLACK_S, Scene

_WAIT_S = 15.0
_TERM_S = 0.3
_LOOKED_AT = {"election": "fr/lead", "election_run": "fr/run"}


async def election(scene: Scene) -> None:
    """Lead for one term at a time, with a value that changes."""
    with scene.producing():
        while not scene.stop.is_set():
            if (session := await scene.session("election")) is not None:
                contest = scene.client.election(_LOOKED_AT["election"], session=session)
                # Its own steps have their own limits.
                await scene.did("election", "lead", _lead(scene, contest), within=_WAIT_S + 60)
            await scene.pause()


async def _lead(scene: Scene, contest: coord.Election) -> None:
    asked = now()
    value = _proposal(scene, "election")
    async with contest.lead(value, timeout=_WAIT_S, on_loss="flag") as term:
        holding = scene.holding("election", term, asked)
        await holding.write("lead")
        if scene.rng.random() < 0.5:
            another = _proposal(scene, "election")
            await scene.did("election", "proclaim", term.proclaim(another, timeout=5), within=5)
        await scene.moment(_TERM_S)
        valid = holding.end(["lead"])
    if valid:
        scene.ok("election", asked)


def _proposal(scene: Scene, recipe: str) -> str:
    value = scene.unique(recipe)
    scene.notes.note(recipe, "proposed", value=value)
    return value


async def election_run(scene: Scene) -> None:
    """Keep a function running in term after term; it must go on whatever happens."""
    value = _proposal(scene, "election_run")

    async def body(term: coord.Term) -> None:
        asked = now()
        holding = scene.holding("election_run", term, asked)
        valid = False
        try:
            await holding.write("run")
            await scene.moment(_TERM_S)
            valid = True
        finally:
            # The term is resigned behind this.
            valid = holding.end(["run"]) and valid
        if valid:
            scene.ok("election_run", asked)
        await scene.pause(0.1)

    async def run() -> None:
        await scene.client.election(_LOOKED_AT["election_run"]).run(body, value=value)

    running = asyncio.create_task(run())
    stopping = asyncio.create_task(scene.stop.wait())
    began = now()
    await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    running.cancel()
    with scene.producing():
        await asyncio.wait({running}, timeout=30 + SLACK_S)
    if not running.done():
        scene.notes.note("election_run", "hang", what="end of run()", asked=began, within=30)
    elif not running.cancelled():
        error = running.exception() or RuntimeError("run() has returned")
        scene.error("election_run", "run", began, error)


async def observe(scene: Scene) -> None:
    """Look on at both, to the end: nobody leads then."""
    async with asyncio.TaskGroup() as group:
        for recipe, name in _LOOKED_AT.items():
            group.create_task(_observe(scene, recipe, name))


async def _observe(scene: Scene, recipe: str, name: str) -> None:
    async def look() -> None:
        async for leader in scene.client.election(name).observe():
            if leader is None:
                scene.notes.note("observe", "saw", of=recipe, token=0, revision=0, value="", key="")
            else:
                scene.notes.note(
                    "observe",
                    "saw",
                    of=recipe,
                    token=leader.token,
                    revision=leader.revision,
                    value=leader.value.decode(),
                    key=leader.key.decode(),
                )
            scene.ok("observe", now())
            if leader is None and scene.settle.is_set():
                return

    looking = asyncio.create_task(look())
    settling = asyncio.create_task(scene.settle.wait())
    await asyncio.wait({looking, settling}, return_when=asyncio.FIRST_COMPLETED)
    settling.cancel()
    began = now()
    # Who saw that nobody leads before the end was announced sees nothing any more.
    await asyncio.wait({looking}, timeout=1.0)
    looking.cancel()
    await asyncio.wait({looking}, timeout=SLACK_S)
    if not looking.done():
        scene.notes.note("observe", "hang", what="end of observe()", asked=began, within=0)
    elif not looking.cancelled() and (error := looking.exception()) is not None:
        scene.error("observe", "observe", began, error)
