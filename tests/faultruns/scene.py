"""What the workloads of one worker share: client, sessions, notes, and the limits of every single step."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Generator
from dataclasses import dataclass, field
from typing import TypeVar

import coord
from tests.faultruns.fence import Register
from tests.faultruns.lines import Notes, now

T = TypeVar("T")

WORKERS = 3
SLACK_S = 15.0
"""A step ends within its timeout and this; more is a hang. It covers a machine that is busy, and the requests whose
own timeout (10 s) bounds what ends a step."""


# Who is cut off with a grant goes on with it for longer than most leases last.
_WRITE_S = 8.0
AT_END_S = 60.0
"""How long a queue is emptied at the end at most; longer than the leases that may have to end first."""


class Sessions:
    """The session of one worker; one that has ended is replaced when somebody needs one."""

    def __init__(self, client: coord.Client, ttl: int | None) -> None:
        self._client = client
        self._ttl = ttl
        self._line = asyncio.Lock()
        self._session: coord.Session | None = None

    async def get(self) -> coord.Session:
        async with self._line:
            if self._ttl is None:
                return await self._client.default_session()
            if self._session is None or self._session.valid_for() <= 0:
                self._session = await self._client.session(ttl=self._ttl).open(timeout=10)
            return self._session


@dataclass
class Scene:
    """One worker's side of a run."""

    worker: int
    client: coord.Client
    sessions: Sessions
    notes: Notes
    register: Register
    rng: random.Random
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    """Begin nothing new; what is under way may end."""
    settle: asyncio.Event = field(default_factory=asyncio.Event)
    """There will be no more faults, and nobody begins anything new: read to the end."""
    counts: dict[str, int] = field(default_factory=dict[str, int])
    producers: int = 0
    settled_at: float = 0.0

    @contextlib.contextmanager
    def producing(self) -> Generator[None]:
        """Mark who makes what others wait for at the end: they wait until all of these have stopped."""
        self.producers += 1
        try:
            yield
        finally:
            self.producers -= 1

    @property
    def is_over(self) -> bool:
        """Whether the end has been waited for long enough."""
        return self.settle.is_set() and now() > self.settled_at + AT_END_S

    def unique(self, recipe: str) -> str:
        """Return a value that nobody else writes."""
        number = self.counts[recipe] = self.counts.get(recipe, 0) + 1
        return f"{self.worker}-{number}"

    async def pause(self, mean_s: float = 0.6) -> None:
        """Wait a moment, or until the end."""
        try:
            async with asyncio.timeout(self.rng.uniform(0.4, 1.6) * mean_s):
                await self.stop.wait()
        except TimeoutError:
            pass

    def ok(self, recipe: str, asked: float) -> None:
        """Note a success of what was begun at ``asked``."""
        self.notes.note(recipe, "ok", asked=asked)

    def error(self, recipe: str, what: str, asked: float, error: BaseException) -> None:
        self.notes.note(
            recipe, "error", what=what, asked=asked, type=type(error).__name__, text=str(error)
        )

    async def step(self, recipe: str, what: str, call: Awaitable[T], *, within: float) -> T | None:
        """Await ``call``, whose own timeout is ``within``; None and a note if it fails.

        What fails with an error that is not of coord, or not at all, is a finding of the judge.
        """
        asked = now()
        scope = asyncio.timeout(within + SLACK_S)
        try:
            async with scope:
                return await call
        except coord.CoordError as error:
            self.error(recipe, what, asked, error)
        except TimeoutError as error:
            if scope.expired():
                self.notes.note(recipe, "hang", what=what, asked=asked, within=within)
            else:
                self.error(recipe, what, asked, error)
        except Exception as error:  # noqa: BLE001 - the judge says that it must not be
            self.error(recipe, what, asked, error)
        return None

    async def session(self, recipe: str) -> coord.Session | None:
        """Return a session that is valid; None and a note if there is none to be had."""
        return await self.step(recipe, "session", self.sessions.get(), within=10)

    async def did(self, recipe: str, what: str, call: Awaitable[object], *, within: float) -> bool:
        """Await ``call`` as a step, and say whether it succeeded."""

        async def whole() -> bool:
            await call
            return True

        return await self.step(recipe, what, whole(), within=within) is True

    def holding(self, recipe: str, grant: coord.Grant, asked: float) -> Holding:
        """Begin to note a hold of ``grant``, which was ``asked`` for at that time."""
        return Holding(self, recipe, grant, asked)

    async def moment(self, mean_s: float) -> None:
        """Work for a moment."""
        await asyncio.sleep(self.rng.uniform(0.3, 1.7) * mean_s)


class Holding:
    """From when to when a grant said that it is surely held.

    Each time that it is asked it answers for how long, and only our own release makes that shorter.
    """

    def __init__(self, scene: Scene, recipe: str, grant: coord.Grant, asked: float) -> None:
        self._scene = scene
        self._recipe = recipe
        self._grant = grant
        self._asked = asked
        self._start = now()
        self._until = 0.0
        self.sample()

    def sample(self) -> bool:
        """Ask it, and say whether it is held."""
        at = now()
        left = self._grant.valid_for()
        if left > 0:
            self._until = max(self._until, at + left)
        return left > 0

    async def write(self, name: str) -> None:
        """Write under its token: outside the store, and inside with its guard."""
        scene, recipe, token = self._scene, self._recipe, self._grant.token
        sure = self.sample()
        taken = scene.register.write(f"{recipe}/{name}", token)
        sure = sure and self.sample()
        scene.notes.note(recipe, "outside", name=name, token=token, taken=taken, sure=sure)

        async def guarded() -> coord.TxnResult:
            write = coord.op.put(f"guarded/{recipe}/{name}", str(token))
            return await self._grant.txn().then(write).commit(timeout=_WRITE_S)

        done = await scene.step(recipe, "guarded write", guarded(), within=_WRITE_S)
        if done is not None:
            scene.notes.note(
                recipe,
                "inside",
                name=name,
                token=token,
                done=done.succeeded,
                revision=done.revision,
            )

    def end(self, names: list[str], *, mode: str = "w", permits: int = 1) -> bool:
        """Note it, up to now; say whether it was valid until now. What comes may be another hold of the grant."""
        valid = self.sample()
        self._scene.notes.note(
            self._recipe,
            "held",
            names=names,
            token=self._grant.token,
            asked=self._asked,
            start=self._start,
            until=min(self._until, now()),
            mode=mode,
            permits=permits,
        )
        self._start = now()
        return valid
